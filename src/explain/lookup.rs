//! What a lookup would be asked for a key. Nobody is asked.

use crate::config::{Lookup, LookupKind, Search};
use crate::http::template::{Unfilled, Values};
use crate::lookup::LookupName;

/// The question that a lookup makes of a key: "dns NAME, port PORT" or "redis HGET KEY FIELD".
///
/// # Errors
/// Why the key cannot be part of such a name.
pub fn question<'l>(lookup: &'l Lookup, key: &[u8]) -> Result<String, Unfilled<'l>> {
    let values = Values { key: Some(key), ..Values::default() };
    let name = LookupName::of(lookup, None, &values)?;
    Ok(match &lookup.kind {
        LookupKind::Dns(dns) => {
            let search = match dns.search {
                Search::ResolvConf => ".(search domain)",
                Search::Off | Search::Domain(_) => "",
            };
            format!("dns {name}{search}, port {}", dns.port)
        }
        LookupKind::Redis(_) => format!("redis HGET {name}"),
    })
}

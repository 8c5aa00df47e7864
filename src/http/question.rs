//! What a lookup asks for a request: also what its answer is kept under.

use super::client::Request;
use super::template::{Gap, Template, Text, Unfilled, Values};
use super::value::{self, Purpose};
use crate::config::{Lookup, LookupKind, Search};

/// A question to a store, made of values that were checked for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Question {
    /// A name's addresses.
    Dns {
        /// In lower case, for names in DNS are one whatever their case.
        name: Text,
        /// Whether the first search domain of /etc/resolv.conf is to be put behind it; without one
        /// the lookup fails. The whole has to pass [`value::dns_name`] once more.
        search: bool,
    },
    /// A field of a hash.
    Redis {
        /// Of the hash.
        key: Text,
        /// Of the field.
        field: Text,
    },
}

/// The question of a lookup. Without a request (a frame's key) only `values` fill its templates.
///
/// # Errors
/// What is missing or cannot be used; [`super::rule::Statuses::of`] says what to answer.
pub fn of<'l>(
    lookup: &'l Lookup,
    request: Option<&Request<'_>>,
    values: &Values<'_>,
) -> Result<Question, Unfilled<'l>> {
    let fill = |template: &'l Template, purpose| template.fill(request, values, purpose);
    match &lookup.kind {
        LookupKind::Redis(redis) => Ok(Question::Redis {
            key: fill(&redis.key, Purpose::RedisKey)?,
            field: fill(&redis.field, Purpose::RedisKey)?,
        }),
        LookupKind::Dns(dns) => {
            let mut name = fill(&dns.name, Purpose::DnsLabel)?;
            if let Search::Domain(domain) = &dns.search {
                name.push(b'.');
                name.extend_from_slice(domain.as_bytes());
            }
            name.make_ascii_lowercase();
            // Each part is sound, and the whole may still have a label that is too long.
            let whole = value::dns_name(&name);
            whole.map_err(|unfit| Unfilled { part: None, gap: Gap::Malformed(unfit) })?;
            Ok(Question::Dns { name, search: dns.search == Search::ResolvConf })
        }
    }
}

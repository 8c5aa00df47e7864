//! What a listener that is routed by server name makes of a name, or of a ClientHello.

use std::fmt;

use tokio_rustls::rustls::pki_types::ServerName;

use super::{Count, Escaped, ExplainError, Target, target, write_placement, write_question};
use crate::config::{Config, Listener, MissingKey, Protocol, SniKey, TcpKey};
use crate::end::End;
use crate::tls::{HELLO_LEN_MAX, Hello, HelloReader};

/// A page about a client that asks for a server name (SNI): the entry of `names`, and the backend
/// or the reason why there is none. Made for reading; its layout is no interface.
///
/// # Errors
/// When there is no such listener, it does not route by server name, or no client can ask for that.
pub fn explain_name(config: &Config, listener: usize, name: &str) -> Result<String, ExplainError> {
    let (listener, sni) = routed(config, listener)?;
    let Ok(ServerName::DnsName(_)) = ServerName::try_from(name) else {
        return Err(ExplainError::NotAName(name.to_owned()));
    };
    let input = Input::Name(name.to_ascii_lowercase());
    Ok(Page { config, listener, sni, input }.to_string())
}

/// The same about the first bytes of a connection, which should be a ClientHello.
///
/// # Errors
/// When there is no such listener, or it does not route by server name.
pub fn explain_hello(
    config: &Config,
    listener: usize,
    bytes: &[u8],
) -> Result<String, ExplainError> {
    let (listener, sni) = routed(config, listener)?;
    let seen = bytes.get(..HELLO_LEN_MAX).unwrap_or(bytes);
    let input = Input::Bytes(bytes.len(), HelloReader::default().read(seen));
    Ok(Page { config, listener, sni, input }.to_string())
}

/// Whether a listener takes server names for keys.
pub fn is_by_name(listener: &Listener) -> bool {
    matches!(listener.protocol, Protocol::Tcp { key: Some(TcpKey::Sni(_)) })
}

fn routed(config: &Config, listener: usize) -> Result<(&Listener, &SniKey), ExplainError> {
    let Some(listener) = config.listeners.get(listener) else {
        return Err(ExplainError::ListenerUnknown(listener));
    };
    match &listener.protocol {
        Protocol::Tcp { key: Some(TcpKey::Sni(sni)) } => Ok((listener, sni)),
        Protocol::Tcp { .. } | Protocol::Frame(_) | Protocol::Http(_) => {
            Err(ExplainError::NotByName(listener.name.clone()))
        }
    }
}

/// Where a server name in any case leads; the empty key stands for a client without one.
pub(super) fn target_of_name(listener: &Listener, sni: &SniKey, key: &[u8]) -> Option<Target> {
    if key.is_empty() {
        return match sni.missing_key {
            MissingKey::Reject => None,
            MissingKey::Pool(pool) => Some(Target::Pool(pool)),
        };
    }
    let name = String::from_utf8_lossy(key).to_ascii_lowercase();
    sni.pool(&name).map(Target::Pool).or_else(|| target(listener))
}

enum Input {
    Name(String),
    /// So many bytes, and what is in them.
    Bytes(usize, Hello),
}

struct Page<'c> {
    config: &'c Config,
    listener: &'c Listener,
    sni: &'c SniKey,
    input: Input,
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "listener {}", self.listener.name)?;
        if let Input::Bytes(len, _) = self.input {
            writeln!(f, "input    {}", Count(len, "byte"))?;
        }
        match &self.input {
            Input::Name(name) | Input::Bytes(_, Hello::Complete(Some(name))) => {
                self.write_name(f, name)
            }
            Input::Bytes(_, Hello::Complete(None)) => self.write_nameless(f),
            Input::Bytes(_, Hello::Invalid) => {
                let end = End::TlsInvalid.label();
                writeln!(f, "\noutcome  closed: {end}: not a ClientHello, or over 16 KiB")
            }
            Input::Bytes(len, Hello::NeedMore) => writeln!(
                f,
                "\noutcome  incomplete: more bytes needed; a connection that stays like this is \
                 closed after {:?} ({})",
                self.sni.timeout,
                if *len == 0 { End::PrefaceSilent } else { End::PrefaceTimeout }.label()
            ),
        }
    }
}

impl Page<'_> {
    fn write_name(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        writeln!(f, "key      {} ({})", Escaped(name.as_bytes()), Count(name.len(), "byte"))?;
        match self.sni.entry(name) {
            Some((entry, _)) => writeln!(f, "names    {entry}")?,
            None => writeln!(f, "names    no entry: the listener's own target")?,
        }
        match target_of_name(self.listener, self.sni, name.as_bytes()) {
            Some(Target::Pool(pool)) => {
                write_placement(f, self.config.pools.get(pool), name.as_bytes())
            }
            Some(Target::Lookup(lookup)) => {
                write_question(f, self.config.lookups.get(lookup), name.as_bytes())
            }
            None => Ok(()),
        }
    }

    fn write_nameless(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sni.missing_key {
            MissingKey::Reject => writeln!(f, "\noutcome  closed: {}", End::KeyMissing.label()),
            MissingKey::Pool(pool) => {
                writeln!(f, "key      none; missing_key names a pool, with the empty key")?;
                write_placement(f, self.config.pools.get(pool), b"")
            }
        }
    }
}

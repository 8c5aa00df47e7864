//! TLS by rustls, with ring: sessions of a shard, and what listeners and pools prepare for them.
//!
//! Only TLS 1.2 and 1.3 exist here, and of 1.2 only suites with forward secrecy and authenticated
//! encryption: rustls has no others. Everything that reads a file is done by the control plane.

mod session;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::{AlertDescription, Error};

pub use self::session::Session;

/// The cryptography of every TLS connection of this process.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(ring::default_provider())).clone()
}

/// Why a TLS connection failed. Travels inside an [`io::Error`].
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// FIN without close_notify: bytes may be missing, and somebody may have taken them away.
    Truncated,
    /// The peer sent a fatal alert.
    Alert(AlertDescription),
    /// What the peer sent, or lacks, ends the connection. It was told so by an alert.
    Protocol(Error),
}

impl Failure {
    /// The failure inside an error of a stream; `None` if the socket failed.
    pub fn of(error: &io::Error) -> Option<&Failure> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Truncated => f.write_str("the connection ended without close_notify"),
            Failure::Alert(alert) => write!(f, "the peer sent alert {alert:?}"),
            Failure::Protocol(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::AlertReceived(alert) => Failure::Alert(alert),
            error => Failure::Protocol(error),
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        let kind = match failure {
            Failure::Truncated => io::ErrorKind::UnexpectedEof,
            Failure::Alert(_) | Failure::Protocol(_) => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, failure)
    }
}

thread_local! {
    /// The name in the ClientHello that rustls has just asked a certificate for. Its unbuffered
    /// connections do not tell, and the resolver is called within their calls.
    static NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Notes the name of a ClientHello for the connection that is being looked at.
fn note_name(name: Option<&str>) {
    let name = name.map(|name| name.to_ascii_lowercase().into_boxed_str());
    NAME.with_borrow_mut(|noted| *noted = name);
}

/// Calls `act`, and returns the name that was noted meanwhile with its result.
fn named<T>(act: impl FnOnce() -> T) -> (Option<Box<str>>, T) {
    let result = act();
    (NAME.take(), result)
}

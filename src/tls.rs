//! TLS by rustls, with ring: sessions of a shard, and what listeners and pools prepare for them.
//!
//! Only TLS 1.2 and 1.3 exist here, and of 1.2 only suites with forward secrecy and authenticated
//! encryption: rustls has no others. Everything that reads a file is done by the control plane.

mod client;
mod hello;
mod identity;
mod server;
mod session;
mod step;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

pub use self::client::{Brought, NameFrom, PoolSettings, PoolTls};
pub use self::hello::{HELLO_LEN_MAX, Hello, HelloReader};
pub use self::identity::{Identity, IdentityError};
pub use self::server::{
    ClientCertificates, ListenerSettings, ListenerTls, UnknownName, Version, authorities,
};
pub use self::session::Session;
use crate::end::End;

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
    /// No certificate for the name that the client asked for.
    UnknownName,
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
            Failure::UnknownName => f.write_str("no certificate for the name that was asked for"),
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

impl Failure {
    /// The end of a session whose client fails a handshake so.
    pub fn client_end(&self) -> End {
        match self {
            Failure::Truncated => End::TlsFin,
            Failure::Alert(_) => End::TlsAlert,
            Failure::UnknownName => End::TlsName,
            Failure::Protocol(error) => match error {
                Error::NoCertificatesPresented | Error::InvalidCertificate(_) => {
                    End::TlsCertificate
                }
                Error::PeerIncompatible(_) => End::TlsHandshake,
                Error::NoApplicationProtocol => End::TlsProtocol,
                _ => End::TlsInvalid,
            },
        }
    }
}

impl Failure {
    /// The end of an attempt to connect to a backend whose handshake fails so. `brought`: the
    /// client brought the name; what comes of that must not be held against the backend, or one
    /// client with a wrong name could take it from all others.
    pub fn backend_end(&self, brought: bool) -> End {
        match self {
            Failure::Alert(_) if brought => End::ConnectName,
            Failure::Protocol(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if brought => End::ConnectName,
            Failure::Protocol(Error::InvalidCertificate(_)) => End::ConnectCertificate,
            _ => End::ConnectTls,
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        let kind = match failure {
            Failure::Truncated => io::ErrorKind::UnexpectedEof,
            Failure::Alert(_) | Failure::UnknownName | Failure::Protocol(_) => {
                io::ErrorKind::InvalidData
            }
        };
        io::Error::new(kind, failure)
    }
}

/// What a ClientHello asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    /// In lower case.
    name: Option<Box<str>>,
    /// Whether there was a certificate for it.
    served: bool,
}

thread_local! {
    /// The ClientHello that rustls has just asked a certificate for. Its unbuffered connections do
    /// not tell, and the resolver is called within their calls.
    static ASKED: RefCell<Option<Asked>> = const { RefCell::new(None) };
}

/// Notes a ClientHello for the connection that is being looked at.
fn note_hello(name: Option<&str>, served: bool) {
    let name = name.map(Box::from);
    ASKED.with_borrow_mut(|asked| *asked = Some(Asked { name, served }));
}

/// Calls `act`; what was noted meanwhile comes with its result.
fn asked<T>(act: impl FnOnce() -> T) -> (Option<Asked>, T) {
    let result = act();
    (ASKED.take(), result)
}

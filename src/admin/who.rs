//! Who asks: the other end of a connection, and the name of its token.

use std::fmt;
use std::net::SocketAddr;

/// The other end of a connection to the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process on this machine, as the kernel knows it from when it connected.
    Unix {
        /// Its user.
        uid: u32,
        /// Its number; it may have ended since.
        pid: Option<i32>,
    },
    /// The kernel would not say.
    Unknown,
}

/// Whose request it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Name of the token it brought, where one is needed.
    pub token: Option<String>,
    /// Where it comes from.
    pub peer: Peer,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix { uid, pid: Some(pid) } => write!(f, "uid {uid} (pid {pid})"),
            Peer::Unix { uid, pid: None } => write!(f, "uid {uid}"),
            Peer::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Who {
    /// As the audit log has it: `NAME from 10.0.0.1:40312`, or only where from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.token {
            Some(name) => write!(f, "{name} from {}", self.peer),
            None => self.peer.fmt(f),
        }
    }
}

//! What is counted of TLS handshakes with clients.

use std::time::Duration;

use tokio_rustls::rustls::ProtocolVersion;

use super::{Counter, Durations};
use crate::tls::Session;

/// Labels of the versions, in the order in which they are counted.
pub const VERSIONS: [&str; 2] = ["1.2", "1.3"];
/// Labels of the kinds of handshakes, in the order in which they are counted.
pub const KINDS: [&str; 2] = ["full", "resumed"];

/// What one shard counts of one listener's handshakes that were completed.
#[derive(Debug, Default)]
pub struct TlsCells {
    /// By version, then by kind.
    pub handshakes: [[Counter; KINDS.len()]; VERSIONS.len()],
    /// From the client's first byte to the end of the handshake.
    pub duration: Durations,
}

impl TlsCells {
    /// Counts one.
    pub fn count(&self, session: &Session, took: Duration) {
        let version = usize::from(session.version() == Some(ProtocolVersion::TLSv1_3));
        self.handshakes[version][usize::from(session.is_resumed())].add(1);
        self.duration.record(took);
    }
}

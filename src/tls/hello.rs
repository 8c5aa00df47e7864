//! The name in a ClientHello that is not for us (SNI): read, and passed on as it came.

use std::fmt;

use tokio_rustls::rustls::server::Acceptor;

/// Longest start of a connection that is searched for a ClientHello, bytes. Post-quantum key shares
/// take some two thousand.
pub const HELLO_LEN_MAX: usize = 16 * 1024 + 5;

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// Undecided.
    NeedMore,
    /// A ClientHello, and the name in it, in lower case.
    Complete(Option<String>),
    /// Not TLS, or too long.
    Invalid,
}

/// Reads one ClientHello in any pieces.
#[derive(Default)]
pub struct HelloReader {
    acceptor: Acceptor,
    /// Bytes seen so far.
    len: usize,
}

impl HelloReader {
    /// Looks at the bytes that came since the last call.
    pub fn read(&mut self, mut bytes: &[u8]) -> Hello {
        while !bytes.is_empty() {
            match self.acceptor.read_tls(&mut bytes) {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(_full) => return Hello::Invalid,
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                    return Hello::Complete(name);
                }
                Err(_with_alert) => return Hello::Invalid,
            }
        }
        if self.len >= HELLO_LEN_MAX { Hello::Invalid } else { Hello::NeedMore }
    }
}

impl fmt::Debug for HelloReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HelloReader").field("len", &self.len).finish_non_exhaustive()
    }
}

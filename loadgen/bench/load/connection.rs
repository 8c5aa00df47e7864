//! One connection of the load, of a device or accepted by a backend.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::time::Instant;

use mio::net::TcpStream;

/// A connection and what it is for.
pub struct Connection {
    /// The socket.
    pub socket: TcpStream,
    /// What it is for.
    pub role: Role,
    /// Bytes that did not fit into the socket, from `out_at` on.
    pub out: Vec<u8>,
    /// See `out`.
    pub out_at: usize,
}

/// What a connection is for.
pub enum Role {
    /// Sends back what it gets.
    Echo,
    /// Answers requests.
    Serving {
        /// Number of the backend, from 0.
        backend: u16,
        /// The beginning of a request that has not come as a whole.
        partial: Vec<u8>,
        /// The last answer is under way.
        is_last: bool,
    },
    /// Waits for its connection.
    Connecting(Errand),
    /// Has sent its login frame; `got` bytes of it have come back.
    LoggingIn {
        /// What it is going to be.
        errand: Errand,
        /// Its number, which its login frame carries.
        number: u64,
        /// Bytes come back.
        got: usize,
    },
    /// Has asked for WebSocket.
    Upgrading {
        /// What it is going to be.
        errand: Errand,
        /// The beginning of the answer.
        partial: Vec<u8>,
    },
    /// Sends requests; with its errand until the first one is answered.
    Asking(Option<Errand>, Talk),
    /// Is logged in and says nothing.
    Silent,
    /// Sends messages.
    Talking(Talk),
    /// Sends and reads a flood.
    Flood {
        /// Bytes sent.
        sent: u64,
        /// Bytes come back.
        got: u64,
    },
}

/// What a device connects for.
#[derive(Debug, Clone, Copy)]
pub struct Errand {
    /// What it does once it is logged in.
    pub then: Then,
    /// When connect was called, or was intended to be.
    pub begun: Instant,
    /// When the first echoed byte came.
    pub first_echo: Option<Instant>,
}

/// After the login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Silence,
    /// Messages.
    Talk,
    /// Requests.
    Ask,
    /// A flood.
    Flood,
    /// Reset, and connect again.
    Reset,
}

/// Messages under way.
#[derive(Debug, Default)]
pub struct Talk {
    /// Sequence numbers and the times from which their latency counts.
    pub in_flight: VecDeque<(u64, Instant)>,
    /// The beginning of an echo that has not come as a whole.
    pub partial: Vec<u8>,
}

impl Role {
    /// Whether a device has it.
    pub fn is_device(&self) -> bool {
        !matches!(self, Role::Echo | Role::Serving { .. })
    }

    /// What it connects for, while it is not logged in.
    pub fn errand(&self) -> Option<Errand> {
        match self {
            Role::Connecting(errand)
            | Role::LoggingIn { errand, .. }
            | Role::Upgrading { errand, .. } => Some(*errand),
            Role::Asking(errand, _) => *errand,
            _ => None,
        }
    }
}

impl Connection {
    /// A connection with nothing to send.
    pub fn new(socket: TcpStream, role: Role) -> Connection {
        Connection { socket, role, out: Vec::new(), out_at: 0 }
    }

    /// Sends, and keeps what does not fit.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        while self.out_is_empty() && !left.is_empty() {
            match self.socket.write(left) {
                Ok(n) => left = &left[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.out.extend_from_slice(left);
        Ok(())
    }

    /// Sends what was kept. `true`: nothing is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        while !self.out_is_empty() {
            match self.socket.write(&self.out[self.out_at..]) {
                Ok(n) => self.out_at += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.out_at = 0;
        Ok(true)
    }

    /// Whether all that was sent is out.
    pub fn out_is_empty(&self) -> bool {
        self.out_at == self.out.len()
    }
}

//! Sockets that are used again: those of sessions that ended with a reset.
//!
//! Where a client resets its connection, so do we towards its backend. Closing does that and throws
//! the socket away; connecting to AF_UNSPEC sends the same reset, empties the socket, gives its
//! port back, and leaves a socket that can be connected anew (connect(2)). In a storm of
//! reconnecting devices this saves a sixth of the work per connection.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;

use rustix::net::connect_unspec;
use socket2::{Domain, SockRef};

use crate::config::{Address, Pool, SocketOptions};
use crate::sys::Socket;

/// Sockets a shard keeps at most. As many as it begins sessions between two turns of its ring.
pub const SPARES_MAX: usize = 32;

/// What a spare socket was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Make {
    /// IPv4 or IPv6.
    pub domain: Domain,
    /// Options that it has and keeps.
    pub options: SocketOptions,
}

impl Make {
    /// Of a socket for an address of a pool; `None` if it could not serve another session: sockets
    /// that are bound to a source address stay bound.
    pub fn of(settings: &Pool, address: &Address) -> Option<Make> {
        match address {
            Address::Tcp(target) if settings.source_addresses.is_empty() => {
                Some(Make { domain: Domain::for_address(*target), options: settings.socket })
            }
            _ => None,
        }
    }
}

/// The spare sockets of a shard. All of them are in its epoll set.
#[derive(Debug, Default)]
pub struct Spares {
    sockets: RefCell<Vec<(Make, Socket)>>,
}

impl Spares {
    /// A socket like one that `make` describes, not connected.
    pub fn take(&self, make: Make) -> Option<Socket> {
        let mut sockets = self.sockets.borrow_mut();
        let index = sockets.iter().rposition(|(made, _)| *made == make)?;
        Some(sockets.swap_remove(index).1)
    }

    /// Resets the connection of a socket and keeps the socket. `Err` gives it back as it was.
    pub fn reset(&self, make: Make, socket: Socket) -> Result<(), Socket> {
        if self.sockets.borrow().len() >= SPARES_MAX || disconnect(&socket).is_err() {
            return Err(socket);
        }
        self.sockets.borrow_mut().push((make, socket));
        Ok(())
    }

    /// Closes all of them.
    pub fn clear(&self) {
        self.sockets.borrow_mut().clear();
    }
}

fn disconnect(socket: &Socket) -> io::Result<()> {
    connect_unspec(socket.as_fd())?;
    // The kernel leaves ECONNRESET for whoever asks next, which must not be the next session.
    SockRef::from(socket).take_error().map(|_reset| ())
}

//! A connected stream socket, TCP or UNIX: direct calls that never wait.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// A stream socket owned by one session. Waiting for it is the business of `Poller`.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Takes the descriptor over; it is non-blocking already.
    pub fn new(fd: OwnedFd) -> Socket {
        Socket { fd }
    }

    /// Receives what is there; never waits. 0 is the peer's FIN.
    ///
    /// # Errors
    /// `WouldBlock`, or what recv(2) says.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self, buf, RecvFlags::DONTWAIT)?.1)
    }

    /// Appends what is there to `buf`, up to its spare capacity; never waits. 0 is the peer's FIN.
    ///
    /// # Errors
    /// `WouldBlock`, or what recv(2) says.
    pub fn receive_more(&self, buf: &mut Vec<u8>) -> io::Result<usize> {
        Ok(recv(self, spare_capacity(buf), RecvFlags::DONTWAIT)?.1)
    }

    /// Sends what fits; never waits, never raises SIGPIPE.
    ///
    /// # Errors
    /// `WouldBlock`, or what send(2) says.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> OwnedFd {
        socket.fd
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether the peer of an idle connection is still there: a byte or more waits (`Ok(n)`), it sent
/// its FIN (`Ok(0)`), or nothing happened (`WouldBlock`). Takes nothing from the socket.
///
/// # Errors
/// `WouldBlock`, or the connection's error.
pub fn peek(socket: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(recv(socket, &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)?.1)
}

/// What is known of a connect without waiting for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connecting {
    /// Nothing yet.
    Pending,
    /// It has succeeded.
    Connected,
    /// It has failed; SO_ERROR says how.
    Failed,
}

/// Looks whether a connect has been decided.
pub fn connecting(socket: BorrowedFd<'_>) -> Connecting {
    let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut polled, Some(&now)) {
        Ok(1..) if polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
            Connecting::Failed
        }
        Ok(1..) => Connecting::Connected,
        Ok(0) | Err(_) => Connecting::Pending,
    }
}

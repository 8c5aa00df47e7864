//! A connected stream socket, TCP or UNIX: direct calls that never wait.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

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
        // SAFETY: `buf` is writable for its length and outlives the call.
        let n = unsafe {
            libc::recv(self.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT)
        };
        usize::try_from(n).map_err(|_negative| io::Error::last_os_error())
    }

    /// Appends what is there to `buf`, up to its spare capacity; never waits. 0 is the peer's FIN.
    ///
    /// # Errors
    /// `WouldBlock`, or what recv(2) says.
    pub fn receive_more(&self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let spare = buf.spare_capacity_mut();
        // SAFETY: the spare capacity is writable for its length and outlives the call.
        let n = unsafe {
            libc::recv(self.as_raw_fd(), spare.as_mut_ptr().cast(), spare.len(), libc::MSG_DONTWAIT)
        };
        let n = usize::try_from(n).map_err(|_negative| io::Error::last_os_error())?;
        // SAFETY: the kernel initialised `n` bytes of the spare capacity.
        unsafe { buf.set_len(buf.len() + n) };
        Ok(n)
    }

    /// Sends what fits; never waits, never raises SIGPIPE.
    ///
    /// # Errors
    /// `WouldBlock`, or what send(2) says.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: `bytes` is readable for its length and outlives the call.
        let n = unsafe {
            libc::send(
                self.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(n).map_err(|_negative| io::Error::last_os_error())
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
    let mut byte = 0u8;
    // SAFETY: `byte` is one writable byte that outlives the call.
    let n = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            std::ptr::from_mut(&mut byte).cast(),
            1,
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(n).map_err(|_negative| io::Error::last_os_error())
}

/// Whether a connect has been decided or a send would not block. Never waits.
pub fn is_writable(socket: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd is given and outlives the call; a timeout of 0 never blocks.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

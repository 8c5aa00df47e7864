//! Bytes from socket to socket without passing through this process: splice(2) by way of a pipe.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Socket;

/// A pipe that holds bytes on their way.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    held: usize,
}

impl Pipe {
    /// A new pipe of about `capacity` bytes; the kernel may give less (pipe(7): limits per user).
    ///
    /// # Errors
    /// What pipe2(2) says.
    pub fn new(capacity: usize) -> io::Result<Pipe> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for two descriptors and outlives the call.
        let result =
            unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us these descriptors; nobody else owns them.
        let [read, write] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let wanted = libc::c_int::try_from(capacity).unwrap_or(libc::c_int::MAX);
        // SAFETY: no pointers are passed.
        let set = unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, wanted) };
        // Refused: it has its first size, which does.
        // SAFETY: no pointers are passed.
        let size = if set > 0 {
            set
        } else {
            unsafe { libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ) }
        };
        let capacity = usize::try_from(size).map_err(|_negative| io::Error::last_os_error())?;
        Ok(Pipe { read, write, capacity, held: 0 })
    }

    /// Bytes in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes from a socket into the empty pipe; never waits. 0 is the peer's FIN.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has nothing, or what splice(2) says. In a pipe that is not
    /// empty `WouldBlock` would not tell which of the two is in the way.
    pub fn fill(&mut self, from: &Socket) -> io::Result<usize> {
        let n = splice(from.as_raw_fd(), self.write.as_raw_fd(), self.capacity)?;
        self.held += n;
        Ok(n)
    }

    /// Gives to a socket what it takes; never waits.
    ///
    /// # Errors
    /// `WouldBlock`, or what splice(2) says.
    pub fn drain(&mut self, to: &Socket) -> io::Result<usize> {
        let n = splice(self.read.as_raw_fd(), to.as_raw_fd(), self.held)?;
        self.held = self.held.saturating_sub(n);
        Ok(n)
    }
}

fn splice(from: libc::c_int, to: libc::c_int, len: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: null offsets are allowed for sockets and pipes; no other pointers are passed.
    let n = unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), len, flags) };
    usize::try_from(n).map_err(|_negative| io::Error::last_os_error())
}

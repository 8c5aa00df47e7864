//! Bytes from socket to socket without passing through this process: splice(2) by way of a pipe.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

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
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Refused: it has its first size, which does.
        let capacity = match fcntl_setpipe_size(&write, capacity) {
            Ok(capacity) => capacity,
            Err(_limited) => fcntl_getpipe_size(&write)?,
        };
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
        let n = move_bytes(from.as_fd(), self.write.as_fd(), self.capacity)?;
        self.held += n;
        Ok(n)
    }

    /// Gives to a socket what it takes; never waits.
    ///
    /// # Errors
    /// `WouldBlock`, or what splice(2) says.
    pub fn drain(&mut self, to: &Socket) -> io::Result<usize> {
        let n = move_bytes(self.read.as_fd(), to.as_fd(), self.held)?;
        self.held = self.held.saturating_sub(n);
        Ok(n)
    }
}

fn move_bytes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(splice(from, None, to, None, len, flags)?)
}

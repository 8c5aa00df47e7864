//! A connected stream socket on a shard's ring: readiness, direct calls, and armed reads.

use std::cell::UnsafeCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use monoio::io::{CancelHandle, CancelableAsyncReadRent};
use monoio::net::UnixStream;

/// A stream socket, TCP or UNIX, owned by one session.
///
/// monoio's UnixStream is one shared descriptor and does the same operations as its TcpStream,
/// which carries some 90 bytes more per socket for two cached addresses.
///
/// Both directions of a relay use it at once: one waits for input or has a read armed, the other
/// sends. monoio's read takes `&mut self` although it only clones the shared descriptor, so the
/// stream sits in an `UnsafeCell`, as in monoio's own `Split`.
#[derive(Debug)]
pub struct Socket {
    stream: UnsafeCell<UnixStream>,
}

impl Socket {
    /// Takes the descriptor over.
    ///
    /// # Errors
    /// What the ring says.
    pub fn new(fd: OwnedFd) -> io::Result<Socket> {
        let stream = UnixStream::from_std(std::os::unix::net::UnixStream::from(fd))?;
        Ok(Socket { stream: UnsafeCell::new(stream) })
    }

    fn stream(&self) -> &UnixStream {
        // SAFETY: a Socket never leaves its thread (UnsafeCell makes it !Sync, UnixStream !Send).
        // The only exclusive reference is in `armed_read`, whose future touches nothing but the
        // shared descriptor, and that in its first poll.
        unsafe { &*self.stream.get() }
    }

    /// Waits until a receive would not block: data, FIN or an error. Cancel-safe, owns no buffer.
    ///
    /// # Errors
    /// What the ring says.
    pub async fn readable(&self) -> io::Result<()> {
        self.stream().readable(true).await
    }

    /// Waits until a send would not block, or a connect has been decided. Cancel-safe.
    ///
    /// Comes back at once, every time, when the peer has sent FIN: see `Watches`.
    ///
    /// # Errors
    /// What the ring says.
    pub async fn writable(&self) -> io::Result<()> {
        self.stream().writable(true).await
    }

    /// Receives into an owned buffer through the ring; the buffer comes back with the result.
    ///
    /// # Errors
    /// What recv(2) says, and ECANCELED after the handle's owner cancelled: then nothing was taken
    /// from the socket.
    pub async fn armed_read(
        &self,
        buf: Vec<u8>,
        cancel: CancelHandle,
    ) -> (io::Result<usize>, Vec<u8>) {
        // SAFETY: see `stream`. One armed read per socket exists at a time, and the future holds
        // the reference only to clone the descriptor when it is first polled.
        let stream = unsafe { &mut *self.stream.get() };
        stream.cancelable_read(buf, cancel).await
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
        self.stream().as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self` lives, which the borrow ensures.
        unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) }
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

//! accept4 with both flags at once, and a socket option that socket2 does not have.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{SocketFlags, acceptfrom_with};

/// A connection taken from a listener's queue.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, non-blocking and close-on-exec.
    pub socket: OwnedFd,
    /// The client's address; `None` for UNIX sockets.
    pub peer: Option<SocketAddr>,
}

/// Takes one completed connection.
///
/// monoio's accept sets no CLOEXEC and leaks the descriptor when it is dropped late; a direct call
/// after `readable()` has neither fault and takes a whole batch without a ring turn.
///
/// # Errors
/// `WouldBlock` when the queue is empty; otherwise what accept(2) says.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Accepted> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = acceptfrom_with(listener, flags)?;
    Ok(Accepted { socket, peer: peer.and_then(|peer| SocketAddr::try_from(peer).ok()) })
}

/// Lets the kernel choose the local port at connect time, when it knows the whole 4-tuple, so that
/// one local address serves as many connections per backend as there are ports (ip(7)).
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_bind_address_no_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` is a c_int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

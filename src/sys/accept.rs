//! accept4 with both flags at once, and a socket option that socket2 does not have.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `storage` is valid for `len` bytes and outlives the call; the listener is borrowed.
    let fd = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            storage.as_mut_ptr().cast(),
            &mut len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: zeroed storage is a valid value, and the kernel wrote at most its size.
    let storage = unsafe { storage.assume_init() };
    Ok(Accepted { socket, peer: socket_addr(&storage) })
}

fn socket_addr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a sockaddr_in, which fits in it.
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the storage holds a sockaddr_in6, which fits in it.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id)))
        }
        _ => None,
    }
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
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! Resets on connections whose FIN has been read already.
//!
//! Such a socket is always "readable", so a poll for input cannot say that it was reset since. An
//! epoll set with an empty event mask reports EPOLLERR and EPOLLHUP only (epoll_ctl(2)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Socket, WakeFd};

/// The half-closed sockets of a shard.
#[derive(Debug)]
pub struct Hangups {
    epoll: WakeFd,
}

impl Hangups {
    /// An empty set.
    ///
    /// # Errors
    /// What epoll_create1(2) or the ring says.
    pub fn new() -> io::Result<Hangups> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let epoll = WakeFd::new(unsafe { OwnedFd::from_raw_fd(fd) })?;
        Ok(Hangups { epoll })
    }

    /// Watches a socket until it is closed or has been reported once.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn watch(&self, socket: &Socket, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLONESHOT as u32, u64: token };
        // SAFETY: both descriptors are open while borrowed; `event` outlives the call.
        let result = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd(),
                &mut event,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits until a watched socket hung up.
    ///
    /// # Errors
    /// What the ring says.
    pub async fn ready(&self) -> io::Result<()> {
        self.epoll.readable().await
    }

    /// Takes up to 64 tokens of sockets that hung up.
    pub fn take(&self, mut each: impl FnMut(u64)) -> usize {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: `events` has room for 64 entries and outlives the call; a timeout of 0 never
        // blocks the shard.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 64, 0) };
        let count = usize::try_from(count).unwrap_or(0);
        for event in events.iter().take(count) {
            each(event.u64);
        }
        count
    }
}

//! What the ring's own poll cannot tell about sockets whose peer has sent FIN.
//!
//! io_uring's poll reports EPOLLRDHUP whether asked for or not, and so does the poll in an armed
//! send. On a half-closed socket a wait for room would therefore come back at once, every time, and
//! an armed send would be retried until it is given to a kernel thread that blocks in it. epoll
//! reports what it is asked for, and EPOLLERR and EPOLLHUP (epoll_ctl(2)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Socket, WakeFd};

/// What to wait for on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A reset or a hang-up only.
    Hangup,
    /// Room to send, or a reset or hang-up.
    Room,
}

/// The sockets of a shard that are waited for here. Each is reported once and may then be watched
/// again; closing a socket ends its watch.
#[derive(Debug)]
pub struct Watches {
    epoll: WakeFd,
}

impl Watches {
    /// An empty set.
    ///
    /// # Errors
    /// What epoll_create1(2) or the ring says.
    pub fn new() -> io::Result<Watches> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let epoll = WakeFd::new(unsafe { OwnedFd::from_raw_fd(fd) })?;
        Ok(Watches { epoll })
    }

    /// Watches a socket until it is reported; replaces an earlier watch of it.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn watch(&self, socket: &Socket, wanted: Wanted, token: u64) -> io::Result<()> {
        let room = if wanted == Wanted::Room { libc::EPOLLOUT } else { 0 };
        let events = (room | libc::EPOLLONESHOT) as u32;
        match self.control(libc::EPOLL_CTL_MOD, socket, libc::epoll_event { events, u64: token }) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                let event = libc::epoll_event { events, u64: token };
                self.control(libc::EPOLL_CTL_ADD, socket, event)
            }
            result => result,
        }
    }

    fn control(
        &self,
        operation: libc::c_int,
        socket: &Socket,
        mut event: libc::epoll_event,
    ) -> io::Result<()> {
        // SAFETY: both descriptors are open while borrowed; `event` outlives the call.
        let result = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), operation, socket.as_raw_fd(), &mut event)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits until there is something to take.
    ///
    /// # Errors
    /// What the ring says.
    pub async fn ready(&self) -> io::Result<()> {
        self.epoll.readable().await
    }

    /// Takes up to 64 tokens of sockets that are reported.
    pub fn take(&self, mut each: impl FnMut(u64)) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: `events` has room for 64 entries and outlives the call; a timeout of 0 never
        // blocks the shard.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 64, 0) };
        for event in events.iter().take(usize::try_from(count).unwrap_or(0)) {
            each(event.u64);
        }
    }
}

//! Readiness of a shard's sockets: one epoll set, edge-triggered, itself awaited on the ring.
//!
//! A socket is added once and stays until it is closed: no operation is armed or cancelled per
//! message, and a quiet socket costs the kernel some 200 bytes. The ring's own poll would not do:
//! it reports EPOLLRDHUP whether asked for or not, so that waiting for room on a half-closed socket
//! comes back at once, every time. epoll reports what it is asked for, and EPOLLERR and EPOLLHUP
//! (epoll_ctl(2)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{Socket, WakeFd};

/// Reports taken in one call.
const BATCH: usize = 128;

/// What to report of a socket, beside errors and hang-ups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// Bytes or FIN have come.
    pub input: bool,
    /// There is room to send, after there was none.
    pub room: bool,
}

/// What became of a socket since its last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// A receive would give bytes, FIN or an error.
    pub input: bool,
    /// A send would not block.
    pub room: bool,
    /// The peer has sent FIN, or worse: what can be received ends.
    pub ending: bool,
    /// An error, or both directions are shut.
    pub hangup: bool,
}

/// The sockets of a shard that are waited for.
#[derive(Debug)]
pub struct Poller {
    epoll: WakeFd,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// What epoll_create1(2) or the ring says.
    pub fn new() -> io::Result<Poller> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let epoll = WakeFd::new(unsafe { OwnedFd::from_raw_fd(fd) })?;
        Ok(Poller { epoll })
    }

    /// Begins to report a socket; what holds already is reported too. Closing it ends this.
    ///
    /// # Errors
    /// What epoll_ctl(2) says: no memory, or the user's limit of watches.
    pub fn add(&self, socket: &Socket, interest: Interest, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, interest, token)
    }

    /// Changes what is reported of a socket; what holds already is reported again.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn change(&self, socket: &Socket, interest: Interest, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, interest, token)
    }

    fn control(
        &self,
        operation: libc::c_int,
        socket: &Socket,
        interest: Interest,
        token: u64,
    ) -> io::Result<()> {
        let input = if interest.input { libc::EPOLLIN | libc::EPOLLRDHUP } else { 0 };
        let room = if interest.room { libc::EPOLLOUT } else { 0 };
        let events = (input | room | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: token };
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

    /// Takes a batch of reports, each with its socket's token. `true`: there may be more.
    pub fn take(&self, mut each: impl FnMut(u64, Report)) -> bool {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        // SAFETY: `events` has room for as many entries as said and outlives the call; a timeout
        // of 0 never blocks the shard.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), BATCH as libc::c_int, 0)
        };
        let count = usize::try_from(count).unwrap_or(0);
        for event in events.iter().take(count) {
            let has = |bits: libc::c_int| event.events & bits as u32 != 0;
            let hangup = has(libc::EPOLLERR | libc::EPOLLHUP);
            let ending = hangup || has(libc::EPOLLRDHUP);
            let input = ending || has(libc::EPOLLIN);
            let room = hangup || has(libc::EPOLLOUT);
            each(event.u64, Report { input, room, ending, hangup });
        }
        count == BATCH
    }
}

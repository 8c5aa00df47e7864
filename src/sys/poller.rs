//! Readiness of a shard's sockets: one epoll set, edge-triggered, itself awaited on the ring.
//!
//! A socket is added once and stays until it is closed: no operation is armed or cancelled per
//! message, and a quiet socket costs the kernel some 200 bytes. The ring's own poll would not do:
//! it reports EPOLLRDHUP whether asked for or not, so that waiting for room on a half-closed socket
//! comes back at once, every time. epoll reports what it is asked for, and EPOLLERR and EPOLLHUP
//! (epoll_ctl(2)).

use std::cell::RefCell;
use std::io;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::Timespec;

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

impl Interest {
    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::ET;
        flags.set(EventFlags::IN | EventFlags::RDHUP, self.input);
        flags.set(EventFlags::OUT, self.room);
        flags
    }
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
pub struct Poller {
    epoll: WakeFd,
    events: RefCell<Vec<epoll::Event>>,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// What epoll_create1(2) or the ring says.
    pub fn new() -> io::Result<Poller> {
        let epoll = WakeFd::new(epoll::create(CreateFlags::CLOEXEC)?)?;
        Ok(Poller { epoll, events: RefCell::new(Vec::with_capacity(BATCH)) })
    }

    /// Begins to report a socket; what holds already is reported too. Closing it ends this.
    ///
    /// # Errors
    /// What epoll_ctl(2) says: no memory, or the user's limit of watches.
    pub fn add(&self, socket: &Socket, interest: Interest, token: u64) -> io::Result<()> {
        match epoll::add(&self.epoll, socket, EventData::new_u64(token), interest.flags()) {
            // A socket that is used again.
            Err(rustix::io::Errno::EXIST) => self.change(socket, interest, token),
            result => Ok(result?),
        }
    }

    /// Changes what is reported of a socket; what holds already is reported again.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn change(&self, socket: &Socket, interest: Interest, token: u64) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(token), interest.flags())?)
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
        let mut events = self.events.take();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Nothing but a fault of ours could make this fail; the next report will say the same.
        let _never = epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&now));
        let full = events.len() == events.capacity();
        for event in events.drain(..) {
            // A copy: the kernel's structure is packed.
            let flags = event.flags;
            let hangup = flags.intersects(EventFlags::ERR | EventFlags::HUP);
            let ending = hangup || flags.contains(EventFlags::RDHUP);
            let input = ending || flags.contains(EventFlags::IN);
            let room = hangup || flags.contains(EventFlags::OUT);
            each(event.data.u64(), Report { input, room, ending, hangup });
        }
        self.events.replace(events);
        full
    }
}

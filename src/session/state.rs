//! What a shard knows of one session: addresses, key, placement, counters, deadline. Nothing else.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::end::{End, Placement, Side};
use crate::relay::{COOL_AFTER, Relaying};
use crate::shard::interrupt::Interrupt;
use crate::shard::wheel::{Tick, ticks};
use crate::table::{Backend, BackendShared, Listener, Pool};

/// Longest wait between two looks at a session, ticks. An entry in the wheel stays until its time
/// comes, whatever happens to its session meanwhile: with idle timeouts of hours, those of ended
/// sessions and of replaced looks would pile up. A minute bounds them, at the cost of a look a
/// minute.
pub const LOOK_AHEAD_MAX: Tick = 600;

/// A key, in place up to 24 bytes: a 15-digit device id allocates nothing.
pub type StoredKey = SmallVec<[u8; 24]>;

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its first bytes are being read, its TLS handshake among them.
    Preface,
    /// It speaks HTTP, and is between two requests.
    Idle,
    /// It speaks HTTP, and a request is on its way.
    Request,
    /// It waits for a lookup's answer.
    Lookup,
    /// It waits for room on its backend.
    Wait,
    /// Its backend is being connected.
    Connect,
    /// Bytes go both ways.
    Relay,
}

impl Stage {
    /// The name the admin interface shows.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Preface => "preface",
            Stage::Idle => "idle",
            Stage::Request => "request",
            Stage::Lookup => "lookup",
            Stage::Wait => "wait",
            Stage::Connect => "connect",
            Stage::Relay => "relay",
        }
    }
}

/// How long something took, in 4 bytes: whole microseconds, up to 71 minutes.
#[derive(Debug)]
pub struct Took(Cell<u32>);

impl Default for Took {
    fn default() -> Took {
        Took(Cell::new(u32::MAX))
    }
}

impl Took {
    /// Notes it.
    pub fn set(&self, duration: Duration) {
        let us = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        self.0.set(us.min(u32::MAX - 1));
    }

    /// Forgets it.
    pub fn clear(&self) {
        self.0.set(u32::MAX);
    }

    /// What was noted, if anything.
    pub fn get(&self) -> Option<Duration> {
        let us = self.0.get();
        (us != u32::MAX).then(|| Duration::from_micros(us.into()))
    }
}

/// Where a session was placed, or is to be.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The pool, of the table version that was current.
    pub pool: Arc<Pool>,
    /// The backend: the one it has, the one tried last, or the one its key belongs to.
    pub backend: Option<Arc<Backend>>,
    /// Why there; `None` while no backend has been chosen.
    pub placement: Option<Placement>,
    /// Version of the table.
    pub table_version: u64,
}

/// Direction of a stream of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    ToBackend = 0,
    /// From the backend.
    ToClient = 1,
}

/// What the epoll set has reported of a socket since its session looked last.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Anything.
    pub reported: bool,
    /// That its peer sends no more; stays set.
    pub ending: bool,
    /// Whether the epoll set has the socket.
    pub polled: bool,
    /// What it was asked for.
    pub asked: Asked,
}

/// What the epoll set was asked to report of a socket, as far as it lasts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nothing, or no input.
    #[default]
    Nothing,
    /// Input.
    Input,
    /// Input and room.
    Both,
}

/// What a look at the clock says about a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Look again at this tick.
    Again(Tick),
    /// It has gone quiet: take from it what only busy sessions need, and look again at this tick.
    Cool(Tick),
    /// It is over.
    Over(End),
}

/// One session.
pub struct Session {
    /// Its key in the shard's slab.
    pub slot: u32,
    /// Tells it from earlier users of the slot.
    pub serial: u32,
    /// Its listener, as it was when it accepted.
    pub listener: Arc<Listener>,
    /// Who is at the other end of the socket; `None` for UNIX sockets.
    pub peer: Option<SocketAddr>,
    /// Source and destination from a PROXY header.
    pub proxied: OnceCell<Box<(SocketAddr, SocketAddr)>>,
    /// When it was accepted.
    pub accepted: Instant,
    /// Its key, empty until known.
    pub key: RefCell<StoredKey>,
    /// Its pool and backend, once known.
    pub placed: RefCell<Option<Placed>>,
    /// Connection attempts made: at most 17.
    pub attempts: Cell<u8>,
    /// Stage of its life.
    pub stage: Cell<Stage>,
    /// Ends its waits: deadlines, drain, hang-ups.
    pub interrupt: Interrupt<End>,
    /// Tick of its last byte, either way.
    pub active: Cell<Tick>,
    /// Bytes received from the client, a PROXY header excluded.
    pub bytes_in: Cell<u64>,
    /// Bytes sent to the client.
    pub bytes_out: Cell<u64>,
    /// Accept to complete preface.
    pub preface_time: Took,
    /// Time of the successful connection attempt; zero for a warm connection.
    pub connect_time: Took,
    /// Accept to its first wait for room on a backend; once it relays, accept to relay, if early
    /// ends count.
    pub turned_after: Took,
    /// Its sockets and what is between them, while it relays.
    pub relay: RefCell<Option<Relaying>>,
    /// Whether its relay has something to give back when it goes quiet.
    pub busy: Cell<bool>,
    signals: [Cell<Signal>; 2],
    // Not a pair: that would be padded.
    deadline_at: Cell<Tick>,
    deadline_end: Cell<End>,
    idle_ticks: Cell<Tick>,
    scheduled: Cell<Tick>,
}

/// What a session begins with.
#[derive(Debug, Clone)]
pub struct Birth {
    /// Key in the shard's slab.
    pub slot: u32,
    /// Serial number on the shard.
    pub serial: u32,
    /// The listener.
    pub listener: Arc<Listener>,
    /// The other end of the socket.
    pub peer: Option<SocketAddr>,
}

impl Session {
    /// A session just accepted, at tick `now`.
    pub fn new(birth: Birth, now: Tick) -> Session {
        Session {
            slot: birth.slot,
            serial: birth.serial,
            listener: birth.listener,
            peer: birth.peer,
            proxied: OnceCell::new(),
            accepted: Instant::now(),
            key: RefCell::default(),
            placed: RefCell::new(None),
            attempts: Cell::new(0),
            stage: Cell::new(Stage::Preface),
            interrupt: Interrupt::new(),
            active: Cell::new(now),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            preface_time: Took::default(),
            connect_time: Took::default(),
            turned_after: Took::default(),
            relay: RefCell::new(None),
            busy: Cell::new(false),
            signals: Default::default(),
            deadline_at: Cell::new(Tick::MAX),
            deadline_end: Cell::new(End::PrefaceTimeout),
            idle_ticks: Cell::new(Tick::MAX / 2),
            scheduled: Cell::new(Tick::MAX),
        }
    }

    /// The address of the device: what a PROXY header says, else the peer's.
    pub fn client(&self) -> Option<SocketAddr> {
        self.proxied.get().map(|addresses| addresses.0).or(self.peer)
    }

    /// Sets the one deadline of the current stage. Returns the tick at which the wheel must show
    /// this session, unless it will be shown early enough anyway.
    #[must_use]
    pub fn set_deadline(&self, at: Tick, end: End, now: Tick) -> Option<Tick> {
        self.deadline_at.set(at);
        self.deadline_end.set(end);
        self.schedule(at, now)
    }

    /// Enters the relay stage. Returns as [`Session::set_deadline`] does.
    #[must_use]
    pub fn begin_relay(&self, idle_timeout: Duration, now: Tick) -> Option<Tick> {
        self.stage.set(Stage::Relay);
        self.active.set(now);
        self.idle_ticks.set(ticks(idle_timeout));
        self.schedule(now.saturating_add(self.idle_ticks.get()), now)
    }

    /// Wants a look at `at`, or earlier if that is far off; `None` when one at least as early is
    /// pending.
    #[must_use]
    pub fn schedule(&self, at: Tick, now: Tick) -> Option<Tick> {
        let at = at.min(now.saturating_add(LOOK_AHEAD_MAX));
        if at >= self.scheduled.get() {
            return None;
        }
        self.scheduled.set(at);
        Some(at)
    }

    /// The look that was asked for at `due` has come. `None` when it is out of date: an earlier one
    /// took its place.
    pub fn look(&self, due: Tick, now: Tick) -> Option<Look> {
        if due != self.scheduled.get() {
            return None;
        }
        self.scheduled.set(Tick::MAX);
        if self.stage.get() != Stage::Relay {
            let (at, end) = (self.deadline_at.get(), self.deadline_end.get());
            return Some(if at <= now { Look::Over(end) } else { Look::Again(at) });
        }
        let quiet_since = self.active.get();
        let idle_at = quiet_since.saturating_add(self.idle_ticks.get());
        if idle_at <= now {
            return Some(Look::Over(End::IdleTimeout));
        }
        if !self.busy.get() {
            return Some(Look::Again(idle_at));
        }
        if quiet_since.saturating_add(COOL_AFTER) <= now {
            return Some(Look::Cool(idle_at));
        }
        Some(Look::Again(idle_at.min(now + COOL_AFTER)))
    }

    /// Whether it has this backend.
    pub fn is_on(&self, backend: &Arc<BackendShared>) -> bool {
        let placed = self.placed.borrow();
        let placed = placed.as_ref().and_then(|placed| placed.backend.as_ref());
        self.stage.get() == Stage::Relay
            && placed.is_some_and(|placed| Arc::ptr_eq(&placed.shared, backend))
    }

    /// Whether the socket of a side was reported since this was asked last.
    pub fn take_report(&self, side: Side) -> bool {
        let signal = self.signal(side);
        let before = signal.get();
        signal.set(Signal { reported: false, ..before });
        before.reported
    }

    /// What was reported of the socket of a side before its session relays.
    pub fn signal(&self, side: Side) -> &Cell<Signal> {
        &self.signals[usize::from(side == Side::Backend)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let listener = Arc::new(Listener::sample(&["p"]));
        Session::new(Birth { slot: 1, serial: 2, listener, peer: None }, 0)
    }

    #[test]
    fn an_earlier_deadline_replaces_a_later_look() {
        let session = session();
        assert_eq!(session.set_deadline(50, End::PrefaceTimeout, 0), Some(50));
        assert_eq!(session.set_deadline(15, End::ConnectTimeout, 0), Some(15));
        assert_eq!(session.look(50, 50), None, "out of date");
        assert_eq!(session.look(15, 15), Some(Look::Over(End::ConnectTimeout)));
    }

    #[test]
    fn a_later_deadline_waits_for_the_look_that_is_pending() {
        let session = session();
        assert_eq!(session.set_deadline(50, End::PrefaceTimeout, 0), Some(50));
        assert_eq!(session.begin_relay(Duration::from_secs(30), 10), None);
        assert_eq!(session.look(50, 50), Some(Look::Again(310)));
        session.active.set(100);
        assert_eq!(session.schedule(310, 50), Some(310));
        assert_eq!(session.look(310, 310), Some(Look::Again(400)));
        assert_eq!(session.schedule(400, 310), Some(400));
        assert_eq!(session.look(400, 400), Some(Look::Over(End::IdleTimeout)));
    }

    /// A day of bursts every three seconds, each of which arms the reads, under an idle timeout of
    /// a day: what the wheel would hold.
    #[test]
    fn looks_that_were_replaced_do_not_pile_up() {
        let (session, day) = (session(), 864_000);
        let mut pending: Vec<Tick> = Vec::new();
        pending.extend(session.begin_relay(Duration::from_secs(86_400), 0));
        for now in 1..=day {
            if now % 30 == 0 {
                session.active.set(now);
                session.busy.set(true);
                pending.extend(session.schedule(now + COOL_AFTER, now));
            }
            let due: Vec<Tick> = pending.iter().copied().filter(|due| *due <= now).collect();
            pending.retain(|due| *due > now);
            for due in due {
                match session.look(due, now) {
                    Some(Look::Again(at)) => pending.extend(session.schedule(at, now)),
                    Some(Look::Cool(at)) => {
                        session.busy.set(false);
                        pending.extend(session.schedule(at, now));
                    }
                    Some(Look::Over(end)) => panic!("{end:?} at {now}"),
                    None => {}
                }
            }
            assert!(!pending.is_empty(), "forgotten at {now}");
            assert!(pending.len() <= 32, "{} entries at {now}", pending.len());
        }
        let end = (day..2 * day + 10).find_map(|now| {
            let due: Vec<Tick> = pending.iter().copied().filter(|due| *due <= now).collect();
            pending.retain(|due| *due > now);
            due.into_iter().find_map(|due| match session.look(due, now)? {
                Look::Again(at) | Look::Cool(at) => {
                    pending.extend(session.schedule(at, now));
                    None
                }
                Look::Over(end) => Some((now, end)),
            })
        });
        assert_eq!(end, Some((2 * day, End::IdleTimeout)), "still met to the tick");
    }
}

//! Bytes both ways where one side or both are inside TLS: the rules of the relay, by copying.
//!
//! Nothing is held while nothing waits: plaintext passes through memory of the thread, and only
//! what a sink does not take is kept, while nothing more is read for it. A close_notify is passed
//! on as a FIN and a FIN as a close_notify; an end without close_notify is passed on as a reset.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use super::{Ends, Failure, FlowEnd, index, reset_side};
use crate::end::{End, Side};
use crate::session::{Direction, Session};
use crate::shard::{Shard, token};
use crate::stream::Stream;
use crate::sys::{Interest, Report};
use crate::table::Backend;

/// Moves of one flow before others get a turn.
const MOVES_MAX: usize = 16;
/// Most plaintext moved at once, bytes: two records.
const MOVE_LEN_MAX: usize = 32 * 1024;

thread_local! {
    /// Memory that plaintext passes through.
    static PLAINTEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Two streams, and what is on its way between them.
pub struct SecureRelay {
    /// The client's and the backend's.
    streams: [Stream; 2],
    /// Whether the epoll set has their sockets.
    polled: [bool; 2],
    /// Whether it was asked to tell of room.
    room: [bool; 2],
    flows: [Flow; 2],
    ends: Ends,
    /// The backend's identity, for counters.
    identity: Arc<Backend>,
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// What the sink has not taken yet, from an index on.
    rest: (Vec<u8>, usize),
    /// The source has ended; the sink is to be told.
    ending: bool,
    /// A send to the sink failed, which may have taken its error off the socket.
    send_failed: Option<Failure>,
}

/// One session's relay for the time of one event.
pub struct SecureTurn<'a> {
    /// The shard that runs the session.
    pub shard: &'a Shard,
    /// The session.
    pub session: &'a Session,
    /// Its relay.
    pub relay: &'a mut SecureRelay,
}

/// Why a flow does not move.
enum Stop {
    /// The source has nothing.
    Empty,
    /// The sink takes nothing.
    Stalled,
    /// Others should have a turn.
    Turn,
    /// It is at its end.
    End(FlowEnd),
}

impl SecureRelay {
    /// Two streams that are connected. `polled` says whether the epoll set has their sockets.
    pub fn new(streams: [Stream; 2], polled: [bool; 2], identity: Arc<Backend>) -> SecureRelay {
        SecureRelay {
            streams,
            polled,
            room: [false; 2],
            flows: Default::default(),
            ends: Ends::default(),
            identity,
        }
    }

    fn stream(&mut self, side: Side) -> &mut Stream {
        &mut self.streams[index(side)]
    }

    fn flow(&mut self, direction: Direction) -> &mut Flow {
        &mut self.flows[direction as usize]
    }

    /// Closes both connections. One that broke must not look finished on the other side, which is
    /// reset; otherwise peers inside TLS are told that this is the end.
    pub fn close(mut self, end: End) {
        let reset = reset_side(end);
        for side in [Side::Client, Side::Backend] {
            let stream = self.stream(side);
            if reset == Some(side) {
                // A socket that is already dead has nothing left to reset.
                let socket = SockRef::from(stream.socket());
                let _gone = socket.set_linger(Some(Duration::ZERO));
            } else {
                // One that reads nothing does not hear it.
                let _unheard = stream.shutdown();
            }
        }
    }
}

impl SecureTurn<'_> {
    /// The first turn: `unsent` goes to the backend, and both sockets are waited for.
    pub fn begin(&mut self, unsent: &[u8]) -> Option<End> {
        self.relay.flow(Direction::ToBackend).rest = (unsent.to_vec(), 0);
        self.poll(Side::Client);
        self.poll(Side::Backend);
        self.pump(Direction::ToBackend);
        self.pump(Direction::ToClient);
        self.relay.ends.verdict()
    }

    /// The epoll set reported the socket of `side`.
    pub fn reported(&mut self, side: Side, report: Report) -> Option<End> {
        let from = Direction::of_source(side);
        let to = from.back();
        if report.room {
            if let Err(error) = self.relay.stream(side).flush()
                && error.kind() != io::ErrorKind::WouldBlock
                && self.relay.ends.of(to).is_none()
            {
                let end = self.sink_failed(to, &error);
                self.relay.ends.set(to, end);
            }
            self.pump(to);
        }
        if report.input {
            match self.relay.ends.of(from) {
                // After its FIN nothing can come of the socket but a reset. UNIX sockets hang up
                // when they are closed in good order too.
                Some(FlowEnd::Fin) if report.hangup && self.is_tcp(side) => {
                    self.relay.ends.set(from, FlowEnd::SourceFailed(Failure::Reset));
                }
                Some(_) => {}
                None => {
                    self.pump(from);
                    if report.hangup && self.relay.ends.of(from).is_none() {
                        self.fail_stalled(from);
                    }
                }
            }
        }
        self.relay.ends.verdict()
    }

    /// Moves until the source is empty, the sink is full, or others should have a turn.
    fn pump(&mut self, direction: Direction) {
        if self.relay.ends.of(direction).is_some() {
            return;
        }
        let stop = PLAINTEXT.with_borrow_mut(|plaintext| {
            plaintext.reserve_exact(MOVE_LEN_MAX.saturating_sub(plaintext.len()));
            self.move_bytes(direction, plaintext)
        });
        match stop {
            Stop::Empty => {}
            Stop::Stalled => self.poll(direction.sink()),
            // Asked again, the epoll set reports what is left, after everybody else.
            Stop::Turn => self.poll(direction.source()),
            Stop::End(end) => {
                self.relay.flow(direction).rest = (Vec::new(), 0);
                self.relay.ends.set(direction, end);
            }
        }
        for side in [Side::Client, Side::Backend] {
            // Records that its socket has not taken, of either direction.
            if self.relay.stream(side).wants().room && !self.relay.room[index(side)] {
                self.poll(side);
            }
        }
    }

    fn move_bytes(&mut self, direction: Direction, plaintext: &mut Vec<u8>) -> Stop {
        let (source, sink) = (direction.source(), direction.sink());
        for moves in 0.. {
            if let Err(stop) = self.send_rest(direction) {
                return stop;
            }
            if self.relay.flow(direction).ending {
                return match self.relay.stream(sink).shutdown() {
                    Ok(()) => Stop::End(FlowEnd::Fin),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Stop::Stalled,
                    Err(error) => Stop::End(self.sink_failed(direction, &error)),
                };
            }
            // What the session holds the epoll set does not know of; it is not much.
            if moves >= MOVES_MAX && !self.relay.stream(source).is_holding() {
                return Stop::Turn;
            }
            plaintext.clear();
            match self.relay.stream(source).receive_more(plaintext) {
                Ok(0) => match self.relay.flow(direction.back()).send_failed {
                    // The send took the error off the socket and left a plain end behind.
                    Some(failure) => return Stop::End(FlowEnd::SourceFailed(failure)),
                    None => self.relay.flow(direction).ending = true,
                },
                Ok(n) => {
                    self.count_received(direction, n);
                    let sent = match self.send(direction, plaintext) {
                        Ok(sent) => sent,
                        Err(end) => return Stop::End(end),
                    };
                    if sent < n {
                        self.relay.flow(direction).rest = (plaintext[sent..].to_vec(), 0);
                        return Stop::Stalled;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Stop::Empty,
                Err(error) => return Stop::End(FlowEnd::SourceFailed(Failure::of(&error))),
            }
        }
        Stop::Turn
    }

    /// Sends what waited; `Err` when some of it still does.
    fn send_rest(&mut self, direction: Direction) -> Result<(), Stop> {
        let (bytes, from) = std::mem::take(&mut self.relay.flow(direction).rest);
        let rest = bytes.get(from..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        let sent = self.send(direction, rest).map_err(Stop::End)?;
        if sent < rest.len() {
            self.relay.flow(direction).rest = (bytes, from + sent);
            return Err(Stop::Stalled);
        }
        Ok(())
    }

    /// Sends what the sink takes now.
    fn send(&mut self, direction: Direction, bytes: &[u8]) -> Result<usize, FlowEnd> {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.relay.stream(direction.sink()).send(rest) {
                Ok(n) => {
                    sent += n;
                    self.count_sent(direction, n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.sink_failed(direction, &error)),
            }
        }
        Ok(sent)
    }

    fn sink_failed(&mut self, direction: Direction, error: &io::Error) -> FlowEnd {
        let failure = Failure::of(error);
        self.relay.flow(direction).send_failed = Some(failure);
        FlowEnd::SinkFailed(failure)
    }

    /// A source failed whose bytes its sink does not take: they will never all be passed on.
    fn fail_stalled(&mut self, direction: Direction) {
        let back = self.relay.flow(direction.back()).send_failed;
        let socket = SockRef::from(self.relay.stream(direction.source()).socket());
        let failure = match socket.take_error() {
            Ok(Some(error)) => Some(Failure::of(&error)),
            // A send to it may have taken the error.
            Ok(None) | Err(_) => back,
        };
        if let Some(failure) = failure {
            self.relay.ends.set(direction, FlowEnd::SourceFailed(failure));
        }
    }

    fn is_tcp(&mut self, side: Side) -> bool {
        let local = SockRef::from(self.relay.stream(side).socket()).local_addr();
        local.is_ok_and(|address| address.as_socket().is_some())
    }

    /// Tells the epoll set what is wanted of a socket now.
    fn poll(&mut self, side: Side) {
        let (from, at) = (Direction::of_source(side), index(side));
        let stalled =
            !self.relay.flow(from.back()).rest.0.is_empty() || self.relay.flow(from.back()).ending;
        let room = stalled || self.relay.room[at] || self.relay.streams[at].wants().room;
        let interest = Interest { input: true, room };
        let (socket, token) = (self.relay.streams[at].socket(), token(self.session, side));
        let result = match self.relay.polled[at] {
            false => self.shard.poller().add(socket, interest, token),
            true => self.shard.poller().change(socket, interest, token),
        };
        self.relay.polled[at] = true;
        self.relay.room[at] = room;
        // Nobody would ever look at the socket again.
        if result.is_err() {
            self.shard.cells().bugs.add(1);
            self.relay.ends.set(from, FlowEnd::SourceFailed(Failure::Other));
        }
    }

    fn count_received(&self, direction: Direction, n: usize) {
        let who = (self.shard, self.session);
        super::count_received(who, &self.relay.identity, direction, n);
    }

    fn count_sent(&self, direction: Direction, n: usize) {
        super::count_sent((self.shard, self.session), &self.relay.identity, direction, n);
    }
}

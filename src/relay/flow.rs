//! Moving bytes: what is called when something happened to a socket of a session.
//!
//! The epoll set is edge-triggered: what it reported must be used up, or asked for again. A receive
//! shorter than its buffer has emptied the socket, so the call that would say so is saved.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;

use socket2::SockRef;

use super::shape::Path;
use super::{Armed, Failure, FlowEnd, Polled, Relay, Rest, index};
use crate::end::{End, Side};
use crate::session::{Direction, Session};
use crate::shard::{Shard, token};
use crate::sys::{Answer, Interest, Received, Report};

/// Moves of one flow before others get a turn.
const MOVES_MAX: usize = 16;

/// One session's relay, and where it lives, for the time of one event.
pub struct Turn<'a> {
    /// The shard that runs the session.
    pub shard: &'a Shard,
    /// The session.
    pub session: &'a Session,
    /// Its relay.
    pub relay: &'a mut Relay,
}

/// What came of moving bytes once.
pub(super) enum Moved {
    /// This many, all taken by the sink; `emptied` if the source had no more.
    All { n: usize, emptied: bool },
    /// The sink did not take all of them.
    Stalled,
    /// There was nothing to read.
    Nothing,
    /// The flow is at its end.
    End(FlowEnd),
}

impl Turn<'_> {
    /// The first turn: `unsent` goes to the backend, and both sockets are waited for.
    ///
    /// `emptied`: the client's socket had no more than that when it was read last.
    pub fn begin(&mut self, unsent: &[u8], emptied: bool) -> Option<End> {
        if let Err(end) = self.send_or_keep(Direction::ToBackend, unsent) {
            self.over(Direction::ToBackend, end);
        }
        self.poll(Side::Backend);
        if self.relay.polled[0] == Polled::Before {
            // Polled for input since its preface, and what has been reported is not again.
            self.relay.polled[0] = Polled::Since { room: false };
            if !emptied && self.relay.flow(Direction::ToBackend).rest.is_none() {
                self.move_bytes(Direction::ToBackend, true);
            }
        } else {
            self.poll(Side::Client);
        }
        self.relay.ends.verdict()
    }

    /// The epoll set reported the socket of `side`.
    pub fn reported(&mut self, side: Side, report: Report) -> Option<End> {
        let (from, to) = (Direction::of_source(side), Direction::of_source(side).back());
        if report.room && self.relay.flow(to).rest.is_some() {
            self.resume(to);
        }
        if !report.input {
            return self.relay.ends.verdict();
        }
        match self.relay.ends.of(from) {
            // After its FIN nothing can come of the socket but a reset. UNIX sockets hang up when
            // they are closed in good order too.
            Some(FlowEnd::Fin) if report.hangup && self.is_tcp(side) => {
                self.relay.ends.set(from, FlowEnd::SourceFailed(Failure::Reset));
            }
            Some(_) => {}
            None if self.relay.flow(from).armed != Armed::No => {}
            None if self.relay.flow(from).rest.is_some() => {
                if report.hangup {
                    self.fail_stalled(from);
                }
            }
            None => {
                self.move_bytes(from, report.ending);
                // Stalled on the way: this report will not come again.
                if report.hangup && self.relay.flow(from).rest.is_some() {
                    self.fail_stalled(from);
                }
            }
        }
        self.relay.ends.verdict()
    }

    /// The armed receive of a flow has something; `armed`: and stays armed.
    pub fn received(
        &mut self,
        from: Direction,
        what: &Received<'_>,
        armed: bool,
    ) -> (Answer, Option<End>) {
        let flow = self.relay.flow(from);
        if flow.sending {
            return (Answer::Flush, None);
        }
        let mut answer = Answer::Done;
        let taken_back = self.relay.flow(from).armed == Armed::TakenBack;
        if !armed {
            self.relay.flow(from).armed = Armed::No;
        }
        if self.relay.ends.of(from).is_some() {
            return (Answer::Done, None);
        }
        match what {
            Received::Bytes(bytes) => answer = self.received_bytes(from, bytes),
            Received::NoBuffers => {
                self.shard.cells().relay_buffers_exhausted.add(1);
                // Of thousands that wake up at once each would ask again in vain, and again.
                self.relay.flow(from).path = Path::Polled;
            }
            Received::Cancelled => {}
            // Behind bytes that wait: it is found again when they are gone.
            Received::Fin if self.relay.flow(from).rest.is_some() => {}
            Received::Fin => self.source_fin(from),
            Received::Failed(error) => {
                self.over(from, FlowEnd::SourceFailed(Failure::of(error)));
            }
        }
        if !armed && self.relay.ends.of(from).is_none() {
            let flow = self.relay.flow(from);
            if flow.path == Path::Armed && flow.rest.is_none() && !taken_back {
                self.arm(from);
            } else {
                flow.path = Path::Polled;
                self.poll(from.source());
            }
        }
        (answer, self.relay.ends.verdict())
    }

    fn received_bytes(&mut self, from: Direction, bytes: &[u8]) -> Answer {
        self.count_received(from, bytes.len());
        let now = self.shard.now();
        let flow = self.relay.flow(from);
        let wanted = flow.shape.after_move(Path::Armed, bytes.len(), now);
        if flow.rest.is_some() {
            self.keep(from, bytes);
            return Answer::Done;
        }
        flow.sending = true;
        if wanted != Path::Armed {
            self.take_back(from);
        }
        Answer::Send(self.relay.socket(from.sink()).as_raw_fd())
    }

    /// What came of a send of the exchange.
    pub fn sent(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        sent: io::Result<usize>,
    ) -> Option<End> {
        self.relay.flow(direction).sending = false;
        if self.relay.ends.of(direction).is_some() {
            return None;
        }
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                let end = self.sink_failed(direction, &error);
                self.over(direction, end);
                return self.relay.ends.verdict();
            }
        };
        self.count_sent(direction, sent);
        if sent < bytes.len() {
            self.keep(direction, &bytes[sent..]);
            self.take_back(direction);
        }
        self.relay.ends.verdict()
    }

    /// Keeps what the sink does not take, behind what it has not taken before.
    fn keep(&mut self, direction: Direction, bytes: &[u8]) {
        match self.relay.flow(direction).rest.as_deref_mut() {
            Some(Rest::Bytes(kept, _)) => kept.extend_from_slice(bytes),
            // Spliced flows read nothing while their pipe holds bytes.
            Some(Rest::Pipe(_)) => self.shard.cells().bugs.add(1),
            None => {
                let rest = Rest::Bytes(bytes.to_vec(), 0);
                self.relay.flow(direction).rest = Some(Box::new(rest));
                self.poll(direction.sink());
            }
        }
    }

    /// The tick found the session quiet: flows give back what only busy ones need.
    pub fn cool(&mut self) {
        let now = self.shard.now();
        for direction in [Direction::ToBackend, Direction::ToClient] {
            let flow = self.relay.flow(direction);
            if flow.path == Path::Polled || !flow.shape.is_quiet(now) {
                continue;
            }
            flow.shape.cool();
            self.shard.cells().cooled_down.add(1);
            match flow.armed {
                Armed::Yes => self.take_back(direction),
                _ => flow.path = Path::Polled,
            }
        }
    }

    /// Moves until the source is empty, the sink is full, or others should have a turn.
    /// `to_the_end`: there is a FIN or an error behind the bytes.
    fn move_bytes(&mut self, direction: Direction, to_the_end: bool) {
        for _ in 0..MOVES_MAX {
            let spliced = self.relay.flow(direction).path == Path::Spliced;
            let moved =
                if spliced { self.splice_once(direction) } else { self.move_once(direction) };
            match moved {
                Moved::All { n, emptied } => {
                    let now = self.shard.now();
                    let flow = self.relay.flow(direction);
                    let wanted = flow.shape.after_move(flow.path, n, now);
                    if wanted != flow.path && self.change_path(direction, wanted) {
                        return;
                    }
                    if emptied && !to_the_end {
                        return;
                    }
                }
                Moved::Stalled => return self.poll(direction.sink()),
                Moved::Nothing => return,
                Moved::End(end) => return self.over(direction, end),
            }
        }
        // Asked again, the epoll set reports what is left, after everybody else.
        self.poll(direction.source());
    }

    /// Receives into the shard's scratch buffer and sends from there.
    pub(super) fn move_once(&mut self, direction: Direction) -> Moved {
        let shard = self.shard;
        let mut scratch = shard.scratch();
        let received = match self.relay.socket(direction.source()).receive(&mut scratch) {
            Ok(0) => return self.fin_of_source(direction),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moved::Nothing,
            Err(error) => return Moved::End(FlowEnd::SourceFailed(Failure::of(&error))),
        };
        self.count_received(direction, received);
        match self.send_or_keep(direction, &scratch[..received]) {
            Ok(()) if self.relay.flow(direction).rest.is_some() => Moved::Stalled,
            Ok(()) => Moved::All { n: received, emptied: received < scratch.len() },
            Err(end) => Moved::End(end),
        }
    }

    /// There is room for what waited; then for more.
    fn resume(&mut self, direction: Direction) {
        let Some(rest) = self.relay.flow(direction).rest.take() else { return };
        let result = match *rest {
            Rest::Bytes(bytes, from) => self.send_some(direction, &bytes[from..]).map(|n| {
                let from = from + n;
                (from < bytes.len()).then(|| Rest::Bytes(bytes, from))
            }),
            Rest::Pipe(pipe) => self.drain(direction, pipe).map(|rest| rest.map(Rest::Pipe)),
        };
        match result {
            Ok(Some(rest)) => self.relay.flow(direction).rest = Some(Box::new(rest)),
            // An armed receive goes on by itself.
            Ok(None) if self.relay.flow(direction).armed != Armed::No => {}
            Ok(None) => self.move_bytes(direction, true),
            Err(end) => self.over(direction, end),
        }
    }

    /// Sends; keeps what the sink does not take, behind what it has not taken before.
    fn send_or_keep(&mut self, direction: Direction, bytes: &[u8]) -> Result<(), FlowEnd> {
        let waiting = self.relay.flow(direction).rest.is_some();
        let sent = if waiting { 0 } else { self.send_some(direction, bytes)? };
        if sent < bytes.len() {
            self.keep(direction, &bytes[sent..]);
        }
        Ok(())
    }

    /// Sends what the sink takes now.
    fn send_some(&mut self, direction: Direction, bytes: &[u8]) -> Result<usize, FlowEnd> {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.relay.socket(direction.sink()).send(&bytes[sent..]) {
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

    pub(super) fn sink_failed(&mut self, direction: Direction, error: &io::Error) -> FlowEnd {
        let failure = Failure::of(error);
        self.relay.flow(direction).send_failed = Some(failure);
        FlowEnd::SinkFailed(failure)
    }

    fn source_fin(&mut self, direction: Direction) {
        if let Moved::End(end) = self.fin_of_source(direction) {
            self.over(direction, end);
        }
    }

    /// The source has no more data: a FIN, unless a send to it failed before, which takes the error
    /// off the socket and leaves a plain end of data behind.
    pub(super) fn fin_of_source(&mut self, direction: Direction) -> Moved {
        if let Some(failure) = self.relay.flow(direction.back()).send_failed {
            return Moved::End(FlowEnd::SourceFailed(failure));
        }
        match SockRef::from(self.relay.socket(direction.sink())).shutdown(Shutdown::Write) {
            Ok(()) => Moved::End(FlowEnd::Fin),
            Err(error) => Moved::End(self.sink_failed(direction, &error)),
        }
    }

    /// A source failed whose bytes its sink does not take: they will never all be passed on.
    fn fail_stalled(&mut self, direction: Direction) {
        let socket = SockRef::from(self.relay.socket(direction.source()));
        let failure = match socket.take_error() {
            Ok(Some(error)) => Some(Failure::of(&error)),
            // A send to it may have taken the error.
            Ok(None) | Err(_) => self.relay.flow(direction.back()).send_failed,
        };
        if let Some(failure) = failure {
            self.over(direction, FlowEnd::SourceFailed(failure));
        }
    }

    fn over(&mut self, direction: Direction, end: FlowEnd) {
        self.relay.ends.set(direction, end);
        self.relay.flow(direction).path = Path::Polled;
        self.give_back(direction);
    }

    /// Gives back what a flow holds.
    fn give_back(&mut self, direction: Direction) {
        let rest = self.relay.flow(direction).rest.take();
        if let Some(Rest::Pipe(pipe)) = rest.map(|rest| *rest) {
            self.shard.pipes().give(pipe);
        }
        self.take_back(direction);
    }

    fn is_tcp(&self, side: Side) -> bool {
        let local = SockRef::from(self.relay.socket(side)).local_addr();
        local.is_ok_and(|address| address.as_socket().is_some())
    }

    // -- ways to wait --------------------------------------------------------------------------

    /// Tells the epoll set what is wanted of a socket now.
    fn poll(&mut self, side: Side) {
        let (from, to) = (Direction::of_source(side), Direction::of_source(side).back());
        let polled = self.relay.polled[index(side)];
        let room = self.relay.flow(to).rest.is_some() || polled == Polled::Since { room: true };
        let input = self.relay.flow(from).path != Path::Armed;
        let interest = Interest { input, room };
        let (socket, token) = (self.relay.socket(side), token(self.session, side));
        let result = match polled {
            Polled::Not => self.shard.poller().add(socket, interest, token),
            Polled::Before | Polled::Since { .. } => {
                self.shard.poller().change(socket, interest, token)
            }
        };
        match result {
            Ok(()) => self.relay.polled[index(side)] = Polled::Since { room },
            // Nobody would ever look at the socket again.
            Err(_no_memory) => {
                self.shard.cells().bugs.add(1);
                self.relay.ends.set(from, FlowEnd::SourceFailed(Failure::Other));
            }
        }
    }

    /// Goes over to another path. `true`: the bytes come another way from here on.
    fn change_path(&mut self, direction: Direction, wanted: Path) -> bool {
        match wanted {
            Path::Armed => {
                self.shard.cells().warmed_up.add(1);
                self.arm(direction)
            }
            Path::Spliced => {
                self.begin_bulk(direction);
                false
            }
            Path::Polled => {
                self.relay.flow(direction).path = Path::Polled;
                false
            }
        }
    }

    /// Arms a receive and stops the epoll set from reporting the same bytes.
    fn arm(&mut self, direction: Direction) -> bool {
        let side = direction.source();
        self.relay.flow(direction).path = Path::Armed;
        self.poll(side);
        let armed = self.shard.exchange().arm(self.relay.socket(side), token(self.session, side));
        match armed {
            Ok(()) => {
                self.relay.flow(direction).armed = Armed::Yes;
                self.shard.look_soon(self.session);
                true
            }
            Err(_full) => {
                self.shard.cells().bugs.add(1);
                self.relay.flow(direction).path = Path::Polled;
                self.poll(side);
                false
            }
        }
    }

    /// Takes an armed receive back. The flow is polled again when the receive says that it is over.
    fn take_back(&mut self, direction: Direction) {
        let flow = self.relay.flow(direction);
        if flow.armed == Armed::Yes {
            flow.armed = Armed::TakenBack;
            let token = token(self.session, direction.source());
            if self.shard.exchange().cancel(token).is_err() {
                self.shard.cells().bugs.add(1);
            }
        }
    }

    /// Gives everything back but the sockets.
    pub fn close(&mut self) {
        self.give_back(Direction::ToBackend);
        self.give_back(Direction::ToClient);
    }

    // -- counting ------------------------------------------------------------------------------

    pub(super) fn count_received(&self, direction: Direction, n: usize) {
        super::count_received((self.shard, self.session), &self.relay.identity, direction, n);
    }

    pub(super) fn count_sent(&self, direction: Direction, n: usize) {
        super::count_sent((self.shard, self.session), &self.relay.identity, direction, n);
    }
}

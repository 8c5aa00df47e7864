//! Bytes both ways until both sides are done: back-pressure, half-close, resets.
//!
//! Each direction is one pump (`relay/pump.rs`), both in the session's task. A pump reads nothing
//! while it still holds bytes its sink would not take, so a session buffers at most one read per
//! direction. A FIN is forwarded after all data before it; a reset is forwarded as a reset.

mod buffer;
mod pump;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use crate::end::{End, Side};
use crate::session::{Direction, Session};
use crate::shard::Shard;
use crate::sys::Socket;
use crate::table::Backend;

/// Two connected sockets and whose they are.
pub struct Relay<'a> {
    /// The shard that runs the session.
    pub shard: &'a Shard,
    /// The session.
    pub session: &'a Session,
    /// The client's socket.
    pub client: &'a Socket,
    /// The backend's socket.
    pub backend: &'a Socket,
    /// The backend's identity, for counters.
    pub identity: Arc<Backend>,
}

/// How a connection failed under a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// RST.
    Reset,
    /// Nothing was acknowledged for too long.
    Timeout,
    /// Anything else.
    Other,
}

impl Failure {
    /// Classifies an error of a receive or send.
    pub fn of(error: &io::Error) -> Failure {
        match error.raw_os_error() {
            // EPIPE: an earlier call has taken the ECONNRESET already.
            Some(libc::ECONNRESET | libc::EPIPE) => Failure::Reset,
            Some(libc::ETIMEDOUT) => Failure::Timeout,
            _ => Failure::Other,
        }
    }

    /// The end of a session whose connection to `side` failed so.
    pub fn end(self, side: Side) -> End {
        match (side, self) {
            (Side::Backend, Failure::Reset) => End::BackendReset,
            (Side::Backend, Failure::Timeout) => End::BackendTimeout,
            (Side::Backend, Failure::Other) => End::BackendError,
            (_, Failure::Reset) => End::ClientReset,
            (_, Failure::Timeout) => End::ClientTimeout,
            (_, Failure::Other) => End::ClientError,
        }
    }
}

/// How a pump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PumpEnd {
    /// The source sent FIN; all data and the FIN went to the sink.
    Fin,
    /// The source failed, after all data before that was handed to the sink.
    SourceFailed(Failure),
    /// The sink failed.
    SinkFailed(Failure),
}

/// What is known of both directions.
#[derive(Debug, Default, Clone, Copy)]
struct Ends {
    to_backend: Option<PumpEnd>,
    to_client: Option<PumpEnd>,
    fin_first: Option<End>,
}

impl Ends {
    fn set(&mut self, direction: Direction, end: PumpEnd) {
        let (slot, fin) = match direction {
            Direction::ToBackend => (&mut self.to_backend, End::ClientFin),
            Direction::ToClient => (&mut self.to_client, End::BackendFin),
        };
        *slot = Some(end);
        if end == PumpEnd::Fin && self.fin_first.is_none() {
            self.fin_first = Some(fin);
        }
    }

    /// The end of the session, if the ends of its directions decide it.
    ///
    /// A failed source ends the session: what came before has been passed on. A failed sink does
    /// not yet: the other direction may still hold data that arrived before the failure, and will
    /// see it soon, since its source is the failed side.
    fn verdict(&self) -> Option<End> {
        use PumpEnd::{Fin, SinkFailed, SourceFailed};
        match (self.to_backend, self.to_client) {
            (Some(SourceFailed(failure)), _) => Some(failure.end(Side::Client)),
            (_, Some(SourceFailed(failure))) => Some(failure.end(Side::Backend)),
            (Some(SinkFailed(failure)), Some(_)) => Some(failure.end(Side::Backend)),
            (Some(_), Some(SinkFailed(failure))) => Some(failure.end(Side::Client)),
            (Some(Fin), Some(Fin)) => self.fin_first,
            _ => None,
        }
    }
}

impl Relay<'_> {
    fn source(&self, direction: Direction) -> &Socket {
        match direction {
            Direction::ToBackend => self.client,
            Direction::ToClient => self.backend,
        }
    }

    fn sink(&self, direction: Direction) -> &Socket {
        match direction {
            Direction::ToBackend => self.backend,
            Direction::ToClient => self.client,
        }
    }

    /// Relays until the session is over. `unsent` is what the backend must get first.
    pub async fn run(&self, unsent: Vec<u8>) -> End {
        let mut to_backend = pin!(pump::run(self, Direction::ToBackend, unsent));
        let mut to_client = pin!(pump::run(self, Direction::ToClient, Vec::new()));
        let mut ends = Ends::default();
        poll_fn(|context| {
            if let Some(end) = self.session.interrupt.poll(context) {
                return Poll::Ready(end);
            }
            if ends.to_backend.is_none()
                && let Poll::Ready(end) = to_backend.as_mut().poll(context)
            {
                self.direction_over(&mut ends, Direction::ToBackend, end);
            }
            if ends.to_client.is_none()
                && let Poll::Ready(end) = to_client.as_mut().poll(context)
            {
                self.direction_over(&mut ends, Direction::ToClient, end);
            }
            ends.verdict().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn direction_over(&self, ends: &mut Ends, direction: Direction, end: PumpEnd) {
        ends.set(direction, end);
        // The source is at its FIN and will not be polled again: a later reset must still be seen.
        if end == PumpEnd::Fin && ends.verdict().is_none() {
            let side = source_side(direction);
            self.shard.watch_hangup(self.session, self.source(direction), side);
        }
    }

    /// Whether a send to the source of `direction` failed: then its end of data is not a FIN.
    fn source_failed(&self, direction: Direction) -> Option<Failure> {
        self.session.send_failed[direction as usize ^ 1].get()
    }
}

/// Whose socket a direction reads.
fn source_side(direction: Direction) -> Side {
    match direction {
        Direction::ToBackend => Side::Client,
        Direction::ToClient => Side::Backend,
    }
}

/// Whose socket a direction writes.
fn sink_side(direction: Direction) -> Side {
    match direction {
        Direction::ToBackend => Side::Backend,
        Direction::ToClient => Side::Client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(to_backend: Option<PumpEnd>, to_client: Option<PumpEnd>) -> Option<End> {
        let mut ends = Ends::default();
        if let Some(end) = to_backend {
            ends.set(Direction::ToBackend, end);
        }
        if let Some(end) = to_client {
            ends.set(Direction::ToClient, end);
        }
        ends.verdict()
    }

    #[test]
    fn both_fins_end_a_session_and_one_does_not() {
        assert_eq!(ends(Some(PumpEnd::Fin), None), None);
        assert_eq!(ends(None, Some(PumpEnd::Fin)), None);
        assert_eq!(ends(Some(PumpEnd::Fin), Some(PumpEnd::Fin)), Some(End::ClientFin));
        let mut backend_first = Ends::default();
        backend_first.set(Direction::ToClient, PumpEnd::Fin);
        backend_first.set(Direction::ToBackend, PumpEnd::Fin);
        assert_eq!(backend_first.verdict(), Some(End::BackendFin));
    }

    #[test]
    fn a_failed_source_ends_at_once_and_a_failed_sink_waits_for_the_other_direction() {
        let reset = Failure::Reset;
        assert_eq!(ends(Some(PumpEnd::SourceFailed(reset)), None), Some(End::ClientReset));
        assert_eq!(ends(None, Some(PumpEnd::SourceFailed(reset))), Some(End::BackendReset));
        assert_eq!(ends(Some(PumpEnd::SinkFailed(reset)), None), None);
        assert_eq!(ends(None, Some(PumpEnd::SinkFailed(reset))), None);
        assert_eq!(
            ends(Some(PumpEnd::SinkFailed(Failure::Timeout)), Some(PumpEnd::Fin)),
            Some(End::BackendTimeout)
        );
        assert_eq!(
            ends(Some(PumpEnd::Fin), Some(PumpEnd::SinkFailed(reset))),
            Some(End::ClientReset)
        );
    }
}

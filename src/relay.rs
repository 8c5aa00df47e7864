//! Bytes both ways until both sides are done: back-pressure, half-close, resets.
//!
//! No task and no future: a session that relays is its record in the shard's slab, and this module
//! is called with what happened to its sockets. Each direction is a [`Flow`] that is moved in one
//! of three ways, chosen by what it looks like (`relay/shape.rs`): polled and armed in
//! `relay/flow.rs`, spliced in `relay/bulk.rs`. A flow reads nothing while it holds bytes its sink
//! would not take. A FIN is forwarded after all data before it; a reset is forwarded as a reset.

mod bulk;
mod flow;
mod secure;
mod shape;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

pub use self::bulk::{PIPES_MAX, Pipes};
pub use self::flow::Turn;
pub use self::secure::{SecureRelay, SecureTurn};
pub use self::shape::COOL_AFTER;
use self::shape::{Path, Shape};
use crate::end::{End, Side};
use crate::session::{Direction, Session};
use crate::shard::Shard;
use crate::sys::{Pipe, Socket};
use crate::table::Backend;
use crate::tls;

/// What is between the two sides of a session.
pub enum Relaying {
    /// Bytes as they are.
    Plain(Relay),
    /// One side or both are inside TLS.
    Secure(Box<SecureRelay>),
}

/// Two connected sockets, and what is on its way between them.
pub struct Relay {
    /// The client's and the backend's socket.
    sockets: [Socket; 2],
    /// Whose reports the epoll set gives, and which.
    polled: [Polled; 2],
    flows: [Flow; 2],
    ends: Ends,
    /// The backend's identity, for counters.
    identity: Arc<Backend>,
}

/// What the epoll set was asked about a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Polled {
    /// It does not have the socket yet.
    #[default]
    Not,
    /// It has it, with the interest of an earlier stage.
    Before,
    /// It has it; asked to tell of room too, which it does from then on.
    Since {
        /// Whether it was.
        room: bool,
    },
}

/// One direction.
struct Flow {
    path: Path,
    /// A receive is armed; it may have been taken back, which takes effect when it says so.
    armed: Armed,
    shape: Shape,
    send_failed: Option<Failure>,
    /// A send is queued in the exchange.
    sending: bool,
    /// What the sink has not taken yet.
    rest: Option<Box<Rest>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Armed {
    No,
    Yes,
    TakenBack,
}

/// Bytes on their way.
enum Rest {
    /// In memory, from this index on.
    Bytes(Vec<u8>, usize),
    /// In the kernel.
    Pipe(Pipe),
}

/// How a connection failed under a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// RST.
    Reset,
    /// Nothing was acknowledged for too long.
    Timeout,
    /// FIN where TLS wants a close_notify.
    Truncated,
    /// TLS that breaks its own rules, or an alert.
    Tls,
    /// Anything else.
    Other,
}

impl Failure {
    /// Classifies an error of a receive or send.
    pub fn of(error: &io::Error) -> Failure {
        match tls::Failure::of(error) {
            Some(tls::Failure::Truncated) => return Failure::Truncated,
            Some(_) => return Failure::Tls,
            None => {}
        }
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
            (Side::Backend, Failure::Truncated) => End::BackendTruncated,
            (Side::Backend, Failure::Tls) => End::BackendTls,
            (Side::Backend, Failure::Other) => End::BackendError,
            (_, Failure::Reset) => End::ClientReset,
            (_, Failure::Timeout) => End::ClientTimeout,
            (_, Failure::Truncated) => End::ClientTruncated,
            (_, Failure::Tls) => End::ClientTls,
            (_, Failure::Other) => End::ClientError,
        }
    }
}

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlowEnd {
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
    to_backend: Option<FlowEnd>,
    to_client: Option<FlowEnd>,
    fin_first: Option<End>,
}

impl Ends {
    fn set(&mut self, direction: Direction, end: FlowEnd) {
        let (slot, fin) = match direction {
            Direction::ToBackend => (&mut self.to_backend, End::ClientFin),
            Direction::ToClient => (&mut self.to_client, End::BackendFin),
        };
        *slot = Some(end);
        if end == FlowEnd::Fin && self.fin_first.is_none() {
            self.fin_first = Some(fin);
        }
    }

    fn of(&self, direction: Direction) -> Option<FlowEnd> {
        match direction {
            Direction::ToBackend => self.to_backend,
            Direction::ToClient => self.to_client,
        }
    }

    /// The end of the session, if the ends of its directions decide it.
    ///
    /// A failed source ends the session: what came before has been passed on. A failed sink does
    /// not yet: the other direction may still hold data that arrived before the failure, and will
    /// see it soon, since its source is the failed side.
    fn verdict(&self) -> Option<End> {
        use FlowEnd::{Fin, SinkFailed, SourceFailed};
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

impl Relay {
    /// Two sockets that are connected. `polled` says what the epoll set knows of them.
    pub fn new(sockets: [Socket; 2], polled: [Polled; 2], identity: Arc<Backend>) -> Relay {
        let flow = || Flow {
            path: Path::Polled,
            armed: Armed::No,
            shape: Shape::new(),
            send_failed: None,
            sending: false,
            rest: None,
        };
        Relay { sockets, polled, flows: [flow(), flow()], ends: Ends::default(), identity }
    }

    fn socket(&self, side: Side) -> &Socket {
        &self.sockets[index(side)]
    }

    fn flow(&mut self, direction: Direction) -> &mut Flow {
        &mut self.flows[direction as usize]
    }

    /// Whether a direction has a receive armed or a pipe, which it gives back when it goes quiet.
    pub fn is_busy(&self) -> bool {
        self.flows.iter().any(|flow| flow.path != Path::Polled)
    }

    /// Whether the kernel has yet to see a send that names one of the sockets.
    pub fn is_sending(&self) -> bool {
        self.flows.iter().any(|flow| flow.sending)
    }

    /// Closes both connections. One that broke must not look finished on the other side: closing
    /// with linger 0 sends RST (socket(7)), and leaves no TIME_WAIT behind.
    ///
    /// A backend's socket that is to be reset goes to `reuse` if it is as good as new: nothing is
    /// armed on it, and its buffers have not grown with the flow. `reuse` gives back what it does
    /// not take.
    pub fn close(self, end: End, reuse: impl FnOnce(Socket) -> Result<(), Socket>) {
        let Some(side) = reset_side(end) else { return };
        let armed = self.flows.iter().any(|flow| flow.armed != Armed::No);
        let fresh = !armed && !self.is_sending();
        let [client, backend] = self.sockets;
        let socket = match side {
            Side::Backend if fresh => match reuse(backend) {
                Ok(()) => return,
                Err(backend) => backend,
            },
            Side::Backend => backend,
            Side::Client | Side::Us => client,
        };
        // A socket that is already dead has nothing left to reset.
        let _gone = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    }
}

/// Whose connection is reset at this end.
fn reset_side(end: End) -> Option<Side> {
    match end {
        End::ClientReset
        | End::ClientTimeout
        | End::ClientError
        | End::ClientTruncated
        | End::ClientTls => Some(Side::Backend),
        End::BackendReset
        | End::BackendTimeout
        | End::BackendError
        | End::BackendTruncated
        | End::BackendTls => Some(Side::Client),
        _ => None,
    }
}

/// Counts bytes received for a direction.
fn count_received(
    (shard, session): (&Shard, &Session),
    backend: &Backend,
    direction: Direction,
    n: usize,
) {
    session.active.set(shard.now());
    let n = n as u64;
    match direction {
        Direction::ToBackend => {
            session.bytes_in.set(session.bytes_in.get() + n);
            shard.listener_cells(&session.listener).bytes_in.add(n);
        }
        Direction::ToClient => backend.shared.cells.of(shard.index).bytes_in.add(n),
    }
}

/// Counts bytes sent in a direction.
fn count_sent(
    (shard, session): (&Shard, &Session),
    backend: &Backend,
    direction: Direction,
    n: usize,
) {
    session.active.set(shard.now());
    let n = n as u64;
    match direction {
        Direction::ToBackend => backend.shared.cells.of(shard.index).bytes_out.add(n),
        Direction::ToClient => {
            session.bytes_out.set(session.bytes_out.get() + n);
            shard.listener_cells(&session.listener).bytes_out.add(n);
        }
    }
}

fn index(side: Side) -> usize {
    usize::from(side == Side::Backend)
}

impl Direction {
    /// Whose socket is read.
    fn source(self) -> Side {
        match self {
            Direction::ToBackend => Side::Client,
            Direction::ToClient => Side::Backend,
        }
    }

    /// Whose socket is written.
    fn sink(self) -> Side {
        match self {
            Direction::ToBackend => Side::Backend,
            Direction::ToClient => Side::Client,
        }
    }

    /// The direction that reads the socket of `side`.
    pub fn of_source(side: Side) -> Direction {
        match side {
            Side::Backend => Direction::ToClient,
            Side::Client | Side::Us => Direction::ToBackend,
        }
    }

    /// The other one.
    fn back(self) -> Direction {
        match self {
            Direction::ToBackend => Direction::ToClient,
            Direction::ToClient => Direction::ToBackend,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(to_backend: Option<FlowEnd>, to_client: Option<FlowEnd>) -> Option<End> {
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
        assert_eq!(ends(Some(FlowEnd::Fin), None), None);
        assert_eq!(ends(None, Some(FlowEnd::Fin)), None);
        assert_eq!(ends(Some(FlowEnd::Fin), Some(FlowEnd::Fin)), Some(End::ClientFin));
        let mut backend_first = Ends::default();
        backend_first.set(Direction::ToClient, FlowEnd::Fin);
        backend_first.set(Direction::ToBackend, FlowEnd::Fin);
        assert_eq!(backend_first.verdict(), Some(End::BackendFin));
    }

    #[test]
    fn a_failed_source_ends_at_once_and_a_failed_sink_waits_for_the_other_direction() {
        let reset = Failure::Reset;
        assert_eq!(ends(Some(FlowEnd::SourceFailed(reset)), None), Some(End::ClientReset));
        assert_eq!(ends(None, Some(FlowEnd::SourceFailed(reset))), Some(End::BackendReset));
        assert_eq!(ends(Some(FlowEnd::SinkFailed(reset)), None), None);
        assert_eq!(ends(None, Some(FlowEnd::SinkFailed(reset))), None);
        assert_eq!(
            ends(Some(FlowEnd::SinkFailed(Failure::Timeout)), Some(FlowEnd::Fin)),
            Some(End::BackendTimeout)
        );
        assert_eq!(
            ends(Some(FlowEnd::Fin), Some(FlowEnd::SinkFailed(reset))),
            Some(End::ClientReset)
        );
    }
}

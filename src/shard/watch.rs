//! What happens to sockets, brought to their sessions: reports of the epoll set, armed receives.

use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::task::Poll;

use super::Shard;
use crate::backend::spare::Make;
use crate::end::{End, Side};
use crate::relay::{Relaying, SecureTurn, Turn};
use crate::session::{Asked, Direction, Session, Signal};
use crate::sys::{Answer, Exchange, Interest, Listen, Received, Report, Socket};

/// A session that moved more than this has sockets whose buffers may have grown.
const REUSE_BYTES_MAX: u64 = 64 * 1024;
/// Batches taken in a row before the shard's other tasks get a turn.
const BATCHES_MAX: usize = 16;

/// Brings reports of the epoll set.
pub async fn run_poller(shard: Rc<Shard>) {
    loop {
        alive(shard.poller.ready().await, &shard, "epoll set");
        shard.activity.note();
        for _ in 0..BATCHES_MAX {
            if !shard.poller.take(|token, report| shard.reported(token, report)) {
                break;
            }
        }
    }
}

/// Brings what armed receives have, and what came of sends.
pub async fn run_exchange(shard: Rc<Shard>) {
    loop {
        alive(shard.exchange.ready().await, &shard, "exchange");
        shard.activity.note();
        shard.take_exchange();
    }
}

/// Makes gathered sends when everybody else has had a turn.
pub async fn run_outbox(shard: Rc<Shard>) {
    loop {
        shard.outbox.pending().await;
        shard.outbox.flush();
        for token in shard.outbox.take_missed() {
            let report = Report { input: false, room: true, ending: false, hangup: false };
            shard.reported(token, report);
        }
        // What was taken off the ring meanwhile is not reported to `run_exchange`.
        if shard.exchange.is_holding() {
            shard.take_exchange();
        }
        if shard.exchange.is_holding() {
            alive(shard.exchange.ready().await, &shard, "exchange");
        }
    }
}

impl Listen for &Shard {
    fn received(&mut self, token: u64, what: &Received<'_>, armed: bool) -> Answer {
        let (slot, serial, side) = parts(token);
        let Some(session) = self.session(slot, serial) else { return Answer::Done };
        let mut answer = Answer::Done;
        self.turn(&session, |mut turn| {
            let end;
            (answer, end) = turn.received(Direction::of_source(side), what, armed);
            end
        });
        answer
    }

    fn sent(&mut self, token: u64, bytes: &[u8], sent: io::Result<usize>) {
        let (slot, serial, side) = parts(token);
        let Some(session) = self.session(slot, serial) else { return };
        self.turn(&session, |mut turn| turn.sent(Direction::of_source(side), bytes, sent));
    }
}

/// Without these a shard is deaf: better none than one that holds connections and does nothing.
fn alive(result: io::Result<()>, shard: &Shard, what: &'static str) {
    if let Err(error) = result {
        tracing::error!(%error, shard = shard.index, "waiting for the {what} failed; ending");
        std::process::abort();
    }
}

/// The highest bit of a token belongs to the exchange.
pub const SERIAL_MASK: u32 = u32::MAX >> 1;

/// Names the socket of a side of a session. Slots have at most 31 bits: there are fewer
/// descriptors.
pub fn token(session: &Session, side: Side) -> u64 {
    let bit = u64::from(side == Side::Backend);
    u64::from(session.serial) << 32 | u64::from(session.slot) << 1 | bit
}

fn parts(token: u64) -> (u32, u32, Side) {
    let side = if token & 1 == 0 { Side::Client } else { Side::Backend };
    ((token >> 1) as u32 & 0x7fff_ffff, (token >> 32) as u32, side)
}

impl Shard {
    /// Receives from busy sockets, and sends what they gave.
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    fn take_exchange(&self) {
        for _ in 0..BATCHES_MAX {
            let taken = self.exchange.turn(&mut &*self);
            // Sends that named their sockets are done.
            self.close_relays();
            match taken {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => alive(Err(error), self, "exchange"),
            }
        }
    }

    fn reported(&self, token: u64, report: Report) {
        let (slot, serial, side) = parts(token);
        let Some(session) = self.session(slot, serial) else { return };
        let secure = session.relay.borrow().as_ref().map(|relay| match relay {
            Relaying::Plain(_) => false,
            Relaying::Secure(_) => true,
        });
        match secure {
            Some(false) => {
                return self.turn(&session, |mut turn| turn.reported(side, report));
            }
            Some(true) => {
                return self.turn_secure(&session, |mut turn| turn.reported(side, report));
            }
            None => {}
        }
        let signal = session.signal(side);
        let ending = signal.get().ending || report.ending;
        signal.set(Signal { reported: true, ending, ..signal.get() });
        session.interrupt.wake();
    }

    /// Lets something happen to a session's relay, which may end it.
    pub fn turn(&self, session: &Session, act: impl FnOnce(Turn<'_>) -> Option<End>) {
        let mut relay = session.relay.borrow_mut();
        let end = match &mut *relay {
            Some(Relaying::Plain(relay)) => act(Turn { shard: self, session, relay }),
            Some(Relaying::Secure(_)) | None => None,
        };
        drop(relay);
        if let Some(end) = end {
            self.end_relay(session, end);
        }
    }

    /// The same where one side or both are inside TLS.
    pub fn turn_secure(&self, session: &Session, act: impl FnOnce(SecureTurn<'_>) -> Option<End>) {
        let mut relay = session.relay.borrow_mut();
        let end = match &mut *relay {
            Some(Relaying::Secure(relay)) => act(SecureTurn { shard: self, session, relay }),
            Some(Relaying::Plain(_)) | None => None,
        };
        drop(relay);
        if let Some(end) = end {
            self.end_relay(session, end);
        }
    }

    /// Ends a session that relays.
    pub fn end_relay(&self, session: &Session, end: End) {
        let mut relay = match session.relay.take() {
            Some(Relaying::Plain(relay)) => relay,
            Some(Relaying::Secure(relay)) => {
                relay.close(end);
                return self.end(session, end);
            }
            None => return,
        };
        Turn { shard: self, session, relay: &mut relay }.close();
        if relay.is_sending() {
            self.closing_relays.borrow_mut().push((relay, end));
        } else {
            relay.close(end, |socket| self.reuse(session, socket));
        }
        self.end(session, end);
    }

    /// Closes what waited for its last sends.
    fn close_relays(&self) {
        for (relay, end) in self.closing_relays.borrow_mut().drain(..) {
            relay.close(end, Err);
        }
    }

    /// Keeps a backend's socket for a later session.
    fn reuse(&self, session: &Session, socket: Socket) -> Result<(), Socket> {
        let placed = session.placed.borrow();
        let make = placed.as_ref().and_then(|placed| {
            let settings = &placed.pool.settings;
            let address = &placed.backend.as_ref()?.address;
            let grown = session.bytes_in.get() + session.bytes_out.get() > REUSE_BYTES_MAX;
            if grown || self.is_draining() { None } else { Make::of(settings, address) }
        });
        match make {
            Some(make) => self.spares.reset(make, socket),
            None => Err(socket),
        }
    }

    /// Waits until a socket of a session that does not relay yet is reported.
    ///
    /// The session's interrupt has the waker: wait with `Interrupt::or`. Cancel-safe.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn ready(
        &self,
        session: &Session,
        (side, socket): (Side, &Socket),
        interest: Interest,
    ) -> impl Future<Output = io::Result<()>> {
        let signal = session.signal(side);
        let before = signal.get();
        let asked = match interest {
            Interest { input: false, .. } => Asked::Nothing,
            Interest { room: false, .. } => Asked::Input,
            Interest { room: true, .. } => Asked::Both,
        };
        signal.set(Signal { reported: false, polled: true, asked, ..before });
        let mut asked = Some(if before.polled {
            self.poller.change(socket, interest, token(session, side))
        } else {
            self.poller.add(socket, interest, token(session, side))
        });
        poll_fn(move |_context| match asked.take() {
            Some(Err(error)) => Poll::Ready(Err(error)),
            _ if signal.get().reported => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        })
    }

    /// Has the socket of a side reported from now on: input, and room if asked for. What was asked
    /// for stays, so that this is a system call once or twice in the life of a connection.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn watch(
        &self,
        session: &Session,
        (side, socket): (Side, &Socket),
        room: bool,
    ) -> io::Result<()> {
        let signal = session.signal(side);
        let before = signal.get();
        let asked = if room { Asked::Both } else { Asked::Input };
        if before.asked == asked || before.asked == Asked::Both {
            return Ok(());
        }
        let interest = Interest { input: true, room };
        signal.set(Signal { polled: true, asked, ..before });
        match before.polled {
            true => self.poller.change(socket, interest, token(session, side)),
            false => self.poller.add(socket, interest, token(session, side)),
        }
    }

    /// Has a watched socket reported again, after everybody else.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn watch_again(
        &self,
        session: &Session,
        (side, socket): (Side, &Socket),
    ) -> io::Result<()> {
        let room = session.signal(side).get().asked == Asked::Both;
        self.poller.change(socket, Interest { input: true, room }, token(session, side))
    }

    /// Waits until a watched socket of a session is reported; `Session::take_report` says which.
    pub fn reported_any(&self, session: &Session) -> impl Future<Output = ()> {
        poll_fn(|_context| {
            let reported = |side| session.signal(side).get().reported;
            match reported(Side::Client) || reported(Side::Backend) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
    }
}

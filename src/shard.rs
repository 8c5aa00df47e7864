//! A shard: one pinned thread, one ring, its own listeners, sessions, warm connections, counters.
//!
//! Nothing here is shared with another shard but atomics that are written when a connection begins
//! or ends, and mailboxes.

mod accept;
pub mod admission;
mod buffers;
mod choose;
pub mod closing;
mod handshakes;
mod http;
pub mod interrupt;
mod loads;
pub mod lookups;
pub mod mailbox;
pub mod outbox;
pub mod ring;
mod sessions;
mod spin;
mod watch;
pub mod wheel;

pub use self::watch::token;

use std::cell::{Cell, RefCell, RefMut};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use self::accept::{Listening, Reserve};
use self::admission::Lines;
use self::buffers::Buffers;
use self::choose::fresh_memory;
use self::closing::Closings;
use self::handshakes::Handshakes;
use self::interrupt::Interrupt;
pub use self::loads::Loads;
use self::lookups::Lookups;
use self::mailbox::{Handover, Message, ShardHandle};
use self::outbox::Outbox;
use self::wheel::{Entry, TICK, Tick, Wheel, ticks};
use crate::backend::kept::KeptTable;
use crate::backend::spare::Spares;
use crate::backend::warm::{Round, WarmTable};
use crate::config::Config;
use crate::end::End;
use crate::listen::{Bound, Listeners};
use crate::log::{AccessLogSender, SessionLogSender};
use crate::metrics::{ListenerCells, Metrics, ShardCells};
use crate::placement::PoolMemory;
use crate::relay::{COOL_AFTER, Pipes, Relay};
use crate::session::{Look, Session, Stage};
use crate::sys::{Accepted, Exchange, Poller, Timer, WakeFd};
use crate::table::{Listener, Table};

/// What a shard is given at its start.
pub struct Setup {
    /// Its index.
    pub index: usize,
    /// The whole configuration.
    pub config: Arc<Config>,
    /// Counters of the process.
    pub metrics: Arc<Metrics>,
    /// Sessions per shard.
    pub loads: Arc<Loads>,
    /// Mailboxes of all shards, its own included.
    pub mailboxes: Vec<ShardHandle>,
    /// The first table, and its listening sockets.
    pub listeners: Listeners,
    /// Where records of ended sessions go.
    pub log: SessionLogSender,
    /// Where records of requests go.
    pub access: AccessLogSender,
}

/// One shard.
pub struct Shard {
    /// Its index.
    pub index: usize,
    /// Listening sockets that are open.
    listening: RefCell<Vec<Rc<Listening>>>,
    stopped_accepting: Cell<bool>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    loads: Arc<Loads>,
    mailboxes: Vec<ShardHandle>,
    log: SessionLogSender,
    access: AccessLogSender,
    reserve: Reserve,
    poller: Poller,
    exchange: Rc<Exchange>,
    outbox: Rc<Outbox>,
    closing_relays: RefCell<Vec<(Relay, End)>>,
    closings: RefCell<Closings>,
    pipes: Pipes,
    spares: Spares,
    kept: KeptTable,
    buffers: Buffers,
    activity: spin::Activity,
    table: RefCell<Arc<Table>>,
    memory: RefCell<Vec<PoolMemory>>,
    warm: RefCell<WarmTable>,
    lines: Lines,
    handshakes: Handshakes,
    lookups: Lookups,
    sessions: RefCell<Slab<Rc<Session>>>,
    wheel: RefCell<Wheel>,
    scratch: RefCell<Vec<u8>>,
    tick_waiters: RefCell<Vec<Waker>>,
    started: Instant,
    now: Cell<Tick>,
    serial: Cell<u32>,
    source_turn: Cell<usize>,
    drain_deadline: Cell<Option<Tick>>,
    finished: Interrupt<()>,
}

/// Runs a shard on the calling thread until it has drained.
///
/// # Errors
/// When the kernel refuses a descriptor that the shard cannot live without.
pub async fn run(setup: Setup, exchange: Exchange) -> io::Result<()> {
    let mail = WakeFd::new(setup.mailboxes[setup.index].wake_fd().try_clone_to_owned()?)?;
    let timer = Timer::every(TICK)?;
    let (shard, opened) = Shard::new(setup, exchange)?;
    for bound in opened {
        shard.listen(bound);
    }
    monoio::spawn(run_timer(shard.clone(), timer));
    let spin = shard.config.runtime.spin;
    if !spin.is_zero() {
        let spinning = spin::run(shard.clone(), spin);
        monoio::spawn(async move {
            if let Err(error) = spinning.await {
                tracing::error!(%error, "a shard sleeps although it is to spin");
            }
        });
    }
    monoio::spawn(watch::run_poller(shard.clone()));
    monoio::spawn(watch::run_exchange(shard.clone()));
    monoio::spawn(watch::run_outbox(shard.clone()));
    while let Ok(ready) = shard.finished.or(mail.readable()).await {
        ready?;
        mail.take_count();
        shard.read_mail();
    }
    // Descriptors are closed by the ring, which nobody turns after this returns, while other shards
    // may drain for long: let what was dropped last be cancelled and closed first.
    shard.next_tick().await;
    Ok(())
}

async fn run_timer(shard: Rc<Shard>, timer: Timer) {
    let mut expired = Vec::new();
    loop {
        match timer.elapsed().await {
            Ok(elapsed) => shard.tick(Tick::try_from(elapsed).unwrap_or(1), &mut expired),
            Err(error) => {
                tracing::error!(%error, shard = shard.index, "the timer failed; ending");
                std::process::abort();
            }
        }
    }
}

impl Shard {
    fn new(setup: Setup, exchange: Exchange) -> io::Result<(Rc<Shard>, Vec<Bound>)> {
        let exchange = Rc::new(exchange);
        let Setup { index, config, metrics, loads, mailboxes, listeners, log, access } = setup;
        let Listeners { table, opened, .. } = listeners;
        metrics.shards.of(index).table_version.set(table.version);
        let mut warm = WarmTable::default();
        warm.follow(&table, index);
        let pools = table.pools.iter().enumerate();
        let memory = pools.map(|(at, pool)| fresh_memory(pool, index, at)).collect();
        let lookups = Lookups::default();
        lookups.follow(&table, index);
        let scratch = vec![0; config.runtime.relay_buffer_max];
        let shard = Rc::new(Shard {
            index,
            listening: RefCell::default(),
            stopped_accepting: Cell::new(false),
            config,
            metrics,
            loads,
            mailboxes,
            log,
            access,
            reserve: Reserve::new()?,
            poller: Poller::new()?,
            outbox: Rc::new(Outbox::new(exchange.clone())),
            exchange,
            closing_relays: RefCell::default(),
            closings: RefCell::default(),
            pipes: Pipes::default(),
            spares: Spares::default(),
            kept: KeptTable::default(),
            buffers: Buffers::default(),
            activity: spin::Activity::default(),
            table: RefCell::new(table),
            memory: RefCell::new(memory),
            warm: RefCell::new(warm),
            lines: Lines::default(),
            handshakes: Handshakes::default(),
            lookups,
            sessions: RefCell::default(),
            wheel: RefCell::default(),
            scratch: RefCell::new(scratch),
            tick_waiters: RefCell::default(),
            started: Instant::now(),
            now: Cell::new(0),
            serial: Cell::new(0),
            source_turn: Cell::new(index),
            drain_deadline: Cell::new(None),
            finished: Interrupt::new(),
        });
        Ok((shard, opened))
    }

    fn read_mail(self: &Rc<Self>) {
        while let Some(message) = self.mailboxes[self.index].take() {
            match message {
                Message::Table(table) => self.take_table(table),
                Message::Listen(change) => self.take_listeners(change),
                Message::Connection(Handover { socket, listener, peer }) => {
                    self.begin(listener, Accepted { socket, peer });
                }
                Message::Answer(answered) => self.take_answer(answered),
                Message::Forget { lookup, what } => self.forget(lookup, &what),
                Message::Close(order) => {
                    self.closings.borrow_mut().begin(order, self.mailboxes.len());
                }
                Message::Drain(timeout) => self.drain(timeout),
                Message::StopClosing(backend) => self.closings.borrow_mut().stop(&backend),
                // Whoever asked may have stopped waiting.
                Message::Sessions { question, reply } => {
                    let _gone = reply.send(self.page(&question));
                }
                Message::End { id, reply } => {
                    let _gone = reply.send(self.end_by_operator(id));
                }
            }
        }
    }

    fn take_table(&self, table: Arc<Table>) {
        let old = self.table.replace(table.clone());
        self.carry_memory(&old, &table);
        self.warm.borrow_mut().follow(&table, self.index);
        self.kept.follow(&table, self.cells());
        self.closings.borrow_mut().follow(&table, self.mailboxes.len());
        self.lines.follow(self, &table);
        self.lookups.follow(&table, self.index);
        self.cells().table_version.set(table.version);
    }

    // -- listeners -----------------------------------------------------------------------------

    fn listen(self: &Rc<Self>, bound: Bound) {
        let Some(listener) = self.table().listeners.get(bound.listener).cloned() else {
            tracing::error!(listener = bound.listener, "a socket for a listener that is not there");
            return;
        };
        match Listening::new(bound, listener) {
            Ok(listening) => {
                let listening = Rc::new(listening);
                self.listening.borrow_mut().push(listening.clone());
                monoio::spawn(accept::run(self.clone(), listening));
            }
            Err(error) => tracing::error!(%error, "listener lost"),
        }
    }

    /// Takes a reload's listening sockets: those that stay accept for the new configuration from
    /// now on, those that go take what the kernel has completed and close.
    fn take_listeners(self: &Rc<Self>, change: Listeners) {
        let Listeners { table, stay, opened } = change;
        self.take_table(table);
        for listening in self.listening.borrow().iter() {
            match stay.iter().find(|(binding, _)| *binding == listening.binding) {
                Some((_, index)) => listening.follow(&self.table().listeners, *index),
                None => listening.closing.set(()),
            }
        }
        if !self.is_draining() {
            for bound in opened {
                self.listen(bound);
            }
        }
    }

    // -- time ----------------------------------------------------------------------------------

    fn tick(&self, elapsed: Tick, expired: &mut Vec<Entry>) {
        let now = self.read_clock();
        self.cells().ticks.add(u64::from(elapsed));
        self.wheel.borrow_mut().advance(now, expired);
        for entry in expired.drain(..) {
            let Some(session) = self.session(entry.slot, entry.serial) else { continue };
            match session.look(entry.due, now) {
                None => {}
                Some(Look::Over(end)) => self.interrupt(&session, end),
                Some(Look::Cool(at)) => {
                    session.busy.set(false);
                    self.turn(&session, |mut turn| {
                        turn.cool();
                        None
                    });
                    self.show(&session, session.schedule(at, now));
                }
                Some(Look::Again(at)) => self.show(&session, session.schedule(at, now)),
            }
        }
        self.tick_warm(now);
        self.kept.tick(now, self.cells());
        self.tick_closings(elapsed);
        self.lines.release(self);
        for waker in self.tick_waiters.borrow_mut().drain(..) {
            waker.wake();
        }
        if self.drain_deadline.get().is_some_and(|deadline| deadline <= now) {
            let sessions: Vec<_> = self.sessions.borrow().iter().map(|(_, s)| s.clone()).collect();
            for session in sessions {
                self.interrupt(&session, End::DrainDeadline);
            }
        }
        self.finish_if_drained();
    }

    /// Ends a session from outside.
    fn interrupt(&self, session: &Session, end: End) {
        if session.stage.get() == Stage::Relay {
            self.end_relay(session, end);
        } else {
            session.interrupt.set(end);
        }
    }

    fn tick_warm(&self, now: Tick) {
        let table = self.table();
        let round = Round { table: &table, shard: self.index, now };
        self.warm.borrow_mut().tick(&round, |failed, end| self.note_failing(failed, end));
    }

    /// Waits for the next turn of the coarse timer.
    pub async fn next_tick(&self) {
        let now = self.now();
        poll_fn(|context| {
            if self.now() != now {
                return Poll::Ready(());
            }
            self.tick_waiters.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Brings the current tick up to date. Done by every turn of the timer, and before a session
    /// begins: after a stall of the machine connections are accepted before the timer is heard, and
    /// their deadlines must not start in the past.
    fn read_clock(&self) -> Tick {
        let elapsed = self.started.elapsed().as_millis() / TICK.as_millis();
        let now = Tick::try_from(elapsed).unwrap_or(Tick::MAX).max(self.now.get());
        self.now.set(now);
        now
    }

    /// The current tick.
    #[inline]
    pub fn now(&self) -> Tick {
        self.now.get()
    }

    /// Sets the deadline of a session's stage.
    pub fn set_deadline(&self, session: &Session, at: Tick, end: End) {
        self.show(session, session.set_deadline(at, end, self.now()));
    }

    /// Begins a session's last stage.
    pub fn begin_relay(&self, session: &Session, idle_timeout: Duration) {
        self.show(session, session.begin_relay(idle_timeout, self.now()));
    }

    /// Looks at a session again when it may have gone quiet.
    pub fn look_soon(&self, session: &Session) {
        session.busy.set(true);
        let now = self.now();
        self.show(session, session.schedule(now + COOL_AFTER, now));
    }

    fn show(&self, session: &Session, at: Option<Tick>) {
        if let Some(due) = at {
            let entry = Entry { slot: session.slot, serial: session.serial, due };
            self.wheel.borrow_mut().insert(entry);
        }
    }

    // -- draining ------------------------------------------------------------------------------

    fn drain(&self, timeout: Duration) {
        self.drain_deadline.set(Some(self.now().saturating_add(ticks(timeout))));
        for listening in self.listening.borrow().iter() {
            listening.closing.set(());
        }
        self.drain_http();
        self.stop_accepting_if_closed();
    }

    /// One of the listening sockets is closed.
    fn listener_closed(&self, binding: u64) {
        self.listening.borrow_mut().retain(|listening| listening.binding != binding);
        self.stop_accepting_if_closed();
    }

    fn stop_accepting_if_closed(&self) {
        let closed = self.drain_deadline.get().is_some() && self.listening.borrow().is_empty();
        if closed && !self.stopped_accepting.replace(true) {
            self.loads.stopped_accepting();
            self.warm.borrow_mut().close(self.index);
            self.spares.clear();
        }
    }

    /// Whether the process is to end when its sessions have.
    pub fn is_draining(&self) -> bool {
        self.drain_deadline.get().is_some()
    }

    /// Only the tick asks, so that the ring turns between the last session's end and the shard's.
    fn finish_if_drained(&self) {
        // The mailbox is looked at after the other shards: one that still accepts may add to it.
        let drained = self.drain_deadline.get().is_some()
            && self.loads.all_stopped_accepting()
            && self.mailboxes[self.index].is_empty()
            && self.sessions.borrow().is_empty();
        if drained {
            self.finished.set(());
        }
    }

    // -- what sessions ask ---------------------------------------------------------------------

    /// A listener's counters on this shard.
    #[inline]
    pub fn listener_cells<'l>(&self, listener: &'l Listener) -> &'l ListenerCells {
        listener.cells.of(self.index)
    }

    /// This shard's own counters.
    pub fn cells(&self) -> &ShardCells {
        self.metrics.shards.of(self.index)
    }

    /// The current table.
    pub fn table(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// The generation of the configuration in force.
    pub fn generation(&self) -> u64 {
        self.table.borrow().generation
    }

    /// Memory that bytes pass through on their way between two quiet sockets.
    pub fn scratch(&self) -> RefMut<'_, Vec<u8>> {
        self.scratch.borrow_mut()
    }

    /// Tells what happens to sockets.
    pub fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Sockets to be used again.
    pub fn spares(&self) -> &Spares {
        &self.spares
    }

    /// Pipes for floods.
    pub fn pipes(&self) -> &Pipes {
        &self.pipes
    }

    /// Sessions that wait for room on their backend.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// TLS handshakes under way, and those that wait for their turn.
    pub fn handshakes(&self) -> &Handshakes {
        &self.handshakes
    }
}

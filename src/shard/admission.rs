//! Sessions of a shard that wait for room on their backend. A session that finds room at once never
//! comes here.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use super::Shard;
use super::wheel::ticks;
use crate::end::End;
use crate::health::admission::{Line, fair_part};
use crate::metrics::Waits;
use crate::session::{Session, Stage};
use crate::sys::{self, Socket};
use crate::table::{Backend, Pool, Table};

/// Why a session did not get its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// It ends.
    Away(End),
    /// Its backend takes no new sessions any more: it is to choose again by the table in force.
    Back,
}

impl From<End> for Turned {
    fn from(end: End) -> Turned {
        Turned::Away(end)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Waiting,
    /// Let in: counted as a session of the backend already.
    Admitted,
    /// To choose again.
    Back,
    /// Nobody waits for it any more.
    Left,
}

/// A place in a line.
#[derive(Debug)]
struct Ticket {
    slot: u32,
    serial: u32,
    turn: Cell<Turn>,
}

/// The line before one backend.
#[derive(Debug)]
struct Before {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    line: Line<Rc<Ticket>>,
}

/// All lines of a shard; only those in which somebody waits.
#[derive(Debug, Default)]
pub struct Lines {
    lines: RefCell<Vec<Before>>,
}

/// Waits until the backend has room for a session, at most as long as its pool allows.
///
/// # Errors
/// Why it has none, or that it is not to be waited for.
pub async fn enter(
    shard: &Shard,
    session: &Session,
    client: &Socket,
    (pool, backend): (&Pool, &Arc<Backend>),
) -> Result<(), Turned> {
    let room = &backend.shared.room;
    if room.waiting() == 0 && backend.shared.enter(&pool.terms(backend), Instant::now()) {
        return Ok(());
    }
    // Few wait: the others do not pay for it in the size of their tasks.
    let Some(pool) = session.placed.borrow().as_ref().map(|placed| placed.pool.clone()) else {
        return Err(Turned::Away(End::PoolEmpty));
    };
    Box::pin(wait(shard, session, client, (&pool, backend))).await
}

async fn wait(
    shard: &Shard,
    session: &Session,
    client: &Socket,
    (pool, backend): (&Arc<Pool>, &Arc<Backend>),
) -> Result<(), Turned> {
    let waits = &pool.cells.of(shard.index).waits;
    let settings = &pool.settings.health;
    if !backend.shared.room.wait(settings.queue_max) {
        waits.refused.add(1);
        return Err(Turned::Away(End::AdmissionQueueFull));
    }
    let began = Instant::now();
    let place = Place::join(shard, session, (pool, backend));
    session.stage.set(Stage::Wait);
    // Who has to choose again does not wait anew.
    let age = session.accepted.elapsed();
    let since = session.turned_after.get().unwrap_or(age);
    session.turned_after.set(since);
    let left = settings.queue_timeout.saturating_sub(age.saturating_sub(since));
    let until = shard.now().saturating_add(ticks(left)).saturating_add(1);
    shard.set_deadline(session, until, End::AdmissionTimeout);
    let turned = poll_fn(|_context| match place.ticket.turn.get() {
        Turn::Waiting => Poll::Pending,
        turn => Poll::Ready(turn),
    });
    match session.interrupt.or(turned).await {
        Ok(Turn::Admitted) => {
            if is_reset(client) {
                waits.left.add(1);
                return Err(Turned::Away(End::ClientReset));
            }
            place.take();
            waits.admitted.record(began.elapsed());
            Ok(())
        }
        Ok(_) => Err(Turned::Back),
        Err(end) => {
            count(waits, end);
            Err(Turned::Away(end))
        }
    }
}

fn count(waits: &Waits, end: End) {
    let counter = if end == End::AdmissionTimeout { &waits.late } else { &waits.left };
    counter.add(1);
}

/// Whether the client has gone while it waited. A FIN is no reason: it may want the answer.
fn is_reset(client: &Socket) -> bool {
    sys::peek(client.as_fd()).is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
}

/// A session's place in a line, given up when this is dropped.
struct Place<'a> {
    backend: &'a Backend,
    ticket: Rc<Ticket>,
}

impl<'a> Place<'a> {
    fn join(
        shard: &Shard,
        session: &Session,
        (pool, backend): (&Arc<Pool>, &'a Arc<Backend>),
    ) -> Place<'a> {
        let turn = Cell::new(Turn::Waiting);
        let ticket = Rc::new(Ticket { slot: session.slot, serial: session.serial, turn });
        let mut lines = shard.lines().lines.borrow_mut();
        let same = |before: &&mut Before| Arc::ptr_eq(&before.backend.shared, &backend.shared);
        match lines.iter_mut().find(same) {
            Some(before) => before.line.join(ticket.clone()),
            None => {
                let mut line = Line::default();
                line.join(ticket.clone());
                lines.push(Before { pool: pool.clone(), backend: backend.clone(), line });
            }
        }
        Place { backend, ticket }
    }

    /// The session goes in.
    fn take(&self) {
        self.ticket.turn.set(Turn::Left);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        match self.ticket.turn.replace(Turn::Left) {
            Turn::Waiting => self.backend.shared.room.stop_waiting(),
            // Let in, and will not come.
            Turn::Admitted => self.backend.shared.closed(),
            Turn::Back | Turn::Left => {}
        }
    }
}

impl Lines {
    /// Lets in who may come now.
    pub fn release(&self, shard: &Shard) {
        let mut lines = self.lines.borrow_mut();
        if lines.is_empty() {
            return;
        }
        let now = Instant::now();
        for Before { pool, backend, line } in lines.iter_mut() {
            line.keep(|ticket| ticket.turn.get() == Turn::Waiting);
            let (room, terms) = (&backend.shared.room, pool.terms(backend));
            let most = fair_part(room.available(&terms, now), line.len(), room.waiting());
            for ticket in line.release(most, || backend.shared.enter(&terms, now)) {
                ticket.turn(shard, backend, Turn::Admitted);
            }
        }
        lines.retain(|before| !before.line.is_empty());
    }

    /// Goes over to the terms of a new table. Who waits for a backend that takes no new sessions by
    /// it has to choose again.
    pub fn follow(&self, shard: &Shard, table: &Table) {
        for Before { pool, backend, line } in self.lines.borrow_mut().iter_mut() {
            let new = table.pool(&pool.settings.name).map(|(_, pool)| pool);
            let index = new.and_then(|new| new.position(backend));
            let known = new.zip(index).map(|(new, index)| (new, &new.backends[index]));
            match known.filter(|(new, backend)| new.in_service(backend)) {
                Some((new, known)) => (*pool, *backend) = (new.clone(), known.clone()),
                None => {
                    line.keep(|ticket| {
                        if ticket.turn.get() == Turn::Waiting {
                            ticket.turn(shard, backend, Turn::Back);
                        }
                        false
                    });
                }
            }
        }
    }
}

impl Ticket {
    /// The end of waiting.
    fn turn(&self, shard: &Shard, backend: &Backend, turn: Turn) {
        self.turn.set(turn);
        backend.shared.room.stop_waiting();
        if let Some(session) = shard.session(self.slot, self.serial) {
            session.interrupt.wake();
        }
    }
}

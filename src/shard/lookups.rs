//! Lookups on a shard: what it remembers of each, and the sessions that wait for an answer.
//!
//! What is remembered is answered here and now. Only a name that is not, or is no longer, goes to
//! the control plane; its answer comes back through the mailbox.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Shard;
use super::wheel::ticks;
use crate::end::{End, Placement};
use crate::lookup::cache::{Cache, Got, Known, Resolved, Terms};
use crate::lookup::{Answer, Answered, Asked, Cause, Forget, Found, LookupName};
use crate::metrics::{Looked, LookupCells};
use crate::session::{Session, Stage};
use crate::source::FailureCause;
use crate::table::{Listener, Lookup, Pool, Table};

/// The control plane answers within a lookup's `timeout`; this is for its way here.
const LATE: Duration = Duration::from_millis(500);

/// What looking a name up gave a session.
#[derive(Debug, Clone)]
pub struct LookedUp {
    /// Where to go.
    pub found: Arc<Found>,
    /// Settings for connecting there; it has no backends of its own.
    pub pool: Arc<Pool>,
    /// `Lookup`, or `LookupStale` if the answer is over.
    pub placement: Placement,
    /// Which address is first, see [`Found::backend`].
    pub turn: usize,
}

/// Somebody who waits.
#[derive(Debug)]
struct Ticket {
    slot: u32,
    serial: u32,
    outcome: RefCell<Option<(Known<Arc<Found>>, bool)>>,
}

/// What is remembered of one lookup.
#[derive(Debug)]
struct Remembered {
    lookup: Arc<Lookup>,
    cache: Cache<Arc<Found>, Rc<Ticket>>,
}

/// All lookups of a shard.
#[derive(Debug, Default)]
pub struct Lookups {
    /// As in the table.
    current: RefCell<Vec<Remembered>>,
    /// No longer in the table, but sessions wait for their answers.
    leaving: RefCell<Vec<Remembered>>,
    turn: Cell<usize>,
}

/// What a session is told at once.
enum Told {
    Now(Result<LookedUp, End>),
    Later(Waiting),
}

/// What a session waits for.
struct Waiting {
    lookup: Arc<Lookup>,
    ticket: Rc<Ticket>,
    /// Another had asked already.
    joined: bool,
}

impl Shard {
    /// Looks a name up for a session. `index` is that of the lookup in the configuration of the
    /// session's listener.
    ///
    /// What is remembered is there at the first poll. Otherwise the session waits, in the stage
    /// `Stage::Lookup` and for about the lookup's `timeout` at most; its deadline is another one
    /// afterwards, so the next stage has to set its own.
    ///
    /// # Errors
    /// One of those for which [`End::is_lookup`] holds; `PoolRemoved` if a reload took the lookup
    /// away; or whatever interrupted the session.
    pub async fn lookup(
        &self,
        session: &Session,
        asked: (&Listener, usize),
        name: &LookupName,
    ) -> Result<LookedUp, End> {
        match self.look(session, asked, name) {
            Told::Now(result) => result,
            // Few wait: the others do not pay for it in the size of their tasks.
            Told::Later(waiting) => Box::pin(self.wait_for_answer(session, waiting)).await,
        }
    }

    fn look(
        &self,
        session: &Session,
        (listener, index): (&Listener, usize),
        name: &LookupName,
    ) -> Told {
        let at = self.table.borrow().lookup_of(listener, index).map(|(at, _)| at);
        let mut current = self.lookups.current.borrow_mut();
        let Some(remembered) = at.and_then(|at| current.get_mut(at)) else {
            return Told::Now(Err(End::PoolRemoved));
        };
        let ticket = || {
            let outcome = RefCell::new(None);
            Rc::new(Ticket { slot: session.slot, serial: session.serial, outcome })
        };
        let mut waiting = None;
        let join = || waiting.insert(ticket()).clone();
        let got = remembered.cache.get(name, self.now(), join);
        let lookup = remembered.lookup.clone();
        let cells = lookup.identity.cells.of(self.index);
        let ask = match &got {
            Got::Hit { ask, .. } | Got::Wait { ask } => *ask,
            Got::Full => false,
        };
        if ask {
            if matches!(got, Got::Hit { .. }) {
                cells.refreshes.add(1);
            }
            self.ask(remembered, name);
        }
        remembered.count(cells);
        match (got, waiting) {
            (Got::Hit { known, stale, .. }, _) => {
                let looked = if stale { Looked::Stale } else { Looked::Hit };
                Told::Now(self.told(&lookup, known, looked))
            }
            (Got::Wait { ask }, Some(ticket)) => {
                Told::Later(Waiting { lookup, ticket, joined: !ask })
            }
            (Got::Wait { .. } | Got::Full, _) => {
                cells.looked[Looked::Busy as usize].add(1);
                Told::Now(Err(End::LookupBusy))
            }
        }
    }

    async fn wait_for_answer(&self, session: &Session, waiting: Waiting) -> Result<LookedUp, End> {
        let Waiting { lookup, ticket, joined } = waiting;
        let stage = session.stage.replace(Stage::Lookup);
        let began = Instant::now();
        let patience = ticks(lookup.settings.timeout.saturating_add(LATE));
        let until = self.now().saturating_add(patience).saturating_add(1);
        self.set_deadline(session, until, End::LookupTimeout);
        let answered = poll_fn(|_context| match ticket.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        });
        let result = session.interrupt.or(answered).await;
        session.stage.set(stage);
        let cells = lookup.identity.cells.of(self.index);
        cells.waits.record(began.elapsed());
        match result {
            Ok((known, stale)) => {
                let looked = match (stale, joined) {
                    (true, _) => Looked::Stale,
                    (false, true) => Looked::Joined,
                    (false, false) => Looked::Asked,
                };
                self.told(&lookup, known, looked)
            }
            Err(End::LookupTimeout) => {
                // This deadline was for the answer; the session may have something to say.
                session.interrupt.take();
                cells.looked[Looked::Timeout as usize].add(1);
                Err(End::LookupTimeout)
            }
            Err(end) => {
                cells.looked[Looked::Left as usize].add(1);
                Err(end)
            }
        }
    }

    /// `looked`: how it would be counted if it is an address.
    fn told(
        &self,
        lookup: &Lookup,
        known: Known<Arc<Found>>,
        looked: Looked,
    ) -> Result<LookedUp, End> {
        let timeout = Cause::Store(FailureCause::Timeout);
        let (looked, result) = match known {
            Known::Found(found) => {
                let turn = self.lookups.turn.get();
                self.lookups.turn.set(turn.wrapping_add(1));
                let placement = match looked {
                    Looked::Stale => Placement::LookupStale,
                    _ => Placement::Lookup,
                };
                (looked, Ok(LookedUp { found, pool: lookup.pool.clone(), placement, turn }))
            }
            Known::Nothing => (Looked::Nothing, Err(End::LookupNothing)),
            Known::Refused(_) => (Looked::Refused, Err(End::LookupRefused)),
            Known::Failed(Cause::Busy) => (Looked::Busy, Err(End::LookupBusy)),
            Known::Failed(cause) if cause == timeout => (Looked::Timeout, Err(End::LookupTimeout)),
            Known::Failed(_) => (Looked::Failed, Err(End::LookupFailed)),
        };
        lookup.identity.cells.of(self.index).looked[looked as usize].add(1);
        result
    }

    /// An address that a lookup gave cannot be connected to: it may have moved.
    pub fn doubt(&self, (listener, index): (&Listener, usize), name: &LookupName) {
        let at = self.table.borrow().lookup_of(listener, index).map(|(at, _)| at);
        let mut current = self.lookups.current.borrow_mut();
        if let Some(remembered) = at.and_then(|at| current.get_mut(at)) {
            remembered.cache.doubt(name, self.now());
        }
    }

    fn ask(&self, remembered: &mut Remembered, name: &LookupName) {
        let asked = Asked { name: name.clone(), shard: self.index };
        if !remembered.lookup.ask(asked) {
            self.settle(remembered, name, Answer::Failed(Cause::Busy));
        }
    }

    /// Takes an answer, and tells everybody who waits for it.
    fn settle(&self, remembered: &mut Remembered, name: &LookupName, answer: Answer<Arc<Found>>) {
        let moment = (self.now(), rand::random());
        let Some(Resolved { waiters, known, stale }) =
            remembered.cache.answer(name, answer, moment)
        else {
            return;
        };
        for ticket in waiters {
            *ticket.outcome.borrow_mut() = Some((known.clone(), stale));
            if let Some(session) = self.session(ticket.slot, ticket.serial) {
                session.interrupt.wake();
            }
        }
    }

    /// An answer has come.
    pub(super) fn take_answer(&self, answered: Answered) {
        let Answered { lookup, name, answer } = answered;
        let mut current = self.lookups.current.borrow_mut();
        if let Some(remembered) = current.iter_mut().find(|one| one.lookup.id == lookup) {
            self.settle(remembered, &name, answer);
            return;
        }
        let mut leaving = self.lookups.leaving.borrow_mut();
        if let Some(remembered) = leaving.iter_mut().find(|one| one.lookup.id == lookup) {
            self.settle(remembered, &name, answer);
        }
        leaving.retain(|one| one.cache.waiting() > 0);
    }

    /// A store has changed, or its changes may have gone untold.
    pub(super) fn forget(&self, lookup: u64, what: &Forget) {
        let mut current = self.lookups.current.borrow_mut();
        let Some(remembered) = current.iter_mut().find(|one| one.lookup.id == lookup) else {
            return;
        };
        let lookup = remembered.lookup.clone();
        let cells = lookup.identity.cells.of(self.index);
        match what {
            Forget::Everything => remembered.cache.forget_everything(self.now()),
            Forget::Key(key) => {
                for name in remembered.cache.forget(key, self.now()) {
                    cells.refreshes.add(1);
                    self.ask(remembered, &name);
                }
            }
        }
        remembered.count(cells);
    }
}

impl Remembered {
    fn new(lookup: &Arc<Lookup>) -> Remembered {
        let terms = Terms::of(&lookup.settings);
        Remembered { lookup: lookup.clone(), cache: Cache::new(terms) }
    }

    fn count(&mut self, cells: &LookupCells) {
        let counts = self.cache.take_counts();
        cells.evicted.add(counts.evicted);
        cells.forgotten.add(counts.forgotten);
        let before = cells.entries.value();
        cells.entries.add((self.cache.len() as u64).wrapping_sub(before));
    }
}

impl Lookups {
    /// Goes over to the lookups of a table. What did not change is remembered on.
    pub(super) fn follow(&self, table: &Table, shard: usize) {
        let mut current = self.current.borrow_mut();
        let same = current.len() == table.lookups.len()
            && current.iter().zip(&table.lookups).all(|(one, new)| one.lookup.id == new.id);
        if same {
            return;
        }
        let mut known = std::mem::take(&mut *current);
        for lookup in &table.lookups {
            let old = known.iter().position(|one| one.lookup.id == lookup.id);
            let mut remembered = match old {
                Some(old) => known.swap_remove(old),
                None => Remembered::new(lookup),
            };
            remembered.count(lookup.identity.cells.of(shard));
            current.push(remembered);
        }
        for one in &known {
            let again = table.lookups.iter().any(|lookup| lookup.label == one.lookup.label);
            if !again {
                // Its counters are shown for as long as it has sessions.
                one.lookup.identity.cells.of(shard).entries.set(0);
            }
        }
        known.retain(|one| one.cache.waiting() > 0);
        self.leaving.borrow_mut().append(&mut known);
    }
}

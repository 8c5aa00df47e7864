//! Closing the sessions of a backend, so many in a second: a scale-in must not become a storm of
//! devices that all reconnect at once.

use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::Shard;
use super::wheel::TICK;
use crate::config::{BackendState, OnRemove};
use crate::end::End;
use crate::session::Session;
use crate::table::{Backend, BackendShared, Pool, Table};

/// Sessions looked at in one tick for one backend: finding those of one among many thousands must
/// not keep the others waiting.
const LOOKED_AT_MAX: usize = 4096;

/// Backends whose sessions this shard is closing.
#[derive(Debug, Default)]
pub struct Closings {
    all: Vec<Closing>,
    random: RandomState,
}

/// One of them.
#[derive(Debug)]
struct Closing {
    backend: Arc<BackendShared>,
    end: End,
    accepted_before: Option<Instant>,
    /// Of this shard.
    per_tick: f64,
    /// Sessions that may be closed by now.
    credit: f64,
    /// Where in the slab the search goes on.
    cursor: usize,
    /// Whether a session was found since the search began at the front.
    any_found: bool,
}

/// What is asked of a shard.
#[derive(Debug, Clone)]
pub struct CloseOrder {
    /// Whose sessions.
    pub backend: Arc<BackendShared>,
    /// The reason they end with.
    pub end: End,
    /// Only those that were accepted before this moment. A backend that still takes sessions gets
    /// back who was closed: without an end to it, that would go on for ever.
    pub accepted_before: Option<Instant>,
    /// Sessions in a second, on all shards together; more than 0.
    pub rate: u32,
}

impl Closings {
    /// Begins to close sessions; an order for the same backend replaces an earlier one.
    pub fn begin(&mut self, order: CloseOrder, shards: usize) {
        let per_tick = f64::from(order.rate) * TICK.as_secs_f64() / shards as f64;
        self.all.retain(|closing| !Arc::ptr_eq(&closing.backend, &order.backend));
        self.all.push(Closing {
            backend: order.backend,
            end: order.end,
            accepted_before: order.accepted_before,
            per_tick,
            credit: 0.0,
            cursor: 0,
            any_found: false,
        });
    }

    /// Follows a table: sessions of what it takes away are closed where its pool says so, and those
    /// of what it gives back are left alone.
    pub fn follow(&mut self, table: &Table, shards: usize) {
        let returned = |closing: &Closing| {
            let backends = table.pools.iter().flat_map(|pool| &pool.backends);
            backends.filter(|backend| backend.state == BackendState::Ready).any(|backend| {
                closing.end == End::BackendRemoved && Arc::ptr_eq(&backend.shared, &closing.backend)
            })
        };
        self.all.retain(|closing| !returned(closing));
        for pool in table.all_pools().filter(|pool| pool.settings.on_remove == OnRemove::Close) {
            let is_gone = !table.pools.iter().any(|kept| Arc::ptr_eq(kept, pool));
            for backend in pool.all_backends() {
                if (is_gone || is_leaving(pool, backend)) && !self.has(&backend.shared) {
                    let rate = pool.settings.close_rate;
                    let backend = backend.shared.clone();
                    let end = End::BackendRemoved;
                    let order = CloseOrder { backend, end, accepted_before: None, rate };
                    self.begin(order, shards);
                }
            }
        }
    }

    /// Takes an operator's order back.
    pub fn stop(&mut self, backend: &Arc<BackendShared>) {
        self.all.retain(|closing| {
            closing.end != End::Operator || !Arc::ptr_eq(&closing.backend, backend)
        });
    }

    fn has(&self, backend: &Arc<BackendShared>) -> bool {
        self.all.iter().any(|closing| Arc::ptr_eq(&closing.backend, backend))
    }

    /// The sessions to close in this tick, which is the `elapsed`th since the last.
    fn due(&mut self, elapsed: u32, shard: &Shard) -> Vec<(Rc<Session>, End)> {
        let mut due = Vec::new();
        for (index, closing) in self.all.iter_mut().enumerate() {
            // Between half and one and a half of its share, so that shards do not act in step.
            let random = self.random.hash_one((shard.now(), index)) as f64 / u64::MAX as f64;
            closing.credit += closing.per_tick * f64::from(elapsed) * (0.5 + random);
            closing.collect(shard, &mut due);
        }
        self.all.retain(|closing| !closing.is_done());
        due
    }
}

/// Whether a backend takes no new sessions for good, or until somebody says otherwise.
fn is_leaving(pool: &Pool, backend: &Arc<Backend>) -> bool {
    backend.state == BackendState::Drain
        || pool.leaving.iter().any(|leaving| Arc::ptr_eq(leaving, backend))
}

impl Closing {
    fn collect(&mut self, shard: &Shard, due: &mut Vec<(Rc<Session>, End)>) {
        let sessions = shard.sessions.borrow();
        let mut looked_at = 0;
        while self.credit >= 1.0 && looked_at < LOOKED_AT_MAX && !self.is_done() {
            if self.cursor >= sessions.capacity() {
                // Once round. Whoever is being placed by an older table is found next time.
                self.cursor = if self.any_found { 0 } else { usize::MAX };
                self.any_found = false;
                continue;
            }
            if let Some(session) = sessions.get(self.cursor)
                && session.is_on(&self.backend)
                && self.accepted_before.is_none_or(|moment| session.accepted < moment)
            {
                due.push((session.clone(), self.end));
                self.credit -= 1.0;
                self.any_found = true;
            }
            self.cursor += 1;
            looked_at += 1;
        }
        // What could not be used up is not saved for a burst.
        self.credit = self.credit.min(self.per_tick.max(1.0));
    }

    fn is_done(&self) -> bool {
        self.cursor == usize::MAX
    }
}

impl Shard {
    /// Closes what is due of the sessions that are to be closed.
    pub(super) fn tick_closings(&self, elapsed: u32) {
        let due = self.closings.borrow_mut().due(elapsed, self);
        for (session, end) in due {
            self.interrupt(&session, end);
        }
    }
}

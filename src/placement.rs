//! Which backend a session tries next, and why: policy around the algorithm. Pure.
//!
//! The algorithm knows keys and weights. This knows which backends this session tried, which are
//! marked down, which failed a moment ago, how many other backends may still be tried, and gives
//! every choice its reason.

use smallvec::SmallVec;

use crate::balance::{Candidates, PickState};
use crate::config::{BackendState, OnDown};
use crate::end::{End, Placement};
use crate::table::{Pool, Table};

/// What a shard remembers of one pool.
#[derive(Debug)]
pub struct PoolMemory {
    /// Of the algorithm.
    pub pick: PickState,
    /// Per backend: passed over until this tick.
    pub failing_until: Vec<u32>,
}

impl PoolMemory {
    /// Nothing failed, nothing picked.
    pub fn new(backends: usize, seed: u64) -> PoolMemory {
        PoolMemory { pick: PickState::new(backends, seed), failing_until: vec![0; backends] }
    }

    /// Takes over what an earlier version of the pool remembered about backends that are still in.
    pub fn carry(&mut self, old: &PoolMemory, old_pool: &Pool, pool: &Pool) {
        for (backend, until) in old_pool.backends.iter().zip(&old.failing_until) {
            if let Some(index) = pool.position(backend) {
                self.failing_until[index] = *until;
            }
        }
    }
}

/// The search of one session for its backend.
#[derive(Debug)]
pub struct Search<'a> {
    /// Index of the pool in the table.
    pub pool_index: usize,
    pool: &'a Pool,
    key: &'a [u8],
    tried: SmallVec<[u32; 4]>,
    retries_left: u32,
    placement: Placement,
    last_failure: Option<End>,
}

/// One attempt.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index into the pool's backends.
    pub backend: usize,
    /// Why this one.
    pub placement: Placement,
}

struct View<'a> {
    pool: &'a Pool,
    tried: &'a [u32],
    failing_until: &'a [u32],
    now: u32,
    /// Count backends that failed a moment ago as usable.
    failing_usable: bool,
}

impl View<'_> {
    fn failing(&self, index: usize) -> bool {
        self.failing_until.get(index).is_some_and(|until| *until > self.now)
    }
}

impl Candidates for View<'_> {
    fn count(&self) -> usize {
        self.pool.backends.len()
    }

    fn weight(&self, index: usize) -> u32 {
        self.pool.backends[index].weight
    }

    fn usable(&self, index: usize) -> bool {
        self.pool.backends[index].state == BackendState::Ready
            && (self.failing_usable || !self.failing(index))
            && !self.tried.iter().any(|tried| *tried as usize == index)
    }

    fn live(&self, index: usize) -> u32 {
        self.pool.backends[index].shared.live.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl<'a> Search<'a> {
    /// Begins in a pool of this table; `placement` is the reason to give for a first choice (`Home`
    /// or `KeyMissing`).
    ///
    /// # Errors
    /// The table has no such pool.
    pub fn new(
        table: &'a Table,
        pool_index: usize,
        key: &'a [u8],
        placement: Placement,
    ) -> Result<Search<'a>, End> {
        let pool = table.pools.get(pool_index).ok_or(End::PoolEmpty)?;
        let retries_left = pool.settings.retries;
        let tried = SmallVec::new();
        Ok(Search { pool_index, pool, key, tried, retries_left, placement, last_failure: None })
    }

    /// The next backend to try at tick `now`.
    ///
    /// # Errors
    /// Why there is none: the last failure to connect once attempts were made, otherwise the
    /// policy that forbids any.
    pub fn next(&mut self, memory: &mut PoolMemory, now: u32) -> Result<Choice, End> {
        if self.pool.backends.is_empty() {
            return Err(End::PoolEmpty);
        }
        if self.last_failure.is_none() {
            self.step_over_home(memory, now)?;
        }
        let mut view = View {
            pool: self.pool,
            tried: &self.tried,
            failing_until: &memory.failing_until,
            now,
            failing_usable: false,
        };
        let healthy = self.pool.balance.pick(self.key, &mut memory.pick, &view);
        if let Some(backend) = healthy {
            self.tried.push(u32::try_from(backend).unwrap_or(u32::MAX));
            return Ok(Choice { backend, placement: self.placement });
        }
        if let Some(failure) = self.last_failure {
            return Err(failure);
        }
        view.failing_usable = true;
        let any_up = (0..view.count()).any(|index| view.usable(index));
        Err(if any_up { End::BackendFailing } else { End::BackendDown })
    }

    /// Keyed algorithms: says what passing over the key's own backend costs, before the algorithm
    /// does so.
    fn step_over_home(&mut self, memory: &PoolMemory, now: u32) -> Result<(), End> {
        let Some(home) = self.pool.balance.home(self.key, self.pool.backends.len()) else {
            return Ok(());
        };
        if self.pool.backends[home].state == BackendState::Down {
            if self.pool.settings.on_down == OnDown::Reject {
                return Err(End::BackendDown);
            }
            self.placement = Placement::Next;
        } else if memory.failing_until.get(home).is_some_and(|until| *until > now) {
            if self.retries_left == 0 {
                return Err(End::BackendFailing);
            }
            self.retries_left -= 1;
            self.placement = Placement::PassedOver;
        }
        Ok(())
    }

    /// Notes that the last choice could not be connected to.
    ///
    /// # Errors
    /// The failure again, when no retry is left or it is not one to retry.
    pub fn failed(&mut self, failure: End) -> Result<(), End> {
        if !failure.may_retry() || self.retries_left == 0 {
            return Err(failure);
        }
        self.retries_left -= 1;
        self.placement = Placement::Retry;
        self.last_failure = Some(failure);
        Ok(())
    }

    /// How many backends were tried.
    pub fn attempts(&self) -> u32 {
        u32::try_from(self.tried.len()).unwrap_or(u32::MAX)
    }
}

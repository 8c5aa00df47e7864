//! Which backend a session tries next, and why: policy around the algorithm. Pure.
//!
//! The algorithm knows keys and weights. This knows which backends this session tried, which are
//! marked down, which failed a moment ago, how many other backends may still be tried, and gives
//! every choice its reason.

use std::time::Instant;

use smallvec::SmallVec;

use crate::balance::{Candidates, PickState};
use crate::config::{BackendState, OnDown};
use crate::end::{End, Placement};
use crate::table::{Backend, Pool, Verdict};

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
        let all = old_pool.backends.iter().zip(&old.failing_until);
        // Few have failed ever: a table of thousands is not searched thousands of times.
        for (backend, until) in all.filter(|(_, until)| **until > 0) {
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
    /// The pool.
    pub pool: &'a Pool,
    key: &'a [u8],
    tried: SmallVec<[u32; 4]>,
    retries_left: u32,
    placement: Placement,
    last_failure: Option<End>,
    /// Pass over backends that have no room at this moment, where others have.
    room_at: Option<Instant>,
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
    /// Count only backends that have room at this moment.
    room_at: Option<Instant>,
}

impl View<'_> {
    fn has_room(&self, backend: &Backend) -> bool {
        let terms = self.pool.terms(backend);
        self.room_at.is_none_or(|now| backend.shared.room.is_open(&terms, now))
    }

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
        let backend = &self.pool.backends[index];
        self.pool.in_service(backend)
            && self.has_room(backend)
            && (self.failing_usable || !self.failing(index))
            && !self.tried.iter().any(|tried| *tried as usize == index)
    }

    fn live(&self, index: usize) -> u32 {
        self.pool.backends[index].shared.room.live()
    }
}

impl<'a> Search<'a> {
    /// Begins in the pool at this index of the table; `placement` is the reason to give for a first
    /// choice (`Home` or `KeyMissing`).
    pub fn new(
        pool: &'a Pool,
        pool_index: usize,
        key: &'a [u8],
        placement: Placement,
    ) -> Search<'a> {
        let retries_left = pool.settings.retries;
        let tried = SmallVec::new();
        let last_failure = None;
        let room_at = None;
        Search { pool_index, pool, key, tried, retries_left, placement, last_failure, room_at }
    }

    /// Looks for room at this moment. A key that has a home waits there; who has none need not wait
    /// for one backend while another has room.
    pub fn with_room_at(mut self, now: Instant) -> Search<'a> {
        self.room_at = Some(now);
        self
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
            room_at: self.room_at.filter(|_| self.home().is_none()),
        };
        let mut picked = self.pool.balance.pick(self.key, &mut memory.pick, &view);
        if picked.is_none() && view.room_at.take().is_some() {
            picked = self.pool.balance.pick(self.key, &mut memory.pick, &view);
        }
        if let Some(backend) = picked {
            self.tried.push(u32::try_from(backend).unwrap_or(u32::MAX));
            let in_panic = self.pool.backends[backend].verdict != Verdict::Healthy;
            let placement = match self.placement {
                Placement::Home if in_panic => Placement::Panic,
                placement => placement,
            };
            return Ok(Choice { backend, placement });
        }
        if let Some(failure) = self.last_failure {
            return Err(failure);
        }
        view.failing_usable = true;
        let any_up = (0..view.count()).any(|index| view.usable(index));
        Err(if any_up { End::BackendFailing } else { self.all_out() })
    }

    /// Keyed algorithms: says what passing over the key's own backend costs, before the algorithm
    /// does so.
    fn step_over_home(&mut self, memory: &PoolMemory, now: u32) -> Result<(), End> {
        let Some(home) = self.home() else { return Ok(()) };
        let backend = &self.pool.backends[home];
        if !self.pool.in_service(backend) {
            let (end, placement) = out_of_service(backend);
            if self.pool.settings.on_down == OnDown::Reject {
                return Err(end);
            }
            self.detour(placement);
        } else if memory.failing_until.get(home).is_some_and(|until| *until > now) {
            if self.retries_left == 0 {
                return Err(End::BackendFailing);
            }
            self.retries_left -= 1;
            self.detour(Placement::PassedOver);
        }
        Ok(())
    }

    /// The key's own backend.
    fn home(&self) -> Option<usize> {
        self.pool.balance.home(self.key, self.pool.backends.len())
    }

    /// Why no backend is in service: what is known of the first that was meant to be.
    fn all_out(&self) -> End {
        let ready = self.pool.backends.iter().find(|b| b.state == BackendState::Ready);
        ready.map_or(End::BackendDown, |backend| out_of_service(backend).0)
    }

    /// A missing key stays the reason: it is why the session is in this pool at all, and the
    /// attempts of a session are counted beside it.
    fn detour(&mut self, placement: Placement) {
        if self.placement != Placement::KeyMissing {
            self.placement = placement;
        }
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
        self.detour(Placement::Retry);
        self.last_failure = Some(failure);
        Ok(())
    }

    /// How many backends were tried.
    pub fn attempts(&self) -> u32 {
        u32::try_from(self.tried.len()).unwrap_or(u32::MAX)
    }
}

/// Why a backend takes no new sessions: the end of one that may go nowhere else, and the reason of
/// one that may.
fn out_of_service(backend: &Backend) -> (End, Placement) {
    match (backend.state, backend.verdict) {
        (BackendState::Ready, Verdict::Unhealthy) => {
            (End::BackendUnhealthy, Placement::NextUnhealthy)
        }
        (BackendState::Ready, Verdict::Ejected) => (End::BackendEjected, Placement::NextEjected),
        _ => (End::BackendDown, Placement::Next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::table::Table;

    fn table(states: &[BackendState], change: impl FnOnce(&mut config::Pool)) -> Table {
        let path = |index: usize| config::Address::Unix(format!("/{index}").into());
        let addresses: Vec<_> = (0..states.len()).map(path).collect();
        Table::sample(&addresses, |pool| {
            for (backend, state) in pool.backends.iter_mut().zip(states) {
                backend.state = *state;
            }
            change(pool);
        })
    }

    const UP: BackendState = BackendState::Ready;
    const DOWN: BackendState = BackendState::Down;

    /// A key whose home is backend 0 of three.
    fn key() -> Vec<u8> {
        let is_home = |key: &Vec<u8>| crc32fast::hash(key).is_multiple_of(3);
        (0..).map(|n: u32| n.to_string().into_bytes()).find(is_home).unwrap_or_default()
    }

    fn choice(backend: usize, placement: Placement) -> Result<Choice, End> {
        Ok(Choice { backend, placement })
    }

    #[test]
    fn home_first_then_others_in_order_as_far_as_retries_go() {
        let table = table(&[UP, UP, UP], |pool| pool.retries = 2);
        let (key, mut memory) = (key(), PoolMemory::new(3, 0));
        let mut search = Search::new(&table.pools[0], 0, &key, Placement::Home);
        assert_eq!(search.next(&mut memory, 0), choice(0, Placement::Home));
        assert_eq!(search.failed(End::ConnectRefused), Ok(()));
        assert_eq!(search.next(&mut memory, 0), choice(1, Placement::Retry));
        assert_eq!(search.failed(End::ConnectTimeout), Ok(()));
        assert_eq!(search.next(&mut memory, 0), choice(2, Placement::Retry));
        assert_eq!(search.failed(End::ConnectRefused), Err(End::ConnectRefused));
        assert_eq!(search.attempts(), 3);
    }

    #[test]
    fn no_retry_after_an_end_that_is_not_the_backends_fault() {
        let table = table(&[UP, UP, UP], |pool| pool.retries = 2);
        let (key, mut memory) = (key(), PoolMemory::new(3, 0));
        let mut search = Search::new(&table.pools[0], 0, &key, Placement::Home);
        assert!(search.next(&mut memory, 0).is_ok());
        assert_eq!(search.failed(End::DrainDeadline), Err(End::DrainDeadline));
        assert_eq!(search.failed(End::DescriptorsExhausted), Err(End::DescriptorsExhausted));
    }

    #[test]
    fn a_home_that_failed_a_moment_ago_costs_a_retry_and_comes_back() {
        let mut memory = PoolMemory::new(3, 0);
        memory.failing_until[0] = 20;
        let key = key();
        let without = table(&[UP, UP, UP], |_| {});
        let mut search = Search::new(&without.pools[0], 0, &key, Placement::Home);
        assert_eq!(search.next(&mut memory, 19), Err(End::BackendFailing));
        let mut search = Search::new(&without.pools[0], 0, &key, Placement::Home);
        assert_eq!(search.next(&mut memory, 20), choice(0, Placement::Home));
        let with = table(&[UP, UP, UP], |pool| pool.retries = 1);
        let mut search = Search::new(&with.pools[0], 0, &key, Placement::Home);
        assert_eq!(search.next(&mut memory, 19), choice(1, Placement::PassedOver));
        assert_eq!(search.failed(End::ConnectRefused), Err(End::ConnectRefused));
    }

    #[test]
    fn a_home_marked_down_follows_the_policy() {
        let (key, mut memory) = (key(), PoolMemory::new(3, 0));
        let reject = table(&[DOWN, UP, UP], |_| {});
        let mut search = Search::new(&reject.pools[0], 0, &key, Placement::Home);
        assert_eq!(search.next(&mut memory, 0), Err(End::BackendDown));
        let next = table(&[DOWN, DOWN, UP], |pool| pool.on_down = OnDown::Next);
        let mut search = Search::new(&next.pools[0], 0, &key, Placement::Home);
        assert_eq!(search.next(&mut memory, 0), choice(2, Placement::Next));
        let none = table(&[DOWN, DOWN, DOWN], |pool| pool.on_down = OnDown::Next);
        let mut search = Search::new(&none.pools[0], 0, &key, Placement::Home);
        assert_eq!(search.next(&mut memory, 0), Err(End::BackendDown));
    }

    /// The pool of a table with these verdicts.
    fn judged(table: &Table, verdicts: &[Verdict], panicking: bool) -> Pool {
        let pool = &table.pools[0];
        let backends = pool.backends.iter().zip(verdicts);
        let backends = backends.map(|(backend, verdict)| backend.judged(*verdict, None).into());
        pool.judged(backends.collect(), panicking)
    }

    #[test]
    fn a_home_out_of_service_follows_the_policy_under_its_own_name() {
        use Verdict::{Ejected, Healthy, Unhealthy};
        let (key, mut memory) = (key(), PoolMemory::new(3, 0));
        let reject = table(&[UP, UP, UP], |_| {});
        let next = table(&[UP, UP, UP], |pool| pool.on_down = OnDown::Next);
        for (verdict, end, placement) in [
            (Unhealthy, End::BackendUnhealthy, Placement::NextUnhealthy),
            (Ejected, End::BackendEjected, Placement::NextEjected),
        ] {
            let mut tried = |table: &Table, verdicts: [Verdict; 3], panicking| {
                let pool = judged(table, &verdicts, panicking);
                Search::new(&pool, 0, &key, Placement::Home).next(&mut memory, 0)
            };
            assert_eq!(tried(&reject, [verdict, Healthy, Healthy], false), Err(end));
            assert_eq!(tried(&next, [verdict, verdict, Healthy], false), choice(2, placement));
            assert_eq!(tried(&next, [verdict; 3], false), Err(end));
            assert_eq!(tried(&reject, [verdict; 3], true), choice(0, Placement::Panic));
            assert_eq!(
                tried(&reject, [Healthy, verdict, verdict], true),
                choice(0, Placement::Home)
            );
        }
        // What somebody said counts more.
        let down = table(&[DOWN, UP, UP], |_| {});
        let pool = judged(&down, &[Unhealthy, Healthy, Healthy], true);
        let mut search = Search::new(&pool, 0, &key, Placement::Home);
        assert_eq!(search.next(&mut memory, 0), Err(End::BackendDown));
    }

    #[test]
    fn room_is_looked_for_where_there_is_no_home() {
        let limited = |balance| {
            table(&[UP, UP], |pool| {
                pool.balance = balance;
                pool.health.limits.connections_max = Some(1);
            })
        };
        let now = Instant::now();
        let mut memory = PoolMemory::new(2, 0);
        let spread = limited(crate::balance::Algorithm::RoundRobin);
        let pool = &spread.pools[0];
        let mut pick =
            || Search::new(pool, 0, b"", Placement::Home).with_room_at(now).next(&mut memory, 0);
        assert!(pool.backends[0].shared.room.enter(&pool.terms(&pool.backends[0]), now));
        for _ in 0..4 {
            assert_eq!(pick(), choice(1, Placement::Home));
        }
        assert!(pool.backends[1].shared.room.enter(&pool.terms(&pool.backends[1]), now));
        let picked: Vec<usize> = (0..4).filter_map(|_| Some(pick().ok()?.backend)).collect();
        assert_eq!(picked.len(), 4, "where all are full, one waits somewhere");
        assert!(picked.contains(&0) && picked.contains(&1), "{picked:?}");

        let keyed = limited(crate::balance::Algorithm::Crc32Mod);
        let pool = &keyed.pools[0];
        let home = pool.balance.home(b"a", 2).unwrap();
        assert!(pool.backends[home].shared.room.enter(&pool.terms(&pool.backends[home]), now));
        let mut search = Search::new(pool, 0, b"a", Placement::Home).with_room_at(now);
        assert_eq!(search.next(&mut memory, 0), choice(home, Placement::Home));
    }

    #[test]
    fn a_missing_key_stays_the_reason_over_detours() {
        let table = table(&[UP, UP, UP], |pool| pool.retries = 1);
        let mut memory = PoolMemory::new(3, 0);
        let mut search = Search::new(&table.pools[0], 0, b"", Placement::KeyMissing);
        assert_eq!(search.next(&mut memory, 0), choice(0, Placement::KeyMissing));
        assert_eq!(search.failed(End::ConnectRefused), Ok(()));
        assert_eq!(search.next(&mut memory, 0), choice(1, Placement::KeyMissing));
    }

    #[test]
    fn an_empty_pool_says_so() {
        let table = table(&[], |_| {});
        let mut search = Search::new(&table.pools[0], 0, b"a", Placement::Home);
        assert_eq!(search.next(&mut PoolMemory::new(0, 0), 0), Err(End::PoolEmpty));
    }
}

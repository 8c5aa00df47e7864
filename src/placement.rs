//! Which backend a session tries next, and why: policy around the algorithm. Pure.
//!
//! The algorithm knows keys and weights. This knows which backends this session tried, which are
//! marked down, which failed a moment ago, which have more than their share of sessions, how many
//! other backends may still be tried, and gives every choice its reason.

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

    /// What this, of an earlier version of the pool, is for the next version: backends that are
    /// still in keep their turns and failures. Costs nothing while the backends are the same.
    pub fn carried(self, old: &Pool, new: &Pool) -> PoolMemory {
        if new.has_positions_of(old) {
            return self;
        }
        let position = |index: usize| new.position(old.backends.get(index)?);
        let count = new.backends.len();
        let mut failing_until = vec![0; count];
        // Few have failed ever.
        let failed = self.failing_until.iter().enumerate().filter(|(_, until)| **until > 0);
        for (index, until) in failed {
            if let Some(slot) = position(index).and_then(|index| failing_until.get_mut(index)) {
                *slot = *until;
            }
        }
        PoolMemory { pick: self.pick.moved(count, position), failing_until }
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
    home: Option<usize>,
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

/// What a keyed algorithm's first answer comes to.
enum Owner {
    /// It takes the session.
    Takes(usize),
    /// It has more than its share of sessions.
    Overloaded(usize),
    /// It failed a moment ago; a retry was spent on passing it over.
    PassedOver,
    /// The key has no backend of its own.
    Nobody,
}

/// A pool as one session sees it.
#[derive(Clone, Copy)]
struct View<'a> {
    pool: &'a Pool,
    tried: &'a [u32],
    failing_until: &'a [u32],
    now: u32,
    /// Count backends that failed a moment ago as usable.
    failing_usable: bool,
    /// Count backends with more than their share as usable.
    overloaded_usable: bool,
    /// Count only backends that have room at this moment.
    room_at: Option<Instant>,
}

impl View<'_> {
    fn in_service(&self, index: usize) -> bool {
        self.pool.in_service(&self.pool.backends[index])
    }

    fn has_room(&self, index: usize) -> bool {
        let backend = &self.pool.backends[index];
        let is_open = |now| backend.shared.room.is_open(&self.pool.terms(backend), now);
        self.room_at.is_none_or(is_open)
    }

    fn failing(&self, index: usize) -> bool {
        self.failing_until.get(index).is_some_and(|until| *until > self.now)
    }

    fn overloaded(&self, index: usize) -> bool {
        let bound = self.pool.bound.as_ref();
        bound.is_some_and(|bound| !bound.allows(index, self.live(index), self.pool.live()))
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
        self.in_service(index)
            && self.has_room(index)
            && (self.failing_usable || !self.failing(index))
            && !self.tried(index)
            && (self.overloaded_usable || !self.overloaded(index))
    }

    fn live(&self, index: usize) -> u32 {
        self.pool.backends[index].shared.room.live()
    }

    fn tried(&self, index: usize) -> bool {
        self.tried.iter().any(|tried| *tried as usize == index)
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
        Search {
            pool_index,
            pool,
            key,
            home: pool.balance.home(key),
            tried: SmallVec::new(),
            retries_left: pool.settings.retries,
            placement,
            last_failure: None,
            room_at: None,
        }
    }

    /// Looks for room at this moment. A key that has a home waits there; who has none need not wait
    /// for one backend while another has room.
    pub fn with_room_at(mut self, now: Instant) -> Search<'a> {
        self.room_at = self.home.is_none().then_some(now);
        self
    }

    /// Keyed algorithms: the backend the key belongs to, whatever its state.
    pub fn home(&self) -> Option<usize> {
        self.home
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
        let owner = match self.last_failure {
            None => self.owner(memory, now)?,
            Some(_) => Owner::Nobody,
        };
        let view = self.view(&memory.failing_until, now);
        let mut pick = |view: &View<'_>| self.pool.balance.pick(self.key, &mut memory.pick, view);
        let anywhere = View { room_at: None, overloaded_usable: true, ..view };
        let (picked, detour) = match owner {
            Owner::Takes(index) => (Some(index), None),
            Owner::Overloaded(index) => match pick(&view) {
                Some(other) => (Some(other), Some(Placement::Overloaded)),
                // All have more than their share: its own backend is as good as any.
                None => (Some(index), None),
            },
            Owner::PassedOver | Owner::Nobody => {
                let mut picked = None;
                if view.room_at.is_some() {
                    picked = pick(&view);
                }
                if picked.is_none() && self.pool.bound.is_some() {
                    picked = pick(&View { room_at: None, ..view });
                }
                (picked.or_else(|| pick(&anywhere)), None)
            }
        };
        let any_up = || {
            let view = View { failing_usable: true, ..anywhere };
            (0..view.count()).any(|index| view.usable(index))
        };
        let Some(backend) = picked else {
            let policy = || if any_up() { End::BackendFailing } else { self.all_out() };
            return Err(self.last_failure.unwrap_or_else(policy));
        };
        if let Some(detour) = detour {
            self.detour(detour);
        }
        self.tried.push(u32::try_from(backend).unwrap_or(u32::MAX));
        let in_panic = self.pool.backends[backend].verdict != Verdict::Healthy;
        let placement = match self.placement {
            Placement::Home if in_panic => Placement::Panic,
            placement => placement,
        };
        Ok(Choice { backend, placement })
    }

    /// Keyed algorithms: the backend that takes the key while the states are what they are, and
    /// what stands against it; the reason for it, if that is not the key's home.
    fn owner(&mut self, memory: &mut PoolMemory, now: u32) -> Result<Owner, End> {
        let Some(home) = self.home else { return Ok(Owner::Nobody) };
        let balance = &self.pool.balance;
        let view = self.view(&memory.failing_until, now);
        let serves = view.in_service(home);
        let (end, next) = out_of_service(&self.pool.backends[home]);
        if !serves && self.pool.settings.on_down == OnDown::Reject {
            return Err(end);
        }
        let owner = if serves && !balance.moves_others() {
            home
        } else {
            let by_state = View { failing_usable: true, overloaded_usable: true, ..view };
            let picked = balance.pick(self.key, &mut memory.pick, &by_state);
            picked.ok_or_else(|| self.all_out())?
        };
        let failing = view.failing(owner);
        let overloaded = view.overloaded(owner);
        if !serves {
            self.detour(next);
        } else if owner != home {
            self.detour(Placement::Reshuffled);
        }
        if failing {
            if self.retries_left == 0 {
                return Err(End::BackendFailing);
            }
            self.retries_left -= 1;
            self.detour(Placement::PassedOver);
            return Ok(Owner::PassedOver);
        }
        Ok(if overloaded { Owner::Overloaded(owner) } else { Owner::Takes(owner) })
    }

    fn view<'v>(&'v self, failing_until: &'v [u32], now: u32) -> View<'v> {
        View {
            pool: self.pool,
            tried: &self.tried,
            failing_until,
            now,
            failing_usable: false,
            overloaded_usable: false,
            room_at: self.room_at,
        }
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
    use crate::table::{Layout, Table};

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

    /// A session on this backend.
    fn enter(pool: &Pool, index: usize) {
        let backend = &pool.backends[index];
        assert!(backend.shared.enter(&pool.terms(backend), Instant::now()));
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
        enter(pool, 0);
        for _ in 0..4 {
            assert_eq!(pick(), choice(1, Placement::Home));
        }
        enter(pool, 1);
        let picked: Vec<usize> = (0..4).filter_map(|_| Some(pick().ok()?.backend)).collect();
        assert_eq!(picked.len(), 4, "where all are full, one waits somewhere");
        assert!(picked.contains(&0) && picked.contains(&1), "{picked:?}");

        let keyed = limited(crate::balance::Algorithm::Crc32Mod);
        let pool = &keyed.pools[0];
        let home = pool.balance.home(b"a").unwrap();
        enter(pool, home);
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

    fn tcp_table(count: u16, change: impl FnOnce(&mut config::Pool)) -> Table {
        let address = |port| config::Address::Tcp(([127, 0, 0, 1], port).into());
        let addresses: Vec<_> = (1..=count).map(address).collect();
        Table::sample(&addresses, change)
    }

    /// The first key with this home, and this owner while states are what they are.
    fn key_of(table: &Table, home: usize, is_owner: impl Fn(usize) -> bool) -> Vec<u8> {
        let standing = crate::movement::Standing::of_table(&table.pools[0]);
        let fits = |key: &Vec<u8>| {
            table.pools[0].balance.home(key) == Some(home)
                && standing.place(key).is_ok_and(&is_owner)
        };
        (0..).map(|n: u32| n.to_string().into_bytes()).find(fits).unwrap_or_default()
    }

    #[test]
    fn a_key_that_moves_because_another_is_down_says_so() {
        let map = |on_down| {
            tcp_table(4, |pool| {
                pool.balance = crate::balance::Algorithm::HaproxyMap;
                pool.backends[3].state = DOWN;
                pool.on_down = on_down;
            })
        };
        let mut memory = PoolMemory::new(4, 0);
        let next = map(OnDown::Next);
        let key = key_of(&next, 0, |owner| owner != 0);
        let mut search = Search::new(&next.pools[0], 0, &key, Placement::Home);
        let placed = search.next(&mut memory, 0);
        assert!(placed.is_ok_and(|choice| choice.placement == Placement::Reshuffled));
        let stays = key_of(&next, 1, |owner| owner == 1);
        let mut search = Search::new(&next.pools[0], 0, &stays, Placement::Home);
        assert_eq!(search.next(&mut memory, 0), choice(1, Placement::Home));
        // Where keys of a backend that is down are rejected, nobody else's move.
        let reject = map(OnDown::Reject);
        let mut search = Search::new(&reject.pools[0], 0, &key, Placement::Home);
        assert_eq!(search.next(&mut memory, 0), choice(0, Placement::Home));
    }

    #[test]
    fn the_owner_of_a_key_whose_home_is_down_may_fail_too() {
        let table = table(&[DOWN, UP, UP], |pool| pool.on_down = OnDown::Next);
        let (key, mut memory) = (key(), PoolMemory::new(3, 0));
        memory.failing_until[1] = 20;
        let mut search = Search::new(&table.pools[0], 0, &key, Placement::Home);
        assert_eq!(search.next(&mut memory, 0), Err(End::BackendFailing));
    }

    #[test]
    fn an_overloaded_home_is_passed_over_and_costs_no_retry() {
        let bounded = table(&[UP, UP, UP], |pool| {
            pool.bounded_load = Some(crate::balance::Factor(125));
            pool.retries = 0;
        });
        let pool = &bounded.pools[0];
        let (key, mut memory) = (key(), PoolMemory::new(3, 0));
        let mut next = || Search::new(pool, 0, &key, Placement::Home).next(&mut memory, 0);
        // Of 12 sessions and one more, times 1.25, 17 slots: the first third is 5.
        let open = |index: usize, count: usize| {
            (0..count).for_each(|_| enter(pool, index));
        };
        [4, 4, 4].into_iter().enumerate().for_each(|(index, count)| open(index, count));
        assert_eq!(next(), choice(0, Placement::Home));
        open(0, 1);
        // 5 of 13: 14 times 1.25 is 18 slots, 6 each.
        assert_eq!(next(), choice(0, Placement::Home));
        open(0, 2);
        assert_eq!(next(), choice(1, Placement::Overloaded));
        open(1, 2);
        // 17 sessions, 23 slots: 7, 8 and 8.
        assert_eq!(next(), choice(1, Placement::Overloaded));
        open(0, 4);
        open(1, 6);
        // 27 sessions, 35 slots: 11, 12 and 12.
        assert_eq!(next(), choice(2, Placement::Overloaded));
        pool.backends[0].shared.closed();
        assert_eq!(next(), choice(0, Placement::Home));
    }

    #[test]
    fn a_bound_that_nobody_meets_is_no_reason_to_refuse() {
        let table = table(&[UP, DOWN, UP], |pool| {
            pool.bounded_load = Some(crate::balance::Factor(101));
            pool.retries = 1;
        });
        let pool = &table.pools[0];
        (0..9).for_each(|_| enter(pool, 0));
        let (key, mut memory) = (key(), PoolMemory::new(3, 0));
        memory.failing_until[2] = 20;
        let mut search = Search::new(pool, 0, &key, Placement::Home);
        assert_eq!(search.next(&mut memory, 0), choice(0, Placement::Home));
        // After a failure the bound counts as well, as long as somebody meets it.
        assert_eq!(search.failed(End::ConnectRefused), Ok(()));
        assert_eq!(search.next(&mut memory, 20), choice(2, Placement::Retry));
    }

    #[test]
    fn memory_follows_backends_and_costs_nothing_while_they_stay() {
        let first = tcp_table(4, |pool| pool.balance = crate::balance::Algorithm::RoundRobin);
        let mut memory = PoolMemory::new(4, 9);
        memory.failing_until = vec![0, 7, 0, 9];
        memory.pick.current = vec![1, -2, 3, -4];
        let at = memory.pick.current.as_ptr();
        let second = first.successor(1);
        let memory = memory.carried(&first.pools[0], &second.pools[0]);
        assert_eq!(memory.pick.current.as_ptr(), at, "moved, not copied");

        let mut settings = second.pools[0].settings.clone();
        settings.backends.swap(0, 3);
        settings.backends.remove(1);
        let address = config::Address::Tcp(([127, 0, 0, 1], 77).into());
        settings.backends.push(config::Backend { address, ..settings.backends[0].clone() });
        let third = second.next(&Layout::of_pools(vec![settings]), 1);
        let memory = memory.carried(&second.pools[0], &third.pools[0]);
        assert_eq!(memory.failing_until, [9, 0, 0, 0]);
        assert_eq!(memory.pick.current, [-4, 3, 1, 0]);
        assert_eq!(memory.pick.random, 9);
    }
}

//! A pool of one version, its backends, and what of them outlives the version.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use super::is_held;
use crate::balance::{Balance, Bound, Entry};
use crate::config::{self, BackendState};
use crate::health::room::{Room, Terms};
use crate::metrics::{BackendCells, HealthCells, PerShard, PoolCells};

/// A pool of one version.
#[derive(Debug)]
pub struct Pool {
    /// Its name, for labels and log lines.
    pub label: Arc<str>,
    /// Settings and backends.
    pub settings: config::Pool,
    /// The prepared algorithm.
    pub balance: Balance,
    /// `bounded_load` with the shares of this version's backends in service.
    pub bound: Option<Bound>,
    /// So many backends are out of service that their verdicts are not believed.
    pub panicking: bool,
    /// In the pool's order: an index from `balance` is an index here.
    pub backends: Vec<Arc<Backend>>,
    /// Backends that are no longer in the pool, but have sessions left.
    pub leaving: Vec<Arc<Backend>>,
    /// Counters of the pool's identity, which is its name.
    pub cells: Arc<PerShard<PoolCells>>,
    /// Counters of its health.
    pub health: Arc<HealthCells>,
    /// Sessions open now on all backends the pool ever had.
    live: Arc<AtomicU32>,
    positions: Arc<Positions>,
}

/// Where each identity is in `backends`. Versions with the same backends in the same order share
/// one, so that whoever follows from version to version sees at a glance that nothing moved.
#[derive(Debug, PartialEq, Eq)]
struct Positions(HashMap<usize, usize>);

impl Positions {
    fn of(backends: &[Arc<Backend>]) -> Positions {
        let all = backends.iter().enumerate();
        Positions(all.map(|(index, backend)| (Positions::key(backend), index)).collect())
    }

    /// The address of what is shared: no two that are held have the same.
    fn key(backend: &Backend) -> usize {
        Arc::as_ptr(&backend.shared).addr()
    }
}

/// A backend's identity: its address within a pool.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: config::Address,
    /// `address` as text, for labels and log lines.
    pub label: Arc<str>,
    /// Relative share.
    pub weight: u32,
    /// Whether it takes new sessions, as far as somebody said.
    pub state: BackendState,
    /// Whether it takes new sessions, as far as is known of its health.
    pub verdict: Verdict,
    /// When it came to the pool, or came back into service; `None`: it was there from the start.
    pub returned: Option<Instant>,
    /// What it bears.
    pub limits: config::Limits,
    /// What outlives this version.
    pub shared: Arc<BackendShared>,
}

/// The part of a backend that outlives table versions.
#[derive(Debug)]
pub struct BackendShared {
    /// Sessions open and waiting now on all shards. Written when a session is placed and when it
    /// ends, never per message.
    pub room: Room,
    /// Attempts to connect that failed since the last that succeeded, on all shards.
    pub failures_in_row: AtomicU32,
    /// Counters.
    pub cells: PerShard<BackendCells>,
    pool_live: Arc<AtomicU32>,
}

/// What is known of a backend's health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing bad.
    #[default]
    Healthy,
    /// Its checks fail.
    Unhealthy,
    /// Sessions failed on it, for which it is out for a while.
    Ejected,
}

impl Verdict {
    /// The name in metrics, logs and the admin interface.
    pub fn label(self) -> &'static str {
        match self {
            Verdict::Healthy => "healthy",
            Verdict::Unhealthy => "unhealthy",
            Verdict::Ejected => "ejected",
        }
    }
}

impl BackendShared {
    /// A backend that nothing is known of.
    pub fn new(shards: usize, pool_live: Arc<AtomicU32>) -> BackendShared {
        BackendShared::with_cells(PerShard::new(shards), pool_live)
    }

    /// The same, counted in these cells, which others may be counted in too.
    pub fn with_cells(cells: PerShard<BackendCells>, pool_live: Arc<AtomicU32>) -> BackendShared {
        BackendShared {
            room: Room::default(),
            failures_in_row: AtomicU32::new(0),
            cells,
            pool_live,
        }
    }

    /// Lets a session in if there is room for it; [`BackendShared::closed`] is its end.
    pub fn enter(&self, terms: &Terms, now: Instant) -> bool {
        let entered = self.room.enter(terms, now);
        if entered {
            self.pool_live.fetch_add(1, Relaxed);
        }
        entered
    }

    /// A session that was let in has ended, or could not be connected.
    pub fn closed(&self) {
        self.room.leave();
        self.pool_live.fetch_sub(1, Relaxed);
    }

    /// A connection to it succeeded.
    pub fn connected(&self) {
        // Written only after a failure: all shards read this.
        if self.failures_in_row.load(Relaxed) > 0 {
            self.failures_in_row.store(0, Relaxed);
        }
    }

    /// A connection to it failed, and not by our fault.
    pub fn failed(&self) {
        self.failures_in_row.fetch_add(1, Relaxed);
    }
}

impl Pool {
    /// The index of a backend, by identity.
    pub fn position(&self, backend: &Backend) -> Option<usize> {
        self.positions.0.get(&Positions::key(backend)).copied()
    }

    /// Whether another version of this pool has the same backends in the same order; `false` may be
    /// a mistake, `true` never is.
    pub fn has_positions_of(&self, other: &Pool) -> bool {
        Arc::ptr_eq(&self.positions, &other.positions)
    }

    /// Sessions open now, on all shards and on all backends the pool ever had.
    pub fn live(&self) -> u32 {
        self.live.load(Relaxed)
    }

    /// Backends that take sessions, then those that only have some.
    pub fn all_backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.iter().chain(&self.leaving)
    }

    /// A pool that nobody has met yet.
    pub(super) fn new(settings: &config::Pool, shards: usize) -> Pool {
        let live = Arc::new(AtomicU32::new(0));
        let fresh = |backend: &config::Backend| {
            let shared = BackendShared::new(shards, live.clone());
            Arc::new(Backend::new(backend, settings, Arc::new(shared)))
        };
        let backends: Vec<_> = settings.backends.iter().map(fresh).collect();
        let balance = prepared(settings, &entries(&backends, false));
        let positions = Arc::new(Positions::of(&backends));
        let (cells, health) = (Arc::new(PerShard::new(shards)), Arc::default());
        let panicking = false;
        let parts = Parts { balance, backends, panicking, cells, health, live, positions };
        Pool::build(settings, parts)
    }

    /// The next version. A backend of a known address keeps its identity, also one that has left
    /// and has sessions still.
    pub(super) fn next(&self, settings: &config::Pool, shards: usize) -> Pool {
        let mut known: HashMap<&config::Address, &Arc<Backend>> =
            self.all_backends().map(|backend| (&backend.address, backend)).collect();
        let mut backends = Vec::with_capacity(settings.backends.len());
        for backend in &settings.backends {
            let limits = settings.health.limits_of(&backend.address);
            let same = |old: &Backend| {
                old.weight == backend.weight && old.state == backend.state && old.limits == limits
            };
            backends.push(match known.remove(&backend.address) {
                Some(old) if same(old) => old.clone(),
                Some(old) => {
                    let new = Backend::new(backend, settings, old.shared.clone());
                    Arc::new(Backend { verdict: old.verdict, returned: old.returned, ..new })
                }
                None => {
                    let shared = BackendShared::new(shards, self.live.clone());
                    Arc::new(Backend::new(backend, settings, Arc::new(shared)))
                }
            });
        }
        let left = self.leaving.iter().filter(|backend| is_held(backend));
        let left = self.backends.iter().chain(left);
        let leaving = left.filter(|backend| known.contains_key(&backend.address));
        let leaving = leaving.cloned().collect();
        Pool { leaving, ..self.followed_by(settings, backends, self.panicking) }
    }

    /// The same pool, judged anew.
    pub fn judged(&self, backends: Vec<Arc<Backend>>, panicking: bool) -> Pool {
        let leaving = self.leaving.clone();
        Pool { leaving, ..self.followed_by(&self.settings, backends, panicking) }
    }

    /// Whether the backend takes new sessions.
    #[inline]
    pub fn in_service(&self, backend: &Backend) -> bool {
        in_service(backend, self.panicking)
    }

    /// What the backend bears now.
    pub fn terms(&self, backend: &Backend) -> Terms {
        let slow_start = self.settings.health.slow_start;
        Terms { limits: backend.limits, slow_start, returned: backend.returned }
    }

    /// What was prepared is used again as far as it is of the same backends.
    fn followed_by(
        &self,
        settings: &config::Pool,
        backends: Vec<Arc<Backend>>,
        panicking: bool,
    ) -> Pool {
        let same = |alike: &dyn Fn(&Backend, &Backend) -> bool| {
            let mut pairs = self.backends.iter().zip(&backends);
            self.backends.len() == backends.len() && pairs.all(|(old, new)| alike(old, new))
        };
        let in_place = same(&|old, new| Arc::ptr_eq(&old.shared, &new.shared));
        let positions = match in_place {
            true => self.positions.clone(),
            false => Arc::new(Positions::of(&backends)),
        };
        let entries = entries(&backends, panicking);
        let moves_on = settings.on_down == config::OnDown::Next;
        let alike = self.settings.balance == settings.balance
            && same(&|old, new| old.address == new.address && old.weight == new.weight);
        let stands = self.settings.on_down == settings.on_down
            && same(&|old, new| self.in_service(old) == in_service(new, panicking));
        let balance = match (alike, stands) {
            (true, true) => self.balance.clone(),
            (true, false) => self.balance.with_states(&entries, moves_on),
            (false, _) => prepared(settings, &entries),
        };
        let (cells, health, live) = (self.cells.clone(), self.health.clone(), self.live.clone());
        let parts = Parts { balance, backends, panicking, cells, health, live, positions };
        Pool::build(settings, parts)
    }

    fn build(settings: &config::Pool, parts: Parts) -> Pool {
        let Parts { balance, backends, panicking, cells, health, live, positions } = parts;
        let weight = |backend: &Arc<Backend>| match in_service(backend, panicking) {
            true => backend.weight,
            false => 0,
        };
        let bound = settings.bounded_load;
        let bound = bound.map(|factor| Bound::new(factor, backends.iter().map(weight)));
        Pool {
            label: settings.name.as_str().into(),
            settings: settings.clone(),
            balance,
            bound,
            backends,
            leaving: Vec::new(),
            panicking,
            cells,
            health,
            live,
            positions,
        }
    }
}

/// What a pool is built of, besides its settings.
struct Parts {
    balance: Balance,
    backends: Vec<Arc<Backend>>,
    panicking: bool,
    cells: Arc<PerShard<PoolCells>>,
    health: Arc<HealthCells>,
    live: Arc<AtomicU32>,
    positions: Arc<Positions>,
}

/// Prepares the algorithm, and says what it could not take.
fn prepared(settings: &config::Pool, entries: &[Entry<'_>]) -> Balance {
    let moves_on = settings.on_down == config::OnDown::Next;
    let balance = Balance::prepare(settings.balance, entries, moves_on);
    if balance.lowered() {
        let (pool, algorithm) = (&*settings.name, settings.balance.name());
        tracing::warn!(pool, algorithm, "weights are too large for the algorithm: divided");
    }
    balance
}

fn entries(backends: &[Arc<Backend>], panicking: bool) -> Vec<Entry<'_>> {
    backends
        .iter()
        .map(|backend| Entry {
            id: &backend.label,
            weight: backend.weight,
            ready: in_service(backend, panicking),
        })
        .collect()
}

fn in_service(backend: &Backend, panicking: bool) -> bool {
    backend.state == BackendState::Ready && (panicking || backend.verdict == Verdict::Healthy)
}

impl Backend {
    /// The name of its state: what somebody said, and if that is nothing, what is known.
    pub fn state_label(&self) -> &'static str {
        match (self.state, self.verdict) {
            (BackendState::Drain, _) => "drain",
            (BackendState::Down, _) => "down",
            (BackendState::Ready, Verdict::Healthy) => "ready",
            (BackendState::Ready, verdict) => verdict.label(),
        }
    }

    /// The same backend, judged anew.
    pub fn judged(&self, verdict: Verdict, returned: Option<Instant>) -> Backend {
        Backend {
            address: self.address.clone(),
            label: self.label.clone(),
            weight: self.weight,
            state: self.state,
            verdict,
            returned,
            limits: self.limits,
            shared: self.shared.clone(),
        }
    }

    /// The backend at an address that a lookup found.
    pub fn looked_up(address: SocketAddr, shared: Arc<BackendShared>) -> Backend {
        let address = config::Address::Tcp(address);
        Backend {
            label: address.to_string().into(),
            address,
            weight: 1,
            state: BackendState::Ready,
            verdict: Verdict::Healthy,
            returned: None,
            limits: config::Limits::default(),
            shared,
        }
    }

    fn new(settings: &config::Backend, pool: &config::Pool, shared: Arc<BackendShared>) -> Backend {
        Backend {
            address: settings.address.clone(),
            label: settings.address.to_string().into(),
            weight: settings.weight,
            state: settings.state,
            verdict: Verdict::Healthy,
            returned: None,
            limits: pool.health.limits_of(&settings.address),
            shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Algorithm;
    use crate::table::{Layout, Table};

    fn with(table: &Table, ports: &[u16]) -> Layout {
        let mut pool = table.pools[0].settings.clone();
        let backend = |port: &u16| config::Backend {
            address: config::Address::Tcp(([127, 0, 0, 1], *port).into()),
            weight: 1,
            state: config::BackendState::Ready,
        };
        pool.backends = ports.iter().map(backend).collect();
        Layout::of_pools(vec![pool])
    }

    fn enter(pool: &Pool, index: usize) -> bool {
        let backend = &pool.backends[index];
        backend.shared.enter(&pool.terms(backend), Instant::now())
    }

    #[test]
    fn a_successor_is_built_anew_around_the_same_identities() {
        let addresses = config::Address::local(1..4);
        let first = Table::sample(&addresses, |pool| pool.backends[1].weight = 7);
        let second = first.successor(1);
        assert_eq!((second.version, second.pools.len()), (2, 1));
        let (old, new) = (&first.pools[0], &second.pools[0]);
        assert!(!Arc::ptr_eq(old, new) && Arc::ptr_eq(&old.cells, &new.cells));
        assert_eq!(old.backends.len(), new.backends.len());
        for (index, (old, new)) in old.backends.iter().zip(&new.backends).enumerate() {
            assert!(Arc::ptr_eq(&old.shared, &new.shared));
            assert_eq!((&old.address, old.weight), (&new.address, new.weight));
            assert_eq!(second.pools[0].position(old), Some(index));
        }
        assert_eq!(new.backends[1].weight, 7);
        assert!(new.has_positions_of(old));
    }

    #[test]
    fn a_changed_set_keeps_the_identities_that_stay() {
        let first = Table::sample(&config::Address::local(1..5), |_| {});
        assert!(enter(&first.pools[0], 1));
        let second = first.next(&with(&first, &[4, 1, 9]), 1);
        let (old, new) = (&first.pools[0], &second.pools[0]);
        assert!(!new.has_positions_of(old));
        let found: Vec<_> = old.backends.iter().map(|backend| new.position(backend)).collect();
        assert_eq!(found, [Some(1), None, None, Some(0)]);
        assert_eq!((new.live(), new.backends.len()), (1, 3), "its session is still the pool's");
    }

    #[test]
    fn a_backend_that_left_is_kept_while_a_session_has_it_and_comes_back_as_itself() {
        let first = Table::sample(&config::Address::local(1..4), |_| {});
        let session = first.pools[0].backends[1].clone();
        assert!(enter(&first.pools[0], 1));
        let second = first.next(&with(&first, &[1, 3]), 1);
        drop(first);
        assert_eq!(second.pools[0].backends.len(), 2);
        assert!(Arc::ptr_eq(&second.pools[0].leaving[0].shared, &session.shared));
        let third = second.next(&with(&second, &[1, 3, 2]), 1);
        let back = &third.pools[0].backends[2].shared;
        assert!(Arc::ptr_eq(back, &session.shared));
        assert_eq!((back.room.live(), third.pools[0].live()), (1, 1));
        assert!(third.pools[0].leaving.is_empty());
        session.shared.closed();
        assert_eq!(third.pools[0].live(), 0);
        drop((third, session));
        // Nobody holds on to it: forgotten.
        assert!(second.has_left());
        let fourth = second.next(&with(&second, &[1, 3]), 1);
        assert!(fourth.pools[0].leaving.is_empty());
    }

    #[test]
    fn what_was_prepared_is_used_again_while_backends_are_the_same() {
        let first = Table::sample(&config::Address::local(1..4), |pool| {
            pool.balance = Algorithm::Ketama;
            pool.on_down = config::OnDown::Next;
        });
        let layout = || Layout::of_pools(vec![first.pools[0].settings.clone()]);
        let shares = |a: &Table, b: &Table| a.pools[0].balance.shares_with(&b.pools[0].balance);
        assert!(shares(&first, &first.successor(1)));
        assert!(shares(&first, &first.next(&layout(), 1)));
        let mut down = layout();
        down.pools[0].backends[1].state = config::BackendState::Down;
        let second = first.next(&down, 1);
        assert!(shares(&first, &second), "another state, the same ring");
        let key = (0..).map(|n: u32| n.to_string().into_bytes());
        let mut homeless = key.filter(|key| second.pools[0].balance.home(key) == Some(1));
        let key = homeless.next().expect("a key of the second backend");
        let standing = crate::movement::Standing::of_table(&second.pools[0]);
        assert_ne!(standing.place(&key), Ok(1), "its keys move on");
        let mut heavier = layout();
        heavier.pools[0].backends[1].weight = 2;
        assert!(!shares(&first, &first.next(&heavier, 1)));
        assert!(!shares(&first, &first.next(&with(&first, &[1, 2, 4]), 1)));
        let mut other = layout();
        other.pools[0].balance = Algorithm::RestyChash;
        assert!(!shares(&first, &first.next(&other, 1)));
    }
}

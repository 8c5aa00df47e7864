//! A pool of one version, its backends, and what of them outlives the version.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::is_held;
use crate::balance::{Balance, Bound, Entry};
use crate::config;
use crate::metrics::{BackendCells, PerShard, PoolCells};

/// A pool of one version.
#[derive(Debug)]
pub struct Pool {
    /// Its name, for labels and log lines.
    pub label: Arc<str>,
    /// Settings and backends.
    pub settings: config::Pool,
    /// The prepared algorithm.
    pub balance: Balance,
    /// `bounded_load` with the shares of this version's ready backends.
    pub bound: Option<Bound>,
    /// In the pool's order: an index from `balance` is an index here.
    pub backends: Vec<Arc<Backend>>,
    /// Backends that are no longer in the pool, but have sessions left.
    pub leaving: Vec<Arc<Backend>>,
    /// Counters of the pool's identity, which is its name.
    pub cells: Arc<PerShard<PoolCells>>,
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
    /// Whether it takes new sessions.
    pub state: config::BackendState,
    /// What outlives this version.
    pub shared: Arc<BackendShared>,
}

/// The part of a backend that outlives table versions.
#[derive(Debug)]
pub struct BackendShared {
    /// Sessions open now on all shards: what `least_conn` compares. Written when a session is
    /// placed and when it ends, never per message.
    pub live: AtomicU32,
    /// Counters.
    pub cells: PerShard<BackendCells>,
    pool_live: Arc<AtomicU32>,
}

impl BackendShared {
    fn new(shards: usize, pool_live: Arc<AtomicU32>) -> BackendShared {
        BackendShared { live: AtomicU32::new(0), cells: PerShard::new(shards), pool_live }
    }

    /// A session is placed here.
    pub fn opened(&self) {
        self.live.fetch_add(1, Relaxed);
        self.pool_live.fetch_add(1, Relaxed);
    }

    /// A session that was placed here has ended, or could not be connected.
    pub fn closed(&self) {
        self.live.fetch_sub(1, Relaxed);
        self.pool_live.fetch_sub(1, Relaxed);
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
            Arc::new(Backend::new(backend, Arc::new(BackendShared::new(shards, live.clone()))))
        };
        let backends: Vec<_> = settings.backends.iter().map(fresh).collect();
        let moves_on = settings.on_down == config::OnDown::Next;
        let balance = Balance::prepare(settings.balance, &entries(&backends), moves_on);
        let positions = Arc::new(Positions::of(&backends));
        let cells = Arc::new(PerShard::new(shards));
        Pool::build(settings, Parts { balance, backends, cells, live, positions })
    }

    /// The next version. A backend of a known address keeps its identity, also one that has left
    /// and has sessions still.
    pub(super) fn next(&self, settings: &config::Pool, shards: usize) -> Pool {
        let mut known: HashMap<&config::Address, &Arc<Backend>> =
            self.all_backends().map(|backend| (&backend.address, backend)).collect();
        let mut backends = Vec::with_capacity(settings.backends.len());
        for backend in &settings.backends {
            backends.push(match known.remove(&backend.address) {
                Some(old) if old.weight == backend.weight && old.state == backend.state => {
                    old.clone()
                }
                Some(old) => Arc::new(Backend::new(backend, old.shared.clone())),
                None => {
                    let shared = BackendShared::new(shards, self.live.clone());
                    Arc::new(Backend::new(backend, Arc::new(shared)))
                }
            });
        }
        let left = self.leaving.iter().filter(|backend| is_held(backend));
        let left = self.backends.iter().chain(left);
        let leaving = left.filter(|backend| known.contains_key(&backend.address));
        let leaving = leaving.cloned().collect();
        Pool { leaving, ..self.followed_by(settings, backends) }
    }

    /// What was prepared is used again as far as it is of the same backends.
    fn followed_by(&self, settings: &config::Pool, backends: Vec<Arc<Backend>>) -> Pool {
        let same = |alike: fn(&Backend, &Backend) -> bool| {
            let mut pairs = self.backends.iter().zip(&backends);
            self.backends.len() == backends.len() && pairs.all(|(old, new)| alike(old, new))
        };
        let in_place = same(|old, new| Arc::ptr_eq(&old.shared, &new.shared));
        let positions = match in_place {
            true => self.positions.clone(),
            false => Arc::new(Positions::of(&backends)),
        };
        let entries = entries(&backends);
        let moves_on = settings.on_down == config::OnDown::Next;
        let alike = self.settings.balance == settings.balance
            && same(|old, new| old.address == new.address && old.weight == new.weight);
        let stands = self.settings.on_down == settings.on_down
            && same(|old, new| is_ready(old) == is_ready(new));
        let balance = match (alike, stands) {
            (true, true) => self.balance.clone(),
            (true, false) => self.balance.with_states(&entries, moves_on),
            (false, _) => Balance::prepare(settings.balance, &entries, moves_on),
        };
        let (cells, live) = (self.cells.clone(), self.live.clone());
        Pool::build(settings, Parts { balance, backends, cells, live, positions })
    }

    fn build(settings: &config::Pool, parts: Parts) -> Pool {
        let Parts { balance, backends, cells, live, positions } = parts;
        if balance.lowered() {
            let (pool, algorithm) = (&*settings.name, settings.balance.name());
            tracing::warn!(pool, algorithm, "weights are too large for the algorithm: divided");
        }
        let weight = |backend: &Arc<Backend>| if is_ready(backend) { backend.weight } else { 0 };
        let bound = settings.bounded_load;
        let bound = bound.map(|factor| Bound::new(factor, backends.iter().map(weight)));
        Pool {
            label: settings.name.as_str().into(),
            settings: settings.clone(),
            balance,
            bound,
            backends,
            leaving: Vec::new(),
            cells,
            live,
            positions,
        }
    }
}

/// What a pool is built of, besides its settings.
struct Parts {
    balance: Balance,
    backends: Vec<Arc<Backend>>,
    cells: Arc<PerShard<PoolCells>>,
    live: Arc<AtomicU32>,
    positions: Arc<Positions>,
}

fn entries(backends: &[Arc<Backend>]) -> Vec<Entry<'_>> {
    backends
        .iter()
        .map(|backend| Entry {
            id: &backend.label,
            weight: backend.weight,
            ready: is_ready(backend),
        })
        .collect()
}

fn is_ready(backend: &Backend) -> bool {
    backend.state == config::BackendState::Ready
}

impl Backend {
    fn new(settings: &config::Backend, shared: Arc<BackendShared>) -> Backend {
        Backend {
            address: settings.address.clone(),
            label: settings.address.to_string().into(),
            weight: settings.weight,
            state: settings.state,
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
        first.pools[0].backends[1].shared.opened();
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
        session.shared.opened();
        let second = first.next(&with(&first, &[1, 3]), 1);
        drop(first);
        assert_eq!(second.pools[0].backends.len(), 2);
        assert!(Arc::ptr_eq(&second.pools[0].leaving[0].shared, &session.shared));
        let third = second.next(&with(&second, &[1, 3, 2]), 1);
        let back = &third.pools[0].backends[2].shared;
        assert!(Arc::ptr_eq(back, &session.shared));
        assert_eq!((back.live.load(Relaxed), third.pools[0].live()), (1, 1));
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

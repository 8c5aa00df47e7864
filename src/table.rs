//! One immutable, numbered snapshot of all pools: what a shard places sessions by.
//!
//! The control plane builds it; shards swap their `Arc` when a new one arrives. What must outlive a
//! version (counters, live sessions) hangs on a pool's or backend's identity and is carried over.

use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use crate::balance::{Balance, Bound, Entry};
use crate::config;
use crate::metrics::{BackendCells, PerShard, PoolCells};

/// A version of every pool.
#[derive(Debug)]
pub struct Table {
    /// Rises by one with each version; the first is 1.
    pub version: u64,
    /// In configuration order.
    pub pools: Vec<Arc<Pool>>,
}

/// A pool of one version.
#[derive(Debug)]
pub struct Pool {
    /// Its name, for labels and log lines.
    pub label: Arc<str>,
    /// Settings and declared backends.
    pub settings: config::Pool,
    /// The prepared algorithm.
    pub balance: Balance,
    /// `bounded_load` with the shares of this version's ready backends.
    pub bound: Option<Bound>,
    /// In declared order: an index from `balance` is an index here.
    pub backends: Vec<Arc<Backend>>,
    /// Counters of the pool's identity.
    pub cells: Arc<PerShard<PoolCells>>,
    /// Sessions open now on all backends the pool ever had.
    live: Arc<AtomicU32>,
    positions: Arc<Positions>,
    /// Backends of earlier versions that still have sessions: one that comes back finds its counts.
    gone: Vec<(config::Address, Weak<BackendShared>)>,
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

impl Table {
    /// The first table of a process: version 1, every counter at zero.
    pub fn first(pools: &[config::Pool], shards: usize) -> Table {
        let pools = pools.iter().map(|pool| Arc::new(Pool::new(pool, shards))).collect();
        Table { version: 1, pools }
    }

    /// The next version of the same pools and backends: all of it built anew as after a change,
    /// except the identities, whose counts carry on, and what algorithms prepared.
    pub fn successor(&self) -> Table {
        let pools = self.pools.iter().map(|pool| Arc::new(pool.successor(&pool.settings)));
        Table { version: self.version + 1, pools: pools.collect() }
    }

    /// The next version, of these pools: one of a known name, and in it a backend of a known
    /// address, keeps its identity.
    pub fn changed(&self, pools: &[config::Pool], shards: usize) -> Table {
        let pool = |settings: &config::Pool| match self.pool(&settings.name) {
            Some((_, old)) => Arc::new(old.changed(settings, shards)),
            None => Arc::new(Pool::new(settings, shards)),
        };
        Table { version: self.version + 1, pools: pools.iter().map(pool).collect() }
    }

    /// The pool of this name and its index.
    pub fn pool(&self, name: &str) -> Option<(usize, &Arc<Pool>)> {
        self.pools.iter().enumerate().find(|(_, pool)| pool.settings.name == name)
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

    fn new(settings: &config::Pool, shards: usize) -> Pool {
        let live = Arc::new(AtomicU32::new(0));
        let fresh = |backend: &config::Backend| {
            Backend::new(backend, Arc::new(BackendShared::new(shards, live.clone())))
        };
        let backends: Vec<_> = settings.backends.iter().map(fresh).map(Arc::new).collect();
        let balance = prepared(settings, &entries(&backends));
        let positions = Arc::new(Positions::of(&backends));
        let cells = Arc::new(PerShard::new(shards));
        Pool::build(settings, Parts { balance, backends, cells, live, positions })
    }

    /// The next version with these settings, which name the same backends in the same order.
    fn successor(&self, settings: &config::Pool) -> Pool {
        let backends = settings.backends.iter().zip(&self.backends);
        let backends = backends.map(|(backend, old)| Backend::new(backend, old.shared.clone()));
        let gone = self.gone.clone();
        Pool { gone, ..self.followed_by(settings, backends.map(Arc::new).collect()) }
    }

    fn changed(&self, settings: &config::Pool, shards: usize) -> Pool {
        let gone =
            self.gone.iter().filter_map(|(address, shared)| Some((address, shared.upgrade()?)));
        let here = self.backends.iter().map(|backend| (&backend.address, backend.shared.clone()));
        let mut known: HashMap<&config::Address, Arc<BackendShared>> = gone.chain(here).collect();
        let kept = |backend: &config::Backend| {
            let fresh = || Arc::new(BackendShared::new(shards, self.live.clone()));
            let shared = known.remove(&backend.address).unwrap_or_else(fresh);
            Arc::new(Backend::new(backend, shared))
        };
        let backends = settings.backends.iter().map(kept).collect();
        let gone =
            known.into_iter().map(|(address, shared)| (address.clone(), Arc::downgrade(&shared)));
        let gone = gone.collect();
        Pool { gone, ..self.followed_by(settings, backends) }
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
            (false, _) => prepared(settings, &entries),
        };
        let (cells, live) = (self.cells.clone(), self.live.clone());
        Pool::build(settings, Parts { balance, backends, cells, live, positions })
    }

    fn build(settings: &config::Pool, parts: Parts) -> Pool {
        let Parts { balance, backends, cells, live, positions } = parts;
        let weight = |backend: &Arc<Backend>| if is_ready(backend) { backend.weight } else { 0 };
        let bound = settings.bounded_load;
        let bound = bound.map(|factor| Bound::new(factor, backends.iter().map(weight)));
        Pool {
            label: settings.name.as_str().into(),
            settings: settings.clone(),
            balance,
            bound,
            backends,
            cells,
            live,
            positions,
            gone: Vec::new(),
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
impl Table {
    /// A table with one pool of ready backends under `crc32_mod`; `change` may alter it.
    pub fn sample(addresses: &[config::Address], change: impl FnOnce(&mut config::Pool)) -> Table {
        use std::time::Duration;
        let socket =
            config::SocketOptions { user_timeout: Duration::from_secs(30), keepalive: None };
        let backend = |address: &config::Address| config::Backend {
            address: address.clone(),
            weight: 1,
            state: config::BackendState::Ready,
        };
        let mut pool = config::Pool {
            name: "p".to_owned(),
            balance: crate::balance::Algorithm::Crc32Mod,
            on_down: config::OnDown::Reject,
            connect_timeout: Duration::from_secs(1),
            retries: 0,
            fail_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(600),
            warm: 0,
            socket,
            proxy_out: false,
            source_addresses: Vec::new(),
            bounded_load: None,
            backends: addresses.iter().map(backend).collect(),
        };
        change(&mut pool);
        Table::first(&[pool], 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(ports: impl Iterator<Item = u16>) -> Vec<config::Address> {
        ports.map(|port| config::Address::Tcp(([127, 0, 0, 1], port).into())).collect()
    }

    #[test]
    fn a_successor_is_built_anew_around_the_same_identities() {
        let addresses = [1, 2, 3].map(|port| config::Address::Tcp(([127, 0, 0, 1], port).into()));
        let first = Table::sample(&addresses, |pool| pool.backends[1].weight = 7);
        let second = first.successor();
        assert_eq!((second.version, second.pools.len()), (2, 1));
        let (old, new) = (&first.pools[0], &second.pools[0]);
        assert!(!Arc::ptr_eq(old, new) && Arc::ptr_eq(&old.cells, &new.cells));
        assert_eq!(old.backends.len(), new.backends.len());
        for (index, (old, new)) in old.backends.iter().zip(&new.backends).enumerate() {
            assert!(!Arc::ptr_eq(old, new) && Arc::ptr_eq(&old.shared, &new.shared));
            assert_eq!((&old.address, old.weight), (&new.address, new.weight));
            assert_eq!(second.pools[0].position(old), Some(index));
        }
        assert_eq!(new.backends[1].weight, 7);
    }

    fn ports(pools: &[config::Pool], ports: &[u16]) -> Vec<config::Pool> {
        let mut pool = pools[0].clone();
        let sample = pool.backends[0].clone();
        let backend = |address| config::Backend { address, ..sample.clone() };
        pool.backends = tcp(ports.iter().copied()).into_iter().map(backend).collect();
        vec![pool]
    }

    #[test]
    fn a_changed_set_keeps_the_identities_that_stay_and_those_that_come_back() {
        let first = Table::sample(&tcp(1..5), |_| {});
        let settings = vec![first.pools[0].settings.clone()];
        let leaving = first.pools[0].backends[1].clone();
        leaving.shared.opened();
        let second = first.changed(&ports(&settings, &[4, 1, 9]), 1);
        let (old, new) = (&first.pools[0], &second.pools[0]);
        assert!(!new.has_positions_of(old));
        let found: Vec<_> = old.backends.iter().map(|backend| new.position(backend)).collect();
        assert_eq!(found, [Some(1), None, None, Some(0)]);
        assert_eq!((new.live(), new.backends.len()), (1, 3), "its session is still the pool's");

        // A session holds on to it: when its address comes back, so do its counts.
        drop(first);
        let third = second.changed(&ports(&settings, &[4, 2]), 1);
        assert_eq!(third.pools[0].position(&leaving), Some(1));
        assert_eq!(third.pools[0].backends[1].shared.live.load(Relaxed), 1);
        leaving.shared.closed();
        assert_eq!(third.pools[0].live(), 0);
        // Nobody holds on to it: forgotten.
        drop((second, leaving));
        let fourth = third.changed(&ports(&settings, &[4]), 1);
        drop(third);
        let fifth = fourth.changed(&ports(&settings, &[4]), 1);
        let fifth = fifth.changed(&ports(&settings, &[4]), 1);
        assert!(fifth.pools[0].gone.iter().all(|(_, shared)| shared.upgrade().is_none()));
    }

    #[test]
    fn what_was_prepared_is_used_again_while_backends_are_the_same() {
        use crate::balance::Algorithm;
        let first = Table::sample(&tcp(1..4), |pool| {
            pool.balance = Algorithm::Ketama;
            pool.on_down = config::OnDown::Next;
        });
        let settings = vec![first.pools[0].settings.clone()];
        let shares = |a: &Table, b: &Table| a.pools[0].balance.shares_with(&b.pools[0].balance);
        assert!(shares(&first, &first.successor()));
        assert!(shares(&first, &first.changed(&settings, 1)));
        let mut down = settings.clone();
        down[0].backends[1].state = config::BackendState::Down;
        let second = first.changed(&down, 1);
        assert!(shares(&first, &second), "another state, the same ring");
        let key = (0..).map(|n: u32| n.to_string().into_bytes());
        let mut homeless = key.filter(|key| second.pools[0].balance.home(key) == Some(1));
        let key = homeless.next().expect("a key of the second backend");
        let standing = crate::movement::Standing::of_table(&second.pools[0]);
        assert_ne!(standing.place(&key), Ok(1), "its keys move on");
        let mut heavier = settings.clone();
        heavier[0].backends[1].weight = 2;
        assert!(!shares(&first, &first.changed(&heavier, 1)));
        assert!(!shares(&first, &first.changed(&ports(&settings, &[1, 2, 4]), 1)));
        let mut other = settings;
        other[0].balance = Algorithm::RestyChash;
        assert!(!shares(&first, &first.changed(&other, 1)));
    }
}

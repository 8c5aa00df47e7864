//! One immutable, numbered snapshot of all listeners and pools: what a shard places sessions by.
//!
//! The control plane builds it; shards swap their `Arc` when a new one arrives. What must outlive a
//! version (counters, live sessions) hangs on a pool's or backend's identity and is carried over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::balance::Balance;
use crate::config;
use crate::metrics::{BackendCells, ListenerCells, PerShard, PoolCells};

/// A version of everything sessions are placed by.
#[derive(Debug)]
pub struct Table {
    /// Rises by one with each version; the first is 1.
    pub version: u64,
    /// Rises by one with each configuration; the first is 1.
    pub generation: u64,
    /// In configuration order.
    pub listeners: Vec<Arc<Listener>>,
    /// In configuration order.
    pub pools: Vec<Arc<Pool>>,
    /// Client connections of the whole process.
    pub connections_max: usize,
    /// No longer configured, but with sessions left.
    pub leaving: Leaving,
}

/// What is no longer configured, but has sessions left: it is counted and shown until they end.
#[derive(Debug, Default, Clone)]
pub struct Leaving {
    /// Listeners that take no connections any more.
    pub listeners: Vec<Arc<Listener>>,
    /// Pools that place nobody any more.
    pub pools: Vec<Arc<Pool>>,
}

/// What a table is made of.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Of the configuration.
    pub generation: u64,
    /// In file order; `pool` is an index into `pools`.
    pub listeners: Vec<config::Listener>,
    /// In file order, each with the backends that it has now.
    pub pools: Vec<config::Pool>,
    /// Client connections of the whole process.
    pub connections_max: usize,
}

/// A listener of one configuration.
#[derive(Debug)]
pub struct Listener {
    /// Its name, for labels and log lines.
    pub label: Arc<str>,
    /// Its settings.
    pub settings: config::Listener,
    /// Names of the pools of its configuration, by index.
    pub pools: Arc<[Arc<str>]>,
    /// The configuration it belongs to.
    pub generation: u64,
    /// Counters of the listener's identity, which is its name.
    pub cells: Arc<PerShard<ListenerCells>>,
}

/// A pool of one version.
#[derive(Debug)]
pub struct Pool {
    /// Its name, for labels and log lines.
    pub label: Arc<str>,
    /// Settings and backends.
    pub settings: config::Pool,
    /// The prepared algorithm.
    pub balance: Balance,
    /// In the pool's order: an index from `balance` is an index here.
    pub backends: Vec<Arc<Backend>>,
    /// Backends that are no longer in the pool, but have sessions left.
    pub leaving: Vec<Arc<Backend>>,
    /// Counters of the pool's identity, which is its name.
    pub cells: Arc<PerShard<PoolCells>>,
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
}

impl Table {
    /// The first table of a process: every counter at zero.
    pub fn first(layout: &Layout, shards: usize) -> Table {
        let nothing = Table {
            version: 0,
            generation: 0,
            listeners: Vec::new(),
            pools: Vec::new(),
            connections_max: 0,
            leaving: Leaving::default(),
        };
        nothing.next(layout, shards)
    }

    /// The version after this one. What is unchanged is taken over as it is; identities that stay,
    /// or come back while they have sessions left, keep their counters.
    pub fn next(&self, layout: &Layout, shards: usize) -> Table {
        let pools: Vec<_> = layout.pools.iter().map(|pool| self.next_pool(pool, shards)).collect();
        let listeners = if layout.generation == self.generation {
            self.listeners.clone()
        } else {
            self.next_listeners(layout, shards)
        };
        let has = |name: &str| layout.pools.iter().any(|pool| pool.name == name);
        let gone = self.pools.iter().chain(self.leaving.pools.iter().filter(|one| is_held(one)));
        let gone = gone.filter(|pool| !has(&pool.settings.name));
        let leaving_pools = gone.cloned().collect();
        let has = |name: &str| layout.listeners.iter().any(|listener| listener.name == name);
        let gone = self.leaving.listeners.iter().filter(|one| is_held(one));
        let gone = self.listeners.iter().chain(gone).filter(|one| !has(&one.settings.name));
        let leaving_listeners = gone.cloned().collect();
        Table {
            version: self.version + 1,
            generation: layout.generation,
            listeners,
            pools,
            connections_max: layout.connections_max,
            leaving: Leaving { listeners: leaving_listeners, pools: leaving_pools },
        }
    }

    fn next_pool(&self, settings: &config::Pool, shards: usize) -> Arc<Pool> {
        let old = self.all_pools().find(|pool| pool.settings.name == settings.name);
        match old {
            // Whoever has left is let go of in passing.
            Some(old) if old.settings == *settings && old.leaving.is_empty() => old.clone(),
            Some(old) => Arc::new(old.next(settings, shards)),
            None => Arc::new(Pool::new(settings, shards)),
        }
    }

    fn next_listeners(&self, layout: &Layout, shards: usize) -> Vec<Arc<Listener>> {
        let pools: Arc<[Arc<str>]> =
            layout.pools.iter().map(|pool| pool.name.as_str().into()).collect();
        let listener = |settings: &config::Listener| {
            let old = self.all_listeners().find(|old| old.settings.name == settings.name);
            Arc::new(Listener {
                label: settings.name.as_str().into(),
                settings: settings.clone(),
                pools: pools.clone(),
                generation: layout.generation,
                cells: old.map_or_else(|| Arc::new(PerShard::new(shards)), |old| old.cells.clone()),
            })
        };
        layout.listeners.iter().map(listener).collect()
    }

    /// The next version of the same: all pools built anew as after a change, except the identities,
    /// whose counts carry on.
    pub fn successor(&self, shards: usize) -> Table {
        let again = |pool: &Arc<Pool>| Arc::new(pool.next(&pool.settings, shards));
        Table {
            version: self.version + 1,
            generation: self.generation,
            listeners: self.listeners.clone(),
            pools: self.pools.iter().map(again).collect(),
            connections_max: self.connections_max,
            leaving: self.leaving.clone(),
        }
    }

    /// The next version of the same, without those in `leaving` that nobody holds any more.
    pub fn swept(&self, shards: usize) -> Table {
        let layout = Layout {
            generation: self.generation,
            listeners: self.listeners.iter().map(|listener| listener.settings.clone()).collect(),
            pools: self.pools.iter().map(|pool| pool.settings.clone()).collect(),
            connections_max: self.connections_max,
        };
        self.next(&layout, shards)
    }

    /// The pool of this name and its index.
    pub fn pool(&self, name: &str) -> Option<(usize, &Arc<Pool>)> {
        self.pools.iter().enumerate().find(|(_, pool)| pool.settings.name == name)
    }

    /// The pool that a listener calls by this index, and its index here: they differ when the
    /// configuration has changed since the listener accepted. `None` when it is gone.
    pub fn pool_of(&self, listener: &Listener, index: usize) -> Option<(usize, &Arc<Pool>)> {
        if listener.generation == self.generation {
            return self.pools.get(index).map(|pool| (index, pool));
        }
        self.pool(listener.pools.get(index)?)
    }

    /// Pools that place sessions, then those that only have some.
    pub fn all_pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.iter().chain(&self.leaving.pools)
    }

    /// Listeners that take connections, then those that only have sessions.
    pub fn all_listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.iter().chain(&self.leaving.listeners)
    }

    /// Whether anything in `leaving` is held by nobody: a next version would be smaller.
    pub fn has_left(&self) -> bool {
        self.leaving.listeners.iter().any(|listener| !is_held(listener))
            || self.leaving.pools.iter().any(|pool| !is_held(pool))
            || self.pools.iter().any(|pool| pool.leaving.iter().any(|backend| !is_held(backend)))
    }
}

/// Whether a session, or a version that a shard still places by, has this. Two versions hold it
/// that place nobody by it: the one in force and the one before.
fn is_held<T>(leaving: &Arc<T>) -> bool {
    Arc::strong_count(leaving) > 2
}

impl Pool {
    /// The index of a backend, by identity.
    pub fn position(&self, backend: &Backend) -> Option<usize> {
        self.backends.iter().position(|known| Arc::ptr_eq(&known.shared, &backend.shared))
    }

    /// Backends that take sessions, then those that only have some.
    pub fn all_backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.iter().chain(&self.leaving)
    }

    fn new(settings: &config::Pool, shards: usize) -> Pool {
        let backends = settings.backends.iter().map(|backend| Backend::new(backend, shards));
        Pool {
            label: settings.name.as_str().into(),
            settings: settings.clone(),
            balance: Balance::prepare(settings.balance),
            backends: backends.map(Arc::new).collect(),
            leaving: Vec::new(),
            cells: Arc::new(PerShard::new(shards)),
        }
    }

    fn next(&self, settings: &config::Pool, shards: usize) -> Pool {
        let mut known: HashMap<&config::Address, &Arc<Backend>> =
            self.all_backends().map(|backend| (&backend.address, backend)).collect();
        let mut backends = Vec::with_capacity(settings.backends.len());
        for backend in &settings.backends {
            backends.push(match known.remove(&backend.address) {
                Some(old) if old.weight == backend.weight && old.state == backend.state => {
                    old.clone()
                }
                Some(old) => Arc::new(old.with(backend)),
                None => Arc::new(Backend::new(backend, shards)),
            });
        }
        let left = self.leaving.iter().filter(|backend| is_held(backend));
        let left = self.backends.iter().chain(left);
        let left = left.filter(|backend| known.contains_key(&backend.address)).cloned().collect();
        Pool {
            label: self.label.clone(),
            settings: settings.clone(),
            balance: Balance::prepare(settings.balance),
            leaving: left,
            backends,
            cells: self.cells.clone(),
        }
    }
}

impl Backend {
    fn new(settings: &config::Backend, shards: usize) -> Backend {
        Backend {
            address: settings.address.clone(),
            label: settings.address.to_string().into(),
            weight: settings.weight,
            state: settings.state,
            shared: Arc::new(BackendShared {
                live: AtomicU32::new(0),
                cells: PerShard::new(shards),
            }),
        }
    }

    /// The same backend with other settings.
    fn with(&self, settings: &config::Backend) -> Backend {
        Backend {
            address: self.address.clone(),
            label: self.label.clone(),
            weight: settings.weight,
            state: settings.state,
            shared: self.shared.clone(),
        }
    }
}

impl Layout {
    /// Pools without listeners.
    pub fn of_pools(pools: Vec<config::Pool>) -> Layout {
        Layout { generation: 1, listeners: Vec::new(), pools, connections_max: 1 }
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
            on_remove: config::OnRemove::Keep,
            close_rate: 200,
            sources: Vec::new(),
            backends: addresses.iter().map(backend).collect(),
        };
        change(&mut pool);
        Table::first(&Layout::of_pools(vec![pool]), 1)
    }
}

#[cfg(test)]
impl Listener {
    /// A listener of the first configuration, for its first pool.
    pub fn sample(pools: &[&str]) -> Listener {
        use std::time::Duration;
        let socket =
            config::SocketOptions { user_timeout: Duration::from_secs(30), keepalive: None };
        Listener {
            label: "l".into(),
            settings: config::Listener {
                name: "l".to_owned(),
                bind: vec![config::Address::Unix("/l".into())],
                protocol: config::Protocol::Tcp { key: None },
                pool: 0,
                backlog: 1,
                socket,
                proxy: None,
            },
            pools: pools.iter().map(|name| (*name).into()).collect(),
            generation: 1,
            cells: Arc::new(PerShard::new(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses<const N: usize>(ports: [u16; N]) -> Vec<config::Address> {
        ports.map(|port| config::Address::Tcp(([127, 0, 0, 1], port).into())).to_vec()
    }

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
        let first = Table::sample(&addresses([1, 2, 3]), |pool| pool.backends[1].weight = 7);
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
    }

    #[test]
    fn what_did_not_change_is_the_same_pool() {
        let first = Table::sample(&addresses([1, 2]), |_| {});
        let second = first.next(&with(&first, &[1, 2]), 1);
        assert_eq!(second.version, 2);
        assert!(Arc::ptr_eq(&first.pools[0], &second.pools[0]));
        let third = second.next(&with(&first, &[2, 1]), 1);
        assert!(!Arc::ptr_eq(&first.pools[0], &third.pools[0]), "the order decides for crc32_mod");
    }

    #[test]
    fn a_backend_that_left_is_kept_while_a_session_has_it_and_comes_back_as_itself() {
        let first = Table::sample(&addresses([1, 2, 3]), |_| {});
        let session = first.pools[0].backends[1].clone();
        session.shared.live.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let second = first.next(&with(&first, &[1, 3]), 1);
        drop(first);
        assert_eq!(second.pools[0].backends.len(), 2);
        assert!(Arc::ptr_eq(&second.pools[0].leaving[0].shared, &session.shared));
        assert!(!second.has_left());
        let third = second.next(&with(&second, &[1, 3, 2]), 1);
        assert!(Arc::ptr_eq(&third.pools[0].backends[2].shared, &session.shared));
        assert!(third.pools[0].leaving.is_empty());
        drop(third);
        drop(session);
        assert!(second.has_left());
        let fourth = second.next(&with(&second, &[1, 3]), 1);
        assert!(fourth.pools[0].leaving.is_empty());
        let fifth = fourth.next(&with(&fourth, &[1, 3, 2]), 1);
        assert_eq!(
            fifth.pools[0].backends[2].shared.live.load(std::sync::atomic::Ordering::Relaxed),
            0
        );
    }

    #[test]
    fn a_listener_of_an_older_configuration_finds_its_pool_by_name() {
        let first = Table::sample(&addresses([1]), |pool| pool.name = "a".to_owned());
        let listener = Listener::sample(&["a"]);
        assert_eq!(first.pool_of(&listener, 0).map(|(index, _)| index), Some(0));
        let mut layout = with(&first, &[1]);
        layout.generation = 2;
        layout.pools.insert(0, config::Pool { name: "b".to_owned(), ..layout.pools[0].clone() });
        let second = first.next(&layout, 1);
        assert_eq!(second.pool_of(&listener, 0).map(|(index, _)| index), Some(1));
        layout.pools.pop();
        layout.generation = 3;
        let third = second.next(&layout, 1);
        assert!(third.pool_of(&listener, 0).is_none());
        assert_eq!(third.leaving.pools.len(), 1);
    }
}

//! One immutable, numbered snapshot of all listeners and pools: what a shard places sessions by.
//!
//! The control plane builds it; shards swap their `Arc` when a new one arrives. What must outlive a
//! version (counters, live sessions) hangs on a pool's or backend's identity and is carried over.

mod lookup;
mod pool;

use std::sync::Arc;

pub use self::lookup::{Lookup, LookupIdentity};
pub use self::pool::{Backend, BackendShared, Pool, Verdict};
use crate::config;
use crate::metrics::{ListenerCells, PerShard, Requests};

/// A version of everything sessions are placed by.
#[derive(Debug, Clone)]
pub struct Table {
    /// Rises by one with each version; the first is 1.
    pub version: u64,
    /// Rises by one with each configuration; the first is 1.
    pub generation: u64,
    /// In configuration order.
    pub listeners: Vec<Arc<Listener>>,
    /// In configuration order.
    pub pools: Vec<Arc<Pool>>,
    /// In configuration order.
    pub lookups: Vec<Arc<Lookup>>,
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
    /// Lookups that nobody asks any more.
    pub lookups: Vec<Arc<LookupIdentity>>,
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
    /// In file order.
    pub lookups: Vec<Arc<Lookup>>,
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
    /// Names of its lookups, likewise.
    pub lookups: Arc<[Arc<str>]>,
    /// The configuration it belongs to.
    pub generation: u64,
    /// Counters of the listener's identity, which is its name.
    pub cells: Arc<PerShard<ListenerCells>>,
    /// Requests by rule; `None` for listeners that do not speak HTTP.
    pub requests: Option<Requests>,
}

impl Table {
    /// The first table of a process: every counter at zero.
    pub fn first(layout: &Layout, shards: usize) -> Table {
        let nothing = Table {
            version: 0,
            generation: 0,
            listeners: Vec::new(),
            pools: Vec::new(),
            lookups: Vec::new(),
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
        let has = |name: &str| layout.lookups.iter().any(|lookup| *lookup.label == *name);
        let gone = self.leaving.lookups.iter().filter(|one| one.live() > 0);
        let gone = self.lookups.iter().map(|lookup| &lookup.identity).chain(gone);
        let leaving_lookups = gone.filter(|one| !has(&one.label)).cloned().collect();
        Table {
            version: self.version + 1,
            generation: layout.generation,
            listeners,
            pools,
            lookups: layout.lookups.clone(),
            connections_max: layout.connections_max,
            leaving: Leaving {
                listeners: leaving_listeners,
                pools: leaving_pools,
                lookups: leaving_lookups,
            },
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
        let lookups: Arc<[Arc<str>]> =
            layout.lookups.iter().map(|lookup| lookup.label.clone()).collect();
        let listener = |settings: &config::Listener| {
            let old = self.all_listeners().find(|old| old.settings.name == settings.name);
            let mut settings = settings.clone();
            // With the same files and settings its tickets stay good.
            let tls = old.and_then(|old| old.settings.tls.clone());
            if tls.is_some() && tls == settings.tls {
                settings.tls = tls;
            }
            let requests = requests(&settings, old.map(Arc::as_ref), shards);
            Arc::new(Listener {
                label: settings.name.as_str().into(),
                settings,
                pools: pools.clone(),
                lookups: lookups.clone(),
                generation: layout.generation,
                cells: old.map_or_else(|| Arc::new(PerShard::new(shards)), |old| old.cells.clone()),
                requests,
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
            lookups: self.lookups.clone(),
            connections_max: self.connections_max,
            leaving: self.leaving.clone(),
        }
    }

    /// The next version with these very pools, to be judged or altered.
    pub fn again(&self) -> Table {
        Table { version: self.version + 1, ..self.clone() }
    }

    /// The next version of the same, without those in `leaving` that nobody holds any more.
    pub fn swept(&self, shards: usize) -> Table {
        let layout = Layout {
            generation: self.generation,
            listeners: self.listeners.iter().map(|listener| listener.settings.clone()).collect(),
            pools: self.pools.iter().map(|pool| pool.settings.clone()).collect(),
            lookups: self.lookups.clone(),
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

    /// The lookup that a listener calls by this index, and its index here, as [`Table::pool_of`].
    pub fn lookup_of(&self, listener: &Listener, index: usize) -> Option<(usize, &Arc<Lookup>)> {
        if listener.generation == self.generation {
            return self.lookups.get(index).map(|lookup| (index, lookup));
        }
        let name = listener.lookups.get(index)?;
        self.lookups.iter().enumerate().find(|(_, lookup)| lookup.label == *name)
    }

    /// Pools that place sessions, then those that only have some.
    pub fn all_pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.iter().chain(&self.leaving.pools)
    }

    /// Listeners that take connections, then those that only have sessions.
    pub fn all_listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.iter().chain(&self.leaving.listeners)
    }

    /// Lookups that place sessions, then those that only have some.
    pub fn all_lookups(&self) -> impl Iterator<Item = &Arc<LookupIdentity>> {
        let lookups = self.lookups.iter().map(|lookup| &lookup.identity);
        lookups.chain(&self.leaving.lookups)
    }

    /// Whether anything in `leaving` is held by nobody: a next version would be smaller.
    pub fn has_left(&self) -> bool {
        self.leaving.listeners.iter().any(|listener| !is_held(listener))
            || self.leaving.pools.iter().any(|pool| !is_held(pool))
            || self.leaving.lookups.iter().any(|lookup| lookup.live() == 0)
            || self.pools.iter().any(|pool| pool.leaving.iter().any(|backend| !is_held(backend)))
    }
}

/// Counters by rule, taken over from an earlier configuration.
fn requests(
    settings: &config::Listener,
    old: Option<&Listener>,
    shards: usize,
) -> Option<Requests> {
    let config::Protocol::Http(http) = &settings.protocol else { return None };
    let names = http.rules.iter().map(|rule| &*rule.name);
    Some(Requests::new(names, old.and_then(|old| old.requests.as_ref()), shards))
}

/// Whether a session, or a version that a shard still places by, has this. Two versions hold it
/// that place nobody by it: the one in force and the one before.
fn is_held<T>(leaving: &Arc<T>) -> bool {
    Arc::strong_count(leaving) > 2
}

impl Layout {
    /// Pools without listeners.
    pub fn of_pools(pools: Vec<config::Pool>) -> Layout {
        Layout {
            generation: 1,
            listeners: Vec::new(),
            pools,
            lookups: Vec::new(),
            connections_max: 1,
        }
    }
}

#[cfg(test)]
impl config::Address {
    /// On this machine, at these ports.
    pub fn local(ports: std::ops::Range<u16>) -> Vec<config::Address> {
        ports.map(|port| config::Address::Tcp(([127, 0, 0, 1], port).into())).collect()
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
            tls: None,
            source_addresses: Vec::new(),
            on_remove: config::OnRemove::Keep,
            close_rate: 200,
            sources: Vec::new(),
            bounded_load: None,
            health: config::Health::default(),
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
                pool: Some(0),
                lookup: None,
                backlog: 1,
                socket,
                proxy: None,
                tls: None,
            },
            pools: pools.iter().map(|name| (*name).into()).collect(),
            lookups: Arc::default(),
            generation: 1,
            cells: Arc::new(PerShard::new(1)),
            requests: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(table: &Table, change: impl FnOnce(&mut Layout)) -> Layout {
        let mut layout = Layout::of_pools(vec![table.pools[0].settings.clone()]);
        change(&mut layout);
        layout
    }

    #[test]
    fn what_did_not_change_is_the_same_pool() {
        let first = Table::sample(&config::Address::local(1..3), |_| {});
        let second = first.next(&with(&first, |_| {}), 1);
        assert_eq!(second.version, 2);
        assert!(Arc::ptr_eq(&first.pools[0], &second.pools[0]));
        let third = second.next(&with(&first, |layout| layout.pools[0].backends.reverse()), 1);
        assert!(!Arc::ptr_eq(&first.pools[0], &third.pools[0]), "the order decides for crc32_mod");
    }

    #[test]
    fn a_listener_of_an_older_configuration_finds_its_pool_by_name() {
        let first = Table::sample(&config::Address::local(1..2), |pool| pool.name = "a".to_owned());
        let listener = Listener::sample(&["a"]);
        assert_eq!(first.pool_of(&listener, 0).map(|(index, _)| index), Some(0));
        let mut layout = with(&first, |layout| layout.generation = 2);
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

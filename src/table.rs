//! One immutable, numbered snapshot of all pools: what a shard places sessions by.
//!
//! The control plane builds it; shards swap their `Arc` when a new one arrives. What must outlive a
//! version (counters, live sessions) hangs on a pool's or backend's identity and is carried over.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::balance::Balance;
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
    /// In declared order: an index from `balance` is an index here.
    pub backends: Vec<Arc<Backend>>,
    /// Counters of the pool's identity.
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
    /// The first table of a process: version 1, every counter at zero.
    pub fn first(pools: &[config::Pool], shards: usize) -> Table {
        let pools = pools.iter().map(|pool| Arc::new(Pool::new(pool, shards))).collect();
        Table { version: 1, pools }
    }

    /// The pool of this name and its index.
    pub fn pool(&self, name: &str) -> Option<(usize, &Arc<Pool>)> {
        self.pools.iter().enumerate().find(|(_, pool)| pool.settings.name == name)
    }
}

impl Pool {
    /// The index of a backend, by identity.
    pub fn position(&self, backend: &Backend) -> Option<usize> {
        self.backends.iter().position(|known| Arc::ptr_eq(&known.shared, &backend.shared))
    }

    fn new(settings: &config::Pool, shards: usize) -> Pool {
        let backends = settings
            .backends
            .iter()
            .map(|backend| {
                Arc::new(Backend {
                    address: backend.address.clone(),
                    label: backend.address.to_string().into(),
                    weight: backend.weight,
                    state: backend.state,
                    shared: Arc::new(BackendShared {
                        live: AtomicU32::new(0),
                        cells: PerShard::new(shards),
                    }),
                })
            })
            .collect();
        Pool {
            label: settings.name.as_str().into(),
            settings: settings.clone(),
            balance: Balance::prepare(settings.balance),
            backends,
            cells: Arc::new(PerShard::new(shards)),
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
            backends: addresses.iter().map(backend).collect(),
        };
        change(&mut pool);
        Table::first(&[pool], 1)
    }
}

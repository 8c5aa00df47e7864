//! One immutable, numbered snapshot of all pools: what a shard places sessions by.
//!
//! The control plane builds it; shards swap their `Arc` when a new one arrives. What must outlive a
//! version (counters, live sessions) hangs on a pool's or backend's identity and is carried over.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::balance::Balance;
use crate::config::{self, BackendState};
use crate::health::room::{Room, Terms};
use crate::metrics::{BackendCells, HealthCells, PerShard, PoolCells};

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
    /// So many backends are out of service that their verdicts are not believed.
    pub panicking: bool,
    /// Counters of the pool's identity.
    pub cells: Arc<PerShard<PoolCells>>,
    /// Counters of its health.
    pub health: Arc<HealthCells>,
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
    pub state: config::BackendState,
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
    pub fn new(shards: usize) -> BackendShared {
        BackendShared {
            room: Room::default(),
            failures_in_row: AtomicU32::new(0),
            cells: PerShard::new(shards),
        }
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

impl Table {
    /// The first table of a process: version 1, every counter at zero.
    pub fn first(pools: &[config::Pool], shards: usize) -> Table {
        let pools = pools.iter().map(|pool| Arc::new(Pool::new(pool, shards))).collect();
        Table { version: 1, pools }
    }

    /// The next version of the same pools and backends: all of it built anew as after a change,
    /// except the identities, whose counts carry on.
    pub fn successor(&self) -> Table {
        let pools = self.pools.iter().map(|pool| Arc::new(pool.successor())).collect();
        Table { version: self.version + 1, pools }
    }

    /// The next version with these very pools, to be judged or altered.
    pub fn next(&self) -> Table {
        Table { version: self.version + 1, pools: self.pools.clone() }
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
        let fresh = |backend: &config::Backend| {
            Backend::new(backend, settings, Arc::new(BackendShared::new(shards)))
        };
        let backends = settings.backends.iter().map(fresh).map(Arc::new).collect();
        Pool::build(settings, backends, Arc::new(PerShard::new(shards)), Arc::default())
    }

    fn successor(&self) -> Pool {
        let backends = self.settings.backends.iter().zip(&self.backends);
        let backends = backends.map(|(backend, old)| {
            let fresh = Backend::new(backend, &self.settings, old.shared.clone());
            Arc::new(Backend { verdict: old.verdict, returned: old.returned, ..fresh })
        });
        let cells = (self.cells.clone(), self.health.clone());
        let pool = Pool::build(&self.settings, backends.collect(), cells.0, cells.1);
        Pool { panicking: self.panicking, ..pool }
    }

    /// The same pool, judged anew: nothing of it is prepared again.
    pub fn judged(&self, backends: Vec<Arc<Backend>>, panicking: bool) -> Pool {
        Pool {
            label: self.label.clone(),
            settings: self.settings.clone(),
            balance: self.balance.clone(),
            backends,
            panicking,
            cells: self.cells.clone(),
            health: self.health.clone(),
        }
    }

    /// Whether the backend takes new sessions.
    #[inline]
    pub fn in_service(&self, backend: &Backend) -> bool {
        backend.state == BackendState::Ready
            && (self.panicking || backend.verdict == Verdict::Healthy)
    }

    /// What the backend bears now.
    pub fn terms(&self, backend: &Backend) -> Terms {
        let slow_start = self.settings.health.slow_start;
        Terms { limits: backend.limits, slow_start, returned: backend.returned }
    }

    fn build(
        settings: &config::Pool,
        backends: Vec<Arc<Backend>>,
        cells: Arc<PerShard<PoolCells>>,
        health: Arc<HealthCells>,
    ) -> Pool {
        Pool {
            label: settings.name.as_str().into(),
            settings: settings.clone(),
            balance: Balance::prepare(settings.balance),
            backends,
            panicking: false,
            cells,
            health,
        }
    }
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
            health: config::Health::default(),
            backends: addresses.iter().map(backend).collect(),
        };
        change(&mut pool);
        Table::first(&[pool], 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

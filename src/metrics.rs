//! Counters of the data plane: one cell per shard, summed when somebody looks.
//!
//! A cell is written by its shard only, so an increment is a plain load and store: no lock prefix,
//! no cache line shared between cores. Cells belong to the identity of a listener, pool or backend,
//! not to a table version.

mod health;
pub mod http;
mod lookup;
pub mod names;
pub mod page;
mod process;
pub mod tls;

pub use health::{HealthCells, Waits};
pub use http::{HttpCells, Requests, RuleCells};
pub use lookup::{AskedCells, Looked, LookupCells};
pub use tls::TlsCells;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::end::{AcceptError, End, Placement, Rejection};

/// A number one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// Adds `n`; only the owning shard may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` off again, for gauges; only the owning shard may call this.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Makes it `value`, for gauges; only the owning shard may call this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value as of some recent moment.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the duration buckets, in microseconds; the last bucket has none.
pub const BUCKETS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000, 30_000_000,
];

/// Durations of seconds and less, counted in [`BUCKETS_US`].
#[derive(Debug, Default)]
pub struct Durations {
    /// One more than [`BUCKETS_US`]: the last one has no upper bound.
    pub buckets: [Counter; BUCKETS_US.len() + 1],
    /// Sum in microseconds.
    pub sum_us: Counter,
}

impl Durations {
    /// Counts one.
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].add(1);
        self.sum_us.add(us);
    }
}

/// Upper bounds of the buckets of session lives, in seconds; the last bucket has none. NAT and
/// load balancer timeouts (30 s, 60 s, 5 min) lie on bounds, so that a fleet cut off by one shows.
pub const LIVES_S: [u64; 11] = [1, 5, 30, 60, 300, 900, 3_600, 14_400, 43_200, 86_400, 604_800];

/// Lives of sessions, from a second to weeks, counted in [`LIVES_S`].
#[derive(Debug, Default)]
pub struct Lives {
    /// One more than [`LIVES_S`]: the last one has no upper bound.
    pub buckets: [Counter; LIVES_S.len() + 1],
    /// Sum in milliseconds.
    pub sum_ms: Counter,
}

impl Lives {
    /// Counts one.
    pub fn record(&self, life: Duration) {
        let ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        let bucket = LIVES_S.partition_point(|bound| *bound * 1000 < ms);
        self.buckets[bucket].add(1);
        self.sum_ms.add(ms);
    }
}

/// What one shard counts for one listener.
#[derive(Debug)]
pub struct ListenerCells {
    /// Sessions begun.
    pub sessions: Counter,
    /// Sessions open now.
    pub active: Counter,
    /// Sessions ended, by [`End`].
    pub ends: [Counter; End::COUNT],
    /// Connections never begun, by [`Rejection`].
    pub rejections: [Counter; Rejection::COUNT],
    /// Bytes received from clients.
    pub bytes_in: Counter,
    /// Bytes sent to clients.
    pub bytes_out: Counter,
    /// Accept to complete preface.
    pub preface: Durations,
    /// First byte of the client to the moment its bytes are sent to a backend.
    pub placing: Durations,
    /// Accept to end.
    pub lives: Lives,
    /// TLS handshakes that were completed; those that were not are ends.
    pub tls: TlsCells,
    /// Of requests; nothing on listeners that do not speak HTTP.
    pub http: HttpCells,
}

impl Default for ListenerCells {
    fn default() -> Self {
        ListenerCells {
            sessions: Counter::default(),
            active: Counter::default(),
            ends: [const { Counter(AtomicU64::new(0)) }; End::COUNT],
            rejections: Default::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            preface: Durations::default(),
            placing: Durations::default(),
            lives: Lives::default(),
            http: HttpCells::default(),
            tls: TlsCells::default(),
        }
    }
}

/// What one shard counts for one pool.
#[derive(Debug)]
pub struct PoolCells {
    /// Sessions placed, by [`Placement`].
    pub placements: [Counter; Placement::COUNT],
    /// Sessions that could not be placed, by the [`End`] they met.
    pub failures: [Counter; End::COUNT],
    /// Sessions that waited for their backend.
    pub waits: Waits,
}

impl Default for PoolCells {
    fn default() -> Self {
        PoolCells {
            placements: Default::default(),
            failures: [const { Counter(AtomicU64::new(0)) }; End::COUNT],
            waits: Waits::default(),
        }
    }
}

/// What one shard counts for one backend.
#[derive(Debug)]
pub struct BackendCells {
    /// Sessions open now.
    pub active: Counter,
    /// Sessions placed here.
    pub sessions: Counter,
    /// Failed attempts to connect, by the [`End`] they would have been.
    pub connect_failures: [Counter; End::COUNT],
    /// Times of successful attempts to connect.
    pub connect: Durations,
    /// Bytes sent to the backend.
    pub bytes_out: Counter,
    /// Bytes received from the backend.
    pub bytes_in: Counter,
    /// Warm connections waiting now.
    pub warm: Counter,
    /// Sessions that found a warm connection.
    pub warm_used: Counter,
    /// Warm connections found closed.
    pub warm_stale: Counter,
    /// Sessions that the backend ended early.
    pub early_ends: Counter,
}

impl Default for BackendCells {
    fn default() -> Self {
        BackendCells {
            active: Counter::default(),
            sessions: Counter::default(),
            connect_failures: [const { Counter(AtomicU64::new(0)) }; End::COUNT],
            connect: Durations::default(),
            bytes_out: Counter::default(),
            bytes_in: Counter::default(),
            warm: Counter::default(),
            warm_used: Counter::default(),
            warm_stale: Counter::default(),
            early_ends: Counter::default(),
        }
    }
}

/// What one shard counts for itself.
#[derive(Debug, Default)]
pub struct ShardCells {
    /// Failed accepts, by [`AcceptError`].
    pub accept_errors: [Counter; AcceptError::COUNT],
    /// Connections accepted here and run by another shard.
    pub handed_over: Counter,
    /// Session records dropped because the writer was behind.
    pub log_dropped: Counter,
    /// Turns of the coarse timer.
    pub ticks: Counter,
    /// Version of the table that new sessions are placed by.
    pub table_version: Counter,
    /// Flows that were polled and got a receive armed.
    pub warmed_up: Counter,
    /// Flows that went quiet and are polled again.
    pub cooled_down: Counter,
    /// Sockets of ended sessions used for new ones.
    pub sockets_reused: Counter,
    /// Flows found to be floods and spliced.
    pub relay_spliced: Counter,
    /// Times a flood was copied because all pipes were in use.
    pub relay_pipes_exhausted: Counter,
    /// Times an armed receive found all buffers in use.
    pub relay_buffers_exhausted: Counter,
    /// Idle connections to backends of HTTP listeners.
    pub kept_idle: Counter,
    /// Requests that found one.
    pub kept_reused: Counter,
    /// Idle connections found closed when one was needed.
    pub kept_stale: Counter,
    /// Lines of access logs dropped because the writer was behind.
    pub access_dropped: Counter,
    /// Invariants found broken in release builds ("cannot happen").
    pub bugs: Counter,
}

/// One cell per shard; a clone is the same cells.
#[derive(Debug)]
pub struct PerShard<T>(Arc<[CachePadded<T>]>);

impl<T> Clone for PerShard<T> {
    fn clone(&self) -> PerShard<T> {
        PerShard(self.0.clone())
    }
}

impl<T: Default> PerShard<T> {
    /// Cells for this many shards.
    pub fn new(shards: usize) -> PerShard<T> {
        PerShard((0..shards).map(|_| CachePadded::new(T::default())).collect())
    }

    /// The cell of one shard.
    #[inline]
    pub fn of(&self, shard: usize) -> &T {
        &self.0[shard]
    }

    /// The sum over all shards of one counter in the cell.
    pub fn sum(&self, counter: impl Fn(&T) -> &Counter) -> u64 {
        self.0.iter().fold(0u64, |sum, cell| sum.wrapping_add(counter(cell).value()))
    }

    /// Every cell, in shard order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|cell| &**cell)
    }
}

/// Counters of the process that several threads write; never touched per message.
#[derive(Debug, Default)]
pub struct ProcessCells {
    /// Client connections open now, on all shards.
    pub connections: AtomicU32,
    /// Of the configuration.
    pub reloads: Reloads,
}

/// What became of requests to reload the configuration.
#[derive(Debug, Default)]
pub struct Reloads {
    /// Put in force.
    pub successes: AtomicU64,
    /// Refused.
    pub refusals: AtomicU64,
    /// When the last was put in force, seconds since 1970; 0: never.
    pub last_success_seconds: AtomicU64,
    /// Whether the last one was put in force; also before the first.
    pub last_failed: AtomicBool,
}

impl Reloads {
    /// Counts one that was put in force.
    pub fn succeeded(&self) {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.last_success_seconds.store(since_1970.map_or(0, |since| since.as_secs()), Relaxed);
        self.successes.fetch_add(1, Relaxed);
        self.last_failed.store(false, Relaxed);
    }

    /// Counts one that was refused.
    pub fn refused(&self) {
        self.refusals.fetch_add(1, Relaxed);
        self.last_failed.store(true, Relaxed);
    }
}

/// Everything that is counted outside a table.
#[derive(Debug)]
pub struct Metrics {
    /// Process-wide.
    pub process: ProcessCells,
    /// Per shard.
    pub shards: PerShard<ShardCells>,
}

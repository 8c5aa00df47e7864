//! `[pool.NAME.ejection]`, and what a pool's backends bear.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Checker, count_u32};
use crate::config::document::Path;
use crate::config::fault::Problem;
use crate::config::quantity::{Count, Quantity};
use crate::config::shape::Slot;
use crate::config::share::PerSecond;
use crate::config::{Address, Ejection, Health, Limits, limits, raw};

/// The keys of a pool that this file checks.
pub(super) struct RawHealth {
    pub ejection: Slot<raw::Ejection>,
    pub panic_threshold: Slot<crate::config::share::Percent>,
    pub slow_start: Slot<std::time::Duration>,
    pub limits: RawLimits,
    pub queue: Slot<Count>,
    pub queue_timeout: Slot<std::time::Duration>,
}

/// Limits of a pool's backends or of one.
pub(super) struct RawLimits {
    pub connections: Slot<Count>,
    pub rate: Slot<PerSecond>,
}

impl Checker<'_> {
    /// All but the check, which needs the listeners.
    pub(super) fn health(&mut self, raw: RawHealth, path: &Path) -> Option<Health> {
        let ejection = self.ejection(raw.ejection, &path.key("ejection"));
        let panic =
            self.within(raw.panic_threshold, &path.key("panic_threshold"), limits::PANIC_THRESHOLD);
        let slow_start = self.within(raw.slow_start, &path.key("slow_start"), limits::SLOW_START);
        let limits = self.backend_limits(raw.limits, path);
        let queue = self.within(raw.queue, &path.key("admission_queue"), limits::ADMISSION_QUEUE);
        let queue_timeout = self.within(
            raw.queue_timeout,
            &path.key("admission_timeout"),
            limits::ADMISSION_TIMEOUT,
        );
        Some(Health {
            check: None,
            ejection: ejection?,
            panic_percent: panic?.0,
            slow_start: slow_start?,
            limits: limits?,
            overrides: Arc::default(),
            queue_max: count_u32(queue)?,
            queue_timeout: queue_timeout?,
        })
    }

    /// `max_connections` and `connect_rate` of the table at `path`; `None` when one is wrong.
    pub(super) fn backend_limits(&mut self, raw: RawLimits, path: &Path) -> Option<Limits> {
        let (connections_path, rate_path) = (path.key("max_connections"), path.key("connect_rate"));
        let (limited, paced) = (is_written(&raw.connections), is_written(&raw.rate));
        let connections =
            self.within(raw.connections, &connections_path, limits::BACKEND_CONNECTIONS);
        let rate = self.within(raw.rate, &rate_path, limits::CONNECT_RATE);
        let known = (!limited || connections.is_some()) && (!paced || rate.is_some());
        known.then(|| Limits {
            connections_max: count_u32(connections),
            rate_per_s: rate.map(|PerSecond(rate)| rate),
        })
    }

    /// `Some(None)` without the table.
    fn ejection(&mut self, slot: Slot<raw::Ejection>, path: &Path) -> Option<Option<Ejection>> {
        if !is_written(&slot) {
            return Some(None);
        }
        let raw = self.take(slot, path)?;
        let failures = self.within(raw.failures, &path.key("failures"), limits::EJECTION_FAILURES);
        let early = self.within(raw.early, &path.key("early"), limits::EARLY);
        let early_count =
            self.within(raw.early_count, &path.key("early_count"), limits::EARLY_COUNT);
        let early_share =
            self.within(raw.early_share, &path.key("early_share"), limits::EARLY_SHARE);
        let window = self.within(raw.window, &path.key("window"), limits::EJECTION_WINDOW);
        let base_time = self.within(raw.base_time, &path.key("base_time"), limits::BASE_TIME);
        let max_path = path.key("max_time");
        let max_time = self.within(raw.max_time, &max_path, limits::MAX_TIME);
        let max_ejected =
            self.within(raw.max_ejected, &path.key("max_ejected"), limits::MAX_EJECTED);
        if let (Some(base), Some(max)) = (base_time, max_time)
            && max < base
        {
            let valid = format!("at least base_time, {}", base.written());
            self.relation(&max_path, Problem::new("shorter than the first time", valid));
        }
        Some(Some(Ejection {
            failures: count_u32(failures)?,
            early: early?,
            early_count: count_u32(early_count)?,
            early_percent: early_share?.0,
            window: window?,
            base_time: base_time?,
            max_time: max_time?,
            max_ejected_percent: max_ejected?.0,
        }))
    }
}

/// Limits of single backends; what they leave out is the pool's.
pub(super) fn overrides(
    written: Vec<(Address, Limits)>,
    pool: Limits,
) -> Arc<HashMap<Address, Limits>> {
    let complete = |(address, own): (Address, Limits)| {
        let connections_max = own.connections_max.or(pool.connections_max);
        let rate_per_s = own.rate_per_s.or(pool.rate_per_s);
        (address, Limits { connections_max, rate_per_s })
    };
    let own = written.into_iter().filter(|(_, limits)| *limits != Limits::default());
    Arc::new(own.map(complete).collect())
}

fn is_written<T>(slot: &Slot<T>) -> bool {
    !matches!(slot, Slot::Absent)
}

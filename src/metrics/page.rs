//! The metrics page: reads every cell when asked and writes OpenMetrics text. Nothing is stored
//! twice: the library's collector interface takes values straight from the shards' cells.

mod health;
mod http;
mod lookups;
mod sources;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabel, EncodeLabelSet,
    LabelSetEncoder, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::names::{self, Family, Kind};
use super::process::{self, Process};
use super::{
    BUCKETS_US, BackendCells, Counter, Durations, LIVES_S, ListenerCells, Metrics, PerShard,
    ShardCells,
};
use crate::admin::{Phase, Stage};
use crate::end::{AcceptError, End, Placement, Rejection};
use crate::log::Logs;
use crate::source::view::SourceView;
use crate::table::Table;

/// Media type of the page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the page reads.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Counters of the data plane.
    pub metrics: Arc<Metrics>,
    /// Counters of the logs.
    pub logs: Logs,
    /// The table in force.
    pub table: watch::Receiver<Arc<Table>>,
    /// Whether the process drains.
    pub phase: Arc<Phase>,
    /// Where backends come from.
    pub sources: watch::Receiver<Arc<[SourceView]>>,
}

/// The page.
#[derive(Debug)]
pub struct Page {
    registry: Registry,
}

impl Page {
    /// A page over these counters.
    pub fn new(observed: Observed) -> Page {
        let mut registry = Registry::default();
        let start_seconds = process::start_seconds();
        registry.register_collector(Box::new(Cells { observed, start_seconds }));
        Page { registry }
    }

    /// The text as of now.
    ///
    /// # Errors
    /// None in practice: a `String` takes everything.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

#[derive(Debug)]
struct Cells {
    observed: Observed,
    start_seconds: Option<f64>,
}

impl Collector for Cells {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Writing { encoder };
        // One table for the whole page, so that all its families show the same backends.
        let table = self.observed.table.borrow().clone();
        self.process_wide(&mut page, &table)?;
        listeners(&mut page, &table)?;
        http::requests(&mut page, &table)?;
        tls::listeners(&mut page, &table)?;
        pools(&mut page, &table)?;
        lookups::lookups(&mut page, &table)?;
        sources::sources(&mut page, &self.observed.sources.borrow().clone())?;
        backends(&mut page, &table)?;
        self.shards(&mut page, &table)?;
        self.logs(&mut page)?;
        self.system(&mut page)
    }
}

impl Cells {
    fn process_wide(&self, page: &mut Writing, table: &Table) -> fmt::Result {
        let draining = self.observed.phase.stage() == Stage::Draining;
        let open = u64::from(self.observed.metrics.process.connections.load(Relaxed));
        page.family(&names::BUILD_INFO)?.info(&[env!("CARGO_PKG_VERSION")])?;
        page.family(&names::DRAINING)?.number(&[], u64::from(draining))?;
        page.family(&names::TABLE_VERSION)?.number(&[], table.version)?;
        let reloads = &self.observed.metrics.process.reloads;
        let mut results = page.family(&names::RELOADS)?;
        results.number(&["success"], reloads.successes.load(Relaxed))?;
        results.number(&["refused"], reloads.refusals.load(Relaxed))?;
        let successful = !reloads.last_failed.load(Relaxed);
        page.family(&names::RELOAD_SUCCESSFUL)?.number(&[], u64::from(successful))?;
        let last = reloads.last_success_seconds.load(Relaxed);
        page.family(&names::RELOAD_TIME)?.number(&[], last)?;
        page.family(&names::CONNECTIONS_MAX)?.number(&[], table.connections_max as u64)?;
        page.family(&names::CONNECTIONS_OPEN)?.number(&[], open)
    }

    fn shards(&self, page: &mut Writing, table: &Table) -> fmt::Result {
        let shards = &self.observed.metrics.shards;
        let mut active = page.family(&names::SHARD_ACTIVE)?;
        for (shard, _) in shards.iter().enumerate() {
            let sum = table.all_listeners().fold(0u64, |sum, listener| {
                sum.wrapping_add(listener.cells.of(shard).active.value())
            });
            active.number(&[&shard.to_string()], sum)?;
        }
        let mut versions = page.family(&names::SHARD_TABLE_VERSION)?;
        for (shard, cell) in shards.iter().enumerate() {
            versions.number(&[&shard.to_string()], cell.table_version.value())?;
        }
        let mut ticks = page.family(&names::SHARD_TICKS)?;
        for (shard, cell) in shards.iter().enumerate() {
            ticks.number(&[&shard.to_string()], cell.ticks.value())?;
        }
        let mut handovers = page.family(&names::HANDOVERS)?;
        for (shard, cell) in shards.iter().enumerate() {
            handovers.number(&[&shard.to_string()], cell.handed_over.value())?;
        }
        let mut errors = page.family(&names::ACCEPT_ERRORS)?;
        for (shard, cell) in shards.iter().enumerate() {
            for error in AcceptError::ALL {
                let count = cell.accept_errors[*error as usize].value();
                errors.number(&[&shard.to_string(), error.label()], count)?;
            }
        }
        let sum = |counter: fn(&ShardCells) -> &Counter| shards.sum(counter);
        for (family, value) in [
            (&names::RELAY_WARMED_UP, sum(|cell| &cell.warmed_up)),
            (&names::RELAY_COOLED_DOWN, sum(|cell| &cell.cooled_down)),
            (&names::RELAY_SPLICED, sum(|cell| &cell.relay_spliced)),
            (&names::RELAY_PIPES_EXHAUSTED, sum(|cell| &cell.relay_pipes_exhausted)),
            (&names::RELAY_BUFFERS_EXHAUSTED, sum(|cell| &cell.relay_buffers_exhausted)),
            (&names::SOCKETS_REUSED, sum(|cell| &cell.sockets_reused)),
            (&names::KEPT_IDLE, sum(|cell| &cell.kept_idle)),
            (&names::KEPT_REUSED, sum(|cell| &cell.kept_reused)),
            (&names::KEPT_STALE, sum(|cell| &cell.kept_stale)),
        ] {
            page.family(family)?.number(&[], value)?;
        }
        page.family(&names::BUGS)?.number(&[], shards.sum(|cell| &cell.bugs))
    }

    fn logs(&self, page: &mut Writing) -> fmt::Result {
        let Logs { operational, sessions, access } = &self.observed.logs;
        let of_shards = self.observed.metrics.shards.sum(|cell| &cell.log_dropped);
        let mut dropped = page.family(&names::LOG_LINES_DROPPED)?;
        dropped.number(&["operational"], operational.dropped.load(Relaxed))?;
        dropped.number(&["sessions"], of_shards)?;
        let of_access = self.observed.metrics.shards.sum(|cell| &cell.access_dropped);
        dropped.number(&["access"], of_access)?;
        let mut lost = page.family(&names::LOG_LINES_LOST)?;
        lost.number(&["operational"], operational.lost.load(Relaxed))?;
        lost.number(&["sessions"], sessions.lost.load(Relaxed))?;
        lost.number(&["access"], access.lost.load(Relaxed))?;
        let mut errors = page.family(&names::LOG_WRITE_ERRORS)?;
        errors.number(&["operational"], operational.write_errors.load(Relaxed))?;
        errors.number(&["sessions"], sessions.write_errors.load(Relaxed))?;
        errors.number(&["access"], access.write_errors.load(Relaxed))
    }

    fn system(&self, page: &mut Writing) -> fmt::Result {
        let process = Process::read();
        page.family(&names::PROCESS_CPU)?.fraction(process.cpu_seconds)?;
        page.family(&names::PROCESS_OPEN_FDS)?.known(process.open_fds)?;
        page.family(&names::PROCESS_MAX_FDS)?.known(process.max_fds)?;
        page.family(&names::PROCESS_RESIDENT)?.known(process.resident_bytes)?;
        page.family(&names::PROCESS_VIRTUAL)?.known(process.virtual_bytes)?;
        page.family(&names::PROCESS_THREADS)?.known(process.threads)?;
        page.family(&names::PROCESS_START)?.fraction(self.start_seconds)
    }
}

fn listeners(page: &mut Writing, table: &Table) -> fmt::Result {
    per_listener(page, table, &names::CONNECTIONS_ACTIVE, |family, name, cells| {
        family.number(&[name], cells.sum(|cell| &cell.active))
    })?;
    per_listener(page, table, &names::CONNECTIONS, |family, name, cells| {
        family.number(&[name], cells.sum(|cell| &cell.sessions))
    })?;
    per_listener(page, table, &names::CONNECTION_DURATION, |family, name, cells| {
        family.histogram(&[name], &lives(cells))
    })?;
    per_listener(page, table, &names::PREREAD, |family, name, cells| {
        family.histogram(&[name], &durations(cells, |cell| &cell.preface))
    })?;
    per_listener(page, table, &names::PREREAD_FAILURES, |family, name, cells| {
        for end in End::ALL.iter().filter(|end| end.is_preface()) {
            let count = cells.sum(|cell| &cell.ends[*end as usize]);
            family.number(&[name, end.label()], count)?;
        }
        Ok(())
    })?;
    per_listener(page, table, &names::PLACING, |family, name, cells| {
        family.histogram(&[name], &durations(cells, |cell| &cell.placing))
    })?;
    per_listener(page, table, &names::CLOSES, |family, name, cells| {
        for end in End::ALL {
            let count = cells.sum(|cell| &cell.ends[*end as usize]);
            family.number(&[name, end.label()], count)?;
        }
        Ok(())
    })?;
    per_listener(page, table, &names::ADMISSION_REJECTED, |family, name, cells| {
        for rejection in Rejection::ALL {
            let count = cells.sum(|cell| &cell.rejections[*rejection as usize]);
            family.number(&[name, rejection.label()], count)?;
        }
        Ok(())
    })?;
    per_listener(page, table, &names::BYTES, |family, name, cells| {
        family.number(&[name, "in"], cells.sum(|cell| &cell.bytes_in))?;
        family.number(&[name, "out"], cells.sum(|cell| &cell.bytes_out))
    })
}

fn per_listener(
    page: &mut Writing,
    table: &Table,
    family: &'static Family,
    mut write: impl FnMut(&mut Series, &str, &PerShard<ListenerCells>) -> fmt::Result,
) -> fmt::Result {
    let mut series = page.family(family)?;
    for listener in table.all_listeners() {
        write(&mut series, &listener.label, &listener.cells)?;
    }
    Ok(())
}

fn pools(page: &mut Writing, table: &Table) -> fmt::Result {
    let mut sizes = page.family(&names::POOL_BACKENDS)?;
    for pool in table.all_pools() {
        sizes.number(&[&pool.settings.name], pool.backends.len() as u64)?;
    }
    let mut placements = page.family(&names::PLACEMENTS)?;
    for pool in table.all_pools() {
        for placement in Placement::ALL.iter().filter(|placement| !placement.is_lookup()) {
            let count = pool.cells.sum(|cell| &cell.placements[*placement as usize]);
            placements.number(&[&pool.settings.name, placement.label()], count)?;
        }
    }
    let mut failures = page.family(&names::PLACEMENT_FAILURES)?;
    for pool in table.all_pools() {
        for end in End::ALL.iter().filter(|end| end.is_placement() && !end.is_lookup()) {
            let count = pool.cells.sum(|cell| &cell.failures[*end as usize]);
            failures.number(&[&pool.settings.name, end.label()], count)?;
        }
    }
    health::pools(page, table)
}

/// Labels of every state.
const STATES: [&str; 6] = ["ready", "drain", "down", "unhealthy", "ejected", "removed"];

fn backends(page: &mut Writing, table: &Table) -> fmt::Result {
    let mut states = page.family(&names::BACKEND_STATE)?;
    for pool in table.all_pools() {
        for backend in pool.all_backends() {
            let leaving = !pool.backends.iter().any(|known| Arc::ptr_eq(known, backend));
            let label = if leaving { "removed" } else { backend.state_label() };
            for state in STATES {
                let labels: [&str; 3] = [&pool.settings.name, &backend.label, state];
                states.number(&labels, u64::from(state == label))?;
            }
        }
    }
    per_backend(page, table, &names::BACKEND_ACTIVE, |family, [pool, backend], cells| {
        family.number(&[pool, backend], cells.sum(|cell| &cell.active))
    })?;
    per_backend(page, table, &names::BACKEND_CONNECTIONS, |family, [pool, backend], cells| {
        family.number(&[pool, backend], cells.sum(|cell| &cell.sessions))
    })?;
    per_backend(page, table, &names::BACKEND_CONNECT, |family, [pool, backend], cells| {
        family.histogram(&[pool, backend], &durations(cells, |cell| &cell.connect))
    })?;
    let failures = &names::BACKEND_CONNECT_FAILURES;
    per_backend(page, table, failures, |family, [pool, backend], cells| {
        for end in End::ALL {
            let count = cells.sum(|cell| &cell.connect_failures[*end as usize]);
            if count > 0 {
                family.number(&[pool, backend, end.label()], count)?;
            }
        }
        Ok(())
    })?;
    per_backend(page, table, &names::BACKEND_BYTES, |family, [pool, backend], cells| {
        family.number(&[pool, backend, "in"], cells.sum(|cell| &cell.bytes_in))?;
        family.number(&[pool, backend, "out"], cells.sum(|cell| &cell.bytes_out))
    })?;
    per_backend(page, table, &names::BACKEND_WARM, |family, [pool, backend], cells| {
        family.number(&[pool, backend], cells.sum(|cell| &cell.warm))
    })?;
    per_backend(page, table, &names::BACKEND_WARM_USED, |family, [pool, backend], cells| {
        family.number(&[pool, backend], cells.sum(|cell| &cell.warm_used))
    })?;
    per_backend(page, table, &names::BACKEND_WARM_STALE, |family, [pool, backend], cells| {
        family.number(&[pool, backend], cells.sum(|cell| &cell.warm_stale))
    })?;
    health::backends(page, table)
}

fn per_backend(
    page: &mut Writing,
    table: &Table,
    family: &'static Family,
    mut write: impl FnMut(&mut Series, [&str; 2], &PerShard<BackendCells>) -> fmt::Result,
) -> fmt::Result {
    let mut series = page.family(family)?;
    for pool in table.all_pools() {
        for backend in pool.all_backends() {
            write(&mut series, [&pool.settings.name, &backend.label], &backend.shared.cells)?;
        }
    }
    Ok(())
}

/// A histogram summed over shards: the sum in seconds, and bounds in seconds with the counts of
/// their own buckets (the library accumulates them).
struct Histogram {
    sum_seconds: f64,
    buckets: Vec<(f64, u64)>,
}

fn durations<T: Default>(cells: &PerShard<T>, durations: impl Fn(&T) -> &Durations) -> Histogram {
    let bounds = BUCKETS_US.iter().map(|us| *us as f64 / 1e6);
    let buckets = counted(bounds, |bucket| cells.sum(|cell| &durations(cell).buckets[bucket]));
    let sum_seconds = cells.sum(|cell| &durations(cell).sum_us) as f64 / 1e6;
    Histogram { sum_seconds, buckets }
}

fn lives(cells: &PerShard<ListenerCells>) -> Histogram {
    let bounds = LIVES_S.iter().map(|seconds| *seconds as f64);
    let buckets = counted(bounds, |bucket| cells.sum(|cell| &cell.lives.buckets[bucket]));
    let sum_seconds = cells.sum(|cell| &cell.lives.sum_ms) as f64 / 1e3;
    Histogram { sum_seconds, buckets }
}

/// Of one thread alone.
fn durations_of(durations: &Durations) -> Histogram {
    let bounds = BUCKETS_US.iter().map(|us| *us as f64 / 1e6);
    let buckets = counted(bounds, |bucket| durations.buckets[bucket].value());
    Histogram { sum_seconds: durations.sum_us.value() as f64 / 1e6, buckets }
}

/// Each bound with its bucket's count; the last bucket has no bound.
fn counted(bounds: impl Iterator<Item = f64>, count: impl Fn(usize) -> u64) -> Vec<(f64, u64)> {
    let bounds = bounds.chain([f64::INFINITY]);
    bounds.enumerate().map(|(bucket, bound)| (bound, count(bucket))).collect()
}

/// The page as it is written, family after family.
struct Writing<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Writing<'_> {
    /// Begins a family: its HELP and TYPE.
    fn family(&mut self, family: &'static Family) -> Result<Series<'_>, fmt::Error> {
        let kind = match family.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        let encoder = self.encoder.encode_descriptor(family.stem(), family.help, None, kind)?;
        Ok(Series { family, encoder })
    }
}

/// A family's series as they are written.
struct Series<'a> {
    family: &'static Family,
    encoder: MetricEncoder<'a>,
}

impl Series<'_> {
    /// A counter's or gauge's value for these label values.
    fn number(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        if labels.is_empty() {
            return write_number(&mut self.encoder, self.family.kind, value);
        }
        let labels = Labels { names: self.family.labels, values: labels };
        write_number(&mut self.encoder.encode_family(&labels)?, self.family.kind, value)
    }

    /// A value without labels, if it is known.
    fn known(&mut self, value: Option<u64>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.number(&[], value))
    }

    /// A value with a fraction and without labels, if it is known.
    fn fraction(&mut self, value: Option<f64>) -> fmt::Result {
        value.map_or(Ok(()), |value| write_number(&mut self.encoder, self.family.kind, value))
    }

    fn histogram(&mut self, labels: &[&str], histogram: &Histogram) -> fmt::Result {
        let labels = Labels { names: self.family.labels, values: labels };
        // From the buckets as they were read: a scrape in between may not contradict itself.
        let count = histogram.buckets.iter().fold(0u64, |sum, (_, count)| sum.wrapping_add(*count));
        self.encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            histogram.sum_seconds,
            count,
            &histogram.buckets,
            None,
        )
    }

    fn info(&mut self, labels: &[&str]) -> fmt::Result {
        self.encoder.encode_info(&Labels { names: self.family.labels, values: labels })
    }
}

fn write_number<N>(encoder: &mut MetricEncoder, kind: Kind, value: N) -> fmt::Result
where
    N: EncodeCounterValue + EncodeGaugeValue,
{
    match kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, N, f64>(&value, None),
        Kind::Gauge | Kind::Histogram | Kind::Info => encoder.encode_gauge(&value),
    }
}

/// Label names of a family with the values of one series.
struct Labels<'a> {
    names: &'static [&'static str],
    values: &'a [&'a str],
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        debug_assert_eq!(self.names.len(), self.values.len());
        for (name, value) in self.names.iter().zip(self.values) {
            (*name, *value).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

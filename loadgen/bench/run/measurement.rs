//! What one measurement found: the load's JSON line, and what we saw beside it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::Scenario;

/// A number of a measurement.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Operations per second: round trips, connections.
    Rate,
    /// Echoed megabytes per second, counted once.
    MegabytesPerSecond,
    /// CPU of the forwarder per operation (bulk: per MB), µs.
    CpuUs,
    /// CPU of devices and backends per operation, µs.
    LoadCpuUs,
    /// Latency, µs.
    P50Us,
    /// Latency, µs.
    P90Us,
    /// Latency, µs.
    P99Us,
    /// Latency, µs.
    P999Us,
    /// From connect to the first echoed byte, median, µs.
    FirstEchoP50Us,
    /// The same, 99th percentile.
    FirstEchoP99Us,
    /// Bytes of the memory cgroup per silent device.
    MemoryBytes,
    /// Resident bytes per silent device.
    ResidentBytes,
    /// Context switches of the forwarder per operation.
    Switches,
    /// What the hypervisor took, % of the machine.
    StealPercent,
    /// What neither forwarder nor load used but somebody did, % of the machine.
    OthersPercent,
}

impl Metric {
    /// All of them.
    pub const ALL: [Metric; 15] = [
        Metric::Rate,
        Metric::MegabytesPerSecond,
        Metric::CpuUs,
        Metric::LoadCpuUs,
        Metric::P50Us,
        Metric::P90Us,
        Metric::P99Us,
        Metric::P999Us,
        Metric::FirstEchoP50Us,
        Metric::FirstEchoP99Us,
        Metric::MemoryBytes,
        Metric::ResidentBytes,
        Metric::Switches,
        Metric::StealPercent,
        Metric::OthersPercent,
    ];
}

/// One arm of one scenario in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    /// What was asked.
    pub scenario: Scenario,
    /// Who was asked.
    pub arm: &'static str,
    /// Which round, from 0.
    pub round: u32,
    /// Which turn in its round, from 0.
    pub turn: usize,
    /// What came out.
    pub metrics: BTreeMap<Metric, f64>,
    /// What went wrong, by name.
    pub errors: BTreeMap<String, u64>,
    /// Percentile and µs.
    pub percentiles: Vec<(f64, f64)>,
    /// Sockets in TIME_WAIT on the machine afterwards.
    pub time_wait_sockets: Option<u64>,
    /// The load's own words.
    pub load: Value,
}

/// The parts of the load's JSON line that are counted with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LoadLine {
    completed: f64,
    errors: BTreeMap<String, u64>,
    seconds: f64,
    rate: Option<f64>,
    latency_us: Option<Latency>,
    first_echo_us: Option<Latency>,
    percentiles: Vec<(f64, f64)>,
    megabytes_per_second: Option<f64>,
    forwarder_cpu_ns: Option<f64>,
    forwarder_cpu_ns_per_operation: Option<f64>,
    forwarder_switches: Option<Value>,
    load_cpu_ns: Option<f64>,
    machine_busy_ns: Option<f64>,
    machine_steal_ns: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Latency {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p999: Option<f64>,
}

impl LoadLine {
    /// What went wrong, by name; names that nothing was counted for left out.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.clone().into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// What it completed, or this where it does not say.
    pub fn completed_or(&self, otherwise: u32) -> f64 {
        if self.completed > 0.0 { self.completed } else { f64::from(otherwise) }
    }

    /// Its percentile curve.
    pub fn percentiles(&self) -> Vec<(f64, f64)> {
        self.percentiles.clone()
    }

    /// Its numbers; `cores` is how many the machine has.
    pub fn metrics(&self, cores: usize) -> BTreeMap<Metric, f64> {
        let mut metrics = BTreeMap::new();
        let mut put = |metric, value: Option<f64>| {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                metrics.insert(metric, value);
            }
        };
        let megabytes = self.megabytes_per_second.map(|rate| rate * self.seconds);
        let operations = megabytes.unwrap_or(self.completed);
        let per_operation =
            |ns: Option<f64>| ns.filter(|_| operations > 0.0).map(|n| n / operations);
        let micros = |ns: f64| ns / 1e3;
        if megabytes.is_none() {
            put(Metric::Rate, self.rate);
        }
        put(Metric::MegabytesPerSecond, self.megabytes_per_second);
        let forwarder = self.forwarder_cpu_ns.filter(|ns| *ns > 0.0);
        if forwarder.is_some() {
            let cpu = self.forwarder_cpu_ns_per_operation.or(per_operation(forwarder));
            put(Metric::CpuUs, cpu.map(micros));
            put(Metric::Switches, per_operation(self.forwarder_switches.as_ref().map(sum)));
        }
        put(Metric::LoadCpuUs, per_operation(self.load_cpu_ns).map(micros));
        if let Some(latency) = &self.latency_us {
            put(Metric::P50Us, latency.p50);
            put(Metric::P90Us, latency.p90);
            put(Metric::P99Us, latency.p99);
            put(Metric::P999Us, latency.p999);
        }
        if let Some(first) = &self.first_echo_us {
            put(Metric::FirstEchoP50Us, first.p50);
            put(Metric::FirstEchoP99Us, first.p99);
        }
        let machine_ns = self.seconds * 1e9 * cores as f64;
        let percent = |ns: f64| (machine_ns > 0.0).then(|| ns / machine_ns * 100.0);
        put(Metric::StealPercent, self.machine_steal_ns.and_then(percent));
        let ours = self.forwarder_cpu_ns.unwrap_or(0.0) + self.load_cpu_ns.unwrap_or(0.0);
        let others = self.machine_busy_ns.map(|busy| (busy - ours).max(0.0));
        put(Metric::OthersPercent, others.and_then(percent));
        metrics
    }
}

/// A number, or an object or list of numbers added up.
fn sum(value: &Value) -> f64 {
    match value {
        Value::Number(number) => number.as_f64().unwrap_or(0.0),
        Value::Object(members) => members.values().map(sum).sum(),
        Value::Array(items) => items.iter().map(sum).sum(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_counted_per_round_trip() {
        let line: LoadLine = serde_json::from_value(json!({
            "kind": "messages", "completed": 1000, "seconds": 2.0, "rate": 500.0,
            "errors": {"reset": 0, "timeout": 3},
            "latency_us": {"p50": 10.5, "p90": 20, "p99": 30, "p999": 40},
            "percentiles": [[0.0, 5.0], [50.0, 10.5]],
            "forwarder_cpu_ns": 9_000_000, "forwarder_switches": {"voluntary": 10, "other": 20},
            "load_cpu_ns": 5_000_000, "machine_busy_ns": 18_000_000, "machine_steal_ns": 40_000_000,
        }))
        .unwrap();
        let metrics = line.metrics(2);
        assert_eq!(line.errors(), BTreeMap::from([("timeout".to_string(), 3)]));
        assert_eq!(metrics[&Metric::CpuUs], 9.0);
        assert_eq!(metrics[&Metric::LoadCpuUs], 5.0);
        assert_eq!(metrics[&Metric::Switches], 0.03);
        assert_eq!(metrics[&Metric::P50Us], 10.5);
        assert_eq!(metrics[&Metric::StealPercent], 1.0);
        assert_eq!(metrics[&Metric::OthersPercent], 0.1);
        assert_eq!(line.percentiles().len(), 2);
    }

    #[test]
    fn bulk_is_counted_per_megabyte_and_direct_has_no_forwarder() {
        let line: LoadLine = serde_json::from_value(json!({
            "kind": "bulk", "completed": 7, "seconds": 2.0, "megabytes_per_second": 1000.0,
            "latency_us": null, "forwarder_cpu_ns": 1_000_000_000, "load_cpu_ns": 2_000_000_000,
        }))
        .unwrap();
        let metrics = line.metrics(2);
        assert_eq!(metrics[&Metric::CpuUs], 500.0);
        assert_eq!(metrics[&Metric::LoadCpuUs], 1000.0);
        assert!(!metrics.contains_key(&Metric::Rate));
        let direct = json!({"completed": 1, "seconds": 1.0, "forwarder_cpu_ns": 0});
        let direct: LoadLine = serde_json::from_value(direct).unwrap();
        assert!(!direct.metrics(2).contains_key(&Metric::CpuUs));
    }
}

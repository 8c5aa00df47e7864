//! What a run found out: the table, the JSON document, and the exit code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Serialize;

use crate::cli::DevicesArgs;
use crate::counters::{Count, Latency, Measure, Tally};
use crate::hgrm;
use crate::machine::{self, Host};
use crate::oracle::Routes;
use crate::plan::{Arm, Plan};

/// One arm after it ran.
pub struct ArmReport {
    /// What it was.
    pub plan: Arc<Plan>,
    /// What it found.
    pub tally: Tally,
    /// Length of the measurement.
    pub seconds: f64,
    /// CPU of this process during the measurement.
    pub cpu_seconds: f64,
    /// Messages, or logins of a churn, answered during the measurement.
    pub answered: u64,
    /// Whether a signal ended it.
    pub interrupted: bool,
}

/// Every arm of a run.
pub struct Report {
    args: DevicesArgs,
    started_unix_s: u64,
    arms: Vec<ArmReport>,
}

/// Percentiles of reports with their names in JSON.
const PERCENTILES: [(f64, &str); 6] = [
    (50.0, "p50"),
    (90.0, "p90"),
    (99.0, "p99"),
    (99.9, "p99_9"),
    (99.99, "p99_99"),
    (99.999, "p99_999"),
];

#[derive(Serialize)]
struct Document<'a> {
    tool: &'static str,
    version: &'static str,
    commit: String,
    started_unix_s: u64,
    host: Host,
    command: Vec<String>,
    config: Option<String>,
    exit_code: u8,
    faults: Vec<String>,
    arms: Vec<ArmDocument<'a>>,
    /// Gateway less direct, ns, for each measure and percentile.
    difference_ns: Option<BTreeMap<&'static str, BTreeMap<&'static str, i64>>>,
}

#[derive(Serialize)]
struct ArmDocument<'a> {
    arm: &'static str,
    targets: Vec<String>,
    routes: &'a Routes,
    devices: u32,
    interrupted: bool,
    seconds: f64,
    answered: u64,
    answered_per_second: f64,
    cpu_seconds: f64,
    cpu_us_per_answer: Option<f64>,
    counters: BTreeMap<&'static str, u64>,
    latency_ns: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    devices_by_backend: &'a BTreeMap<String, u64>,
    examples: &'a [String],
}

impl ArmReport {
    fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.answered as f64 / self.seconds } else { 0.0 }
    }

    fn cpu_us_per_answer(&self) -> Option<f64> {
        (self.answered > 0).then(|| self.cpu_seconds * 1e6 / self.answered as f64)
    }

    /// What makes the exit code 1, in words.
    pub fn faults(&self) -> Vec<String> {
        let args = &self.plan.args;
        let mut faults: Vec<String> = Count::WRONG
            .iter()
            .filter(|count| self.tally.get(**count) > 0)
            .map(|count| format!("{} {}", self.tally.get(*count), count.name()))
            .collect();
        let broken = Count::BROKEN.iter().filter(|count| self.tally.get(**count) > 0);
        if !args.tolerate_breaks {
            faults.extend(broken.map(|c| format!("{} {}", self.tally.get(*c), c.name())));
        }
        let unroutable = self.tally.get(Count::DevicesUnroutable);
        let expected = u64::from(args.count) - unroutable;
        let missing = expected.saturating_sub(self.tally.get(Count::DevicesLoggedIn));
        // A run that was cut short did not start every device.
        if missing > 0 && !self.interrupted {
            faults.push(format!("{missing} devices never logged in"));
        }
        let gone = self.tally.get(Count::DevicesGone);
        if gone > 0 {
            faults.push(format!("{gone} devices gone at the end"));
        }
        faults.iter_mut().for_each(|fault| *fault = format!("{}: {fault}", self.plan.arm.name()));
        faults
    }

    fn document(&self) -> ArmDocument<'_> {
        ArmDocument {
            arm: self.plan.arm.name(),
            targets: self.plan.targets.iter().map(|target| target.to_string()).collect(),
            routes: &self.plan.routes,
            devices: self.plan.args.count,
            interrupted: self.interrupted,
            seconds: self.seconds,
            answered: self.answered,
            answered_per_second: self.per_second(),
            cpu_seconds: self.cpu_seconds,
            cpu_us_per_answer: self.cpu_us_per_answer(),
            counters: Count::ALL.iter().map(|(c, name)| (*name, self.tally.get(*c))).collect(),
            latency_ns: Measure::ALL
                .iter()
                .map(|(measure, name)| (*name, summary(self.tally.latency(*measure))))
                .collect(),
            devices_by_backend: &self.tally.placed,
            examples: &self.tally.examples,
        }
    }
}

/// Whole nanoseconds; only the count if there is nothing.
fn summary(latency: &Latency) -> BTreeMap<&'static str, u64> {
    let histogram = latency.histogram();
    let mut values = BTreeMap::from([("count", histogram.len())]);
    if !histogram.is_empty() {
        values.insert("min", histogram.min());
        values.insert("mean", histogram.mean().round() as u64);
        values.insert("stdev", histogram.stdev().round() as u64);
        values.insert("max", histogram.max());
        for (percentile, name) in PERCENTILES {
            values.insert(name, histogram.value_at_percentile(percentile));
        }
    }
    values
}

impl Report {
    /// A report without arms.
    pub fn new(args: &DevicesArgs) -> Report {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Report { args: args.clone(), started_unix_s: now.as_secs(), arms: Vec::new() }
    }

    /// Adds an arm.
    pub fn add(&mut self, arm: ArmReport) {
        self.arms.push(arm);
    }

    /// Prints the table, writes the files, and gives the exit code.
    pub fn publish(&self) -> anyhow::Result<u8> {
        let faults: Vec<String> = self.arms.iter().flat_map(ArmReport::faults).collect();
        let exit_code = u8::from(!faults.is_empty());
        let to_stdout = self.args.output.json.as_deref() == Some(Path::new("-"));
        let mut table = self.table();
        for fault in &faults {
            let _ = writeln!(table, "FAULT {fault}");
        }
        for example in self.arms.iter().flat_map(|arm| &arm.tally.examples) {
            let _ = writeln!(table, "      {example}");
        }
        let _ = writeln!(table, "{}", if exit_code == 0 { "PASS" } else { "FAIL" });
        // Standard output belongs to the JSON document if it was asked for there.
        match to_stdout {
            true => std::io::stderr().write_all(table.as_bytes())?,
            false => std::io::stdout().write_all(table.as_bytes())?,
        }
        if let Some(prefix) = &self.args.output.hgrm {
            self.write_hgrm(prefix)?;
        }
        if let Some(path) = &self.args.output.json {
            write_json(path, &self.document(exit_code, faults))?;
        }
        Ok(exit_code)
    }

    fn document(&self, exit_code: u8, faults: Vec<String>) -> Document<'_> {
        Document {
            tool: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            commit: machine::commit(),
            started_unix_s: self.started_unix_s,
            host: Host::look(),
            command: std::env::args().collect(),
            config: self.args.config.as_ref().map(|path| path.display().to_string()),
            exit_code,
            faults,
            arms: self.arms.iter().map(ArmReport::document).collect(),
            difference_ns: self.both().map(|(direct, gateway)| difference(direct, gateway)),
        }
    }

    fn both(&self) -> Option<(&Tally, &Tally)> {
        let of = |wanted| self.arms.iter().find(|arm| arm.plan.arm == wanted).map(|arm| &arm.tally);
        Some((of(Arm::Direct)?, of(Arm::Gateway)?))
    }

    fn write_hgrm(&self, prefix: &Path) -> anyhow::Result<()> {
        for arm in &self.arms {
            for (measure, name) in Measure::ALL {
                let histogram = arm.tally.latency(*measure).histogram();
                if histogram.is_empty() {
                    continue;
                }
                let mut path = prefix.as_os_str().to_owned();
                path.push(format!("-{}-{name}.hgrm", arm.plan.arm.name()));
                std::fs::write(&path, hgrm::text(histogram))
                    .with_context(|| format!("writing {}", Path::new(&path).display()))?;
            }
        }
        Ok(())
    }

    fn table(&self) -> String {
        let mut text = String::new();
        for arm in &self.arms {
            arm_table(&mut text, arm);
        }
        if let Some((direct, gateway)) = self.both() {
            let _ = writeln!(text, "\ngateway less direct, µs");
            latency_header(&mut text);
            let difference = difference(direct, gateway);
            for (_, name) in Measure::ALL {
                let Some(values) = difference.get(name) else { continue };
                let cells = TABLE_COLUMNS.iter().filter_map(|column| values.get(column));
                latency_row(&mut text, name, None, cells.map(|ns| *ns as f64));
            }
        }
        text
    }
}

const TABLE_COLUMNS: [&str; 7] = ["min", "mean", "p50", "p90", "p99", "p99_9", "max"];

fn difference(
    direct: &Tally,
    gateway: &Tally,
) -> BTreeMap<&'static str, BTreeMap<&'static str, i64>> {
    let mut measures = BTreeMap::new();
    for (measure, name) in Measure::ALL {
        let (base, with) = (summary(direct.latency(*measure)), summary(gateway.latency(*measure)));
        let values: BTreeMap<&'static str, i64> = with
            .iter()
            .filter(|(key, _)| !matches!(**key, "count" | "stdev"))
            .filter_map(|(key, value)| Some((*key, *value as i64 - *base.get(key)? as i64)))
            .collect();
        if !values.is_empty() {
            measures.insert(*name, values);
        }
    }
    measures
}

fn latency_header(text: &mut String) {
    let _ = write!(text, "  {:<12}{:>10}", "µs", "count");
    for column in TABLE_COLUMNS {
        let _ = write!(text, "{:>11}", column.replace('_', "."));
    }
    text.push('\n');
}

fn latency_row(
    text: &mut String,
    name: &str,
    count: Option<u64>,
    cells_ns: impl Iterator<Item = f64>,
) {
    let count = count.map_or(String::new(), |count| count.to_string());
    let _ = write!(text, "  {name:<12}{count:>10}");
    for ns in cells_ns {
        let _ = write!(text, "{:>11.1}", ns / 1e3);
    }
    text.push('\n');
}

fn arm_table(text: &mut String, arm: &ArmReport) {
    let targets: Vec<String> = arm.plan.targets.iter().map(|target| target.to_string()).collect();
    let _ = writeln!(text, "\n{} → {}", arm.plan.arm.name(), targets.join(", "));
    if let Some(remark) = &arm.plan.routes.remark {
        let _ = writeln!(text, "  note: {remark}");
    }
    let cut_short = if arm.interrupted { ", interrupted" } else { "" };
    let _ = writeln!(
        text,
        "  {:.1} s measured{cut_short}, {} answered, {:.0}/s, load generator CPU {:.2} s{}",
        arm.seconds,
        arm.answered,
        arm.per_second(),
        arm.cpu_seconds,
        arm.cpu_us_per_answer().map_or(String::new(), |us| format!(" ({us:.2} µs each)")),
    );
    latency_header(text);
    for (measure, name) in Measure::ALL {
        let latency = arm.tally.latency(*measure);
        let values = summary(latency);
        if latency.histogram().is_empty() {
            continue;
        }
        let cells = TABLE_COLUMNS.iter().filter_map(|column| values.get(column)).copied();
        latency_row(text, name, Some(latency.histogram().len()), cells.map(|ns| ns as f64));
    }
    for (backend, devices) in &arm.tally.placed {
        let _ = writeln!(text, "  {devices:>8} devices on {backend}");
    }
    let mut line_len = usize::MAX;
    for (count, name) in Count::ALL {
        let value = arm.tally.get(*count);
        if value == 0 && !Count::WRONG.contains(count) {
            continue;
        }
        let cell = format!("  {name} {value}");
        if line_len.saturating_add(cell.len()) > 98 {
            text.push_str(if line_len == usize::MAX { " " } else { "\n " });
            line_len = 1;
        }
        line_len += cell.len();
        text.push_str(&cell);
    }
    text.push('\n');
}

/// Writes a JSON document to a file, or to standard output for `-`.
pub fn write_json(path: &Path, document: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(document)?;
    text.push('\n');
    if path == Path::new("-") {
        return Ok(std::io::stdout().write_all(text.as_bytes())?);
    }
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

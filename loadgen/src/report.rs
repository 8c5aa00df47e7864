//! What a run found out: the table, the JSON document, and the exit code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Serialize;

use crate::cli::OutputArgs;
use crate::counters::{Count, Latency, Measure, Tally};
use crate::course::{Finished, Interrupts};
use crate::hgrm;
use crate::machine::{self, Host};
use crate::oracle::Routes;
use crate::plan::Arm;

/// One arm after it ran.
pub struct ArmReport {
    /// Which way.
    pub arm: Arm,
    /// What ran.
    pub subject: Subject,
    /// Where to.
    pub targets: Vec<SocketAddr>,
    /// Where it had to land.
    pub routes: Routes,
    /// How many there were.
    pub count: u32,
    /// Whether connections may break.
    pub tolerate_breaks: bool,
    /// How many of them had to get as far as [`Subject::arrived`] counts.
    pub expected: u64,
    /// What was found.
    pub finished: Finished,
}

/// What a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Devices.
    Devices,
    /// Requests over connections.
    Http,
    /// WebSocket clients.
    WebSocket,
}

impl Subject {
    /// What is counted by backend, and how many of what there were.
    fn nouns(self) -> (&'static str, &'static str) {
        match self {
            Subject::Devices => ("devices", "devices"),
            Subject::Http => ("answers", "connections"),
            Subject::WebSocket => ("clients", "clients"),
        }
    }

    /// What counts those that got through, and what it means that one did not.
    fn arrived(self) -> (Count, &'static str) {
        match self {
            Subject::Devices => (Count::DevicesLoggedIn, "devices never logged in"),
            Subject::Http => (Count::Received, "requests expected and none answered"),
            Subject::WebSocket => (Count::ClientsUpgraded, "clients never upgraded"),
        }
    }
}

/// Every arm of a run.
pub struct Report {
    output: OutputArgs,
    config: Option<PathBuf>,
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
    #[serde(flatten)]
    population: BTreeMap<&'static str, u32>,
    interrupted: bool,
    seconds: f64,
    answered: u64,
    answered_per_second: f64,
    cpu_seconds: f64,
    cpu_us_per_answer: Option<f64>,
    counters: BTreeMap<&'static str, u64>,
    latency_ns: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    #[serde(flatten)]
    by_backend: BTreeMap<String, &'a BTreeMap<String, u64>>,
    examples: &'a [String],
}

impl ArmReport {
    fn per_second(&self) -> f64 {
        let Finished { seconds, answered, .. } = self.finished;
        if seconds > 0.0 { answered as f64 / seconds } else { 0.0 }
    }

    fn cpu_us_per_answer(&self) -> Option<f64> {
        let Finished { cpu_seconds, answered, .. } = self.finished;
        (answered > 0).then(|| cpu_seconds * 1e6 / answered as f64)
    }

    /// What makes the exit code 1, in words.
    pub fn faults(&self) -> Vec<String> {
        let tally = &self.finished.tally;
        let mut faults: Vec<String> = Count::WRONG
            .iter()
            .filter(|count| tally.get(**count) > 0)
            .map(|count| format!("{} {}", tally.get(*count), count.name()))
            .collect();
        let broken = Count::BROKEN.iter().filter(|count| tally.get(**count) > 0);
        if !self.tolerate_breaks {
            faults.extend(broken.map(|c| format!("{} {}", tally.get(*c), c.name())));
        }
        let (arrived, what) = self.subject.arrived();
        let missing = self.expected.saturating_sub(tally.get(arrived));
        // A run that was cut short did not start every device.
        if missing > 0 && !self.finished.interrupted {
            faults.push(format!("{missing} {what}"));
        }
        let gone = tally.get(Count::DevicesGone) + tally.get(Count::ClientsGone);
        if gone > 0 {
            faults.push(format!("{gone} {} gone at the end", self.subject.nouns().1));
        }
        faults.iter_mut().for_each(|fault| *fault = format!("{}: {fault}", self.arm.name()));
        faults
    }

    fn document(&self) -> ArmDocument<'_> {
        let tally = &self.finished.tally;
        let (placed, population) = self.subject.nouns();
        ArmDocument {
            arm: self.arm.name(),
            targets: self.targets.iter().map(|target| target.to_string()).collect(),
            routes: &self.routes,
            population: BTreeMap::from([(population, self.count)]),
            interrupted: self.finished.interrupted,
            seconds: self.finished.seconds,
            answered: self.finished.answered,
            answered_per_second: self.per_second(),
            cpu_seconds: self.finished.cpu_seconds,
            cpu_us_per_answer: self.cpu_us_per_answer(),
            counters: Count::ALL.iter().map(|(c, name)| (*name, tally.get(*c))).collect(),
            latency_ns: Measure::ALL
                .iter()
                .map(|(measure, name)| (*name, summary(tally.latency(*measure))))
                .collect(),
            by_backend: BTreeMap::from([(format!("{placed}_by_backend"), &tally.placed)]),
            examples: &tally.examples,
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
    pub fn new(output: &OutputArgs, config: Option<&Path>) -> Report {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Report {
            output: output.clone(),
            config: config.map(Path::to_path_buf),
            started_unix_s: now.as_secs(),
            arms: Vec::new(),
        }
    }

    /// Runs one arm after the other until a signal, then publishes; gives the exit code.
    ///
    /// # Errors
    /// What an arm says, or that the report could not be written.
    pub fn run<P>(
        mut self,
        plans: Vec<P>,
        run_arm: impl AsyncFn(P, &mut Interrupts) -> anyhow::Result<ArmReport>,
    ) -> anyhow::Result<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut interrupts = Interrupts::new()?;
            for plan in plans {
                self.arms.push(run_arm(plan, &mut interrupts).await?);
                if interrupts.seen {
                    break;
                }
            }
            anyhow::Ok(())
        })?;
        self.publish()
    }

    /// Prints the table, writes the files, and gives the exit code.
    fn publish(&self) -> anyhow::Result<u8> {
        let faults: Vec<String> = self.arms.iter().flat_map(ArmReport::faults).collect();
        let exit_code = u8::from(!faults.is_empty());
        let to_stdout = self.output.json.as_deref() == Some(Path::new("-"));
        let mut table = self.table();
        for fault in &faults {
            let _ = writeln!(table, "FAULT {fault}");
        }
        for example in self.arms.iter().flat_map(|arm| &arm.finished.tally.examples) {
            let _ = writeln!(table, "      {example}");
        }
        let _ = writeln!(table, "{}", if exit_code == 0 { "PASS" } else { "FAIL" });
        // Standard output belongs to the JSON document if it was asked for there.
        match to_stdout {
            true => std::io::stderr().write_all(table.as_bytes())?,
            false => std::io::stdout().write_all(table.as_bytes())?,
        }
        if let Some(prefix) = &self.output.hgrm {
            self.write_hgrm(prefix)?;
        }
        if let Some(path) = &self.output.json {
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
            config: self.config.as_ref().map(|path| path.display().to_string()),
            exit_code,
            faults,
            arms: self.arms.iter().map(ArmReport::document).collect(),
            difference_ns: self.both().map(|(direct, gateway)| difference(direct, gateway)),
        }
    }

    fn both(&self) -> Option<(&Tally, &Tally)> {
        let of =
            |wanted| self.arms.iter().find(|arm| arm.arm == wanted).map(|arm| &arm.finished.tally);
        Some((of(Arm::Direct)?, of(Arm::Gateway)?))
    }

    fn write_hgrm(&self, prefix: &Path) -> anyhow::Result<()> {
        for arm in &self.arms {
            for (measure, name) in Measure::ALL {
                let histogram = arm.finished.tally.latency(*measure).histogram();
                if histogram.is_empty() {
                    continue;
                }
                let mut path = prefix.as_os_str().to_owned();
                path.push(format!("-{}-{name}.hgrm", arm.arm.name()));
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
        // The others are ours: the back-off's jitter and our own punctuality.
        if matches!(measure, Measure::Reconnect | Measure::SendLag) {
            continue;
        }
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
    let targets: Vec<String> = arm.targets.iter().map(|target| target.to_string()).collect();
    let _ = writeln!(text, "\n{} → {}", arm.arm.name(), targets.join(", "));
    if let Some(remark) = &arm.routes.remark {
        let _ = writeln!(text, "  note: {remark}");
    }
    let cut_short = if arm.finished.interrupted { ", interrupted" } else { "" };
    let _ = writeln!(
        text,
        "  {:.1} s measured{cut_short}, {} answered, {:.0}/s, load generator CPU {:.2} s{}",
        arm.finished.seconds,
        arm.finished.answered,
        arm.per_second(),
        arm.finished.cpu_seconds,
        arm.cpu_us_per_answer().map_or(String::new(), |us| format!(" ({us:.2} µs each)")),
    );
    latency_header(text);
    for (measure, name) in Measure::ALL {
        let latency = arm.finished.tally.latency(*measure);
        let values = summary(latency);
        if latency.histogram().is_empty() {
            continue;
        }
        let cells = TABLE_COLUMNS.iter().filter_map(|column| values.get(column)).copied();
        latency_row(text, name, Some(latency.histogram().len()), cells.map(|ns| ns as f64));
    }
    let (placed, _) = arm.subject.nouns();
    for (backend, devices) in &arm.finished.tally.placed {
        let _ = writeln!(text, "  {devices:>8} {placed} on {backend}");
    }
    let mut line_len = usize::MAX;
    for (count, name) in Count::ALL {
        let value = arm.finished.tally.get(*count);
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

//! What is written: JSON with everything, Markdown with tables, one HTML page with plots.

mod html;
mod markdown;
mod plot;
mod results;
mod statistics;
mod targets;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::run::machine::{Machine, commit};
use crate::run::measurement::{Measurement, Metric};
use crate::run::plan::{Pace, Scenario};
use crate::run::rounds::Found;
use results::Results;
use statistics::Summary;
use targets::{Check, Noise};

/// A run that has ended.
pub struct Run {
    /// When it began, seconds since 1970.
    pub started_unix_s: u64,
    /// When it ended.
    pub finished_unix_s: u64,
    /// Whether it was a quick one.
    pub is_quick: bool,
    /// How long each thing was looked at.
    pub pace: Pace,
    /// On what.
    pub machine: Machine,
    /// Whose versions.
    pub versions: BTreeMap<&'static str, String>,
    /// What was asked.
    pub scenarios: Vec<Scenario>,
    /// What was found.
    pub found: Found,
}

/// results.json
#[derive(Serialize)]
struct Document<'a> {
    tool: &'static str,
    version: &'static str,
    commit: &'a str,
    started_unix_s: u64,
    finished_unix_s: u64,
    command: Vec<String>,
    quick: bool,
    pace: Pace,
    machine: &'a Machine,
    versions: &'a BTreeMap<&'static str, String>,
    exit_code: u8,
    noise: &'a Noise,
    targets: &'a [Check],
    scenarios: Vec<ScenarioDocument>,
    absent: &'a BTreeMap<String, String>,
    /// By scenario and arm, of the first round; ports differ in the others.
    configs: &'a BTreeMap<String, String>,
    measurements: &'a [Measurement],
}

#[derive(Serialize)]
struct ScenarioDocument {
    name: &'static str,
    question: &'static str,
    arms: Vec<ArmDocument>,
}

#[derive(Serialize)]
struct ArmDocument {
    name: &'static str,
    rounds: usize,
    errors: BTreeMap<String, u64>,
    metrics: BTreeMap<Metric, Summary>,
}

/// A run with what was made of it, for every kind of page.
struct Page<'a> {
    run: &'a Run,
    commit: &'a str,
    results: Results<'a>,
    checks: &'a [Check],
    noise: &'a Noise,
}

/// Writes the three files, prints the targets, and gives the exit code.
pub fn write(run: &Run, folder: &Path) -> anyhow::Result<u8> {
    let results = Results::new(&run.found.measurements);
    let checks = targets::judge(results);
    let noise = targets::noise(results);
    let exit_code = targets::exit_code(&checks, &noise);
    let commit = commit();
    let page = Page { run, commit: &commit, results, checks: &checks, noise: &noise };
    let save = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    };
    let document = document(&page, exit_code);
    save("results.json", serde_json::to_string_pretty(&document)? + "\n")?;
    save("results.md", markdown::page(&page))?;
    save("results.html", html::page(&page))?;
    println!("{}", markdown::verdict(&page));
    println!("results: {}", folder.display());
    Ok(exit_code)
}

fn document<'a>(page: &Page<'a>, exit_code: u8) -> Document<'a> {
    let run = page.run;
    let results = page.results;
    let arm = |scenario, name| ArmDocument {
        name,
        rounds: results.rounds(scenario, name),
        errors: results.errors(scenario, name),
        metrics: Metric::ALL
            .into_iter()
            .filter_map(|metric| Some((metric, results.summary(scenario, name, metric)?)))
            .collect(),
    };
    let scenario = |scenario: &Scenario| ScenarioDocument {
        name: scenario.name(),
        question: scenario.question(),
        arms: results.arms(*scenario).into_iter().map(|name| arm(*scenario, name)).collect(),
    };
    Document {
        tool: "corelane-bench",
        version: env!("CARGO_PKG_VERSION"),
        commit: page.commit,
        started_unix_s: run.started_unix_s,
        finished_unix_s: run.finished_unix_s,
        command: std::env::args().collect(),
        quick: run.is_quick,
        pace: run.pace,
        machine: &run.machine,
        versions: &run.versions,
        exit_code,
        noise: page.noise,
        targets: page.checks,
        scenarios: run.scenarios.iter().map(scenario).collect(),
        absent: &run.found.absent,
        configs: &run.found.configs,
        measurements: &run.found.measurements,
    }
}

impl Metric {
    /// For readers, with its unit.
    fn title(self) -> &'static str {
        match self {
            Metric::Rate => "per second",
            Metric::MegabytesPerSecond => "MB/s",
            Metric::CpuUs => "CPU µs",
            Metric::LoadCpuUs => "ends' CPU µs",
            Metric::P50Us => "p50 µs",
            Metric::P90Us => "p90 µs",
            Metric::P99Us => "p99 µs",
            Metric::P999Us => "p99.9 µs",
            Metric::FirstEchoP50Us => "first echo p50 µs",
            Metric::FirstEchoP99Us => "first echo p99 µs",
            Metric::MemoryBytes => "cgroup bytes",
            Metric::ResidentBytes => "resident bytes",
            Metric::Switches => "switches",
            Metric::StealPercent => "steal %",
            Metric::OthersPercent => "others %",
        }
    }
}

/// A number with as many digits as are worth reading, thousands separated.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        x if x >= 100.0 || x == 0.0 => 0,
        x if x >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, format!(".{fraction}")),
        None => (text.as_str(), String::new()),
    };
    let (sign, digits) = match whole.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", whole),
    };
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{fraction}")
}

/// A measurement in a line, for whoever watches.
pub fn one_line(measurement: &Measurement) -> String {
    let interesting = [
        Metric::Rate,
        Metric::MegabytesPerSecond,
        Metric::CpuUs,
        Metric::P50Us,
        Metric::P99Us,
        Metric::FirstEchoP50Us,
        Metric::MemoryBytes,
        Metric::ResidentBytes,
    ];
    let known = interesting.into_iter().filter_map(|metric| {
        let value = measurement.metrics.get(&metric)?;
        Some(format!("{} {}", number(*value), metric.title()))
    });
    let mut parts: Vec<String> = known.collect();
    parts.extend(measurement.errors.iter().map(|(name, count)| format!("{name}: {count}")));
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::results::tests::matrix;
    use super::*;

    const PACE: Pace = Pace {
        rounds: 3,
        idle_rounds: 3,
        steady_rounds: 3,
        warmup_s: 0.1,
        seconds: 1.0,
        open_seconds: 2.0,
        devices_idle_max: 9_000,
    };

    /// A run with three rounds of everything.
    pub fn sample(factor: f64) -> Run {
        Run {
            started_unix_s: 1_800_000_000,
            finished_unix_s: 1_800_000_100,
            is_quick: true,
            pace: PACE,
            machine: Machine::look("cubic").unwrap(),
            versions: [("nginx", "nginx <1.22> & co".to_string())].into(),
            scenarios: Scenario::ALL.to_vec(),
            found: Found {
                measurements: matrix(factor),
                configs: [("bulk nginx".to_string(), "a < b & c\n".to_string())].into(),
                absent: [("connects haproxy".to_string(), "not installed".to_string())].into(),
            },
        }
    }

    /// Gives a page of a sample run to `look`.
    pub fn with_page<T>(run: &Run, look: impl FnOnce(&Page<'_>) -> T) -> T {
        let results = Results::new(&run.found.measurements);
        let checks = targets::judge(results);
        let noise = targets::noise(results);
        look(&Page { run, commit: "abc", results, checks: &checks, noise: &noise })
    }

    #[test]
    fn numbers_are_readable() {
        let cases = [
            (0.0, "0"),
            (0.756, "0.76"),
            (12.34, "12.3"),
            (999.4, "999"),
            (1_234_567.0, "1,234,567"),
            (-1_234.0, "-1,234"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn three_files_are_written_and_the_document_has_it_all() {
        let name = format!("corelane-bench-output-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(write(&sample(0.5), &folder).unwrap(), 0);
        assert_eq!(write(&sample(1.5), &folder).unwrap(), 1);
        let read = |name| std::fs::read_to_string(folder.join(name)).unwrap();
        let document: serde_json::Value = serde_json::from_str(&read("results.json")).unwrap();
        assert_eq!(document["exit_code"], 1);
        assert_eq!(document["scenarios"].as_array().unwrap().len(), Scenario::ALL.len());
        assert_eq!(document["scenarios"][0]["arms"][1]["metrics"]["cpu_us"]["median"], 1_500.0);
        assert_eq!(document["measurements"].as_array().unwrap().len(), matrix(1.0).len());
        assert_eq!(document["configs"]["bulk nginx"], "a < b & c\n");
        assert!(document["machine"]["sysctls"]["net.ipv4.tcp_rmem"].is_string());
        assert!(read("results.md").contains("| holds"), "{}", read("results.md"));
        assert!(read("results.html").starts_with("<!DOCTYPE html>"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

//! Tables: the targets, then every scenario with its ratios.

use std::fmt::Write as _;

use super::results::PEERS;
use super::statistics::Summary;
use super::targets::Check;
use super::{Page, number};
use crate::peers::Peer;
use crate::run::measurement::Metric;
use crate::run::plan::Scenario;

/// A whole page.
pub fn page(page: &Page<'_>) -> String {
    let run = page.run;
    let mut text = String::from("# corelane beside HAProxy, nginx and no forwarder\n\n");
    text += &surroundings(page);
    text += "\n## Targets\n\n";
    text += &verdict(page);
    text += "\n## Noise\n\n";
    text += &noise_table(page);
    let _ = writeln!(
        text,
        "\n## Measurements\n\nMedians of the rounds, and after ± half of what lies between the \
         least and the greatest. Ratios are taken within each round and are medians too: below 1 \
         is better for CPU, latency and memory, above 1 for rates. CPU is the forwarder's, user \
         and system, per round trip, request, connection or MB."
    );
    for scenario in &run.scenarios {
        text += &scenario_section(page, *scenario);
    }
    if !run.found.absent.is_empty() {
        text += "\n## Not measured\n\n";
        for (what, why) in &run.found.absent {
            let _ = writeln!(text, "- {what}: {why}");
        }
    }
    text += "\n## Configurations\n\nOf the first round; in the others only ports differ.\n";
    for (whose, config) in &run.found.configs {
        let _ = write!(text, "\n{whose}:\n\n```\n{}```\n", shortened(config));
    }
    text
}

/// Very long configurations without their middle.
fn shortened(config: &str) -> String {
    let lines: Vec<&str> = config.lines().collect();
    if lines.len() <= 80 {
        return config.to_string();
    }
    let (head, tail) = (&lines[..40], &lines[lines.len() - 10..]);
    let left_out = lines.len() - 50;
    format!("{}\n[{left_out} lines]\n{}\n", head.join("\n"), tail.join("\n"))
}

/// The run in items: what, where, when, how.
pub fn facts(page: &Page<'_>) -> Vec<(&'static str, String)> {
    let run = page.run;
    let machine = &run.machine;
    let pace = run.pace;
    let virtual_note = if machine.is_virtual { ", virtual" } else { "" };
    let started = std::time::UNIX_EPOCH + std::time::Duration::from_secs(run.started_unix_s);
    let mut facts = vec![
        ("commit", page.commit.to_string()),
        ("started", utc(started)),
        ("lasted", format!("{} s", run.finished_unix_s.saturating_sub(run.started_unix_s))),
        (
            "rounds",
            format!(
                "{} of {} s per measurement ({} s at a fixed rate), {} s of load before it",
                pace.rounds, pace.seconds, pace.open_seconds, pace.warmup_s
            ),
        ),
        ("machine", format!("{} × {}{virtual_note}", machine.cores.len(), machine.cpu)),
        ("kernel", machine.kernel.clone()),
        ("memory", format!("{} MiB", machine.memory_bytes >> 20)),
        ("load before", machine.load_average.clone()),
    ];
    facts.extend(run.versions.iter().map(|(name, version)| (*name, version.clone())));
    let sysctls = machine.sysctls.iter().map(|(name, value)| format!("{name} = {value}"));
    facts.push(("settings", sysctls.collect::<Vec<_>>().join("; ")));
    facts.push(("congestion control before the run", machine.congestion_control_before.clone()));
    facts
}

/// RFC 3339 in UTC, seconds.
fn utc(time: std::time::SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn surroundings(page: &Page<'_>) -> String {
    facts(page).iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "- {name}: {value}");
        text
    })
}

/// The targets as a table, and what follows from noise.
pub fn verdict(page: &Page<'_>) -> String {
    let mut rows =
        vec![["", "target", "value", "rounds", "bound", ""].map(str::to_string).to_vec()];
    rows.extend(page.checks.iter().map(|check| check_cells(check).to_vec()));
    let mut text = table(&rows);
    if page.noise.is_too_noisy {
        text += "\n**Too noisy to compare**: the values above mean nothing.";
        for source in page.noise.sources.iter().filter(|source| source.value > source.bound) {
            let value = number(source.value);
            let _ = write!(text, " {}: {value}, at most {}.", source.what, source.bound);
        }
        text.push('\n');
    }
    text
}

/// The cells of a target's row.
pub fn check_cells(check: &Check) -> [String; 6] {
    let value = match (check.value, check.against) {
        (None, _) => "–".to_string(),
        (Some(value), None) => number(value),
        (Some(value), Some(peer)) => format!("{} ({peer})", number(value)),
    };
    let range = match check.range {
        Some((low, high)) if low < high => format!("{} … {}", number(low), number(high)),
        _ => String::new(),
    };
    let state = check.state.name().to_string();
    let bound = format!("{} {}", check.relation.sign(), check.bound);
    [check.target.to_string(), check.what.clone(), value, range, bound, state]
}

/// What was looked at to tell noise.
pub fn noise_rows(page: &Page<'_>) -> Vec<Vec<String>> {
    let mut rows = vec![["what", "value", "at most"].map(str::to_string).to_vec()];
    rows.extend(
        page.noise.sources.iter().map(|source| {
            vec![source.what.clone(), number(source.value), source.bound.to_string()]
        }),
    );
    rows
}

fn noise_table(page: &Page<'_>) -> String {
    table(&noise_rows(page))
}

/// Numbers of a scenario that are worth a column, in order.
fn columns(scenario: Scenario) -> Vec<Metric> {
    match scenario {
        Scenario::MessagesOtherCore
        | Scenario::MessagesSameCore
        | Scenario::RequestsTableOtherCore
        | Scenario::RequestsTableSameCore
        | Scenario::RequestsLookupOtherCore
        | Scenario::RequestsLookupSameCore
        | Scenario::WebsocketOtherCore
        | Scenario::WebsocketSameCore
        | Scenario::GrowthIdle
        | Scenario::GrowthShards
        | Scenario::GrowthBackends
        | Scenario::GrowthSwaps => vec![
            Metric::CpuUs,
            Metric::Rate,
            Metric::P50Us,
            Metric::P99Us,
            Metric::Switches,
            Metric::LoadCpuUs,
        ],
        Scenario::MessagesOpen => vec![
            Metric::P50Us,
            Metric::P90Us,
            Metric::P99Us,
            Metric::P999Us,
            Metric::CpuUs,
            Metric::Rate,
        ],
        Scenario::Connects => {
            vec![Metric::CpuUs, Metric::Rate, Metric::FirstEchoP50Us, Metric::FirstEchoP99Us]
        }
        Scenario::ConnectsWarm => {
            vec![Metric::FirstEchoP50Us, Metric::FirstEchoP99Us, Metric::CpuUs, Metric::Rate]
        }
        Scenario::Idle => vec![Metric::MemoryBytes, Metric::ResidentBytes],
        Scenario::BulkOtherCore | Scenario::BulkSameCore => {
            vec![Metric::MegabytesPerSecond, Metric::CpuUs, Metric::Switches]
        }
    }
}

/// The numbers whose ratios to the peers are shown: those with a target.
fn compared(scenario: Scenario) -> &'static [Metric] {
    match scenario {
        Scenario::MessagesOtherCore | Scenario::MessagesSameCore => &[Metric::CpuUs],
        Scenario::MessagesOpen => &[Metric::P50Us, Metric::P99Us, Metric::P999Us],
        Scenario::Connects
        | Scenario::RequestsTableOtherCore
        | Scenario::RequestsTableSameCore
        | Scenario::RequestsLookupOtherCore
        | Scenario::RequestsLookupSameCore => &[Metric::CpuUs, Metric::Rate],
        Scenario::ConnectsWarm => &[Metric::FirstEchoP50Us],
        Scenario::Idle => &[Metric::MemoryBytes, Metric::ResidentBytes],
        Scenario::BulkOtherCore | Scenario::BulkSameCore => {
            &[Metric::MegabytesPerSecond, Metric::CpuUs]
        }
        Scenario::WebsocketOtherCore
        | Scenario::WebsocketSameCore
        | Scenario::GrowthIdle
        | Scenario::GrowthShards
        | Scenario::GrowthBackends
        | Scenario::GrowthSwaps => &[],
    }
}

/// Tables of a scenario: numbers, and ratios if there is anything to compare.
pub fn scenario_tables(page: &Page<'_>, scenario: Scenario) -> Vec<Vec<Vec<String>>> {
    let mut tables = vec![numbers(page, scenario)];
    tables.extend(ratios(page, scenario));
    tables
}

fn numbers(page: &Page<'_>, scenario: Scenario) -> Vec<Vec<String>> {
    let columns = columns(scenario);
    let mut head = vec![String::new()];
    head.extend(columns.iter().map(|metric| metric.title().to_string()));
    head.push("errors".into());
    let mut rows = vec![head];
    for arm in page.results.arms(scenario) {
        let mut row = vec![arm.to_string()];
        row.extend(columns.iter().map(|metric| {
            page.results.summary(scenario, arm, *metric).map_or("–".into(), with_spread)
        }));
        let errors = page.results.errors(scenario, arm);
        let errors: Vec<String> =
            errors.iter().map(|(name, count)| format!("{name} {count}")).collect();
        row.push(if errors.is_empty() { "0".into() } else { errors.join(", ") });
        rows.push(row);
    }
    rows
}

fn with_spread(summary: Summary) -> String {
    format!("{} ±{:.0} %", number(summary.median), summary.spread * 50.0)
}

fn ratios(page: &Page<'_>, scenario: Scenario) -> Option<Vec<Vec<String>>> {
    let planned = scenario.arms();
    let measured = page.results.arms(scenario);
    let arms = |ours: bool| {
        let arms = planned.iter().filter(move |arm| (arm.peer == Peer::Corelane) == ours);
        arms.map(|arm| arm.name).filter(|name| measured.contains(name)).collect::<Vec<_>>()
    };
    let peers: Vec<&str> = arms(false)
        .into_iter()
        .filter(|name| PEERS.iter().any(|peer| name.starts_with(peer)))
        .collect();
    if peers.is_empty() || compared(scenario).is_empty() {
        return None;
    }
    let mut rows = vec![vec!["ratio".to_string()]];
    rows[0].extend(peers.iter().map(|peer| format!("÷ {peer}")));
    for arm in arms(true) {
        for metric in compared(scenario) {
            let ratio = |peer: &&str| page.results.ratio(scenario, (arm, peer), *metric);
            let cells = peers.iter().map(|peer| match ratio(peer) {
                Some(ratio) => with_range(ratio),
                None => "–".into(),
            });
            let mut row = vec![format!("{arm}, {}", metric.title())];
            row.extend(cells);
            rows.push(row);
        }
    }
    Some(rows)
}

fn with_range(ratio: Summary) -> String {
    format!("{} ({} … {})", number(ratio.median), number(ratio.min), number(ratio.max))
}

fn scenario_section(page: &Page<'_>, scenario: Scenario) -> String {
    let mut text = format!("\n### {}\n\n{}.\n", scenario.name(), sentence(scenario.question()));
    for rows in scenario_tables(page, scenario) {
        text += "\n";
        text += &table(&rows);
    }
    text
}

/// With a capital letter.
pub fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// A Markdown table; the first row is its head. Columns are aligned for those who read the source.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, width) in widths.iter().enumerate() {
            let cell = row.get(column).map_or("", String::as_str).replace('|', "\\|");
            let _ = write!(text, "| {cell:<width$} ");
        }
        text += "|\n";
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let end = if is_numeric(&rows[1..], column) { ":" } else { "-" };
                let _ = write!(text, "|{}{end}", "-".repeat(width + 1));
            }
            text += "|\n";
        }
    }
    text
}

/// Numbers go to the right, words to the left.
fn is_numeric(rows: &[Vec<String>], column: usize) -> bool {
    let mut cells = rows.iter().filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty());
    column > 0
        && cells.all(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || "-–".contains(c)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{sample, with_page};
    use super::*;

    #[test]
    fn every_row_has_as_many_cells_as_its_head() {
        let text = with_page(&sample(0.5), page);
        let mut cells = 0;
        let mut tables = 0;
        for line in text.lines() {
            if !line.starts_with('|') {
                cells = 0;
                continue;
            }
            let count = line.replace("\\|", "").matches('|').count();
            if cells == 0 {
                tables += 1;
                cells = count;
            }
            assert_eq!(count, cells, "{line}");
        }
        // Targets, noise, 18 scenarios, and ratios for 12 of them.
        assert_eq!(tables, 32);
    }

    #[test]
    fn targets_have_values_bounds_and_states() {
        let text = with_page(&sample(1.0), verdict);
        let row = |what: &str| text.lines().find(|line| line.contains(what)).unwrap().to_string();
        let cpu = row("CPU per round trip, same core");
        assert!(cpu.contains("≤ 0.75") && cpu.contains("missed") && cpu.contains("1.00"), "{cpu}");
        assert!(row("connections per second").contains("≥ 1 "), "{text}");
        assert!(row("table swaps").contains("holds"), "{text}");
        assert!(!text.contains("Too noisy"));
    }

    #[test]
    fn long_configurations_are_shortened() {
        let long: String = (0..3_000).map(|n| format!("line {n}\n")).collect();
        let short = shortened(&long);
        assert!(short.contains("[2950 lines]") && short.ends_with("line 2999\n"));
        assert_eq!(shortened("a\n"), "a\n");
    }
}

//! One page that needs no network and no script.

use std::fmt::Write as _;

use super::plot::{self, Bar, Curve, escape};
use super::{Page, markdown};
use crate::run::measurement::Metric;
use crate::run::plan::Scenario;

const STYLE: &str = "
:root { color-scheme: light dark; --ground: #fff; --text: #1b1b1f; --quiet: #5f6368;
  --line: #dadce0; --direct: #80868b; --corelane: #1a56c4; --haproxy: #c4590c; --nginx: #1b7f3b;
  --good: #1b7f3b; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181c; --text: #e6e6e9;
  --quiet: #a0a4ab; --line: #3a3d44; --direct: #9aa0a6; --corelane: #7aa8ff; --haproxy: #f0964a;
  --nginx: #64c486; --good: #64c486; --bad: #ff8a80; } }
body { background: var(--ground); color: var(--text); margin: 2rem auto; padding: 0 1rem;
  max-width: 62rem; font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p, li, dd { color: var(--text); } .quiet { color: var(--quiet); }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
table.targets th:nth-child(2), table.targets td:nth-child(2), td.state { text-align: left; }
td.holds { color: var(--good); } td.missed, td.too { color: var(--bad); font-weight: 600; }
svg { display: block; width: 100%; max-width: 760px; height: auto; margin: .5rem 0 1rem; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); } svg .range { stroke: var(--text); opacity: .7; }
svg polyline { fill: none; stroke-width: 2; } svg polyline.variant { stroke-dasharray: 5 3; }
svg rect.variant { opacity: .6; }
.direct { stroke: var(--direct); } .corelane { stroke: var(--corelane); }
.haproxy { stroke: var(--haproxy); } .nginx { stroke: var(--nginx); }
rect.direct { fill: var(--direct); } rect.corelane { fill: var(--corelane); }
rect.haproxy { fill: var(--haproxy); } rect.nginx { fill: var(--nginx); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: color-mix(in srgb, var(--text) 6%, transparent);
  padding: .75rem; font-size: .8rem; }
";

/// The page.
pub fn page(page: &Page<'_>) -> String {
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>corelane beside HAProxy and nginx</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<h1>corelane beside HAProxy, nginx and no forwarder</h1>\n"
    );
    text += &targets(page);
    for scenario in &page.run.scenarios {
        text += &section(page, *scenario);
    }
    text += "<h2 id=\"noise\">Noise</h2>\n<p>What does not depend on a forwarder, and how calm it was.</p>\n";
    text += &table(&markdown::noise_rows(page));
    text += &absent(page);
    text += "<h2>Machine and method</h2>\n<dl>\n";
    for (name, value) in markdown::facts(page) {
        let _ = writeln!(text, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(&value));
    }
    text += "</dl>\n<p>Every forwarder is started anew for each measurement, pinned to its core; \
             devices and backends are one other process. Each round asks everybody once, beginning \
             with another one. Numbers are medians of the rounds, ± half of what lies between the \
             least and the greatest; ratios are taken within each round.</p>\n";
    text += "<h2>Configurations</h2>\n";
    for (whose, config) in &page.run.found.configs {
        let (whose, config) = (escape(whose), escape(config));
        let _ = writeln!(text, "<details><summary>{whose}</summary><pre>{config}</pre></details>");
    }
    text += "</body>\n</html>\n";
    text
}

fn targets(page: &Page<'_>) -> String {
    let mut text = String::from("<h2>Targets</h2>\n");
    if page.noise.is_too_noisy {
        text += "<p><strong>Too noisy to compare</strong>: the values mean nothing. See \
                 <a href=\"#noise\">noise</a>.</p>\n";
    }
    text += "<div class=\"wide\"><table class=\"targets\">\n<tr><th></th><th>target</th>\
             <th>value</th><th>rounds</th><th>bound</th><th></th></tr>\n";
    for check in page.checks {
        let cells = markdown::check_cells(check).map(|cell| escape(&cell));
        let [target, what, value, range, bound, state] = cells;
        let class = check.state.name().split(' ').next().unwrap_or_default();
        let _ = writeln!(
            text,
            "<tr><td>{target}</td><td>{what}</td><td>{value}</td><td>{range}</td><td>{bound}</td>\
             <td class=\"state {class}\">{state}</td></tr>"
        );
    }
    text += "</table></div>\n";
    text
}

/// What is drawn of a scenario.
fn plotted(scenario: Scenario) -> &'static [(Metric, &'static str)] {
    match scenario {
        Scenario::MessagesOtherCore
        | Scenario::MessagesSameCore
        | Scenario::WebsocketOtherCore
        | Scenario::WebsocketSameCore
        | Scenario::GrowthIdle
        | Scenario::GrowthShards
        | Scenario::GrowthBackends
        | Scenario::GrowthSwaps => &[(Metric::CpuUs, "forwarder CPU per round trip, µs")],
        Scenario::MessagesOpen => &[(Metric::CpuUs, "forwarder CPU per message, µs")],
        Scenario::Connects => &[
            (Metric::CpuUs, "forwarder CPU per connection, µs"),
            (Metric::Rate, "connections per second"),
        ],
        Scenario::RequestsTableOtherCore
        | Scenario::RequestsTableSameCore
        | Scenario::RequestsLookupOtherCore
        | Scenario::RequestsLookupSameCore => &[
            (Metric::CpuUs, "forwarder CPU per request, µs"),
            (Metric::Rate, "requests per second"),
        ],
        Scenario::ConnectsWarm => &[(Metric::FirstEchoP50Us, "first echo, median, µs")],
        Scenario::Idle => &[
            (Metric::MemoryBytes, "memory cgroup, bytes per device"),
            (Metric::ResidentBytes, "resident, bytes per device"),
        ],
        Scenario::BulkOtherCore | Scenario::BulkSameCore => &[
            (Metric::MegabytesPerSecond, "echoed MB per second"),
            (Metric::CpuUs, "forwarder CPU per MB, µs"),
        ],
    }
}

fn section(page: &Page<'_>, scenario: Scenario) -> String {
    let question = escape(&markdown::sentence(scenario.question()));
    let mut text = format!("<h2>{}</h2>\n<p>{question}.</p>\n", scenario.name());
    let arms = page.results.arms(scenario);
    if scenario == Scenario::MessagesOpen {
        let curve =
            |name: &&'static str| Curve { name, points: page.results.curve(scenario, name) };
        let curves: Vec<Curve> =
            arms.iter().map(curve).filter(|curve| !curve.points.is_empty()).collect();
        if let Some(svg) = plot::curves("latency by percentile", &curves) {
            text += "<h3>latency by percentile</h3>\n";
            text += &svg;
        }
    }
    for (metric, title) in plotted(scenario) {
        let bar = |name: &&'static str| {
            let summary = page.results.summary(scenario, name, *metric)?;
            Some(Bar { name, value: summary.median, range: (summary.min, summary.max) })
        };
        let bars: Vec<Bar> = arms.iter().filter_map(bar).collect();
        if let Some(svg) = plot::bars(title, &bars) {
            let _ = write!(text, "<h3>{}</h3>\n{svg}", escape(title));
        }
    }
    for rows in markdown::scenario_tables(page, scenario) {
        text += &table(&rows);
    }
    text
}

fn absent(page: &Page<'_>) -> String {
    let absent = &page.run.found.absent;
    if absent.is_empty() {
        return String::new();
    }
    let mut text = String::from("<h2>Not measured</h2>\n<ul>\n");
    for (what, why) in absent {
        let _ = writeln!(text, "<li>{}: {}</li>", escape(what), escape(why));
    }
    text += "</ul>\n";
    text
}

/// The first row is the head.
fn table(rows: &[Vec<String>]) -> String {
    let mut text = String::from("<div class=\"wide\"><table>\n");
    for (number, row) in rows.iter().enumerate() {
        let tag = if number == 0 { "th" } else { "td" };
        let cells = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        let _ = writeln!(text, "<tr>{}</tr>", cells.collect::<String>());
    }
    text += "</table></div>\n";
    text
}

#[cfg(test)]
mod tests {
    use super::super::plot::tests::assert_well_formed;
    use super::super::tests::{sample, with_page};
    use super::*;

    #[test]
    fn the_page_is_well_formed_and_on_its_own() {
        let text = with_page(&sample(0.5), page);
        assert_well_formed(&text);
        for foreign in ["http:", "https:", "<script", "<link", "<img", "@import", "url("] {
            assert!(!text.contains(foreign), "{foreign}");
        }
        // The curves, and bars of every scenario.
        assert_eq!(text.matches("<svg").count(), 27);
        assert!(text.contains("nginx &lt;1.22&gt; &amp; co"), "versions are escaped");
        assert!(text.contains("<td class=\"state holds\">holds</td>"));
    }

    #[test]
    fn a_run_of_nothing_is_a_page_too() {
        let mut run = sample(0.5);
        run.found.measurements.clear();
        let text = with_page(&run, page);
        assert_well_formed(&text);
        assert!(!text.contains("<svg") && text.contains("not measured"));
    }
}

//! The dashboard and the alert rules name only metrics, labels and label values that a running
//! gateway shows, and each alert is raised by what it is for.

mod gateway;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use corelane::end::{End, Side};
use corelane::metrics::names::{FAMILIES, Family, Kind};
use gateway::backend::{Backend, refusing_address};
use gateway::client::Client;
use gateway::{Gateway, frame_config};
use serde_json::Value;

/// Labels that Prometheus gives to whatever it scrapes.
const OF_SCRAPES: [&str; 2] = ["job", "instance"];
/// Words of the query language that stand alone.
const KEYWORDS: [&str; 4] = ["and", "or", "unless", "offset"];
/// Words that a list of labels follows.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).expect(name)
}

/// What a page shows: per series name, per label its values.
#[derive(Debug, Default)]
struct Shown(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Shown {
    fn of(page: &str) -> Shown {
        let mut shown = Shown::default();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (series, _) = line.rsplit_once(' ').expect(line);
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let known = shown.0.entry(name.to_owned()).or_default();
            for token in tokens(labels.strip_suffix('}').expect(line)).chunks(4) {
                let [Token::Word(label), _, Token::Text(value), ..] = token else {
                    panic!("{line}")
                };
                known.entry(label.clone()).or_default().insert(value.clone());
            }
        }
        // A pool may have many backends: reasons that have not occurred are not shown.
        let reasons = shown.0.get_mut("corelane_backend_connect_failures_total");
        let reasons = reasons.and_then(|labels| labels.get_mut("reason")).expect("a failure");
        reasons.extend(End::ALL.iter().map(|end| end.label().to_owned()));
        shown
    }
}

/// The family that a series belongs to, and whether it has a label of its own for buckets.
fn family(series: &str) -> Option<(&'static Family, bool)> {
    let of = |name: &str| FAMILIES.iter().find(|family| family.name == name);
    let exact = of(series).filter(|family| family.kind != Kind::Histogram);
    exact.map(|family| (family, false)).or_else(|| {
        let (stem, suffix) = series.rsplit_once('_')?;
        let known = ["bucket", "sum", "count"].contains(&suffix);
        let family = of(stem).filter(|family| known && family.kind == Kind::Histogram)?;
        Some((family, suffix == "bucket"))
    })
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

/// Words, texts in quotes and signs; what stands in brackets of a range is left out.
fn tokens(expression: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_ascii_alphabetic() || first == '_' {
            let end = |c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':';
            let length = rest.find(end).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..length].to_owned()));
            length
        } else if first.is_ascii_digit() {
            // With the unit of a duration.
            let end = |c: char| !c.is_ascii_alphanumeric() && c != '.';
            rest.find(end).unwrap_or(rest.len())
        } else if first == '"' {
            let length = rest[1..].find('"').expect(expression);
            tokens.push(Token::Text(rest[1..=length].to_owned()));
            length + 2
        } else if first == '[' {
            rest.find(']').expect(expression) + 1
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Sign(first));
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// What is wrong with the names in an expression; `legend` holds further labels to be looked for.
fn faults(expression: &str, legend: &[String], shown: &Shown) -> Vec<String> {
    let mut faults = Vec::new();
    let mut known: BTreeSet<&str> = OF_SCRAPES.into();
    let mut listed: BTreeSet<String> = legend.iter().cloned().collect();
    let tokens = tokens(expression);
    let mut at = 0;
    let sign = |at: usize, sign: char| tokens.get(at) == Some(&Token::Sign(sign));
    // A function, or an aggregation whose labels come first.
    let calls = |at: usize| {
        let grouped = |word: &String| ["by", "without"].contains(&word.as_str());
        sign(at, '(') || matches!(tokens.get(at), Some(Token::Word(word)) if grouped(word))
    };
    let mut named = 0;
    while at < tokens.len() {
        let Token::Word(word) = &tokens[at] else {
            at += 1;
            continue;
        };
        at += 1;
        if LISTS.contains(&word.as_str()) {
            while sign(at, '(') || sign(at, ',') || matches!(tokens.get(at), Some(Token::Word(_))) {
                if let Token::Word(label) = &tokens[at] {
                    listed.insert(label.clone());
                }
                at += 1;
            }
        } else if word == "up" {
            named += 1;
            at += labels_of(&tokens[at..]).1;
        } else if !calls(at) && !KEYWORDS.contains(&word.as_str()) {
            named += 1;
            let (labels, length) = labels_of(&tokens[at..]);
            at += length;
            let (Some((family, buckets)), Some(values)) = (family(word), shown.0.get(word)) else {
                faults.push(format!("no series is called {word}"));
                continue;
            };
            known.extend(family.labels);
            known.extend(buckets.then_some("le"));
            for (label, value) in labels {
                faults.extend(fault_of_label(word, (&label, &value), values));
            }
        }
    }
    if named == 0 {
        faults.push("it names no series".to_owned());
    }
    let unknown = listed.iter().filter(|label| !known.contains(label.as_str()));
    faults.extend(unknown.map(|label| format!("no series has a label {label}")));
    faults
}

/// The matchers in braces that tokens begin with, and how many tokens they are.
fn labels_of(tokens: &[Token]) -> (Vec<(String, String)>, usize) {
    if tokens.first() != Some(&Token::Sign('{')) {
        return (Vec::new(), 0);
    }
    let end = tokens.iter().position(|token| *token == Token::Sign('}')).expect("a brace");
    let mut labels: Vec<(String, String)> = Vec::new();
    for token in &tokens[..end] {
        match token {
            Token::Word(label) => labels.push((label.clone(), String::new())),
            Token::Text(value) => labels.last_mut().expect("a label").1.clone_from(value),
            Token::Sign(_) => {}
        }
    }
    (labels, end + 1)
}

/// Values are compared where they are words of ours, not names that operators choose.
fn fault_of_label(
    series: &str,
    (label, value): (&str, &str),
    shown: &BTreeMap<String, BTreeSet<String>>,
) -> Option<String> {
    if OF_SCRAPES.contains(&label) {
        return None;
    }
    let Some(values) = shown.get(label) else {
        return Some(format!("{series} has no label {label}"));
    };
    let mut wanted = value.split('|').filter(|value| !value.starts_with('$'));
    let wrong = wanted.find(|value| !values.contains(*value))?;
    Some(format!("{series} has no {label} called {wrong}"))
}

/// A page with every series on it: sessions, a failed connection, a source, checks.
fn shown() -> Shown {
    let backend = Backend::echo("only");
    let folder = gateway::directory();
    let list = folder.join("backends.json");
    std::fs::write(&list, format!("{{\"backends\": [\"{backend}\"]}}")).expect("a list");
    let further = format!(
        "retries = 1\n[pool.c2s.health]\nkind = \"tcp\"\n[pool.c2s.ejection]\n[pool.other]\n\
         balance = \"random\"\n[pool.other.source]\nkind = \"file\"\npath = \"{}\"\n",
        list.display()
    );
    let authority = tls::Authority::new("test");
    let certificate = authority.sign("a", &["a.test"]);
    let secure = format!(
        "[[listener]]\nname = \"secure\"\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\n\
         pool = \"other\"\n{}",
        tls::tls_table("", &[&certificate])
    );
    let web = "[[listener]]\nname = \"web\"\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n\
               [[listener.http.rule]]\npath = \"/pool\"\npool = \"other\"\n\
               [[listener.http.rule]]\npath = \"/lookup\"\nlookup = \"nodes\"\n\
               [lookup.nodes]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:1/0\"\n\
               key = \"nodes\"\nfield = \"{header:id}\"\nallow = [\"127.0.0.0/8\"]\n";
    let toml = frame_config(&[refusing_address(), backend], &further, "") + &secure + web;
    let gateway = Gateway::start(&toml);
    // One that its backend does not understand, one that nobody answers, one that is none.
    for request in ["GET /pool HTTP/1.1", "GET /lookup HTTP/1.1\r\nid: 1", "GET / HTTP/3.9"] {
        let mut client = Client::connect(gateway.address("web"));
        client.send(format!("{request}\r\nHost: a\r\n\r\n").as_bytes());
        client.fin();
        client.read_to_end();
    }
    for number in 0..16 {
        let mut client = Client::login(gateway.address("devices"), &format!("device-{number}"));
        assert_eq!(client.receive(5), b"only\n");
    }
    let (status, page) = gateway.get("/metrics");
    assert_eq!(status, 200);
    std::fs::remove_dir_all(folder).expect("the folder");
    Shown::of(&page)
}

/// Every query of the dashboard, with the labels that its legend names.
fn queries(dashboard: &Value) -> Vec<(String, Vec<String>)> {
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let legend = target["legendFormat"].as_str().expect("a legend");
            let labels = legend.split("{{").skip(1).filter_map(|part| part.split("}}").next());
            let expression = target["expr"].as_str().expect("an expression");
            queries.push((expression.to_owned(), labels.map(str::to_owned).collect()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        if let Some(query) = variable["query"]["query"].as_str() {
            let inside = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')'));
            let (series, label) = inside.and_then(|q| q.rsplit_once(", ")).expect(query);
            queries.push((series.to_owned(), vec![label.to_owned()]));
        }
    }
    queries
}

/// An alert as the file has it.
#[derive(Debug)]
struct Alert {
    name: String,
    expression: String,
    /// Labels that its summary names.
    labels: Vec<String>,
}

/// Reads no more of YAML than the file uses: that it is a file of rules, promtool says.
fn alerts(rules: &str) -> Vec<Alert> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut alerts = Vec::new();
    for rule in rules.split("- alert: ").skip(1) {
        let lines: Vec<&str> = rule.lines().collect();
        let at = lines.iter().position(|line| line.trim().starts_with("expr: ")).expect(rule);
        let folded = lines[at + 1..].iter().take_while(|line| indent(line) > indent(lines[at]));
        let first = lines[at].trim().trim_start_matches("expr: ").trim_start_matches(">-");
        let expression = folded.fold(first.to_owned(), |text, line| text + " " + line.trim());
        let labels = rule.split("$labels.").skip(1);
        let end = |text: &str| text.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(text.len());
        let labels = labels.map(|text| text[..end(text)].to_owned()).collect();
        alerts.push(Alert { name: lines[0].to_owned(), expression, labels });
    }
    alerts
}

fn promtool(arguments: &[&str], last: &Path) -> String {
    let output = Command::new("promtool").args(arguments).arg(last).output();
    let output = output.expect("promtool: scripts/install-test-tools installs it");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn dashboard_and_alerts_name_only_what_there_is() {
    let shown = shown();
    let dashboard = serde_json::from_str(&text("docs/monitoring/grafana-dashboard.json"));
    let mut queries = queries(&dashboard.expect("JSON"));
    let of_panels = queries.len();
    let alerts = alerts(&text("docs/monitoring/alerts.yml"));
    assert!(of_panels > 80 && alerts.len() > 25, "{of_panels} queries, {} alerts", alerts.len());
    queries.extend(alerts.into_iter().map(|alert| (alert.expression, alert.labels)));
    let mut wrong = Vec::new();
    for (expression, legend) in &queries {
        let faults = faults(expression, legend, &shown);
        wrong.extend(faults.into_iter().map(|fault| format!("{fault}: {expression}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What nobody looks at need not be counted.
    let all: String = queries.iter().map(|(expression, _)| expression.as_str()).collect();
    let unused = FAMILIES.iter().filter(|family| !all.contains(family.name));
    let unused: Vec<_> = unused.map(|family| family.name).collect();
    assert_eq!(unused, ["process_virtual_memory_bytes", "process_threads"]);

    for (wrong, why) in [
        ("rate(corelane_closes[5m])", "no series is called corelane_closes"),
        ("corelane_preread_seconds", "no series is called corelane_preread_seconds"),
        ("sum(go_goroutines)", "no series is called go_goroutines"),
        ("corelane_pool_panic{listener=~\"$listener\"}", "corelane_pool_panic has no label liste"),
        ("corelane_source_state{state=~\"failed|stael\"}", "has no state called stael"),
        ("sum by (pol) (corelane_pool_backends)", "no series has a label pol"),
        ("a_metric == on (job, instance) corelane_draining", "no series is called a_metric"),
        ("time() - 5", "it names no series"),
    ] {
        let faults = faults(wrong, &[], &shown);
        assert_eq!(faults.len(), 1, "{wrong}: {faults:?}");
        assert!(faults[0].contains(why), "{wrong}: {faults:?}");
    }
}

#[test]
fn every_reason_of_an_end_is_on_its_side_of_the_dashboard() {
    let dashboard = text("docs/monitoring/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let panel = panels.iter().find(|panel| panel["title"] == "Ends by side").expect("the panel");
    for (side, name) in [(Side::Client, "client"), (Side::Backend, "backend"), (Side::Us, "us")] {
        let targets = panel["targets"].as_array().expect("targets");
        let target = targets.iter().find(|target| target["legendFormat"] == name).expect(name);
        let expression = target["expr"].as_str().expect("an expression");
        let reasons = expression.split("reason=~\"").nth(1).and_then(|rest| rest.split('"').next());
        let reasons: BTreeSet<&str> = reasons.expect("reasons").split('|').collect();
        let ends = End::ALL.iter().filter(|end| end.side() == side).map(|end| end.label());
        assert_eq!(reasons, ends.collect(), "{name}");
    }
}

/// The query language itself is checked by Prometheus: each query of a panel as a rule.
#[test]
fn every_query_can_be_asked() {
    let dashboard = serde_json::from_str(&text("docs/monitoring/grafana-dashboard.json"));
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    let queries = queries(&dashboard.expect("JSON"));
    for (number, (expression, _)) in queries.iter().enumerate() {
        let expression = expression.replace("$__rate_interval", "5m").replace('\'', "''");
        rules += &format!("  - record: query:number{number}\n    expr: '{expression}'\n");
    }
    let folder = gateway::directory();
    let path = folder.join("rules.yml");
    std::fs::File::create(&path).and_then(|mut f| f.write_all(rules.as_bytes())).expect("rules");
    let said = promtool(&["check", "rules"], &path);
    assert!(said.contains(&format!("{} rules found", queries.len())), "{said}");
    std::fs::remove_dir_all(folder).expect("the folder");
}

#[test]
fn alerts_are_raised_by_a_sick_gateway_and_not_by_a_well_one() {
    let alerts = alerts(&text("docs/monitoring/alerts.yml"));
    let said = promtool(&["check", "rules"], &file("docs/monitoring/alerts.yml"));
    assert!(said.contains(&format!("{} rules found", alerts.len())), "{said}");
    promtool(&["test", "rules"], &file("tests/monitoring/alerts.test.yml"));
    let cases = text("tests/monitoring/alerts.test.yml");
    let operations = text("docs/operations.md");
    for Alert { name, .. } in &alerts {
        let raised = format!("alertname: {name}\n        eval_time: 30m\n        exp_alerts:\n");
        assert_eq!(cases.matches(&raised).count(), 1, "{name} is never raised");
        let quiet = format!("alertname: {name}\n        eval_time: 30m\n        exp_alerts: []\n");
        assert_eq!(cases.matches(&quiet).count(), 1, "{name} is never quiet");
        let line = format!("\n| `{name}` | ");
        assert_eq!(operations.matches(&line).count(), 1, "{name} in docs/operations.md");
    }
    assert_eq!(operations.matches("\n| `Corelane").count(), alerts.len());
}

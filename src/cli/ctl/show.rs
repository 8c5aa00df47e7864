//! Answers of a gateway for people: tables with a head, the same columns in the same order.

use corelane::explain::Escaped;
use serde_json::Value;

/// A column: its head, and where its value is in a row.
type Column = (&'static str, &'static str);

/// A table of rows.
fn table<'v>(columns: &[Column], rows: impl IntoIterator<Item = &'v Value>) -> String {
    let mut lines = vec![columns.iter().map(|(head, _)| (*head).to_owned()).collect::<Vec<_>>()];
    for row in rows {
        lines.push(columns.iter().map(|(_, at)| cell(row.pointer(at))).collect());
    }
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A value in one word or line; keys and names cannot disturb a terminal.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => Escaped(text.as_bytes()).to_string(),
        Some(Value::Bool(flag)) => if *flag { "yes" } else { "no" }.to_owned(),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{float:.1}"),
            _ => number.to_string(),
        },
        Some(Value::Array(list)) => list.len().to_string(),
        Some(other) => Escaped(other.to_string().as_bytes()).to_string(),
    }
}

fn rows<'v>(value: &'v Value, at: &str) -> impl Iterator<Item = &'v Value> {
    value.pointer(at).and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn anything(value: &Value) -> String {
    format!("{value:#}\n")
}

pub(super) fn pools(value: &Value) -> String {
    let columns = [
        ("POOL", "/name"),
        ("BALANCE", "/balance"),
        ("ON_DOWN", "/on_down"),
        ("BACKENDS", "/backends"),
        ("READY", "/ready"),
        ("SESSIONS", "/live"),
        ("REMOVED", "/removed"),
    ];
    let pools: Vec<Value> = rows(value, "/pools").cloned().map(with_sums).collect();
    table(&columns, &pools)
}

fn with_sums(mut pool: Value) -> Value {
    let all = || rows(&pool, "/backends").chain(rows(&pool, "/removed"));
    let live: u64 = all().filter_map(|backend| backend["live"].as_u64()).sum();
    let ready = rows(&pool, "/backends").filter(|backend| backend["state"] == "ready").count();
    pool["live"] = live.into();
    pool["ready"] = ready.into();
    pool
}

const BACKEND: &[Column] = &[
    ("BACKEND", "/address"),
    ("WEIGHT", "/weight"),
    ("STATE", "/state"),
    ("SESSIONS", "/live"),
    ("EVER", "/sessions"),
    ("IN", "/bytes_in"),
    ("OUT", "/bytes_out"),
];

pub(super) fn pool(value: &Value) -> String {
    table(BACKEND, rows(value, "/backends").chain(rows(value, "/removed")))
}

pub(super) fn backends(value: &Value) -> String {
    let columns = [&[("POOL", "/pool")], BACKEND, &[("REMOVED", "/removed")]].concat();
    table(&columns, rows(value, "/backends"))
}

const SESSION: &[Column] = &[
    ("SESSION", "/id"),
    ("CLIENT", "/client"),
    ("LISTENER", "/listener"),
    ("KEY", "/key"),
    ("POOL", "/pool"),
    ("BACKEND", "/backend"),
    ("WHY", "/placement"),
    ("STATE", "/state"),
    ("SINCE", "/since"),
    ("IDLE_S", "/idle_seconds"),
];

pub(super) fn sessions(value: &Value) -> String {
    table(SESSION, rows(value, "/sessions"))
}

pub(super) fn closed(value: &Value) -> String {
    format!("closed {} ({})\n", cell(value.get("id")), cell(value.get("client")))
}

pub(super) fn closing(value: &Value) -> String {
    let (sessions, backend) = (cell(value.get("sessions")), cell(value.get("backend")));
    match value["rate"].as_str() {
        Some(rate) => format!("closing {sessions} sessions of {backend}, {rate}\n"),
        None => format!("closing no more of {backend}; it has {sessions} sessions\n"),
    }
}

pub(super) fn sources(value: &Value) -> String {
    let columns = [
        ("POOL", "/pool"),
        ("SOURCE", "/source"),
        ("STATE", "/state"),
        ("AGE_S", "/age_seconds"),
        ("BACKENDS", "/backends"),
        ("HELD", "/held"),
        ("REJECTED", "/rejected"),
        ("FAILURE", "/failure/detail"),
    ];
    table(&columns, rows(value, "/sources"))
}

pub(super) fn told(value: &Value) -> String {
    format!("pool {}: {} sources told\n", cell(value.get("pool")), cell(value.get("sources")))
}

pub(super) fn whereis(value: &Value) -> String {
    let columns = [
        ("LISTENER", "/listener"),
        ("POOL", "/pool"),
        ("BACKEND", "/backend"),
        ("WHY", "/reason"),
        ("HOME", "/home"),
        ("HASH", "/hash"),
    ];
    let places = table(&columns, rows(value, "/places"));
    match rows(value, "/sessions").next() {
        None => format!("{places}not connected\n"),
        Some(_) => format!("{places}\n{}", sessions(value)),
    }
}

pub(super) fn config(value: &Value) -> String {
    anything(&value["config"])
}

pub(super) fn log(value: &Value) -> String {
    let (level, configured) = (cell(value.get("level")), cell(value.get("configured")));
    match level == configured {
        true => format!("{level}\n"),
        false => format!("{level} (configured: {configured})\n"),
    }
}

pub(super) fn audit(value: &Value) -> String {
    let columns = [
        ("TIME", "/time"),
        ("WHO", "/who"),
        ("WHAT", "/what"),
        ("RESULT", "/result"),
        ("DETAIL", "/detail"),
    ];
    table(&columns, rows(value, "/entries"))
}

pub(super) fn edited(value: &Value) -> String {
    let place = match value["where"].as_str() {
        Some("in_store") => format!("in {}", cell(value.get("source"))),
        _ => format!("in {}", cell(value.get("file"))),
    };
    let over = match value["over"].as_str() {
        Some(over) => format!(", over {}: other gateways do not follow", cell(Some(&over.into()))),
        None => String::new(),
    };
    match value["written"] == true {
        true => format!("done {place}{over}\n"),
        false => format!("it was so already {place}{over}\n"),
    }
}

pub(super) fn reloaded(value: &Value) -> String {
    let mut text = format!("table {}\n", cell(value.get("table")));
    for kind in ["listeners", "addresses", "pools", "backends"] {
        for what in ["added", "removed", "changed"] {
            for name in rows(value, &format!("/{kind}/{what}")) {
                text += &format!("{kind} {what}: {}\n", cell(Some(name)));
            }
        }
    }
    for moved in rows(value, "/keys_moved") {
        let share = moved["share"].as_f64().unwrap_or_default() * 100.0;
        text += &format!("keys that move in {}: {share:.2}%\n", cell(moved.get("pool")));
    }
    for setting in rows(value, "/settings") {
        text += &format!("setting changed: {}\n", cell(Some(setting)));
    }
    text += &format!("sessions closed: {}\n", cell(value.get("sessions_closed")));
    for warning in rows(value, "/warnings") {
        text += &format!("warning: {}\n", fault(warning));
    }
    text
}

/// A refusal: what is wrong, and every fault of a file with its place.
pub(super) fn problem(value: &Value) -> String {
    let faults: Vec<String> =
        rows(value, "/faults").map(|one| format!("{}\n", fault(one))).collect();
    match faults.is_empty() {
        true => format!("{}\n", cell(value.get("detail"))),
        false => faults.concat(),
    }
}

fn fault(value: &Value) -> String {
    let place = format!("{}:{}", cell(value.get("line")), cell(value.get("column")));
    let mut text = format!("{place}: {}: {}", cell(value.get("path")), cell(value.get("problem")));
    let more = [("found", ", found "), ("valid", "; valid: ")];
    for (key, before) in more {
        if let Some(found) = value.get(key).filter(|found| found.is_string()) {
            text += &format!("{before}{}", cell(Some(found)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_stand_under_each_other_and_nothing_disturbs_the_terminal() {
        let value = json!({ "sessions": [
            { "id": "0-1-2", "key": "a\u{1b}[31m", "idle_seconds": 1.25, "pool": "" },
            { "id": "10-11-12", "key": "b" },
        ]});
        let text = sessions(&value);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("SESSION   CLIENT  LISTENER  KEY"), "{text}");
        assert!(lines[1].starts_with("0-1-2     -       -         a\\u{1b}[31m"), "{text}");
        assert!(lines[1].ends_with("1.2"), "{text}");
    }
}

//! Files that a source of kind "file" reads: the list `backends` as a configuration has it, in TOML
//! or JSON. Here, too, a file with a fault is not applied, not even partly.

use toml::Spanned;
use toml::de::DeTable;

use super::Backend;
use super::check::{Early, check_backends};
use super::document::Document;
use super::load::syntax_fault;
use super::{raw, read};

/// How a file of backends is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendsFormat {
    /// `backends = ["10.0.0.1:7000"]`
    Toml,
    /// `{"backends": ["10.0.0.1:7000"]}`
    Json,
}

/// The backends of a file, in its order, no address twice. An empty list is one; a file without a
/// list is not.
///
/// # Errors
/// The first fault, with its place where TOML has one, and how many more there are.
pub fn parse_backends(text: &str, format: BackendsFormat) -> Result<Vec<Backend>, String> {
    match format {
        BackendsFormat::Toml => of_toml(text),
        BackendsFormat::Json => of_json(text),
    }
}

fn of_toml(text: &str) -> Result<Vec<Backend>, String> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let first = errors.iter().map(|error| syntax_fault(text, error));
    if let Some(fault) = first.min_by_key(|fault| (fault.line, fault.column)) {
        return Err(format!("{}:{}: {fault}", fault.line, fault.column));
    }
    let document = Document { file: "", text, tree };
    let (raw, unknown) = read::read_backends(&document).map_err(|error| error.to_string())?;
    let unknown = unknown.into_iter().map(|(path, problem)| Early::Key(path, problem)).collect();
    check_backends(&document, raw, unknown).map_err(|faults| {
        let place = faults.first().map(|fault| format!("{}:{}: ", fault.line, fault.column));
        said(place.unwrap_or_default(), &faults)
    })
}

fn of_json(text: &str) -> Result<Vec<Backend>, String> {
    // A list would be taken for the values of a table in order.
    if !text.trim_start().starts_with('{') {
        return Err("not a JSON object".to_string());
    }
    let mut unknown = Vec::new();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = serde_ignored::deserialize(&mut json, |path| unknown.push(path.to_string()));
    let raw: raw::BackendsFile = read.map_err(|error| format!("not JSON: {error}"))?;
    json.end().map_err(|error| format!("not JSON: {error}"))?;
    if let Some(key) = unknown.first() {
        return Err(format!("unknown key {key:?}"));
    }
    // JSON is not parsed with places: faults name only the path.
    let document = Document { file: "", text: "", tree: Spanned::new(0..0, DeTable::new()) };
    check_backends(&document, raw, Vec::new()).map_err(|faults| said(String::new(), &faults))
}

fn said(place: String, faults: &[super::Fault]) -> String {
    let first = faults.first().map_or_else(|| "refused".to_string(), ToString::to_string);
    match faults.len().saturating_sub(1) {
        0 => format!("{place}{first}"),
        more => format!("{place}{first} (and {more} more)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackendsFormat::{Json, Toml};

    fn listed(text: &str, format: BackendsFormat) -> Result<Vec<String>, String> {
        let show = |b: &Backend| format!("{} {} {:?}", b.address, b.weight, b.state);
        parse_backends(text, format).map(|backends| backends.iter().map(show).collect())
    }

    #[test]
    fn both_formats_say_the_same() {
        let toml =
            r#"backends = ["10.0.0.2:1", { address = "10.0.0.1:1", weight = 3, state = "drain" }]"#;
        let json = r#"{"backends": ["10.0.0.2:1",
                       {"address": "10.0.0.1:1", "weight": 3, "state": "drain"}]}"#;
        let both = ["10.0.0.2:1 1 Ready".to_string(), "10.0.0.1:1 3 Drain".to_string()];
        assert_eq!(listed(toml, Toml).as_deref(), Ok(&both[..]));
        assert_eq!(listed(json, Json).as_deref(), Ok(&both[..]));
        assert_eq!(listed("backends = []", Toml), Ok(Vec::new()));
        assert_eq!(listed(r#"{"backends":[]}"#, Json), Ok(Vec::new()));
    }

    #[test]
    fn a_fault_anywhere_refuses_the_file() {
        let cases = [
            (Toml, "", "missing"),
            (Toml, "backends = [\"10.0.0.1:1\"", "1:"),
            (Toml, "backends = [\"10.0.0.1:1\", 5]", "backends[1]: wrong type"),
            (Toml, "backends = [\"10.0.0.1:0\", \"x\"]", "and 1 more"),
            (Toml, "backends = [\"10.0.0.1:1\", \"10.0.0.1:1\"]", "listed already"),
            (Toml, "backend = []", "did you mean backends?"),
            (Toml, "\nbackends = [{ address = \"10.0.0.1:1\", wieght = 2 }]", "2:39: "),
            (Json, "", "not a JSON object"),
            (Json, "{}", "missing"),
            (Json, "[[\"10.0.0.1:1\"]]", "not a JSON object"),
            (Json, r#"{"backends":["10.0.0.1:1"]"#, "not JSON"),
            (Json, r#"{"backends":["10.0.0.1:1"]} x"#, "not JSON"),
            (Json, r#"{"backends":null}"#, "wrong type"),
            (Json, r#"{"backends":[null, true, 1.5, 18446744073709551615]}"#, "and 3 more"),
            (Json, r#"{"backends":[{"address":"10.0.0.1:1","weight":0}]}"#, "out of range"),
            (Json, r#"{"backends":[{"address":"10.0.0.1:1","wieght":1}]}"#, "unknown key"),
        ];
        for (format, text, said) in cases {
            let error = listed(text, format).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
        let nested = format!("{{\"backends\":{}", "[".repeat(100_000));
        assert!(listed(&nested, Json).is_err());
    }
}

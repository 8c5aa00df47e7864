//! `${NAME}` and `${NAME:-default}` in strings: what they become, and what cannot be replaced.

use corelane::config::{Environment, Loaded, parse};

fn variable(name: &str) -> Option<String> {
    let value = match name {
        "PORT" => "9100",
        "HOST" => "10.0.0.7",
        "EMPTY" => "",
        "NESTED" => "${HOST}",
        "_9" => "underscore",
        _ => return None,
    };
    Some(value.to_string())
}

fn load(text: &str) -> Result<Loaded, String> {
    let environment = Environment { variable: &variable, cores: vec![0], descriptors_max: 20_000 };
    parse(text, "file.toml", &environment).map_err(|faults| faults.to_string())
}

/// A file in which `name` and `address` stand for strings.
fn file(name: &str, address: &str) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\nbind = [\"127.0.0.1:1\"]\nprotocol = \"tcp\"\n\
         pool = \"p\"\n\n[pool.p]\nbalance = \"random\"\nbackends = [{{ address = \"{address}\" }}]\n"
    )
}

/// The name and the backend's address of a file that loads.
fn loaded(name: &str, address: &str) -> (String, String) {
    let loaded = load(&file(name, address)).unwrap_or_else(|faults| panic!("{faults}"));
    let listener = &loaded.config.listeners[0];
    (listener.name.clone(), loaded.config.pools[0].backends[0].address.to_string())
}

#[test]
fn variables_stand_anywhere_in_a_string() {
    assert_eq!(loaded("a", "${HOST}:${PORT}").1, "10.0.0.7:9100");
    assert_eq!(loaded("a", "10.0.0.1:${PORT}").1, "10.0.0.1:9100");
    assert_eq!(loaded("x-${_9}-y", "10.0.0.1:1").0, "x-underscore-y");
}

#[test]
fn defaults_replace_what_is_unset_or_empty() {
    assert_eq!(loaded("a", "${NOWHERE:-10.0.0.9}:${PORT:-1}").1, "10.0.0.9:9100");
    assert_eq!(loaded("${EMPTY:-full}", "10.0.0.1:1").0, "full");
    assert_eq!(loaded("a${NOWHERE:-}b", "10.0.0.1:1").0, "ab");
    assert_eq!(loaded("a${EMPTY}b", "10.0.0.1:1").0, "ab");
    // The first ":-" ends the name; what follows may hold anything but "}".
    assert_eq!(loaded("a", "unix:/run/${NOWHERE:-a:-b}").1, "unix:/run/a:-b");
}

#[test]
fn a_doubled_dollar_is_a_plain_one() {
    assert_eq!(loaded("a", "unix:/run/$${HOST}").1, "unix:/run/${HOST}");
    assert_eq!(loaded("a", "unix:/run/$${${PORT}}").1, "unix:/run/${9100}");
    assert_eq!(loaded("a", "unix:/run/$HOST/$$/$").1, "unix:/run/$HOST/$$/$");
}

#[test]
fn what_a_variable_contains_is_not_looked_into() {
    assert_eq!(loaded("a", "unix:/run/${NESTED}").1, "unix:/run/${HOST}");
}

#[test]
fn keys_and_comments_are_left_alone() {
    let text = file("a", "10.0.0.1:1").replace("[pool.p]", "# ${NOWHERE}\n[pool.p]");
    assert!(load(&text).is_ok());
    let text = file("a", "10.0.0.1:1").replace("protocol =", "\"${NOWHERE}\" = 1\nprotocol =");
    let faults = load(&text).expect_err("an unknown key");
    assert!(faults.contains("unknown key"), "{faults}");
    assert!(!faults.contains("not set"), "{faults}");
}

#[test]
fn what_cannot_be_replaced_is_one_fault_each() {
    let cases = [
        ("${NOWHERE}", "environment variable NOWHERE is not set"),
        ("${}", "\"\" is not a variable's name"),
        ("${A B}", "\"A B\" is not a variable's name"),
        ("${9A}", "\"9A\" is not a variable's name"),
        ("a${HOST", "\"${\" without \"}\""),
    ];
    for (name, expected) in cases {
        let faults = load(&file(name, "10.0.0.1:${ALSO_UNSET}")).expect_err(name);
        let lines: Vec<&str> = faults.lines().collect();
        assert_eq!(lines.len(), 2, "{faults}");
        let place = "file.toml:2:8: listener[0].name: ";
        assert!(lines[0].starts_with(&format!("{place}{expected}")), "{faults}");
        assert!(lines[1].contains("pool.p.backends[0].address: environment variable ALSO_UNSET"));
    }
}

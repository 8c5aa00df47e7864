//! Each file of `config/` loads, and `reference.toml` is what it says: every key, with its default.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use corelane::config::{self, Address, Environment, Loaded, OnDown, Protocol};
use serde_json::Value;

/// `config/` holds at least so many: a lost file must not go unnoticed.
const FILES_MIN: usize = 12;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn environment() -> Environment<'static> {
    Environment { variable: &|_| None, cores: vec![0, 1], descriptors_max: 20_000 }
}

fn text(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).expect(name)
}

fn parsed(name: &str, text: &str) -> Loaded {
    config::parse(text, name, &environment()).unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn every_file_loads_without_a_warning() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder()).expect("config/") {
        let path = entry.expect("an entry").path();
        match config::load(&path, &environment()) {
            Ok(loaded) => assert_eq!(loaded.warnings, [], "{}", path.display()),
            Err(error) => panic!("{error}"),
        }
        names.push(path);
    }
    assert!(names.len() >= FILES_MIN, "{names:?}");
}

#[test]
fn the_push_gateway_has_the_table_of_its_users() {
    let config = parsed("pmtp.toml", &text("pmtp.toml")).config;
    let backends: Vec<String> =
        config.pools[0].backends.iter().map(|backend| backend.address.to_string()).collect();
    assert_eq!(backends, ["172.17.0.1:1000", "172.17.0.2:1000", "172.17.0.3:1000"]);
    assert_eq!(config.pools[0].balance.name(), "crc32_mod");
    assert_eq!(config.listeners[0].bind, [Address::Tcp("0.0.0.0:9000".parse().expect("address"))]);
    let Protocol::Frame(frame) = &config.listeners[0].protocol else { panic!("not framed") };
    assert_eq!(frame.rules.layout.header_len(), 6);
    assert_eq!(frame.rules.key.text(&frame.rules.layout), "json:devid");
}

/// What is promised to files written for the first version.
#[test]
fn the_file_that_users_start_from_stays_valid() {
    let text = r#"
[runtime]
cores = [0, 1]                  # one pinned shard per entry; "auto" = every core
max_connections = 100_000       # client connections, whole process

[admin]
listen = "127.0.0.1:9901"       # or "unix:/run/corelane/admin.sock"

[[listener]]
name = "devices"
bind = ["127.0.0.1:9000"]
protocol = "frame"              # frame | tcp | http
pool = "c2s"

[listener.frame]
header = ">ccHH"                # byte order, then a letter per field
fields = ["type", "version", "time", "length"]   # "length" = bytes of body after the header
key = "json:devid"              # json:PATH in the body | bytes:OFFSET..END | field:NAME
missing_key = "reject"          # reject | pool:NAME — never a silent fallback
max_body = "8KiB"
timeout = "5s"

[pool.c2s]
balance = "crc32_mod"           # an algorithm's name
connect_timeout = "1s"
retries = 1                     # other backends tried after the first; the preface is replayed
idle_timeout = "10m"
warm = 0                        # ready-made connections kept per backend and core
backends = [
  "127.0.0.1:1000",
  { address = "127.0.0.1:1001", weight = 2 },
]
"#;
    let environment = Environment { descriptors_max: 524_288, ..environment() };
    let loaded = config::parse(text, "devices.toml", &environment);
    let loaded = loaded.unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.config.runtime.cores, [0, 1]);
    assert_eq!(loaded.config.runtime.max_connections, 100_000);
    // 2 per connection, one listener and 108 others on each of two shards, 64 for everything else.
    assert_eq!(loaded.config.runtime.descriptors_needed, 200_282);
    assert_eq!(loaded.config.pools[0].on_down, OnDown::Reject);
    assert_eq!(loaded.config.pools[0].backends[1].weight, 2);
    let warnings: Vec<&str> = loaded.warnings.iter().map(|w| w.path.as_str()).collect();
    assert_eq!(warnings, ["pool.c2s.backends"], "crc32_mod ignores weights");
}

#[test]
fn pools_are_in_file_order_whatever_they_are_called() {
    let pools = ["zebra", "apple", "mango"]
        .map(|name| format!("[pool.{name}]\nbalance = \"random\"\nbackends = [\"10.0.0.1:1\"]\n"));
    let listener = "[[listener]]\nname = \"a\"\nbind = [\"127.0.0.1:1\"]\nprotocol = \"tcp\"\n\
                    pool = \"mango\"\n";
    let loaded = parsed("order.toml", &format!("{listener}{}", pools.concat()));
    let names: Vec<&str> = loaded.config.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["zebra", "apple", "mango"]);
    assert_eq!(loaded.config.listeners[0].pool, Some(2));
    let unused: Vec<&str> = loaded.warnings.iter().map(|w| w.path.as_str()).collect();
    assert_eq!(unused, ["pool.zebra", "pool.apple"]);
}

#[test]
fn connections_default_to_what_descriptors_allow() {
    let text = text("quickstart.toml");
    let connections = |descriptors_max| {
        let environment = Environment { descriptors_max, ..environment() };
        let loaded = config::parse(&text, "quickstart.toml", &environment).expect("no faults");
        let runtime = loaded.config.runtime;
        assert!(runtime.descriptors_needed <= descriptors_max);
        runtime.max_connections
    };
    assert_eq!(connections(20_000), (20_000 - 64 - 2 * 109) / 2);
    assert_eq!(connections(285), 1);
    assert_eq!(connections(u64::MAX), 1_000_000);
}

/// Paths of every key that the schema knows and takes a value, such as `pool.*.backends.weight`.
fn schema_keys(schema: &Value, path: &str, keys: &mut Vec<(String, Option<Value>)>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, inner) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let before = keys.len();
            schema_keys(inner, &path, keys);
            let table = keys.len() > before && inner.get("default").is_none();
            if !table || name == "backends" {
                keys.push((path, inner.get("default").cloned()));
            }
        }
    }
    if let Some(inner) = schema.get("items") {
        schema_keys(inner, path, keys);
    }
    if let Some(inner) = schema.get("additionalProperties") {
        schema_keys(inner, &format!("{path}.*"), keys);
    }
    for inner in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        schema_keys(inner, path, keys);
    }
}

/// Every key of a TOML value with its value, by the same paths.
fn file_keys(value: &toml::Value, path: &str, keys: &mut Vec<(String, toml::Value)>) {
    match value {
        toml::Value::Table(table) => {
            for (name, inner) in table {
                let below = match path {
                    "" => name.clone(),
                    "pool" => "pool.*".to_string(),
                    "lookup" => "lookup.*".to_string(),
                    _ => format!("{path}.{name}"),
                };
                keys.push((below.clone(), inner.clone()));
                file_keys(inner, &below, keys);
            }
        }
        toml::Value::Array(list) => list.iter().for_each(|entry| file_keys(entry, path, keys)),
        _ => {}
    }
}

/// The reference with its commented keys (`# key = value`) and tables (`# [table]`) written out.
fn reference_keys() -> Vec<(String, toml::Value)> {
    let text = text("reference.toml");
    let uncomment = |line: &str| {
        if line.starts_with("# [") {
            return line.trim_start_matches("# ").to_string();
        }
        let key = line.strip_prefix("# ").and_then(|rest| rest.split_once(" = "));
        match key {
            Some((key, _)) if key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {
                line.trim_start_matches("# ").to_string()
            }
            _ => line.to_string(),
        }
    };
    let text: Vec<String> = text.lines().map(uncomment).collect();
    let value: toml::Table = toml::from_str(&text.join("\n")).expect("TOML");
    let mut keys = Vec::new();
    file_keys(&toml::Value::Table(value), "", &mut keys);
    keys
}

fn known_keys() -> Vec<(String, Option<Value>)> {
    let mut keys = Vec::new();
    schema_keys(&config::schema(), "", &mut keys);
    // A table that may also be a list is there twice.
    let mut seen = BTreeSet::new();
    keys.retain(|(path, _)| seen.insert(path.clone()));
    keys
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    let known = known_keys();
    assert!(known.len() > 110, "the schema was not walked: {known:#?}");
    let written = reference_keys();
    let mut defaults = 0;
    for (path, default) in &known {
        let values: Vec<&toml::Value> =
            written.iter().filter(|(key, _)| key == path).map(|(_, value)| value).collect();
        assert!(!values.is_empty(), "{path} is not in reference.toml");
        let Some(default) = default else { continue };
        for value in values {
            let value = serde_json::to_value(value).expect("JSON");
            assert_eq!(&value, default, "{path}");
        }
        defaults += 1;
    }
    assert!(defaults > 60, "{defaults} defaults compared");
}

#[test]
fn the_user_page_names_every_key() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("docs/configuration.md");
    let keys: BTreeSet<String> = known_keys().into_iter().map(|(path, _)| path).collect();
    for path in keys {
        let name = path.rsplit('.').next().expect("a name");
        assert!(page.contains(&format!("`{name}`")), "{path} is not in docs/configuration.md");
    }
}

/// Takes every key out of a file that the schema has a default for.
fn strip(value: &mut toml::Value, schema: &Value, stripped: &mut usize) {
    match value {
        toml::Value::Table(table) => {
            let properties = schema.get("properties");
            let names: Vec<String> = table.keys().cloned().collect();
            for name in names {
                let inner = properties.and_then(|keys| keys.get(&name));
                let inner = inner.or_else(|| schema.get("additionalProperties"));
                let Some(inner) = inner else { continue };
                if inner.get("default").is_some() {
                    table.remove(&name);
                    *stripped += 1;
                } else if let Some(value) = table.get_mut(&name) {
                    // One table, or a list of them.
                    let forms = inner.get("anyOf").and_then(Value::as_array);
                    let list = forms.into_iter().flatten().find(|f| f.get("items").is_some());
                    strip(value, list.unwrap_or(inner), stripped);
                }
            }
        }
        toml::Value::Array(list) => {
            let Some(items) = schema.get("items") else { return };
            let variants = items.get("anyOf").and_then(Value::as_array);
            let table = variants.into_iter().flatten().find(|v| v.get("properties").is_some());
            for entry in list {
                strip(entry, table.unwrap_or(items), stripped);
            }
        }
        _ => {}
    }
}

#[test]
fn without_its_defaults_the_reference_means_the_same() {
    let text = text("reference.toml");
    let mut value = toml::Value::Table(toml::from_str(&text).expect("TOML"));
    let mut stripped = 0;
    strip(&mut value, &config::schema(), &mut stripped);
    assert!(stripped > 60, "{stripped} defaults taken out");
    let bare = toml::to_string(&value).expect("TOML");
    assert!(!bare.contains("timeout"), "{bare}");
    let full = parsed("reference.toml", &text).config;
    // The name of a file is in its default, too.
    let bare = parsed("reference.toml", &bare).config;
    assert_eq!(format!("{bare:#?}"), format!("{full:#?}"));
}

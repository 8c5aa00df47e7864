//! corelane: everything on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Feature, Forwarder, Setup, corelane_http};
use crate::run::plan::Tweak;

/// Its schema of its configuration.
pub fn schema(program: &Path) -> anyhow::Result<Value> {
    let output = Command::new(program)
        .args(["config", "schema"])
        .output()
        .with_context(|| format!("{}: build it first, or say --corelane", program.display()))?;
    if !output.status.success() {
        bail!("{} config schema: {}", program.display(), output.status);
    }
    serde_json::from_slice(&output.stdout).context("reading the schema of corelane")
}

/// The key that makes a feature.
pub fn key(feature: Feature) -> &'static str {
    match feature {
        Feature::Spin => "runtime.spin",
        Feature::Warm => "pool.NAME.warm",
    }
}

/// Whether a schema has the key of a feature.
pub fn has(schema: &Value, feature: Feature) -> bool {
    let name = key(feature).rsplit('.').next().unwrap_or_default();
    match schema {
        Value::Object(members) => {
            let properties = members.get("properties").and_then(Value::as_object);
            properties.is_some_and(|properties| properties.contains_key(name))
                || members.values().any(|member| has(member, feature))
        }
        Value::Array(items) => items.iter().any(|item| has(item, feature)),
        _ => false,
    }
}

/// How to start it.
pub fn forwarder(program: &Path, setup: &Setup) -> Forwarder {
    let file = setup.folder.join("corelane.toml");
    Forwarder {
        program: program.to_path_buf(),
        arguments: vec!["run".into(), "-c".into(), file.display().to_string()],
        config: match setup.tweak {
            Tweak::Table | Tweak::Lookup | Tweak::Websocket => http_config(setup),
            _ => config(setup),
        },
        file,
        more_files: Vec::new(),
        death: Signal::SIGKILL,
        processes: 1,
    }
}

/// How to start the gateway of our own build, publishing a table this often: the program itself has
/// no such option, and the arm without swaps has to differ in nothing else.
pub fn swapping(ourselves: &Path, setup: &Setup, every: Option<Duration>) -> Forwarder {
    let mut forwarder = forwarder(ourselves, setup);
    forwarder.arguments[0] = "gateway".into();
    if let Some(every) = every {
        forwarder.arguments.extend(["--swap-every".into(), format!("{}ms", every.as_millis())]);
    }
    forwarder
}

fn config(setup: &Setup) -> String {
    let backends: Vec<String> = setup.backends.iter().map(|b| format!("  \"{b}\",\n")).collect();
    let spin = match setup.tweak {
        Tweak::Spin => "spin = \"50us\"\n",
        _ => "",
    };
    let warm = match setup.tweak {
        // Backends may come a moment later than the forwarder.
        Tweak::Warm(count) => format!("warm = {count}\nfail_timeout = \"100ms\"\n"),
        _ => String::new(),
    };
    let listener = format!(
        r#"[[listener]]
name = "devices"
bind = ["{listen}"]
protocol = "frame"
pool = "c2s"

[listener.frame]
header = ">ccHH"
fields = ["type", "version", "time", "length"]
key = "json:devid"
timeout = "5s"

[pool.c2s]
balance = "crc32_mod"
connect_timeout = "1s"
idle_timeout = "10m"
{warm}backends = [
{backends}]
"#,
        listen = setup.listen,
        backends = backends.concat(),
    );
    process_config(setup, spin) + &listener
}

fn http_config(setup: &Setup) -> String {
    process_config(setup, "") + &corelane_http::listener(setup)
}

fn process_config(setup: &Setup, spin: &str) -> String {
    format!(
        r#"[runtime]
cores = {cores:?}
{spin}
[admin]
listen = "{admin}"

[log]
sessions = "{sessions}"

"#,
        cores = setup.cores,
        admin = setup.admin,
        sessions = setup.folder.join("sessions.jsonl").display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::setup;
    use ::corelane::config::Environment;

    #[test]
    fn configurations_are_valid() {
        let frames = [Tweak::None, Tweak::Warm(8), Tweak::TwoShards];
        let http = [Tweak::Table, Tweak::Lookup, Tweak::Websocket];
        for tweak in frames.into_iter().chain(http) {
            let mut setup = setup(tweak);
            setup.cores = vec![0];
            let text = forwarder(Path::new("/corelane"), &setup).config;
            assert_eq!(text.contains("protocol = \"http\""), http.contains(&tweak));
            let surroundings = Environment::of_process().unwrap();
            let environment = Environment { cores: vec![0], ..surroundings };
            if let Err(faults) = ::corelane::config::parse(&text, "corelane.toml", &environment) {
                panic!("{faults}\n{text}");
            }
        }
    }

    #[test]
    fn only_swapping_differs() {
        let arguments = |every| {
            let forwarder = swapping(Path::new("/bench"), &setup(Tweak::Swaps(every)), every);
            assert_eq!(forwarder.program, Path::new("/bench"));
            forwarder.arguments.join(" ")
        };
        let none = arguments(None);
        assert_eq!(none, "gateway -c /nowhere/corelane.toml");
        let swaps = arguments(Some(Duration::from_secs(1)));
        assert_eq!(swaps, format!("{none} --swap-every 1000ms"));
    }

    #[test]
    fn features_are_found_in_schemas() {
        let schema = serde_json::json!({
            "properties": { "runtime": { "$ref": "#/$defs/Runtime" } },
            "$defs": { "Runtime": { "properties": { "spin": {} } } },
        });
        assert!(has(&schema, Feature::Spin));
        assert!(!has(&schema, Feature::Warm));
    }
}

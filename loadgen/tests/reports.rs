//! What a run leaves: the table, the JSON document, percentile files.

mod rig;

use rig::{Backends, File, list, run};
use serde_json::Value;

#[test]
fn the_document_says_what_ran_where_and_how_it_went() {
    let backends = Backends::start(2, "");
    let json = File::new("report.json", "");
    let prefix = std::env::temp_dir().join(format!("loadgen-report-{}", std::process::id()));
    let outcome = run(&format!(
        "devices --direct {} --target {} --count 10 --closed --duration 300ms --json {} --hgrm {}",
        list(&backends.addresses[..1]),
        backends.addresses[0],
        json.0.display(),
        prefix.display(),
    ));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stdout);
    let document: Value = serde_json::from_slice(&std::fs::read(&json.0).unwrap()).unwrap();
    for key in ["commit", "version"] {
        assert!(!document[key].as_str().unwrap().is_empty(), "{key}");
    }
    for key in ["name", "kernel", "cpu", "congestion_control"] {
        assert!(!document["host"][key].as_str().unwrap().is_empty(), "{key}");
    }
    assert!(document["host"]["cores"].as_u64().unwrap() >= 1);
    assert!(document["command"].as_array().unwrap().len() > 5);
    assert_eq!(document["exit_code"], 0);
    assert_eq!(document["arms"][0]["arm"], "direct");
    assert_eq!(document["arms"][1]["arm"], "gateway");
    for arm in document["arms"].as_array().unwrap() {
        percentiles_ascend(&arm["latency_ns"]["round_trip"]);
        assert!(arm["answered_per_second"].as_f64().unwrap() > 0.0);
        assert!(arm["cpu_us_per_answer"].as_f64().unwrap() > 0.0);
        let path = format!("{}-{}-", prefix.display(), arm["arm"].as_str().unwrap());
        for measure in ["connect", "first_reply", "round_trip"] {
            let path = format!("{path}{measure}.hgrm");
            parse_hgrm(&path, arm["latency_ns"][measure]["count"].as_f64().unwrap());
            std::fs::remove_file(path).unwrap();
        }
    }
    let difference = document["difference_ns"]["round_trip"]["p50"].as_i64().unwrap();
    let p50 = |arm: usize| document["arms"][arm]["latency_ns"]["round_trip"]["p50"].as_i64();
    assert_eq!(difference, p50(1).unwrap() - p50(0).unwrap());
    for part in ["direct →", "gateway →", "gateway less direct", "round_trip", "PASS"] {
        assert!(outcome.stdout.contains(part), "{part}: {}", outcome.stdout);
    }
}

fn percentiles_ascend(latency: &Value) {
    let of = |name: &str| latency[name].as_f64().unwrap_or_else(|| panic!("{name}: {latency}"));
    let names = ["min", "p50", "p90", "p99", "p99_9", "p99_99", "p99_999", "max"];
    for pair in names.windows(2) {
        assert!(of(pair[0]) <= of(pair[1]), "{pair:?}: {latency}");
    }
    assert!(of("mean") >= of("min") && of("mean") <= of("max"));
    assert!(of("min") > 1_000.0, "nothing takes less than a microsecond: {latency}");
}

fn parse_hgrm(path: &str, count: f64) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let rows: Vec<Vec<f64>> = text
        .lines()
        .skip(2)
        .take_while(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().map(|cell| cell.parse().unwrap()).collect())
        .collect();
    assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][2] <= pair[1][2]));
    let last = rows.last().unwrap();
    assert_eq!((last[1], last[2]), (1.0, count), "{path}");
}

#[test]
fn json_on_standard_output_is_alone_there() {
    let backends = Backends::start(1, "");
    let direct = list(&backends.addresses);
    let outcome = run(&format!("devices --direct {direct} --duration 50ms --json -"));
    assert_eq!(outcome.json()["exit_code"], 0);
    assert!(outcome.stderr.contains("PASS"), "{}", outcome.stderr);
}

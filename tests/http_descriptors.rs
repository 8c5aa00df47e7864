//! File descriptors that http listeners need besides those of their clients: connections that are
//! kept for further requests, files of access logs. What is asked for at the start covers them.

mod gateway;

use corelane::config::{Environment, parse};
use corelane::log::ACCESS_FILES_MAX;
use gateway::{Start, run_to_end};

const SHARDS: u64 = 3;
/// Of a listener with one address and its shard, and of the rest of the process.
const OTHERS: u64 = SHARDS * (1 + 108) + 64;

/// A listener with these keys, whose rules go to these targets; and pools of one and five backends,
/// and one whose backends come of a file.
fn config(http: &str, targets: &[&str]) -> String {
    let rules: String =
        targets.iter().map(|target| format!("[[listener.http.rule]]\n{target}\n")).collect();
    format!(
        "[runtime]\nmax_connections = 100\n[[listener]]\nname = \"web\"\nbind = [\"127.0.0.1:0\"]\n\
         protocol = \"http\"\n[listener.http]\n{http}\n{rules}\
         [pool.one]\nbalance = \"random\"\nbackends = [\"10.0.0.1:1\"]\n\
         [pool.five]\nbalance = \"random\"\nbackends = [\"10.0.0.1:1\", \"10.0.0.2:1\", \
         \"10.0.0.3:1\", \"10.0.0.4:1\", \"10.0.0.5:1\"]\n\
         [pool.found]\nbalance = \"random\"\n[pool.found.source]\nkind = \"file\"\npath = \"/x\"\n\
         [lookup.names]\nkind = \"dns\"\nname = \"{{key}}.test\"\nport = 80\n"
    )
}

fn needed(text: &str) -> u64 {
    let environment =
        Environment { variable: &|_| None, cores: vec![0, 1, 2], descriptors_max: 200_000 };
    let loaded = parse(text, "web.toml", &environment).unwrap_or_else(|faults| panic!("{faults}"));
    loaded.config.runtime.descriptors_needed
}

#[test]
fn what_may_be_kept_is_counted_once_for_each_backend_and_core() {
    let (one, five, found) = ("pool = \"one\"", "pool = \"five\"", "pool = \"found\"");
    let lookup = "lookup = \"names\"\nkey = \"host\"";
    // One source of backends and one lookup that asks DNS are always there.
    let kept = |http: &str, targets: &[&str]| {
        let others = 2 * 100 + OTHERS + 4 + 512;
        needed(&config(http, targets)).checked_sub(others).expect("too few")
    };
    assert_eq!(kept("", &[one]), SHARDS * 10);
    assert_eq!(kept("", &[one, one, five, five]), SHARDS * 10 * 6);
    assert_eq!(kept("backend = { idle = 0 }", &[one, found, lookup]), 0);
    assert_eq!(kept("backend = { idle = 7 }", &["reply = { status = 404 }"]), 0);
    // A core keeps no more, and of these nobody knows how many there are.
    assert_eq!(kept("backend = { idle = 1024 }", &[five]), SHARDS * 1_024);
    assert_eq!(kept("backend = { idle = 1 }", &[one, found]), SHARDS * 1_024);
    assert_eq!(kept("backend = { idle = 1 }", &[lookup]), SHARDS * 1_024);
    let file = "backend = { idle = 0 }\naccess_log = { path = \"/tmp/web.log\" }";
    assert_eq!(kept(file, &[one]), 1);
    let files = "backend = { idle = 0 }\naccess_log = { path = \"/tmp/{backend}.log\" }";
    assert_eq!(kept(files, &[one]), ACCESS_FILES_MAX as u64);
}

#[test]
fn a_limit_that_leaves_no_room_for_them_is_refused_at_start() {
    let text = config("backend = { idle = 1024 }", &["pool = \"one\""]);
    let text = text.replace("[runtime]", "[runtime]\ncores = [0]");
    let text = text.split("[pool.found]").next().unwrap();
    let start = Start { descriptors: Some(1_300), ..Start::default() };
    let (code, said) = run_to_end(text, &start);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("1024 × 1 for kept connections"), "{said}");
}

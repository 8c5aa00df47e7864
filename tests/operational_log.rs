//! The operational log: JSON lines on standard error from the chosen level upwards, and nobody who
//! logs ever waits for whoever reads them.
//!
//! The log takes over a whole process, so each test runs itself as a child.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use corelane::log::{LogCells, OperationalLog};
use serde_json::Value;
use tracing::Level;

const CHILD: &str = "CORELANE_TEST_CHILD";

const DEADLINE: Duration = Duration::from_secs(20);

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

fn run_as_child(test: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child")
}

#[test]
fn lines_are_json_from_the_chosen_level_upwards() {
    if is_child() {
        let log = OperationalLog::start(Level::INFO, Arc::default()).expect("a log");
        tracing::debug!("too low");
        tracing::info!(listener = "devices", backlog = 128, "bound\n\u{1b}[31m");
        log.set_level(Level::DEBUG);
        tracing::debug!("high enough");
        log.set_level(Level::ERROR);
        tracing::warn!("too low now");
        let again = OperationalLog::start(Level::INFO, Arc::default()).expect_err("taken");
        tracing::error!(error = %again, "last");
        assert!(log.finish());
        return;
    }
    let name = "lines_are_json_from_the_chosen_level_upwards";
    let output = run_as_child(name).wait_with_output().expect("its output");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let messages: Vec<_> = lines.iter().map(|line| &line["message"]).collect();
    assert_eq!(messages, ["bound\n\u{1b}[31m", "high enough", "last"]);
    assert_eq!(lines[0]["level"], "INFO");
    assert_eq!(lines[0]["listener"], "devices");
    assert_eq!(lines[0]["backlog"], 128);
    assert!(lines[0]["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert!(!text.contains('\u{1b}'), "a terminal sees no control characters");
}

#[test]
fn a_reader_that_stalls_blocks_nobody() {
    if is_child() {
        let cells = Arc::new(LogCells::default());
        let log = OperationalLog::start(Level::INFO, cells.clone()).expect("a log");
        while cells.dropped.load(Relaxed) < 10_000 {
            tracing::info!("a line that nobody reads");
        }
        println!("\nfinished {}", log.finish());
        std::process::exit(0);
    }
    let mut child = run_as_child("a_reader_that_stalls_blocks_nobody");
    let deadline = Instant::now() + DEADLINE;
    while child.try_wait().expect("its state").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("the child ends");
            panic!("the child hangs on its standard error");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(child.wait().expect("its end").success());
    let stdout = BufReader::new(child.stdout.take().expect("its standard output"));
    assert!(stdout.lines().any(|line| line.expect("text") == "finished false"));
}

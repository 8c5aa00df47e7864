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

/// The level a child logs from; `None` in the test itself.
fn child_level() -> Option<Level> {
    std::env::var(CHILD).ok().map(|level| level.parse().expect("a level"))
}

fn run_as_child(test: &str, level: Level) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, level.as_str())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child")
}

#[test]
fn lines_are_json_from_the_chosen_level_upwards() {
    if let Some(level) = child_level() {
        let log = OperationalLog::start(level, Arc::default()).expect("a log");
        tracing::debug!("detail");
        tracing::info!(listener = "devices", backlog = 128, "bound\n\u{1b}[31m");
        tracing::warn!("odd");
        let again = OperationalLog::start(level, Arc::default()).expect_err("taken");
        tracing::error!(error = %again, "last");
        assert!(log.finish());
        return;
    }
    let all = ["detail", "bound\n\u{1b}[31m", "odd", "last"];
    for (level, expected) in [
        (Level::TRACE, &all[..]),
        (Level::DEBUG, &all),
        (Level::INFO, &all[1..]),
        (Level::WARN, &all[2..]),
        (Level::ERROR, &all[3..]),
    ] {
        let name = "lines_are_json_from_the_chosen_level_upwards";
        let output = run_as_child(name, level).wait_with_output().expect("its output");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let messages: Vec<_> = lines.iter().map(|line| &line["message"]).collect();
        assert_eq!(messages, expected, "{level}");
        assert!(!text.contains('\u{1b}'), "a terminal sees no control characters");
        if let Some(bound) = lines.iter().find(|line| line["level"] == "INFO") {
            assert_eq!(bound["listener"], "devices");
            assert_eq!(bound["backlog"], 128);
            assert!(bound["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')));
        }
    }
}

#[test]
fn a_reader_that_stalls_blocks_nobody() {
    if let Some(level) = child_level() {
        let cells = Arc::new(LogCells::default());
        let log = OperationalLog::start(level, cells.clone()).expect("a log");
        while cells.dropped.load(Relaxed) < 10_000 {
            tracing::info!("a line that nobody reads");
        }
        println!("\nfinished {}", log.finish());
        std::process::exit(0);
    }
    let mut child = run_as_child("a_reader_that_stalls_blocks_nobody", Level::INFO);
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

//! The benchmark runs, writes its three files, and leaves nobody behind however it ends. Nothing is
//! said about speed: these machines are busy.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nothing here takes longer, on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn bench() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_corelane-bench"))
}

/// The gateway of the same build; built if this package is tested alone.
fn corelane() -> PathBuf {
    let folder = bench().parent().unwrap();
    let program = folder.join("corelane");
    if !program.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "-p", "corelane", "--bin", "corelane"]);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success());
    }
    program
}

fn folder(name: &str) -> PathBuf {
    let name = format!("bench-{name}-{}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Of a run that was cut short.
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

fn run(only: &str, seconds: &str, output: &Path) -> Command {
    let mut command = Command::new(bench());
    command.args(["run", "--quick", "--keep-settings", "--rounds", "1", "--seconds", seconds]);
    command.args(["--devices", "20", "--without", "haproxy,nginx", "--only", only]);
    command.arg("--corelane").arg(corelane()).arg("--output").arg(output);
    // A run that is killed leaves its scratch files: in a folder that the test removes.
    let scratch = output.with_extension("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    command.env("TMPDIR", scratch);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn remove(folder: &Path) {
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::remove_dir_all(folder.with_extension("scratch")).unwrap();
}

/// A run that is killed when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(child: &mut Child) -> Option<i32> {
    let give_up = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < give_up, "it did not end");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn a_tiny_run_writes_its_files() {
    let folder = folder("files");
    let only = "messages-same-core,connects,idle,bulk-same-core,requests-table-same-core,\
                websocket-same-core";
    let output = run(only, "0.2", &folder).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    // Targets may be missed and the machine noisy; 2 is what must not be.
    assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{:?}\n{stderr}", output.status);
    assert!(stdout.contains("| holds") || stdout.contains("| missed"), "{stdout}");
    assert!(stdout.contains(&format!("results: {}", folder.display())), "{stdout}");

    let read = |name| std::fs::read_to_string(folder.join(name)).unwrap();
    let document: Value = serde_json::from_str(&read("results.json")).unwrap();
    assert_eq!(document["exit_code"].as_i64(), output.status.code().map(i64::from));
    let cores = document["machine"]["cores"].as_array().unwrap().len();
    for scenario in only.split(',').filter(|name| cores > 1 || name.contains("same")) {
        let arms = document["scenarios"].as_array().unwrap().iter();
        let found = arms.clone().find(|found| found["name"] == scenario).unwrap();
        for arm in found["arms"].as_array().unwrap() {
            assert_eq!(arm["rounds"], 1);
            assert!(!arm["metrics"].as_object().unwrap().is_empty(), "{scenario} {arm}");
            assert_eq!(arm["errors"], serde_json::json!({}), "{scenario} {arm}");
        }
        let arms: Vec<&str> =
            found["arms"].as_array().unwrap().iter().filter_map(|a| a["name"].as_str()).collect();
        let expected: &[&str] = match scenario {
            "idle" => &["corelane"],
            "websocket-same-core" => &["corelane", "websocket"],
            _ => &["direct", "corelane"],
        };
        assert_eq!(arms, expected, "{scenario}");
    }
    let config = document["configs"]["messages-same-core corelane"].as_str().unwrap();
    assert!(config.contains("key = \"json:devid\""), "{config}");
    assert_eq!(document["absent"]["messages-same-core haproxy"], "left out");
    assert!(read("results.md").contains("### messages-same-core"));
    assert!(read("results.html").contains("<svg"));
    remove(&folder);
}

/// Processes whose parent is this one, and theirs.
fn descendants(of: u32) -> Vec<u32> {
    let mut found = vec![of];
    let mut next = 0;
    while let Some(id) = found.get(next) {
        for task in std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            found.extend(children.split_whitespace().map(|id| id.parse::<u32>().unwrap()));
        }
        next += 1;
    }
    found.split_off(1)
}

/// Neither gone nor waiting to be reaped.
fn is_alive(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Starts a long run and waits until forwarder and load are there.
fn long_run(folder: &Path) -> (Running, Vec<u32>) {
    let mut run = run("messages-same-core", "300", folder);
    let mut child = Running(run.args(["--without", "direct"]).spawn().unwrap());
    let give_up = Instant::now() + DEADLINE;
    loop {
        let children = descendants(child.0.id());
        let names = children
            .iter()
            .map(|id| std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default());
        let names: Vec<String> = names.map(|name| name.trim().to_string()).collect();
        if names.contains(&"corelane".to_string()) && names.contains(&"corelane-bench".to_string())
        {
            return (child, children);
        }
        assert!(child.0.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(Instant::now() < give_up, "no forwarder and load: {names:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn assert_all_end(children: &[u32]) {
    let give_up = Instant::now() + DEADLINE;
    while let Some(id) = children.iter().find(|id| is_alive(**id)) {
        assert!(Instant::now() < give_up, "{id} lives on");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

#[test]
fn an_interrupted_run_ends_its_children() {
    let folder = folder("interrupted");
    let (mut child, children) = long_run(&folder);
    signal(&child.0, "INT");
    assert_eq!(wait(&mut child.0), Some(2));
    assert_all_end(&children);
    remove(&folder);
}

#[test]
fn a_killed_run_leaves_no_children() {
    let folder = folder("killed");
    let (mut child, children) = long_run(&folder);
    signal(&child.0, "KILL");
    assert_eq!(wait(&mut child.0), None);
    assert_all_end(&children);
    remove(&folder);
}

/// DNS is real; nginx is measured where it has Lua, and otherwise named as absent.
#[test]
fn a_word_names_the_scenarios_that_begin_with_it() {
    let folder = folder("group");
    let mut command = run("requests-lookup", "0.2", &folder);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{:?}\n{stderr}", output.status);
    let text = std::fs::read_to_string(folder.join("results.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let scenarios = document["scenarios"].as_array().unwrap();
    let names: Vec<&str> = scenarios.iter().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(names, ["requests-lookup-other-core", "requests-lookup-same-core"]);
    let corelane = &scenarios[1]["arms"][0];
    assert_eq!(corelane["name"], "corelane");
    assert_eq!(corelane["errors"], serde_json::json!({}));
    assert!(corelane["metrics"]["cpu_us"]["median"].as_f64().unwrap() > 0.0, "{corelane}");
    remove(&folder);
}

#[test]
fn unknown_scenarios_are_refused_with_the_known_ones() {
    let folder = folder("unknown");
    let output = run("messages-same-core,nonsense", "0.1", &folder).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("nonsense: valid are messages-other-core,"), "{stderr}");
    assert!(!folder.exists());
    std::fs::remove_dir_all(folder.with_extension("scratch")).unwrap();
}

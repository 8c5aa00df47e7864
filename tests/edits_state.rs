//! What was edited of a file's backends is in force again after a restart, `check` shows it, and
//! `route` and `explain` count it; a broken state file stops no gateway, and is a fault of `check`.

mod gateway;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gateway::backend::Backend;
use gateway::client::Client;
use gateway::{Gateway, directory, frame_config};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_corelane")).args(arguments).output().unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn keep(folder: &Path, edits: &[String]) {
    let text = format!("{{\"corelane_edits\": 1, \"edits\": [{}]}}\n", edits.join(","));
    std::fs::write(folder.join("edits.json"), text).unwrap();
}

fn entry(pool: &str, backend: &str, rest: &str) -> String {
    let at = "2026-01-31T12:00:00Z";
    format!(r#"{{"pool":"{pool}","backend":"{backend}","at":"{at}",{rest}}}"#)
}

/// A configuration whose state is in a folder of this test's own.
struct Setup {
    folder: PathBuf,
    toml: String,
}

impl Setup {
    fn new(backends: &[String]) -> Setup {
        let folder = directory();
        let backends: Vec<_> = backends.iter().map(|one| one.parse().unwrap()).collect();
        let state = format!("[runtime]\nstate_dir = \"{}\"", folder.display());
        let toml = frame_config(&backends, "", "").replace("[runtime]", &state);
        Setup { folder, toml }
    }

    fn file(&self) -> String {
        let path = self.folder.join("checked.toml");
        std::fs::write(&path, &self.toml).unwrap();
        path.display().to_string()
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// The backend that a key's session gets.
fn placed(gateway: &Gateway, key: &str, greeting_len: usize) -> String {
    let mut client = Client::login(gateway.address("devices"), key);
    String::from_utf8(client.receive(greeting_len)).unwrap().trim_end().to_owned()
}

#[test]
fn edits_are_in_force_after_a_start() {
    let port = shared_port();
    let address = |number: u8| format!("127.0.0.{number}:{port}");
    for number in 2..=4 {
        Backend::echo_at(address(number).parse().unwrap());
    }
    let setup = Setup::new(&[address(2), address(3)]);
    keep(
        &setup.folder,
        &[
            entry("c2s", &address(2), r#""edit":"remove""#),
            entry("c2s", &address(3), r#""edit":"remove""#),
            entry("c2s", &address(4), r#""edit":"add""#),
        ],
    );
    let gateway = Gateway::start(&setup.toml);
    for key in 0..20 {
        assert_eq!(placed(&gateway, &format!("key-{key}"), address(4).len() + 1), address(4));
    }
}

fn shared_port() -> u16 {
    // Bound and let go of: nobody else binds the addresses that follow.
    let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn check_shows_them_and_route_counts_them() {
    let backends: Vec<String> = (1..=3).map(|number| format!("10.0.0.{number}:7000")).collect();
    let setup = Setup::new(&backends);
    let file = setup.file();
    let routed = |keys: &str| {
        let output = run(&["route", "-c", &file, keys]);
        assert!(output.status.success(), "{output:?}");
        printed(&output)
    };
    let before = routed("device-1");
    keep(
        &setup.folder,
        &[
            entry("c2s", &backends[1], r#""edit":"set","weight":3,"state":"drain""#),
            entry("c2s", &backends[0], r#""edit":"remove""#),
            entry("c2s", &backends[2], r#""edit":"remove""#),
            entry("c2s", "10.0.0.9:7000", r#""edit":"add","weight":2"#),
            entry("c2s", "10.0.0.8:7000", r#""edit":"remove""#),
            entry("old", "10.0.0.8:7000", r#""edit":"set","state":"down""#),
        ],
    );
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = printed(&output);
    let state = setup.folder.join("edits.json").display().to_string();
    let since = "(since 2026-01-31T12:00:00Z)";
    let expected = [
        format!("{state}: edit: c2s 10.0.0.1:7000: removed {since}"),
        format!("{state}: edit: c2s 10.0.0.2:7000: weight 3, drain {since}"),
        format!("{state}: edit: c2s 10.0.0.3:7000: removed {since}"),
        format!(
            "{state}: edit: c2s 10.0.0.8:7000: removed {since}; unused: the file has no such \
             backend any more"
        ),
        format!("{state}: edit: c2s 10.0.0.9:7000: added, weight 2, ready {since}"),
        format!("{state}: edit: old 10.0.0.8:7000: down {since}; unused: there is no such pool"),
    ];
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[lines.len() - 7..lines.len() - 1], expected, "{shown}");
    assert!(lines[lines.len() - 1].contains(": ok: "), "{shown}");
    let output = run(&["check", "--format", "json", "-c", &file]);
    let page: serde_json::Value = serde_json::from_str(&printed(&output)).unwrap();
    assert_eq!(page["edits"][1]["edit"], "weight 3, drain");
    assert_eq!(page["edits"][1]["in_force"], "yes");
    assert_eq!(page["edits"][5]["in_force"], "no");
    let after = routed("device-1");
    assert_ne!(before, after);
    let home = after.trim_end().rsplit('\t').next().unwrap();
    assert!(home == "-" || home == "10.0.0.9:7000", "{after}");
}

#[test]
fn a_broken_file_is_a_fault_of_check_and_stops_no_gateway() {
    let port = shared_port();
    let address = format!("127.0.0.2:{port}");
    Backend::echo_at(address.parse().unwrap());
    let setup = Setup::new(std::slice::from_ref(&address));
    let state = setup.folder.join("edits.json");
    let removed = entry("c2s", &address, r#""edit":"remove""#);
    keep(&setup.folder, std::slice::from_ref(&removed));
    let whole = std::fs::read_to_string(&state).unwrap();
    for (broken, why) in [
        (whole[..whole.len() - 3].to_owned(), "EOF"),
        ("garbage".to_owned(), "expected value"),
        (whole.replace("\"remove\"", "\"add\",\"weight\":0"), "weight 0"),
        (" ".repeat(17 << 20), "over 16777216 bytes"),
    ] {
        std::fs::write(&state, broken).unwrap();
        let file = setup.file();
        let output = run(&["check", "-c", &file]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = printed(&output);
        assert!(said.starts_with(&format!("{}:1:1: ", state.display())), "{said}");
        assert!(said.contains(why), "{said}");
        let output = run(&["check", "--format", "json", "-c", &file]);
        let page: serde_json::Value = serde_json::from_str(&printed(&output)).unwrap();
        assert_eq!((&page["ok"], &page["file"]), (&false.into(), &state.to_str().into()));
        assert_eq!(run(&["route", "-c", &file, "key"]).status.code(), Some(1));
    }
    let gateway = Gateway::start(&setup.toml);
    assert_eq!(placed(&gateway, "key", address.len() + 1), address);
    gateway.operational.wait("line about the state file", |lines| {
        lines.iter().any(|line| line.contains("the state file is not used")).then_some(())
    });
    // Mended, and taken with the next reload.
    keep(&setup.folder, &[removed]);
    gateway.signal("HUP");
    gateway.operational.wait("line about edits", |lines| {
        lines.iter().any(|line| line.contains("edits of backends are in force")).then_some(())
    });
}

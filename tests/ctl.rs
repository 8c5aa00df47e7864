//! `corelane ctl` and `corelane reload` against a running gateway, over TCP and a UNIX socket, and
//! the pages that are made of the command line.

mod gateway;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use gateway::backend::Backend;
use gateway::client::Client;
use gateway::{Gateway, Start, frame_config};
use serde_json::{Value, json};

fn corelane(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.args(arguments).stdin(Stdio::null()).output().expect("the command starts")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Runs `ctl` on a gateway and expects it to be done.
#[track_caller]
fn ctl(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = asked(gateway, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}{}", out(&output), err(&output));
    out(&output)
}

fn asked(gateway: &Gateway, arguments: &[&str]) -> Output {
    let admin = gateway.admin.to_string();
    corelane(&[&["ctl", "--admin", &admin], arguments].concat())
}

#[track_caller]
fn ctl_json(gateway: &Gateway, arguments: &[&str]) -> Value {
    let text = ctl(gateway, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).expect(&text)
}

#[test]
fn what_a_gateway_shows() {
    let backend = Backend::echo("only");
    let gateway = Gateway::start(&frame_config(&[backend], "", ""));
    let mut client = Client::login(gateway.address("devices"), "a\\u001b[31m");
    client.receive(5);
    let backend = backend.to_string();
    assert_eq!(ctl_json(&gateway, &["pools"])["pools"][0]["name"], "c2s");
    let pools = ctl(&gateway, &["pools"]);
    let cells: Vec<&str> = pools.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(cells, ["c2s", "crc32_mod", "reject", "1", "1", "1", "0"], "{pools}");
    assert!(ctl(&gateway, &["pools", "c2s"]).contains(&backend));
    assert!(ctl(&gateway, &["backends", "--pool", "c2s", "--state", "ready"]).contains(&backend));
    let none = ctl(&gateway, &["backends", "--state", "drain"]);
    assert_eq!(none.lines().count(), 1, "only the head: {none}");
    let sessions = ctl(&gateway, &["sessions", "--backend", &backend]);
    assert!(sessions.contains("a\\u{1b}[31m") && !sessions.contains('\u{1b}'), "{sessions}");
    let place = ctl(&gateway, &["where", "b", "--listener", "devices"]);
    assert!(place.contains("home") && place.ends_with("not connected\n"), "{place}");
    assert_eq!(ctl_json(&gateway, &["where", "a/ü"])["key"], "a/ü");
    assert_eq!(ctl(&gateway, &["sources"]).lines().count(), 1);
    assert_eq!(ctl_json(&gateway, &["config"])["config"]["log"]["level"], "info");
    assert_eq!(ctl(&gateway, &["log"]), "info\n");
    assert_eq!(ctl(&gateway, &["log", "debug"]), "debug (configured: info)\n");
    let audit = ctl(&gateway, &["audit", "--limit", "1"]);
    assert!(audit.contains("PATCH /log") && audit.contains("level debug"), "{audit}");
    // What is not there, or makes no sense, is refused with the reason.
    for (arguments, reason) in [
        (&["pools", "nobody"][..], "there is no pool \"nobody\""),
        (&["log", "loud"], "no level is called \"loud\""),
        (&["refresh", "c2s"], "no source that is watched"),
        (&["close", "0-0-99"], "there is no session \"0-0-99\""),
        (&["close", "--key", "nobody"], "no session has this key"),
    ] {
        let output = asked(&gateway, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", out(&output));
        assert!(err(&output).contains(reason), "{}", err(&output));
    }
}

#[test]
fn sessions_are_closed_by_name_by_key_and_by_backend() {
    let backend = Backend::echo("only");
    let gateway = Gateway::start(&frame_config(&[backend], "", ""));
    let mut clients: Vec<Client> = (0..4)
        .map(|n| {
            let mut client = Client::login(gateway.address("devices"), &format!("k{n}"));
            client.receive(5 + gateway::client::login("k0").len());
            client
        })
        .collect();
    let found = ctl_json(&gateway, &["sessions", "--key", "k0"]);
    let id = found["sessions"][0]["id"].as_str().unwrap();
    assert!(ctl(&gateway, &["close", id]).starts_with(&format!("closed {id} (127.0.0.1:")));
    clients.remove(0).assert_closed_silently();
    ctl(&gateway, &["close", "--key", "k1"]);
    clients.remove(0).assert_closed_silently();
    let backend = backend.to_string();
    let all = ["close", "--pool", "c2s", "--backend", &backend];
    let begun = ctl(&gateway, &[&all[..], &["--rate", "100/s"]].concat());
    assert_eq!(begun, format!("closing 2 sessions of {backend}, 100/s\n"));
    clients.iter_mut().for_each(Client::assert_closed_silently);
    let stopped = ctl(&gateway, &[&all[..], &["--stop"]].concat());
    assert_eq!(stopped, format!("closing no more of {backend}; it has 0 sessions\n"));
}

#[test]
fn backends_are_added_changed_drained_and_removed() {
    let (first, second) = (Backend::echo("only"), Backend::echo("only"));
    let gateway = Gateway::start(&frame_config(&[first], "on_down = \"next\"", ""));
    let (first, second) = (first.to_string(), second.to_string());
    let state = |address: &str| {
        let all = ctl_json(&gateway, &["pools", "c2s"]);
        let backends = all["backends"].as_array().unwrap();
        let found = backends.iter().find(|backend| backend["address"] == address);
        found.map(|backend| (backend["state"].clone(), backend["weight"].clone()))
    };
    assert!(ctl(&gateway, &["add", "c2s", &second, "--weight", "3"]).starts_with("done in "));
    gateway.wait_until("it is there", || state(&second) == Some((json!("ready"), json!(3))));
    for (word, expected) in [("drain", "drain"), ("down", "down"), ("ready", "ready")] {
        ctl(&gateway, &[word, "c2s", &second]);
        gateway.wait_until(word, || state(&second).is_some_and(|(state, _)| state == expected));
    }
    assert!(ctl(&gateway, &["ready", "c2s", &second]).starts_with("it was so already in "));
    let is_first = |key: &String| crc32fast::hash(key.as_bytes()).is_multiple_of(2);
    let key = (0..).map(|n: u32| n.to_string()).find(is_first).unwrap();
    let mut client = Client::login(gateway.address("devices"), &key);
    client.receive(5);
    let waiting = asked(&gateway, &["drain", "c2s", &first, "--wait", "100ms"]);
    assert_eq!(waiting.status.code(), Some(1));
    assert!(err(&waiting).contains("1 sessions are left after 100ms"), "{}", err(&waiting));
    client.reset();
    ctl(&gateway, &["drain", "c2s", &first, "--wait", "20s"]);
    ctl(&gateway, &["weight", "c2s", &second, "7"]);
    gateway.wait_until("another weight", || state(&second).is_some_and(|(_, weight)| weight == 7));
    ctl(&gateway, &["remove", "c2s", &first]);
    gateway.wait_until("it is gone", || state(&first).is_none());
    let audit = ctl(&gateway, &["audit"]);
    for part in ["add c2s", "drain c2s", "weight c2s", "remove c2s", "DELETE /pools/c2s/backends/"]
    {
        assert!(audit.contains(part), "{part}: {audit}");
    }
    for (arguments, reason) in [
        (&["add", "c2s", &second][..], "already"),
        (&["drain", "c2s", "1.2.3.4:5"], "no backend"),
        (&["drain", "nobody", "1.2.3.4:5"], "nobody"),
        (&["add", "c2s", "localhost:1"], "not an address"),
        (&["weight", "c2s", &second, "0"], "weight"),
    ] {
        let output = asked(&gateway, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", out(&output));
        assert!(err(&output).contains(reason), "{arguments:?}: {}", err(&output));
    }
}

#[test]
fn a_file_says_where_its_gateway_is_and_has_it_reloaded() {
    let (old, new) = (Backend::echo("only"), Backend::echo("only"));
    let directory = gateway::directory();
    let socket = directory.join("admin.sock");
    let tokens = directory.join("tokens");
    std::fs::write(&tokens, "me 0123456789abcdef\n").unwrap();
    let listen = format!("[admin]\nlisten = \"unix:{}\"\n", socket.display());
    let admin = format!("{listen}token_file = {tokens:?}\n");
    let start = Start { own_admin: true, ..Start::default() };
    let toml = |backend, more: &str| format!("{}\n{admin}{more}", frame_config(&[backend], "", ""));
    let gateway = Gateway::start_with(&toml(old, ""), &start);
    let path = gateway.directory().join("corelane.toml");
    let file = path.display().to_string();

    std::fs::write(&path, toml(new, "")).unwrap();
    let output = corelane(&["reload", "-c", &file, "--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains(&format!("backends added: c2s {new}")), "{}", out(&output));
    assert!(out(&output).starts_with("table 1\n"), "{}", out(&output));
    let output = corelane(&["reload", "-c", &file, "--json"]);
    let reloaded: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!((&reloaded["table"], &reloaded["sessions_closed"]), (&json!(2), &json!(0)));

    // Faults elsewhere in the file do not hide where its gateway is.
    std::fs::write(&path, toml(new, "lisen = 1\n[log]\nlevel = \"loud\"\n")).unwrap();
    let output = corelane(&["reload", "-c", &file]);
    assert_eq!(output.status.code(), Some(1), "{}{}", out(&output), err(&output));
    for part in ["admin.lisen: unknown key", "log.level:", "\"loud\""] {
        assert!(err(&output).contains(part), "{part}: {}", err(&output));
    }
    let output = corelane(&["ctl", "-c", &file, "--json", "audit"]);
    let audit: Value = serde_json::from_str(&out(&output)).unwrap();
    let who = audit["entries"][0]["who"].as_str().unwrap();
    assert!(who.starts_with("me from uid "), "{who}");
    assert_eq!(audit["entries"][0]["result"], "refused");

    // Without its token nobody is served, and that is no refusal of the request.
    let socket = format!("unix:{}", socket.display());
    let output = corelane(&["ctl", "--admin", &socket, "pools"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("401"), "{}", err(&output));
    let tokens = tokens.display().to_string();
    let output = corelane(&["ctl", "--admin", &socket, "--token-file", &tokens, "pools"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    drop(gateway);
    let output = corelane(&["ctl", "--admin", &socket, "--token-file", &tokens, "pools"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("cannot connect"), "{}", err(&output));
    assert_eq!(corelane(&["ctl", "pools"]).status.code(), Some(2), "no gateway is named");
}

#[test]
fn events_are_printed_a_line_each() {
    let (old, new) = (Backend::echo("only"), Backend::echo("only"));
    let gateway = Gateway::start(&frame_config(&[old], "", ""));
    let admin = gateway.admin.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.args(["ctl", "--admin", &admin, "--json", "events", "--count", "1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["event"], "start");
    gateway.rewrite(&frame_config(&[new], "", ""));
    assert_eq!(gateway.ask("POST", "/reload").0, 200);
    let event = next();
    assert_eq!((&event["event"], &event["data"]["table"]), (&json!("table"), &json!(2)));
    assert_eq!(event["data"]["pools"][0]["removed"]["backends"][0], old.to_string());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn manual_pages_and_completions_can_be_made() {
    let folder = gateway::directory();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/man");
    let made = Command::new(script)
        .arg(&folder)
        .env("CORELANE", env!("CARGO_BIN_EXE_corelane"))
        .output()
        .expect("scripts/man runs");
    assert!(made.status.success(), "{}", err(&made));
    let page = |name: &str| std::fs::read_to_string(folder.join("man").join(name)).expect(name);
    assert!(page("corelane.1").contains(".TH corelane 1"));
    assert!(page("corelane-ctl-drain.1").contains("Give a backend no new sessions"));
    for command in ["run", "check", "route", "reload", "ctl-close", "ctl-events", "completions"] {
        assert!(!page(&format!("corelane-{command}.1")).is_empty());
    }
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef corelane"), ("fish", "drain")]
    {
        let path = folder.join("completions").join(format!("corelane.{shell}"));
        assert!(std::fs::read_to_string(path).unwrap().contains(part), "{shell}");
    }
    assert_eq!(out(&corelane(&["man"])), page("corelane.1"));
    assert_eq!(corelane(&["completions", "cmd"]).status.code(), Some(2));
    std::fs::remove_dir_all(folder).unwrap();
}

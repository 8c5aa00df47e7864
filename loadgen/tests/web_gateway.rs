//! The gateway between callers and backends: its rules decide, and the oracle reads them itself.

mod rig;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use rig::{Backends, File, counter, list, run};
use serde_json::Value;

/// `corelane-bench gateway`, killed when dropped.
struct Gateway {
    child: Child,
    address: SocketAddr,
}

impl Gateway {
    fn start(config: &File) -> Gateway {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelane-bench"));
        command.arg("gateway").arg("-c").arg(&config.0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = None;
        for line in lines.by_ref().map_while(Result::ok) {
            let Ok(line) = serde_json::from_str::<Value>(&line) else { panic!("{line}") };
            match line["message"].as_str() {
                Some("listening") => {
                    address = line["address"].as_str().and_then(|text| text.parse().ok());
                }
                Some("ready") => break,
                _ => {}
            }
        }
        // Read on: a gateway that cannot log waits.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Gateway { child, address: address.expect("a listener") }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Players by an argument, devices by a header, each in a pool of their own.
fn config(name: &str, players: &[SocketAddr], devices: &[SocketAddr]) -> File {
    let quoted = |all: &[SocketAddr]| format!("\"{}\"", list(all).replace(',', "\", \""));
    let (players, devices) = (quoted(players), quoted(devices));
    File::new(
        name,
        &format!(
            r#"
[runtime]
max_connections = 200

[[listener]]
name = "callers"
bind = ["127.0.0.1:0"]
protocol = "http"

[[listener.http.rule]]
name = "players"
path = "/ws"
query = {{ uid = "~^u[0-9]+$" }}
pool = "players"
key = "query:uid"

[[listener.http.rule]]
name = "devices"
pool = "devices"
key = "{{header:x-device}}/{{path:1}}"

[pool.players]
balance = "crc32_mod"
backends = [{players}]

[pool.devices]
balance = "crc32_mod"
backends = [{devices}]
"#
        ),
    )
}

const REQUESTS: &str = "http --quiet --json - --header X-Device:d{} --path /a{:02} --ids 50 \
                        --rate 200/s --duration 500ms --connections 8";

#[test]
fn requests_and_upgrades_land_where_the_rules_say() {
    let (web, sockets) = (Backends::start(3, "--mode http"), Backends::start(2, "--mode ws"));
    let config = config("rules.toml", &sockets.addresses, &web.addresses);
    let gateway = Gateway::start(&config);
    let (path, target) = (config.0.display(), gateway.address);
    let outcome = run(&format!("{REQUESTS} --config {path} --target {target}"));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let arm = &outcome.json()["arms"][0];
    assert!(counter(arm, "received") > 80, "{arm}");
    assert_eq!(counter(arm, "route_checked"), counter(arm, "received"));
    assert_eq!(arm["answers_by_backend"].as_object().unwrap().len(), 3);

    let outcome = run(&format!(
        "ws --quiet --json - --config {path} --target {target} --path /ws --query uid=u{{}} \
         --count 20 --rate 200/s --heartbeat 100ms --duration 500ms"
    ));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let arm = &outcome.json()["arms"][0];
    assert_eq!((counter(arm, "route_checked"), counter(arm, "close_answered")), (20, 20));
    assert_eq!(arm["clients_by_backend"].as_object().unwrap().len(), 2);
}

#[test]
fn a_gateway_that_runs_with_another_table_is_noticed() {
    let web = Backends::start(2, "--mode http");
    let [first, second] = web.addresses[..] else { panic!("two backends") };
    let running = config("running.toml", &[first], &[second, first]);
    let believed = config("believed.toml", &[first], &[first, second]);
    let gateway = Gateway::start(&running);
    let (path, target) = (believed.0.display(), gateway.address);
    let outcome = run(&format!("{REQUESTS} --config {path} --target {target}"));
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let arm = &outcome.json()["arms"][0];
    assert_eq!(counter(arm, "misrouted"), counter(arm, "received"), "every one of them");
    assert!(counter(arm, "misrouted") > 80);
}

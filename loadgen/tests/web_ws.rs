//! WebSocket clients: upgrades, heartbeats, messages that come back byte for byte, close frames.

mod rig;

use rig::{Backends, counter, list, run};
use serde_json::Value;

/// Runs `ws` against these backends and gives the exit code with the only arm.
fn ws(backends: &Backends, arguments: &str) -> (Option<i32>, Value) {
    let direct = list(&backends.addresses);
    let outcome = run(&format!("ws --quiet --json - --direct {direct} {arguments}"));
    let mut document = outcome.json();
    eprintln!("{}", outcome.stderr);
    (outcome.code, document["arms"][0].take())
}

fn passes(arguments: &str) -> Value {
    let backends = Backends::start(3, "--mode ws");
    let line = format!("--key u{{}} --path /ws --query uid=u{{}} {arguments}");
    let (code, arm) = ws(&backends, &line);
    assert_eq!((code, &arm["examples"]), (Some(0), &serde_json::json!([])), "{arguments}");
    let clients = arm["clients"].as_u64().unwrap();
    for name in ["clients_upgraded", "upgraded", "route_checked", "close_answered"] {
        assert_eq!(counter(&arm, name), clients, "{name}");
    }
    assert_eq!(counter(&arm, "sent"), counter(&arm, "received"));
    assert_eq!(counter(&arm, "heartbeats_sent"), counter(&arm, "heartbeats_answered"));
    let placed = arm["clients_by_backend"].as_object().unwrap();
    assert_eq!(placed.len(), 3, "every backend has clients");
    let served = backends.stop();
    for backend in served.as_array().unwrap() {
        assert_eq!(placed[backend["server"].as_str().unwrap()], backend["upgrades"]);
        assert_eq!(backend["upgrades"], backend["ended_by_fin"], "closed as it should be");
    }
    arm
}

#[test]
fn messages_at_a_rate() {
    for kind in ["", "--text", "--threads 2"] {
        let arm = passes(&format!("--count 30 --rate 400/s --duration 500ms {kind}"));
        assert!((180..=220).contains(&counter(&arm, "sent")), "400/s for half a second");
        assert_eq!(counter(&arm, "bytes_sent"), counter(&arm, "bytes_received"));
    }
}

#[test]
fn heartbeats_when_nothing_is_said() {
    for kind in ["ping", "text"] {
        let line = format!("--count 12 --heartbeat 100ms --heartbeat-with {kind} --duration 550ms");
        let beats = counter(&passes(&line), "heartbeats_answered");
        assert!((36..=84).contains(&beats), "{beats} {kind}s of 12 clients in 550 ms");
    }
}

#[test]
fn messages_of_a_megabyte_both_ways_at_once() {
    let arm = passes("--count 12 --rate 30/s --payload 1MiB --duration 500ms --drain 30s");
    assert!(counter(&arm, "received") >= 14, "{}", arm["counters"]);
}

#[test]
fn clients_come_back_after_a_close() {
    let backends = Backends::start(1, "--mode ws --fault close-after=5");
    let load = "--count 4 --rate 200/s --backoff 10ms --backoff-max 50ms --duration 500ms";
    let (code, arm) = ws(&backends, &format!("{load} --tolerate-breaks --drain 2s"));
    assert!(counter(&arm, "reconnected") > 0, "{}", arm["counters"]);
    assert!(counter(&arm, "peer_closed") > 0, "{}", arm["counters"]);
    assert!(arm["latency_ns"]["reconnect"]["count"].as_u64().unwrap() > 0);
    // A client may be between two connections at the end, which is said.
    let gone = counter(&arm, "clients_gone");
    assert_eq!(code, Some(i32::from(gone > 0)), "{arm}");
}

#[test]
fn what_is_wrong_is_told_apart() {
    let cases = [
        ("--mode ws --fault refuse", "", "connect_refused"),
        ("--mode ws --fault reset", "", "peer_reset"),
        ("--mode ws --fault stall", "--upgrade-timeout 100ms", "upgrade_timeout"),
        ("--mode ws --fault silent", "", "lost"),
        ("--mode http", "", "upgrade_refused"),
        ("--mode ws", "--expect-header X-Backend:somebody", "misrouted"),
        ("--mode ws", "--heartbeat 10s --reader-idle 100ms", "reader_idle"),
    ];
    for (backend, load, kind) in cases {
        let backends = Backends::start(1, backend);
        let rate = if kind == "reader_idle" { "" } else { "--rate 50/s" };
        let line = format!("--count 2 {rate} --duration 300ms --drain 300ms {load}");
        let (code, arm) = ws(&backends, &line);
        assert_eq!(code, Some(1), "{kind}");
        assert!(counter(&arm, kind) > 0, "{kind}: {}", arm["counters"]);
    }
}

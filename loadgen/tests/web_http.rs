//! Requests over HTTP: every answer is compared with its request, and counts from when it was due.

mod rig;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use rig::{Backends, Outcome, counter, list, run};
use serde_json::Value;

/// Runs `http` and gives the exit code with the only arm.
fn http(arguments: &str) -> (Option<i32>, Value) {
    let outcome: Outcome = run(&format!("http --quiet --json - {arguments}"));
    let mut document = outcome.json();
    eprintln!("{}", outcome.stderr);
    (outcome.code, document["arms"][0].take())
}

const TEMPLATES: &str = "--path /p/{:03} --query uid=u{} --query x=1 --header X-Device:d{:04}";

/// Runs against three good backends and checks what holds for any load.
fn passes(arguments: &str) -> Value {
    let backends = Backends::start(3, "--mode http");
    let direct = list(&backends.addresses);
    let (code, arm) = http(&format!("--direct {direct} --key d{{:04}} {TEMPLATES} {arguments}"));
    assert_eq!((code, &arm["examples"]), (Some(0), &serde_json::json!([])), "{arguments}");
    let received = counter(&arm, "received");
    assert!(received > 50, "{received} answers only");
    assert_eq!(counter(&arm, "sent"), received);
    assert_eq!(counter(&arm, "route_checked"), received);
    let placed = arm["answers_by_backend"].as_object().unwrap();
    assert_eq!(placed.len(), 3, "every backend has answered");
    let served = backends.stop();
    for backend in served.as_array().unwrap() {
        assert_eq!(placed[backend["server"].as_str().unwrap()], backend["requests"]);
    }
    arm
}

#[test]
fn open_loop_over_kept_connections() {
    let arm = passes("--rate 500/s --connections 12 --duration 1s --ids 40");
    assert!((475..=525).contains(&counter(&arm, "sent")), "500/s for a second");
    assert_eq!(counter(&arm, "connected"), 12);
}

#[test]
fn a_connection_for_each_request() {
    let arm = passes("--rate 200/s --keep-alive false --duration 500ms");
    assert_eq!(counter(&arm, "connected"), counter(&arm, "received"));
}

#[test]
fn closed_loop_with_bodies_and_threads() {
    passes("--closed --method POST --body 20000 --connections 12 --threads 2 --duration 500ms");
}

#[test]
fn heads_only() {
    passes("--rate 300/s --method HEAD --duration 500ms");
}

#[test]
fn backends_that_close_are_no_fault_when_they_say_so() {
    let backends = Backends::start(1, "--mode http --fault close-after=7");
    let direct = list(&backends.addresses);
    let (code, arm) = http(&format!("--direct {direct} --closed --connections 3 --duration 300ms"));
    assert_eq!(code, Some(0), "{arm}");
    assert!(counter(&arm, "connected") > 3, "{arm}");
}

#[test]
fn a_slow_backend_delays_every_request_that_was_due() {
    // One connection, 50 ms an answer, a request every 10 ms: each waits 40 ms more than the last.
    let backends = Backends::start(1, "--mode http --fault slow=50ms");
    let direct = list(&backends.addresses);
    let load = "--rate 100/s --connections 1 --duration 500ms --drain 20s";
    let (code, arm) = http(&format!("--direct {direct} {load}"));
    assert_eq!(code, Some(0), "{arm}");
    let latency =
        |measure: &str, name: &str| arm["latency_ns"][measure][name].as_f64().unwrap() / 1e6;
    assert!(latency("round_trip", "max") > 1_500.0, "{}", arm["latency_ns"]);
    assert!(latency("round_trip", "p50") > 700.0, "{}", arm["latency_ns"]);
    assert!(latency("send_lag", "max") > 1_400.0, "{}", arm["latency_ns"]);
}

#[test]
fn what_is_wrong_is_told_apart() {
    let cases = [
        ("--fault refuse", "", "connect_refused"),
        ("--fault reset", "", "peer_reset"),
        ("--fault silent", "--timeout 100ms", "response_timeout"),
        ("", "--expect-status 204", "status_unexpected"),
        ("", "--expect-header X-Backend:somebody{}", "misrouted"),
    ];
    for (backend, load, kind) in cases {
        let backends = Backends::start(1, &format!("--mode http {backend}"));
        let direct = list(&backends.addresses);
        let line = format!("--direct {direct} --rate 50/s --duration 200ms --drain 2s {load}");
        let (code, arm) = http(&line);
        assert_eq!(code, Some(1), "{kind}");
        assert!(counter(&arm, kind) > 0, "{kind}: {}", arm["counters"]);
    }
}

#[test]
fn a_backend_that_is_not_the_keys_is_noticed() {
    let backends = Backends::start(2, "--mode http");
    let all = list(&backends.addresses);
    let first = backends.addresses[0];
    let outcome = run(&format!(
        "http --quiet --json - --direct {all} --target {first} --key d{{}} --ids 40 --rate 400/s \
         --duration 300ms"
    ));
    let document = outcome.json();
    assert_eq!(outcome.code, Some(1));
    assert_eq!(counter(&document["arms"][0], "misrouted"), 0);
    let arm = &document["arms"][1];
    let elsewhere = |n: u64| crc32fast::hash(format!("d{n}").as_bytes()) % 2 == 1;
    let of_forty = (0..40).filter(|n| elsewhere(*n)).count() as u64;
    let sent = counter(arm, "sent");
    let wrong = counter(arm, "misrouted");
    let (low, high) = (sent / 40 * of_forty, (sent / 40 + 1) * of_forty);
    assert!(of_forty > 0 && (low..=high).contains(&wrong), "{wrong} of {sent}, {of_forty} of 40");
}

/// A server whose answers are always this, whatever is asked.
fn answering(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while stream.read(&mut bytes).is_ok_and(|len| len > 0) {
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn answers_that_lie_are_counted_as_what_they_are() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nX-Request-Number: 999\r\nContent-Length: 2\r\n\r\n{}", "foreign"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "corrupted"),
        ("HTTP/1.1 200 OK\r\nno field\r\n\r\n", "corrupted"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "response_timeout"),
    ];
    for (answer, kind) in cases {
        let address = answering(answer);
        let load = "--connections 1 --rate 50/s --duration 200ms --drain 1s --timeout 500ms";
        let (code, arm) = http(&format!("--direct {address} {load}"));
        assert_eq!(code, Some(1), "{kind}");
        assert!(counter(&arm, kind) > 0, "{kind}: {}", arm["counters"]);
    }
}

#[test]
fn what_cannot_run_says_why() {
    let cases = [
        ("http --rate 1/s", "--target, --direct"),
        ("http --target 127.0.0.1:9", "--rate"),
        ("http --target 127.0.0.1:9 --rate 1/s --path x", "--path begins with /"),
        ("http --target 127.0.0.1:9 --rate 1/s --header none", "Name: value"),
        ("http --target 127.0.0.1:9 --rate 1/s --path /{:x}", "stand for the number"),
        ("http --target 127.0.0.1:9 --rate 1/s --key d{}", "--key needs a table"),
        ("http --target 127.0.0.1:9 --rate 1/s --connections 0", "every thread"),
        ("ws --target 127.0.0.1:9 --payload 3", "--payload is 16"),
    ];
    for (line, reason) in cases {
        let outcome = run(line);
        assert_eq!(outcome.code, Some(2), "{line}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(reason), "{line}: {}", outcome.stderr);
    }
}

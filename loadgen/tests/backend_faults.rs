//! Faults that a message server can be asked for: each shows as what it is.

mod rig;

use rig::{Backends, counter, direct, wrong};
use serde_json::Value;

/// Runs ten devices against one server with this fault.
fn with_fault(fault: &str, devices: &str) -> (Option<i32>, Value, Value) {
    let backends = Backends::start(1, &format!("--fault {fault}"));
    let load = format!("--count 10 --duration 300ms {devices}");
    let (code, arm) = direct(&backends.addresses, &load);
    (code, arm, backends.stop()[0].clone())
}

#[test]
fn refuse() {
    let (code, arm, served) = with_fault("refuse", "--reconnect false");
    assert_eq!((code, wrong(&arm)), (Some(1), vec!["connect_refused".to_string()]));
    assert_eq!((counter(&arm, "connect_refused"), served["accepted"].as_u64()), (10, Some(0)));
}

#[test]
fn no_accept_and_stall_and_silence_end_by_the_login_deadline() {
    for (fault, accepted) in [("noaccept", 0), ("stall", 10), ("silent", 10)] {
        let deadline = "--login-timeout 300ms --reconnect false";
        let (code, arm, served) = with_fault(fault, deadline);
        assert_eq!((code, wrong(&arm)), (Some(1), vec!["login_timeout".into()]), "{fault}");
        assert_eq!(counter(&arm, "login_timeout"), 10, "{fault}");
        assert_eq!(counter(&arm, "connected"), 10, "{fault}");
        assert_eq!(served["accepted"], accepted, "{fault}");
    }
}

#[test]
fn reset() {
    let (code, arm, served) = with_fault("reset", "--reconnect false");
    assert_eq!((code, wrong(&arm)), (Some(1), vec!["peer_reset".to_string()]));
    assert_eq!((counter(&arm, "peer_reset"), served["ended_by_fault"].as_u64()), (10, Some(10)));
}

#[test]
fn slow_is_slow_and_right() {
    let (code, arm, _) = with_fault("slow=60ms", "--closed");
    assert_eq!((code, wrong(&arm)), (Some(0), vec![]));
    for measure in ["first_reply", "round_trip"] {
        let least = arm["latency_ns"][measure]["min"].as_f64().unwrap();
        assert!((59e6..200e6).contains(&least), "{measure} {least}");
    }
}

#[test]
fn close_after_frames() {
    // The login and two messages; the next messages are lost with the connection.
    let (code, arm, _) = with_fault("close-after=3", "--closed --reconnect false");
    assert_eq!((code, wrong(&arm)), (Some(1), vec!["lost".into(), "peer_closed".to_string()]));
    assert_eq!((counter(&arm, "received"), counter(&arm, "peer_closed")), (20, 10));
}

#[test]
fn only_the_server_it_was_asked_of() {
    let backends = Backends::start(3, "--fault 1:refuse");
    let load = "--count 30 --duration 100ms --reconnect false";
    let (code, arm) = direct(&backends.addresses, load);
    assert_eq!(code, Some(1));
    let ids = (0..30).map(|n| format!("8681202{n:08}"));
    let refused = ids.filter(|id| crc32fast::hash(id.as_bytes()) % 3 == 1).count() as u64;
    assert_eq!(counter(&arm, "connect_refused"), refused);
    assert_eq!(counter(&arm, "devices_logged_in"), 30 - refused);
}

#[test]
fn breaks_are_forgiven_on_request_if_devices_come_back() {
    let backends = Backends::start(1, "--fault close-after=40");
    let load = "--count 5 --closed --duration 500ms --backoff 10ms --tolerate-breaks";
    let (code, arm) = direct(&backends.addresses, load);
    assert!(counter(&arm, "peer_closed") > 0 && counter(&arm, "cut") > 0);
    assert_eq!(counter(&arm, "lost"), 0);
    // Those that are between two connections when the run ends count as gone, and only they.
    let gone = counter(&arm, "devices_gone");
    assert_eq!(gone + counter(&arm, "devices_at_end"), 5);
    assert_eq!(code, Some(i32::from(gone > 0)));
}

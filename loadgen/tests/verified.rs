//! Every message comes back and every device lands where it belongs, in every way of sending.

mod rig;

use rig::{Backends, counter, direct, wrong};

/// Runs devices against three good servers and checks what must hold for any load.
fn passes(backend: &str, devices: &str) -> serde_json::Value {
    let backends = Backends::start(3, backend);
    let (code, arm) = direct(&backends.addresses, devices);
    assert_eq!((code, wrong(&arm)), (Some(0), vec![]), "{devices}");
    let count = counter(&arm, "devices_logged_in");
    assert_eq!(counter(&arm, "route_checked"), counter(&arm, "logins"));
    assert_eq!(counter(&arm, "sent"), counter(&arm, "received"));
    let placed = arm["devices_by_backend"].as_object().unwrap();
    assert_eq!(placed.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), count);
    assert_eq!(placed.len(), 3, "every server has devices");
    let served = backends.stop();
    let of = |name: &str| -> u64 {
        served.as_array().unwrap().iter().map(|s| s[name].as_u64().unwrap()).sum()
    };
    assert_eq!(of("logins"), counter(&arm, "logins"));
    assert_eq!(of("data_frames"), counter(&arm, "sent"));
    assert_eq!(of("bytes_in"), counter(&arm, "bytes_sent"));
    assert_eq!(of("bytes_out"), counter(&arm, "bytes_received"));
    assert_eq!(of("heartbeats"), counter(&arm, "heartbeats_answered"));
    assert_eq!(of("ended_by_fin"), counter(&arm, "connected"), "our FIN is answered by theirs");
    arm
}

#[test]
fn open_loop() {
    let arm = passes("", "--count 50 --rate 1000/s --duration 1s");
    let sent = counter(&arm, "sent");
    assert!((950..=1_050).contains(&sent), "{sent} messages in a second at 1000/s");
    // A message or two may leave between the start of the load and that of the measurement.
    let lags = arm["latency_ns"]["send_lag"]["count"].as_u64().unwrap();
    assert!((sent - 10..=sent).contains(&lags), "{lags} of {sent}");
}

#[test]
fn closed_loop_with_a_window() {
    let arm = passes("", "--count 20 --closed --window 8 --duration 500ms --seed 7");
    assert!(counter(&arm, "sent") > 20 * 8);
}

#[test]
fn acknowledgements_instead_of_echoes() {
    let arm = passes("--mode ack", "--count 20 --closed --window 3 --duration 500ms");
    assert!(counter(&arm, "bytes_received") < counter(&arm, "bytes_sent"));
}

#[test]
fn long_messages_and_logins() {
    passes("", "--count 12 --closed --payload 65535 --login-padding 16KiB --duration 500ms");
}

#[test]
fn bytewise() {
    let arm = passes("", "--count 12 --closed --payload 40 --splits bytewise --duration 500ms");
    assert!(counter(&arm, "sent") > 0);
}

#[test]
fn random_splits_with_pauses() {
    passes("", "--count 12 --closed --splits random --split-gap 1ms --duration 500ms");
}

#[test]
fn pieces_of_seven() {
    passes("", "--count 12 --rate 500/s --splits 7 --duration 500ms");
}

#[test]
fn several_threads_and_sources() {
    let load = "--count 31 --rate 900/s --threads 3 --sources 5 --duration 700ms";
    let arm = passes("--threads 2", load);
    assert!((600..=660).contains(&counter(&arm, "sent")));
}

#[test]
fn resets_leave_nothing_behind() {
    let backends = Backends::start(2, "");
    let load = "--count 20 --closed --close reset --duration 300ms";
    let (code, arm) = direct(&backends.addresses, load);
    assert_eq!((code, wrong(&arm)), (Some(0), vec![]));
    let served = backends.stop();
    let of = |name: &str| -> u64 {
        served.as_array().unwrap().iter().map(|s| s[name].as_u64().unwrap()).sum()
    };
    assert_eq!((of("ended_by_error"), of("ended_by_fin")), (20, 0));
}

#[test]
fn churn() {
    let backends = Backends::start(2, "");
    let (code, arm) = direct(&backends.addresses, "--count 8 --churn --duration 500ms");
    assert_eq!((code, wrong(&arm)), (Some(0), vec![]));
    let logins = counter(&arm, "logins");
    assert!(logins > 16, "{logins} logins of 8 devices");
    assert!(arm["latency_ns"]["first_reply"]["count"].as_u64().unwrap() > 0);
}

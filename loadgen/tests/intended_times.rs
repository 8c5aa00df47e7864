//! Open loop: latency counts from the intended moment of sending, so a stall shows in full.

mod rig;

use std::sync::mpsc::channel;
use std::time::Duration;

use rig::{direct, server};

#[test]
fn a_stall_of_the_server_is_seen_by_every_message_that_was_due_in_it() {
    // One device, 200 messages a second, and one pause of 500 ms: 100 messages come due in it.
    let stalling = server(|frame, n| {
        if n == 50 {
            let (_open, never) = channel::<()>();
            assert!(never.recv_timeout(Duration::from_millis(500)).is_err());
        }
        frame.bytes.clone()
    });
    let prefix = std::env::temp_dir().join(format!("loadgen-intended-{}", std::process::id()));
    let load = format!("--count 1 --rate 200/s --duration 2s --hgrm {}", prefix.display());
    let (code, arm) = direct(&[stalling], &load);
    assert_eq!(code, Some(0));
    let latency = &arm["latency_ns"]["round_trip"];
    let of = |name: &str| latency[name].as_f64().unwrap() / 1e6;
    // A quarter of all messages waited; their waits fall evenly from 500 ms to nothing.
    assert!(of("max") > 480.0, "{latency}");
    assert!((230.0..450.0).contains(&of("p90")), "{latency}");
    assert!(of("p50") < 100.0, "{latency}");
    for measure in ["connect", "first_reply", "round_trip", "send_lag"] {
        let path = format!("{}-direct-{measure}.hgrm", prefix.display());
        std::fs::remove_file(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

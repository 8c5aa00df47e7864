//! The life of a netty client: heartbeats when nothing is written, the end when nothing is read.

mod rig;

use rig::{Backends, counter, direct, server, wrong};

#[test]
fn an_idle_device_beats_and_a_busy_one_does_not() {
    let backends = Backends::start(2, "");
    let idle = "--count 10 --heartbeat 100ms --duration 1s --ramp 10000/s";
    let (code, arm) = direct(&backends.addresses, idle);
    assert_eq!((code, wrong(&arm)), (Some(0), vec![]));
    let beats = counter(&arm, "heartbeats_sent");
    assert!((70..=110).contains(&beats), "{beats} beats of 10 devices in a second");
    assert_eq!(counter(&arm, "heartbeats_answered"), beats);

    let busy = "--count 10 --heartbeat 500ms --duration 1s --rate 200/s";
    let (code, arm) = direct(&backends.addresses, busy);
    assert_eq!((code, wrong(&arm)), (Some(0), vec![]));
    assert_eq!(counter(&arm, "heartbeats_sent"), 0);
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let mute = server(|_, _| Vec::new());
    let load = "--count 3 --rate 30/s --reader-idle 300ms --duration 900ms --reconnect false";
    let (code, arm) = direct(&[mute], load);
    assert_eq!((code, wrong(&arm)), (Some(1), vec!["lost".into(), "reader_idle".to_string()]));
    assert_eq!(counter(&arm, "reader_idle"), 3);
}

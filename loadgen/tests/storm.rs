//! Storms: a share of the connections is reset at a moment; their devices come back with jitter.

mod rig;

use rig::{Backends, counter, direct, wrong};

#[test]
fn killed_devices_come_back_and_everything_else_goes_on() {
    let backends = Backends::start(3, "");
    let load = "--count 60 --rate 600/s --duration 1500ms --kill 50%@300ms --kill 1@800ms \
                --backoff 20ms";
    let (code, arm) = direct(&backends.addresses, load);
    assert_eq!((code, wrong(&arm)), (Some(0), vec![]));
    // All of those that were connected at the second storm: between half and all of them.
    let killed = counter(&arm, "killed");
    assert!((60..=90).contains(&killed), "{killed}");
    assert_eq!(counter(&arm, "reconnected"), killed);
    assert_eq!(counter(&arm, "devices_at_end"), 60);
    assert_eq!(counter(&arm, "logins"), 60 + killed);
    assert_eq!(counter(&arm, "sent"), counter(&arm, "received") + counter(&arm, "cut"));
    assert_eq!(arm["latency_ns"]["reconnect"]["count"], killed);
    let served = backends.stop();
    let resets = served.as_array().unwrap().iter().map(|s| s["ended_by_error"].as_u64().unwrap());
    assert_eq!(resets.sum::<u64>(), killed, "servers see resets");
}

#[test]
fn devices_that_may_not_come_back_do_not() {
    let backends = Backends::start(2, "");
    let load = "--count 40 --duration 500ms --kill 25%@100ms --reconnect false";
    let (code, arm) = direct(&backends.addresses, load);
    assert_eq!((code, wrong(&arm)), (Some(0), vec![]));
    assert_eq!((counter(&arm, "killed"), counter(&arm, "devices_at_end")), (10, 30));
    assert_eq!(counter(&arm, "reconnected"), 0);
}

#[test]
fn the_same_seed_chooses_the_same_victims() {
    let backends = Backends::start(3, "");
    let load = "--count 30 --duration 400ms --kill 20%@100ms --reconnect false --ramp 10000/s";
    let places: Vec<_> =
        (0..2).map(|_| direct(&backends.addresses, load).1["counters"]["killed"].clone()).collect();
    assert_eq!(places, [6, 6]);
}

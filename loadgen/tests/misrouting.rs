//! A device that does not land where the gateway's table says is counted and fails the run.

mod rig;

use rig::{Backends, counter, gateway_config, run};
use serde_json::Value;

/// Runs 40 devices against `target` with this pool in the gateway's configuration.
fn with_pool(name: &str, target: std::net::SocketAddr, pool: &str) -> (Option<i32>, Value) {
    let config = gateway_config(name, target, pool);
    let path = config.0.display();
    let line = format!("devices --quiet --json - --target {target} --config {path} --count 40");
    let outcome = run(&format!("{line} --duration 200ms"));
    (outcome.code, outcome.json())
}

/// How many of the 40 devices `crc32 % 2` sends to this place.
fn at_place(place: u32) -> u64 {
    let ids = (0..40).map(|n| format!("8681202{n:08}"));
    ids.filter(|id| crc32fast::hash(id.as_bytes()) % 2 == place).count() as u64
}

#[test]
fn a_table_that_differs_is_noticed_device_by_device() {
    let backends = Backends::start(2, "");
    let [first, second] = backends.addresses[..] else { panic!("two servers") };
    let pool = format!("balance = \"crc32_mod\"\nbackends = [\"{first}\", \"{second}\"]");
    // There is no gateway: everything lands on the first server.
    let (code, document) = with_pool("differs.toml", first, &pool);
    let arm = &document["arms"][0];
    assert_eq!(code, Some(1));
    assert_eq!(counter(arm, "misrouted"), at_place(1));
    assert_eq!(counter(arm, "route_checked"), 40);
    assert_eq!(arm["devices_by_backend"][first.to_string()], 40);
    let example = arm["examples"][0].as_str().unwrap();
    assert!(example.contains(&format!("landed on {first}, belongs to {second}")), "{example}");
}

#[test]
fn a_table_that_agrees_passes() {
    let backends = Backends::start(1, "");
    let only = backends.addresses[0];
    let pool = format!("balance = \"crc32_mod\"\nbackends = [\"{only}\"]");
    let (code, document) = with_pool("agrees.toml", only, &pool);
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(counter(&document["arms"][0], "route_checked"), 40);
}

#[test]
fn keys_of_a_backend_that_is_down_are_left_out_and_said_so() {
    let backends = Backends::start(1, "");
    let only = backends.addresses[0];
    let down = r#"{ address = "127.0.0.1:9", state = "down" }"#;
    let pool = |on_down: &str| {
        let first = format!("balance = \"crc32_mod\"\non_down = \"{on_down}\"");
        format!("{first}\nbackends = [\"{only}\", {down}]")
    };
    let (code, document) = with_pool("reject.toml", only, &pool("reject"));
    let arm = &document["arms"][0];
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(counter(arm, "devices_unroutable"), at_place(1));
    assert_eq!(counter(arm, "route_checked"), at_place(0));
    assert!(arm["routes"]["remark"].as_str().unwrap().contains("not started"));

    let (code, document) = with_pool("next.toml", only, &pool("next"));
    let arm = &document["arms"][0];
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(counter(arm, "route_unchecked"), at_place(1));
    assert_eq!(counter(arm, "route_checked"), at_place(0));
    assert!(arm["routes"]["remark"].as_str().unwrap().contains("not checked"));
}

#[test]
fn other_algorithms_are_not_checked_and_said_so() {
    let backends = Backends::start(1, "");
    let only = backends.addresses[0];
    let pool = format!("balance = \"round_robin\"\nbackends = [\"{only}\", \"127.0.0.1:9\"]");
    let (code, document) = with_pool("round_robin.toml", only, &pool);
    let arm = &document["arms"][0];
    assert_eq!(code, Some(0), "{document}");
    assert_eq!((counter(arm, "route_checked"), counter(arm, "route_unchecked")), (0, 40));
    assert!(arm["routes"]["remark"].as_str().unwrap().contains("round_robin"));
}

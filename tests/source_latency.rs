//! Time from a change in a real store to its report at the desk, with small and large sets. The
//! figures are printed (`--nocapture`); CORELANE_CHANGES is how many changes each is made of.

mod stores;

use std::time::{Duration, Instant};

use stores::desk::Watch;
use stores::etcd::{Etcd, Gateway, PREFIX};
use stores::process::pause;
use stores::redis::{KEY, Redis};

/// Far more than any of it takes, on a loaded machine.
const BOUND: Duration = Duration::from_secs(5);
/// Changes closer than this are gathered.
const SPACING: Duration = Duration::from_millis(60);

fn address(member: usize) -> String {
    format!("10.0.{}.{}:7000", member / 250, member % 250)
}

/// Makes changes one by one and prints how long each took to be reported.
fn measure(what: &str, watch: &Watch, members: usize, mut change: impl FnMut(&str, u32)) {
    while watch.set().members.len() != members {}
    let changes = std::env::var("CORELANE_CHANGES").map_or(10, |n| n.parse().unwrap());
    let mut took: Vec<Duration> = Vec::new();
    for round in 0..changes {
        pause(SPACING);
        let weight = 2 + round;
        let began = Instant::now();
        change(&address(members / 2), weight);
        let at = loop {
            let (at, report) = watch.report();
            if let corelane::source::Report::Set(reading) = report
                && reading.members.iter().any(|member| member.weight == weight)
            {
                break at;
            }
        };
        took.push(at - began);
    }
    took.sort_unstable();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{what}, {members} members, {changes} changes: median {median:?}, worst {worst:?}");
    assert!(worst < BOUND, "{what}: worst {worst:?}");
}

#[test]
fn redis() {
    for members in [2, 3_000] {
        let redis = Redis::start();
        let mut connection = redis.connection();
        let mut fill = redis::cmd("HSET");
        fill.arg(KEY);
        for member in 0..members {
            fill.arg(address(member)).arg(1);
        }
        fill.exec(&mut connection).unwrap();
        let watch = redis.watch();
        measure("redis", &watch, members, |address, weight| {
            redis::cmd("HSET").arg(KEY).arg(address).arg(weight).exec(&mut connection).unwrap();
        });
        watch.end();
    }
}

#[test]
fn etcd() {
    for members in [2, 3_000] {
        let etcd = Etcd::start();
        let lines: Vec<String> =
            (0..members).map(|member| format!("put {PREFIX}{} 1", address(member))).collect();
        lines.chunks(128).for_each(|lines| etcd.transaction(lines));
        let mut gateway = Gateway::connect(etcd.port).unwrap();
        let watch = etcd.watch();
        measure("etcd", &watch, members, |address, weight| {
            gateway.put(address, &weight.to_string());
        });
        watch.end();
    }
}

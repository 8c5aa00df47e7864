//! In a running gateway: every algorithm by key places devices where `corelane route` says, on
//! every shard, and what a bound or a backend that is down moves is named and counted.

mod gateway;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use corelane::balance::Algorithm;
use corelane::config::{Environment, parse};
use corelane::movement::Standing;
use gateway::backend::Backend;
use gateway::client::Client;
use gateway::{Gateway, frame_config};

fn config(backends: &[SocketAddr], balance: &str, pool: &str) -> String {
    let toml = frame_config(backends, pool, "");
    toml.replace("balance = \"crc32_mod\"", &format!("balance = {balance:?}"))
        .replace("cores = [0]", "cores = \"auto\"")
}

/// Where each of these devices must land, by its index among the backends.
fn expected(toml: &str, ids: &[String]) -> Vec<Option<usize>> {
    let environment = Environment { variable: &|_| None, cores: vec![0], descriptors_max: 20_000 };
    let loaded = parse(toml, "gateway.toml", &environment);
    let config = loaded.unwrap_or_else(|faults| panic!("{faults}")).config;
    let standing = Standing::of_settings(&config.pools[0]);
    ids.iter().map(|id| standing.place(id.as_bytes()).ok()).collect()
}

fn placements(gateway: &Gateway) -> BTreeMap<String, u64> {
    let (_, page) = gateway.get("/metrics");
    let counts = page.lines().filter_map(|line| {
        let rest = line.strip_prefix("corelane_placements_total{pool=\"c2s\",reason=\"")?;
        let (reason, count) = rest.split_once("\"} ")?;
        Some((reason.to_string(), count.parse::<f64>().ok()? as u64))
    });
    counts.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn every_algorithm_by_key_lands_where_the_file_says() {
    let backends: Vec<SocketAddr> = (0..4).map(|n| Backend::echo(&n.to_string())).collect();
    let ids: Vec<String> = (0..60).map(|n| format!("86812021{n:07}")).collect();
    for (name, algorithm) in Algorithm::NAMES.iter().filter(|(_, a)| a.is_keyed()) {
        let toml = config(&backends, name, "on_down = \"next\"");
        // The last one is down: its keys, and what that moves besides, are named.
        let last = format!("\"{}\"", backends[3]);
        let toml = toml.replace(&last, &format!("{{ address = {last}, state = \"drain\" }}"));
        let gateway = Gateway::start(&toml);
        let mut open = Vec::new();
        for (id, expected) in ids.iter().zip(expected(&toml, &ids)) {
            let mut client = Client::login(gateway.address("devices"), id);
            let greeting = format!("{}\n", expected.expect("a backend"));
            assert_eq!(client.receive(greeting.len()), greeting.as_bytes(), "{name} {id}");
            open.push(client);
        }
        let counts = placements(&gateway);
        assert_eq!(counts.values().sum::<u64>(), 60, "{name} {counts:?}");
        assert!(counts.contains_key("next") && counts.contains_key("home"), "{name} {counts:?}");
        let reshuffles = matches!(algorithm, Algorithm::HaproxyMap);
        assert!(!reshuffles || counts.contains_key("reshuffled"), "{name} {counts:?}");
    }
}

#[test]
fn a_bound_keeps_one_backend_from_taking_the_herd() {
    let backends: Vec<SocketAddr> = (0..3).map(|n| Backend::echo(&n.to_string())).collect();
    let toml = config(&backends, "ketama", "bounded_load = 1.25");
    let candidates: Vec<String> = (0..400).map(|n| format!("dev-{n}")).collect();
    let homes = expected(&toml, &candidates);
    // Devices of one backend only: without a bound it would have them all.
    let ids = candidates.iter().zip(&homes).filter(|(_, home)| **home == Some(1));
    let ids: Vec<&String> = ids.map(|(id, _)| id).take(60).collect();
    assert_eq!(ids.len(), 60);
    let gateway = Gateway::start(&toml);
    let mut counts = [0; 3];
    let mut open = Vec::new();
    for id in ids {
        let mut client = Client::login(gateway.address("devices"), id);
        let greeting = client.receive(2);
        counts[usize::from(greeting[0] - b'0')] += 1;
        open.push(client);
    }
    // 1.25 times a third of 60 is 25.
    assert!((24..=26).contains(&counts[1]), "{counts:?}");
    assert!(counts.iter().all(|count| *count <= 26), "{counts:?}");
    let reasons = placements(&gateway);
    assert_eq!(reasons.get("home").copied(), Some(counts[1]), "{reasons:?}");
    assert_eq!(reasons.get("overloaded").copied(), Some(60 - counts[1]), "{reasons:?}");
    drop(open);
    let lines = gateway.session_lines(60);
    let overloaded = lines.iter().filter(|line| line["placement"] == "overloaded").count();
    assert_eq!(overloaded as u64, 60 - counts[1]);
    // Nobody is there any more: the bound is of live sessions, and the next one is at home.
    let first = candidates.iter().zip(&homes).find(|(_, home)| **home == Some(1)).expect("one");
    let mut client = Client::login(gateway.address("devices"), first.0);
    assert_eq!(client.receive(2), b"1\n");
}

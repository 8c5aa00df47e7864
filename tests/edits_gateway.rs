//! Edits through the admin interface of one gateway: where a store keeps the backends every gateway
//! follows; where the file does, the gateway itself does, also after a restart. No session is cut.

mod gateway;
mod stores;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{Gateway, frame_config};
use serde_json::{Value, json};
use stores::etcd::{Etcd, PREFIX};
use stores::process::{Directory, free_port, until};
use stores::redis::{KEY, Redis};

/// Three backends on one port; each is called like its address.
fn backends() -> Vec<SocketAddr> {
    let port = free_port();
    (2..=4).map(|number| Backend::echo_at(([127, 0, 0, number], port).into())).collect()
}

/// A gateway with a state folder of its own.
fn gateway(toml: &str, state: &Directory) -> Gateway {
    let runtime = format!("[runtime]\nstate_dir = \"{}\"", state.path().display());
    Gateway::start(&toml.replace("[runtime]", &runtime))
}

/// A gateway whose pool is a source's.
fn following(source: &str, state: &Directory) -> Gateway {
    let toml = frame_config(&[], "", "").replace("backends = []\n", "");
    let quick = "settle = \"50ms\"\nmax_removal = \"100%\"\ntimeout = \"1s\"\n";
    gateway(&format!("{toml}[pool.c2s.source]\n{source}\n{quick}"), state)
}

/// A session, and the backend that it has.
fn session(gateway: &Gateway, key: &str, backends: &[SocketAddr]) -> (Client, String) {
    let mut client = Client::login(gateway.address("devices"), key);
    let name = client.receive(backends[0].to_string().len() + 1);
    client.receive(login(key).len());
    (client, String::from_utf8(name).unwrap().trim_end().to_owned())
}

/// Whether new sessions go to these and to no others: as `crc32(key) % N` says of their order.
fn is_placed(gateway: &Gateway, set: &[SocketAddr]) -> bool {
    let mut order = set.to_vec();
    order.sort();
    (0..20).all(|number| {
        let key = format!("device-{number}");
        let home = order[crc32fast::hash(key.as_bytes()) as usize % order.len()];
        session(gateway, &key, set).1 == home.to_string()
    })
}

fn follow(gateways: &[&Gateway], set: &[SocketAddr]) {
    for gateway in gateways {
        until("placed as the store says by now", || is_placed(gateway, set));
    }
}

fn path(backend: SocketAddr) -> String {
    format!("/pools/c2s/backends/{backend}")
}

fn add(gateway: &Gateway, backend: SocketAddr) -> Value {
    let new = json!({ "address": backend.to_string() });
    let (status, body) = gateway.send("POST", "/pools/c2s/backends", &new);
    assert_eq!(status, 201, "{body}");
    body
}

fn remove(gateway: &Gateway, backend: SocketAddr) {
    let (status, body) = gateway.ask("DELETE", &path(backend));
    assert_eq!(status, 200, "{body}");
}

fn state(gateway: &Gateway, backend: SocketAddr, state: &str) -> (u16, Value) {
    gateway.send("PATCH", &path(backend), &json!({ "state": state }))
}

/// The state of a backend in the table, as the pages show it.
fn shown(gateway: &Gateway, backend: SocketAddr) -> String {
    let (status, body) = gateway.get("/pools/c2s");
    assert_eq!(status, 200, "{body}");
    let page: Value = serde_json::from_str(&body).unwrap();
    let all = page["backends"].as_array().unwrap();
    let found = all.iter().find(|one| one["address"] == backend.to_string().as_str());
    found.map_or("gone".to_owned(), |one| one["state"].as_str().unwrap_or("?").to_owned())
}

fn everybody_follows(
    source: &str,
    put: impl Fn(SocketAddr),
    value_of: impl Fn(SocketAddr) -> String,
) {
    let (first_state, second_state) = (Directory::new("state"), Directory::new("state"));
    let all = backends();
    all[..2].iter().for_each(|backend| put(*backend));
    let (first, second) = (following(source, &first_state), following(source, &second_state));
    let both = [&first, &second];
    follow(&both, &all[..2]);
    let mut kept: Vec<(Client, String)> =
        (0..12).map(|number| session(both[number % 2], &format!("k{number}"), &all)).collect();
    add(&first, all[2]);
    assert_eq!(value_of(all[2]), "1");
    follow(&both, &all);
    remove(&second, all[0]);
    assert_eq!(value_of(all[0]), "");
    follow(&both, &all[1..]);
    assert_eq!(state(&second, all[1], "drain").0, 200);
    for gateway in both {
        until("drained", || shown(gateway, all[1]) == "drain");
    }
    assert!(value_of(all[1]).contains("drain"));
    for (client, _) in &mut kept {
        client.echo(b"never cut");
    }
    assert!(!first_state.path().join("edits.json").exists(), "the store has it");
    let (status, body) = state(&first, all[0], "down");
    assert_eq!(status, 404, "{body}");
}

#[test]
fn an_edit_in_redis_reaches_every_gateway() {
    let redis = Redis::start();
    let source = redis_source(&redis);
    let value_of = |backend: SocketAddr| {
        let mut command = redis::cmd("HGET");
        let command = command.arg(KEY).arg(backend.to_string());
        command.query::<Option<String>>(&mut redis.connection()).unwrap().unwrap_or_default()
    };
    everybody_follows(&source, |backend| redis.put(&format!("{backend} 1")), value_of);
}

fn redis_source(redis: &Redis) -> String {
    format!("kind = \"redis\"\nurl = \"redis://127.0.0.1:{}/0\"\nkey = \"{KEY}\"", redis.port)
}

#[test]
fn an_edit_in_etcd_reaches_every_gateway() {
    let etcd = Etcd::start();
    let endpoint = format!("http://127.0.0.1:{}", etcd.port);
    let source = format!("kind = \"etcd\"\nendpoints = [\"{endpoint}\"]\nprefix = \"{PREFIX}\"");
    let value_of = |backend: SocketAddr| {
        etcd.run(&format!("get --print-value-only {PREFIX}{backend}")).trim_end().to_owned()
    };
    everybody_follows(&source, |backend| etcd.put(&backend.to_string(), "1"), value_of);
}

#[test]
fn a_store_that_keeps_silent_holds_up_its_editor_and_nobody_else() {
    let redis = Redis::start();
    let all = backends();
    redis.put(&format!("{} 1", all[0]));
    let folder = Directory::new("state");
    let gateway = following(&redis_source(&redis), &folder);
    follow(&[&gateway], &all[..1]);
    redis.process.pause();
    std::thread::scope(|scope| {
        let asked = Instant::now();
        let (gateway, backend) = (&gateway, all[0]);
        let editor = scope.spawn(move || (state(gateway, backend, "drain"), asked.elapsed()));
        let mut meanwhile = 0;
        while !editor.is_finished() {
            // The control plane itself answers this, one request after the other.
            let (status, body) = gateway.send("PATCH", "/log", &json!({ "level": "info" }));
            assert_eq!(status, 200, "{body}");
            assert!(is_placed(gateway, &all[..1]));
            meanwhile += 1;
        }
        let ((status, body), took) = editor.join().unwrap();
        assert_eq!(status, 504, "{body}");
        assert!(took >= Duration::from_millis(900), "{took:?}");
        assert!(meanwhile > 0, "nobody was answered while one waits");
    });
    redis.process.resume();
    until("edited again", || state(&gateway, all[0], "drain").0 == 200);
    until("drained", || shown(&gateway, all[0]) == "drain");
}

//! A gateway follows its store, whatever happens to that: new sessions go where an oracle that
//! knows the set says, and no session is cut, by no change and by no accident.

mod gateway;
mod stores;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{Gateway, frame_config};
use serde_json::json;
use stores::consul::Consul;
use stores::dns::Dns;
use stores::etcd::{Etcd, PREFIX};
use stores::process::{Directory, Process, free_port, until};
use stores::redis::{KEY, Redis};

/// Four backends on one port, by their addresses; each is called like its address.
fn backends() -> Vec<SocketAddr> {
    let port = free_port();
    (2..=5).map(|number| Backend::echo_at(([127, 0, 0, number], port).into())).collect()
}

/// A store that is really there.
trait Store {
    /// The source's keys in the file.
    fn source(&self) -> String;
    /// Makes its set this one, which was `before`.
    fn set(&mut self, set: &[SocketAddr], before: &[SocketAddr]);
    /// Its process, if it has one.
    fn process(&mut self) -> Option<&mut Process>;
    /// Starts it again after it was killed. What it knew may be lost.
    fn start_again(&mut self);
}

fn gone<'a>(
    set: &'a [SocketAddr],
    before: &'a [SocketAddr],
) -> impl Iterator<Item = &'a SocketAddr> {
    before.iter().filter(|address| !set.contains(address))
}

impl Store for Redis {
    fn source(&self) -> String {
        format!("kind = \"redis\"\nurl = \"redis://127.0.0.1:{}/0\"\nkey = \"{KEY}\"", self.port)
    }

    fn set(&mut self, set: &[SocketAddr], before: &[SocketAddr]) {
        for address in set {
            self.put(&format!("{address} 1"));
        }
        for address in gone(set, before) {
            self.run(&format!("HDEL {KEY} {address}"));
        }
    }

    fn process(&mut self) -> Option<&mut Process> {
        Some(&mut self.process)
    }

    fn start_again(&mut self) {
        self.restart();
    }
}

impl Store for Etcd {
    fn source(&self) -> String {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        format!("kind = \"etcd\"\nendpoints = [\"{endpoint}\"]\nprefix = \"{PREFIX}\"")
    }

    fn set(&mut self, set: &[SocketAddr], before: &[SocketAddr]) {
        let puts = set.iter().map(|address| format!("put {PREFIX}{address} 1"));
        let deletes = gone(set, before).map(|address| format!("del {PREFIX}{address}"));
        self.transaction(&puts.chain(deletes).collect::<Vec<_>>());
    }

    fn process(&mut self) -> Option<&mut Process> {
        Some(&mut self.process)
    }

    fn start_again(&mut self) {
        Etcd::start_again(self);
    }
}

impl Store for Consul {
    fn source(&self) -> String {
        let service = stores::consul::SERVICE;
        format!(
            "kind = \"consul\"\nurl = \"{}\"\nservice = \"{service}\"\nwait = \"2s\"",
            self.url()
        )
    }

    fn set(&mut self, set: &[SocketAddr], before: &[SocketAddr]) {
        for address in set {
            let number = address.ip().to_string();
            self.register_as(&json!({
                "Name": stores::consul::SERVICE, "ID": number, "Address": number,
                "Port": address.port(), "Weights": { "Passing": 1, "Warning": 1 },
            }));
        }
        for address in gone(set, before) {
            self.put(&format!("/v1/agent/service/deregister/{}", address.ip()), "");
        }
    }

    fn process(&mut self) -> Option<&mut Process> {
        Some(&mut self.process)
    }

    fn start_again(&mut self) {
        self.restart();
    }
}

/// A name with a record per backend, which live for a second.
struct Name {
    dns: Dns,
    port: u16,
}

impl Store for Name {
    fn source(&self) -> String {
        let (name, resolver, port) = ("c2s.fleet.test", self.dns.address(), self.port);
        format!("kind = \"dns\"\nname = \"{name}\"\nport = {port}\nresolvers = [\"{resolver}\"]")
    }

    fn set(&mut self, set: &[SocketAddr], _before: &[SocketAddr]) {
        let record = |address: &SocketAddr| format!("host-record=c2s.fleet.test,{}", address.ip());
        let records: Vec<String> = set.iter().map(record).collect();
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        self.dns.restart_authority(1, &records);
    }

    fn process(&mut self) -> Option<&mut Process> {
        Some(&mut self.dns.process)
    }

    fn start_again(&mut self) {
        // It starts with the next set.
    }
}

/// A file that is replaced.
struct File(Directory);

impl File {
    fn path(&self) -> PathBuf {
        self.0.path().join("backends.json")
    }
}

impl Store for File {
    fn source(&self) -> String {
        format!("kind = \"file\"\npath = \"{}\"", self.path().display())
    }

    fn set(&mut self, set: &[SocketAddr], _before: &[SocketAddr]) {
        let draft = self.0.path().join("draft");
        let addresses: Vec<String> = set.iter().map(ToString::to_string).collect();
        std::fs::write(&draft, json!({ "backends": addresses }).to_string()).unwrap();
        std::fs::rename(&draft, self.path()).unwrap();
    }

    fn process(&mut self) -> Option<&mut Process> {
        None
    }

    fn start_again(&mut self) {}
}

/// A gateway of this store; several share what was saved.
fn gateway(store: &dyn Store, state: &Directory) -> Gateway {
    let source = store.source();
    let toml = frame_config(&[], "", "")
        .replace("backends = []\n", "")
        .replace("[runtime]", &format!("[runtime]\nstate_dir = \"{}\"", state.path().display()));
    let damped = "settle = \"50ms\"\nmax_removal = \"100%\"\nstale_after = \"2s\"";
    let timeout = if source.contains("\"file\"") { "" } else { "timeout = \"1s\"\n" };
    Gateway::start(&format!("{toml}[pool.c2s.source]\n{source}\n{damped}\n{timeout}"))
}

/// Fifty keys go where `crc32(key) % N` in the order of addresses says.
fn assert_placed(gateway: &Gateway, set: &[SocketAddr]) {
    let mut order = set.to_vec();
    order.sort();
    for number in 0..50 {
        let key = format!("device-{number}");
        let index = crc32fast::hash(key.as_bytes()) as usize % order.len();
        let mut client = Client::login(gateway.address("devices"), &key);
        let greeting = format!("{}\n", order[index]);
        let said = client.receive(greeting.len());
        assert_eq!(String::from_utf8_lossy(&said), greeting, "{key} among {order:?}");
        client.reset();
    }
}

fn wait_for(gateway: &Gateway, set: &[SocketAddr]) {
    until(&format!("{set:?} in force"), || {
        let (_, page) = gateway.get("/pools");
        let pools: serde_json::Value = serde_json::from_str(&page).unwrap();
        let backends = pools["pools"][0]["backends"].as_array().unwrap();
        let shown = backends.iter().filter_map(|backend| backend["address"].as_str());
        let mut wanted: Vec<String> = set.iter().map(ToString::to_string).collect();
        wanted.sort();
        let mut shown: Vec<String> = shown.map(str::to_owned).collect();
        shown.sort();
        shown == wanted
    });
    gateway.wait_shards();
}

/// Devices that stay connected and send all the while.
struct Fleet {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Fleet {
    fn start(gateway: &Gateway) -> Fleet {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let address = gateway.address("devices");
        let (stopped, counted) = (stop.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            let mut devices: Vec<Client> = (0..20)
                .map(|number| {
                    let key = format!("standing-{number}");
                    let mut client = Client::login(address, &key);
                    while client.receive(1) != b"\n" {}
                    assert_eq!(client.receive(login(&key).len()), login(&key));
                    client
                })
                .collect();
            while !stopped.load(Ordering::Relaxed) {
                for device in &mut devices {
                    device.echo(b"heartbeat");
                }
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        Fleet { stop, rounds, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no session was cut");
        assert!(self.rounds.load(Ordering::Relaxed) > 20);
    }
}

fn state_is(gateway: &Gateway, store: &dyn Store, states: &[&str]) {
    until(&format!("the source {states:?}"), || {
        let (_, page) = gateway.get("/metrics");
        page.lines().any(|line| {
            line.starts_with("corelane_source_state{")
                && line.ends_with(" 1")
                && states.iter().any(|state| line.contains(&format!("state=\"{state}\"")))
        })
    });
    assert!(!store.source().is_empty());
}

/// The life of a store, and of a gateway that follows it.
fn follow(store: &mut dyn Store, all: &[SocketAddr]) {
    let [a, b, c, d] = *all else { panic!("four backends") };
    let state = Directory::new("state");
    store.set(&[a, b], &[]);
    let gateway = self::gateway(store, &state);
    assert_placed(&gateway, &[a, b]);
    let fleet = Fleet::start(&gateway);

    store.set(&[a, b, c], &[a, b]);
    wait_for(&gateway, &[a, b, c]);
    assert_placed(&gateway, &[a, b, c]);
    store.set(&[b, c], &[a, b, c]);
    wait_for(&gateway, &[b, c]);
    assert_placed(&gateway, &[b, c]);

    if store.process().is_some() {
        if let Some(process) = store.process() {
            process.pause();
        }
        state_is(&gateway, store, &["stale", "failed"]);
        assert_placed(&gateway, &[b, c]);
        if let Some(process) = store.process() {
            process.resume();
        }
        state_is(&gateway, store, &["fresh"]);

        if let Some(process) = store.process() {
            process.kill();
        }
        state_is(&gateway, store, &["stale", "failed"]);
        assert_placed(&gateway, &[b, c]);
        // One that starts now has what the first one saved, and says so.
        let second = self::gateway(store, &state);
        let (status, ready) = second.get("/readyz");
        assert_eq!(status, 200, "{ready}");
        assert!(ready.contains("using a saved set"), "{ready}");
        assert_placed(&second, &[b, c]);
        store.start_again();
        store.set(&[b, d], &[b, c]);
        wait_for(&second, &[b, d]);
        assert_placed(&second, &[b, d]);
    } else {
        store.set(&[b, d], &[b, c]);
    }
    wait_for(&gateway, &[b, d]);
    state_is(&gateway, store, &["fresh"]);
    assert_placed(&gateway, &[b, d]);

    fleet.end();
    assert_eq!(gateway.metric("corelane_bugs_total"), 0.0);
    let misplaced = gateway.get("/metrics").1;
    let failures = misplaced.lines().filter(|line| {
        line.starts_with("corelane_placement_failures_total{") && !line.ends_with(" 0")
    });
    assert_eq!(failures.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn a_hash_in_redis_is_followed() {
    follow(&mut Redis::start(), &backends());
}

#[test]
fn a_prefix_in_etcd_is_followed() {
    follow(&mut Etcd::start(), &backends());
}

#[test]
fn a_service_in_consul_is_followed() {
    follow(&mut Consul::start(), &backends());
}

#[test]
fn a_name_in_dns_is_followed() {
    let all = backends();
    let port = all[0].port();
    follow(&mut Name { dns: Dns::authority(1, &[]), port }, &all);
}

#[test]
fn a_file_is_followed() {
    follow(&mut File(Directory::new("file")), &backends());
}

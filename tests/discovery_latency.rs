//! Time from a change in a real store to the first session that a gateway places by it. The figures
//! are printed (`--nocapture`); CORELANE_CHANGES is how many changes each is made of.

mod gateway;
mod stores;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gateway::backend::Backend;
use gateway::client::Client;
use gateway::{Gateway, frame_config};
use serde_json::json;
use stores::consul::{Consul, SERVICE};
use stores::dns::Dns;
use stores::etcd::{Etcd, PREFIX};
use stores::process::{Directory, free_port, pause};
use stores::redis::{KEY, Redis};

/// Far more than any of it takes, on a loaded machine.
const BOUND: Duration = Duration::from_secs(10);
/// The weight that draws nearly every key.
const HEAVY: u32 = 60_000;

/// Two backends; each is called like its address.
fn backends() -> [SocketAddr; 2] {
    let port = free_port();
    [2, 3].map(|number| Backend::echo_at(([127, 0, 0, number], port).into()))
}

/// A gateway whose pool follows this source, without damping.
fn gateway(source: &str, state: &Directory) -> Gateway {
    let toml = frame_config(&[], "", "")
        .replace("backends = []\n", "")
        .replace("crc32_mod", "rendezvous")
        .replace("[runtime]", &format!("[runtime]\nstate_dir = \"{}\"", state.path().display()));
    let rules = "settle = \"0s\"\nmax_removal = \"100%\"";
    Gateway::start(&format!("{toml}[pool.c2s.source]\n{source}\n{rules}\n"))
}

/// The backend that a new session of this key is placed on now.
fn placed(gateway: &Gateway, key: &str, length: usize) -> String {
    let mut client = Client::login(gateway.address("devices"), key);
    let said = client.receive(length);
    client.reset();
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// Has every key go to one backend, then to the other, and so on; prints how long it took until a
/// new session did. `spacing` keeps changes apart, and out of step with whoever looks now and then.
fn measure(
    what: &str,
    (source, backends, spacing): (&str, [SocketAddr; 2], Duration),
    mut prefer: impl FnMut(usize),
) {
    let state = Directory::new("state");
    prefer(0);
    let gateway = gateway(source, &state);
    let names = backends.map(|backend| backend.to_string());
    let length = names[0].len() + 1;
    let keys = (0..1_000).map(|number| format!("device-{number}"));
    let key = {
        let mut keys = keys.filter(|key| placed(&gateway, key, length) == names[0]);
        keys.next().expect("a key of the first backend")
    };
    let changes: u32 = std::env::var("CORELANE_CHANGES").map_or(4, |n| n.parse().unwrap());
    let mut took: Vec<Duration> = Vec::new();
    for round in 1..=changes {
        pause(spacing + spacing * (round * 7 % 10) / 10);
        let preferred = round as usize % 2;
        let began = Instant::now();
        prefer(preferred);
        while placed(&gateway, &key, length) != names[preferred] {
            assert!(began.elapsed() < BOUND, "{what}: change {round} is not seen");
        }
        took.push(began.elapsed());
    }
    took.sort_unstable();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{what}, {changes} changes: median {median:.1?}, worst {worst:.1?}");
}

/// The weight of the second backend that makes this one everybody's.
fn weight(preferred: usize) -> u32 {
    if preferred == 0 { 1 } else { HEAVY }
}

/// Below the pace of changes at which stores are asked less often.
const SPACING: Duration = Duration::from_millis(60);

#[test]
fn redis() {
    let (backends, redis) = (backends(), Redis::start());
    let source =
        format!("kind = \"redis\"\nurl = \"redis://127.0.0.1:{}/0\"\nkey = \"{KEY}\"", redis.port);
    let mut connection = redis.connection();
    let mut put = |address: SocketAddr, weight: u32| {
        let mut command = redis::cmd("HSET");
        command.arg(KEY).arg(address.to_string()).arg(weight).exec(&mut connection).unwrap();
    };
    put(backends[0], 1);
    measure("redis", (&source, backends, SPACING), |preferred| put(backends[1], weight(preferred)));
}

#[test]
fn etcd() {
    let (backends, etcd) = (backends(), Etcd::start());
    let endpoint = format!("http://127.0.0.1:{}", etcd.port);
    let source = format!("kind = \"etcd\"\nendpoints = [\"{endpoint}\"]\nprefix = \"{PREFIX}\"");
    let mut store = stores::etcd::Gateway::connect(etcd.port).unwrap();
    store.put(&backends[0].to_string(), "1");
    measure("etcd", (&source, backends, SPACING), |preferred| {
        store.put(&backends[1].to_string(), &weight(preferred).to_string());
    });
}

#[test]
fn consul() {
    let (backends, consul) = (backends(), Consul::start());
    let source = format!("kind = \"consul\"\nurl = \"{}\"\nservice = \"{SERVICE}\"", consul.url());
    let register = |address: SocketAddr, weight: u32| {
        consul.register_as(&json!({
            "Name": SERVICE, "ID": address.to_string(), "Address": address.ip().to_string(),
            "Port": address.port(), "Weights": { "Passing": weight, "Warning": 1 },
        }));
    };
    register(backends[0], 1);
    // Twice a second is how often a service that changes all the time is read.
    measure("consul", (&source, backends, SPACING * 10), |preferred| {
        register(backends[1], weight(preferred));
    });
}

#[test]
fn dns() {
    let (backends, dns) = (backends(), Dns::authority(1, &[]));
    let (name, port, resolver) = ("c2s.fleet.test", backends[0].port(), dns.address());
    let source =
        format!("kind = \"dns\"\nname = \"{name}\"\nport = {port}\nresolvers = [\"{resolver}\"]");
    measure("dns, 1 s to live", (&source, backends, SPACING * 10), |preferred| {
        dns.hosts(&[&format!("{} {name}", backends[preferred].ip())]);
    });
}

#[test]
fn file() {
    let (backends, folder) = (backends(), Directory::new("file"));
    let path = folder.path().join("backends.json");
    let source = format!("kind = \"file\"\npath = \"{}\"", path.display());
    measure("file", (&source, backends, SPACING), |preferred| {
        let second = json!({ "address": backends[1].to_string(), "weight": weight(preferred) });
        let list = json!({ "backends": [backends[0].to_string(), second] });
        let draft = folder.path().join("draft");
        std::fs::write(&draft, list.to_string()).unwrap();
        std::fs::rename(&draft, &path).unwrap();
    });
}

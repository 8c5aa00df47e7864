//! A reload puts the whole file in force, or nothing of it; it refuses no connection and cuts none.

mod gateway;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{Gateway, frame_config};
use serde_json::Value;

const SUCCESS: &str = "corelane_config_reloads_total{result=\"success\"}";
const REFUSED: &str = "corelane_config_reloads_total{result=\"refused\"}";

/// Replaces the file.
fn write(gateway: &Gateway, toml: &str) {
    let toml = format!("{toml}\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    std::fs::write(gateway.directory().join("corelane.toml"), toml).unwrap();
}

/// Replaces the file and has it reloaded; the answer's status and body.
fn reload(gateway: &Gateway, toml: &str) -> (u16, Value) {
    write(gateway, toml);
    let (status, body) = gateway.ask("POST", "/reload");
    gateway.wait_shards();
    (status, serde_json::from_str(&body).expect(&body))
}

/// A client that is logged in and served by the backend of this name.
fn served(address: SocketAddr, backend: &str) -> Client {
    let mut client = Client::login(address, "a");
    assert_eq!(client.receive(backend.len() + 1), format!("{backend}\n").into_bytes());
    let login = login("a");
    assert_eq!(client.receive(login.len()), login);
    client
}

/// A second listener on a free port, in front of the same pool.
fn with_listener(toml: &str, name: &str, address: &str) -> String {
    let second = format!(
        "[[listener]]\nname = \"{name}\"\nbind = [\"{address}\"]\nprotocol = \"frame\"\n\
         pool = \"c2s\"\n[listener.frame]\nheader = \">ccHH\"\n\
         fields = [\"type\", \"version\", \"time\", \"length\"]\nkey = \"json:devid\"\n"
    );
    toml.replace("[pool.c2s]", &format!("{second}[pool.c2s]"))
}

#[test]
fn hup_puts_new_backends_in_force_and_leaves_sessions_where_they_are() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let gateway = Gateway::start(&frame_config(&[old], "", ""));
    let mut before = served(gateway.address("devices"), "old");
    write(&gateway, &frame_config(&[new], "", ""));
    gateway.signal("HUP");
    gateway.wait_metric(SUCCESS, 1.0);
    gateway.wait_shards();
    let _after = served(gateway.address("devices"), "new");
    before.echo(b"still here");
    let (_, pools) = gateway.get("/pools");
    let pools: Value = serde_json::from_str(&pools).unwrap();
    let pool = &pools["pools"][0];
    assert_eq!(pool["backends"][0]["address"], new.to_string(), "{pool}");
    assert_eq!(pool["removed"][0]["address"], old.to_string(), "{pool}");
    let removed = format!("corelane_backend_connections_active{{pool=\"c2s\",backend=\"{old}\"}}");
    assert_eq!(gateway.metric(&removed), 1.0);
    before.fin();
    gateway.session_lines(1);
    // Let go of in the next sweep.
    let give_up = Instant::now() + Duration::from_secs(20);
    while gateway.get("/metrics").1.contains(&old.to_string()) {
        assert!(Instant::now() < give_up, "the removed backend is shown for ever");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

#[test]
fn a_file_with_faults_changes_nothing_and_every_fault_is_said() {
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "");
    let gateway = Gateway::start(&toml);
    let bad = toml.replace("crc32_mod", "crc32_mdo").replace("json:devid", "jsn:devid");
    let (status, body) = reload(&gateway, &bad);
    assert_eq!(status, 422, "{body}");
    let faults = body["faults"].as_array().expect("faults");
    assert_eq!(faults.len(), 2, "{body}");
    assert_eq!(faults[0]["path"], "listener[0].frame.key");
    assert_eq!(faults[1]["path"], "pool.c2s.balance");
    assert_eq!((gateway.metric(REFUSED), gateway.metric(SUCCESS)), (1.0, 0.0));
    assert_eq!(gateway.metric("corelane_config_last_reload_successful"), 0.0);
    assert_eq!(gateway.metric("corelane_table_version"), 1.0);
    let _client = served(gateway.address("devices"), "only");
    assert_eq!(reload(&gateway, &toml).0, 200);
    assert_eq!(gateway.metric("corelane_config_last_reload_successful"), 1.0);
}

#[test]
fn what_only_a_restart_can_change_is_refused_with_its_reason() {
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "");
    let gateway = Gateway::start(&toml);
    let other = toml.replace("[runtime]", "[runtime]\nring_entries = 256\nspin = \"10us\"");
    let (status, body) = reload(&gateway, &other);
    assert_eq!(status, 422, "{body}");
    let detail = body["detail"].as_str().expect("a detail");
    for part in ["restart", "runtime.ring_entries", "to 256", "runtime.spin", "10µs"] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    assert_eq!(gateway.metric("corelane_table_version"), 1.0);
}

#[test]
fn an_address_that_is_taken_refuses_the_whole_reload() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let gateway = Gateway::start(&frame_config(&[old], "", ""));
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let toml = with_listener(&frame_config(&[new], "", ""), "second", &taken);
    let (status, body) = reload(&gateway, &toml);
    assert_eq!(status, 500, "{body}");
    assert!(body["detail"].as_str().unwrap().contains(&taken), "{body}");
    let _served = served(gateway.address("devices"), "old");
}

#[test]
fn listeners_come_and_go_without_their_sessions() {
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "");
    let gateway = Gateway::start(&toml);
    let address = gateway::backend::refusing_address();
    let two = with_listener(&toml, "second", &address.to_string());
    let (status, body) = reload(&gateway, &two);
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["listeners"]["added"][0], "second", "{body}");
    assert_eq!(body["addresses"]["added"][0], address.to_string(), "{body}");
    let mut second = served(address, "only");
    let (status, body) = reload(&gateway, &toml);
    assert_eq!((status, &body["listeners"]["removed"][0]), (200, &"second".into()), "{body}");
    wait_refused(address);
    second.echo(b"lives on");
    assert_eq!(gateway.metric("corelane_connections_active{listener=\"second\"}"), 1.0);
    // The address can be had again at once, here under another name.
    let (status, body) = reload(&gateway, &with_listener(&toml, "third", &address.to_string()));
    assert_eq!(status, 200, "{body}");
    let _third = served(address, "only");
    second.echo(b"and on");
}

/// Until nobody listens on an address any more.
fn wait_refused(address: SocketAddr) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while connects(address) {
        assert!(Instant::now() < give_up, "{address} is still listened on");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let gateway = Gateway::start(&frame_config(&[old], "", ""));
    let address = gateway::backend::refusing_address();
    let toml =
        with_listener(&frame_config(&[new], "retries = 1", ""), "second", &address.to_string());
    write(&gateway, &toml.replace("[runtime]", "[runtime]\ndrain_timeout = \"3s\""));
    let (status, body) = gateway.ask("POST", "/reload?dry_run=true");
    let body: Value = serde_json::from_str(&body).expect(&body);
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["listeners"]["added"][0], "second");
    assert_eq!(body["pools"]["changed"][0], "c2s");
    assert_eq!(body["backends"]["added"][0], format!("c2s {new}"));
    assert_eq!(body["backends"]["removed"][0], format!("c2s {old}"));
    assert_eq!(body["settings"][0], "runtime.drain_timeout");
    assert_eq!(body["sessions_closed"], 0);
    assert_eq!(gateway.metric("corelane_table_version"), 1.0);
    assert_eq!((gateway.metric(REFUSED), gateway.metric(SUCCESS)), (0.0, 0.0));
    assert!(!connects(address));
    let _served = served(gateway.address("devices"), "old");
}

/// What a dry run says of another file.
fn dry_run(gateway: &Gateway, toml: &str) -> Value {
    write(gateway, toml);
    let (status, body) = gateway.ask("POST", "/reload?dry_run=true");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect(&body)
}

#[test]
fn a_dry_run_says_what_share_of_the_keys_would_move() {
    let [a, b] = ["127.0.0.1:1", "127.0.0.1:2"].map(|address| address.parse().unwrap());
    let others = "[pool.turns]\nbalance = \"round_robin\"\nbackends = [\"127.0.0.1:3\"]\n\
                  [pool.still]\nbalance = \"maglev\"\nbackends = [\"127.0.0.1:4\"]\n";
    let config = |backends: &[SocketAddr], pool: &str| {
        format!("{}{others}", frame_config(backends, pool, ""))
    };
    let gateway = Gateway::start(&config(&[a, b], ""));
    let share = |toml: &str| {
        let body = dry_run(&gateway, toml);
        let moved = body["keys_moved"].as_array().expect("keys_moved").clone();
        assert_eq!(moved.len(), 1, "only the pool that changes, if it balances by key: {body}");
        assert_eq!(moved[0]["pool"], "c2s", "{body}");
        let keys = moved[0]["keys"].as_u64().expect("keys");
        assert!((1_000..=100_000).contains(&keys), "{body}");
        moved[0]["share"].as_f64().expect("a share")
    };
    assert_eq!(share(&config(&[a, b], "retries = 2")), 0.0);
    assert_eq!(share(&config(&[b, a], "")), 1.0, "crc32_mod counts by place");
    let half = share(&config(&[a], ""));
    assert!((0.45..0.55).contains(&half), "keys of the second of two: {half}");
    let turned = config(&[a, b], "").replace("127.0.0.1:3", "127.0.0.1:5");
    let turned = dry_run(&gateway, &turned);
    assert_eq!(turned["pools"]["changed"][0], "turns", "{turned}");
    assert_eq!(turned["keys_moved"], serde_json::json!([]), "no keys: {turned}");
    let (_, reloaded) = reload(&gateway, &config(&[b, a], ""));
    assert!(reloaded.get("keys_moved").is_none(), "{reloaded}");
}

/// Rings of thousands of backends take their time: everybody else is answered meanwhile.
#[test]
fn a_dry_run_of_three_thousand_backends_is_answered_in_time() {
    let backends = |count: u16| -> Vec<String> {
        (0..count).map(|n| format!("\"10.0.{}.{}:7000\"", n / 250, n % 250)).collect()
    };
    let pools = |count| {
        let backends = backends(count).join(", ");
        ["ketama", "maglev", "rendezvous"]
            .map(|name| format!("[pool.{name}]\nbalance = \"{name}\"\nbackends = [{backends}]\n"))
            .concat()
    };
    let echo = Backend::echo("only");
    let gateway = Gateway::start(&(frame_config(&[echo], "", "") + &pools(3_000)));
    let begun = Instant::now();
    let answer = dry_run(&gateway, &(frame_config(&[echo], "", "") + &pools(2_999)));
    println!("answered after {:?}: {}", begun.elapsed(), answer["keys_moved"]);
    for moved in answer["keys_moved"].as_array().expect("keys_moved") {
        let share = moved["share"].as_f64().expect("a share");
        assert!(share < 0.05, "one of 3,000 backends less: {moved}");
    }
    assert_eq!(answer["keys_moved"].as_array().map(Vec::len), Some(3), "{answer}");
    let _served = served(gateway.address("devices"), "only");
}

/// Clients connect, log in and close in a loop while the file is reloaded fifty times, with another
/// listener, another order of pools and other settings each time: every one of them is served.
#[test]
fn no_connection_is_refused_and_none_is_cut_by_fifty_reloads() {
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "").replace("cores = [0]", "cores = [0, 1]");
    let other = with_listener(&toml, "second", "127.0.0.1:0")
        .replace(
            "[pool.c2s]",
            "[pool.first]\nbalance = \"random\"\nbackends = [\"127.0.0.1:1\"]\n[pool.c2s]",
        )
        .replace("[listener.frame]", "tcp_user_timeout = \"20s\"\n[listener.frame]");
    let gateway = Gateway::start(&toml);
    let address = gateway.address("devices");
    let mut standing: Vec<Client> = (0..20).map(|_| served(address, "only")).collect();
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let (stop, served) = (stop.clone(), served.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Client::login(address, &format!("caller-{caller}"));
                    assert_eq!(client.receive(5), b"only\n");
                    client.reset();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for turn in 0..50 {
        let (status, body) = reload(&gateway, if turn % 2 == 0 { &other } else { &toml });
        assert_eq!(status, 200, "{body}");
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.join().expect("no client was refused or cut");
    }
    for client in &mut standing {
        client.echo(b"still here");
    }
    assert!(served.load(Ordering::Relaxed) > 50, "{served:?}");
    assert_eq!(gateway.metric(SUCCESS), 50.0);
    assert_eq!(gateway.metric("corelane_bugs_total"), 0.0);
}

fn connects(address: SocketAddr) -> bool {
    std::net::TcpStream::connect_timeout(&address, Duration::from_secs(10)).is_ok()
}

#[test]
fn sessions_of_a_removed_backend_are_closed_at_the_rate_of_their_pool() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let close = "on_remove = \"close\"\nclose_rate = \"20/s\"";
    let gateway = Gateway::start(&frame_config(&[old], close, ""));
    let mut before: Vec<Client> =
        (0..30).map(|_| served(gateway.address("devices"), "old")).collect();
    let begun = Instant::now();
    let (status, body) = reload(&gateway, &frame_config(&[new], close, ""));
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["sessions_closed"], 30, "{body}");
    let _after = served(gateway.address("devices"), "new");
    for client in &mut before {
        client.assert_closed_silently();
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900), "30 sessions at 20/s took {took:?}");
    let ends = gateway.session_lines(30);
    assert!(ends.iter().all(|line| line["end"] == "backend_removed"), "{ends:?}");
    assert_eq!(gateway.metric("corelane_connections_active{listener=\"devices\"}"), 1.0);
}

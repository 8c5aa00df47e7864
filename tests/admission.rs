//! A backend gets sessions at the pace it bears; who has to wait waits in order and within bounds,
//! and no key goes elsewhere for it.

mod gateway;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{DEADLINE, Gateway, frame_config};

/// An id whose home is backend `index` of `count`.
fn id_at(index: usize, count: usize) -> String {
    (0..)
        .map(|n| format!("device-{n}"))
        .find(|id| crc32fast::hash(id.as_bytes()) as usize % count == index)
        .unwrap()
}

fn waiting(gateway: &Gateway, backend: SocketAddr, count: f64) {
    let labels = format!("pool=\"c2s\",backend=\"{backend}\"");
    gateway.wait_metric(&format!("corelane_backend_waiting{{{labels}}}"), count);
}

fn failed_waits(gateway: &Gateway, reason: &str, count: f64) {
    let labels = format!("pool=\"c2s\",reason=\"{reason}\"");
    gateway.wait_metric(&format!("corelane_admission_waits_failed_total{{{labels}}}"), count);
}

/// Logs in, and waits until the gateway has the connection in line.
fn in_line(gateway: &Gateway, backend: &Backend, id: &str, place: f64) -> Client {
    let client = Client::login(gateway.address("devices"), id);
    waiting(gateway, backend.address, place);
    client
}

/// The id in the login frame that the backend gets first.
fn who(accepted: &mut Client, len: usize) -> Vec<u8> {
    accepted.receive(len)
}

#[test]
fn over_max_connections_sessions_wait_in_order_and_get_in_one_by_one() {
    let backend = Backend::manual();
    let pool = "max_connections = 1";
    let gateway = Gateway::start(&frame_config(&[backend.address], pool, ""));
    let first = Client::login(gateway.address("devices"), "device-0");
    let mut inside = backend.accept();
    assert_eq!(who(&mut inside, login("device-0").len()), login("device-0"));
    let mut line = Vec::new();
    for n in 1..=4 {
        let id = format!("device-{n}");
        line.push(in_line(&gateway, &backend, &id, f64::from(n)));
    }
    assert!(backend.is_untouched());
    let mut leaving = (first, inside);
    for (n, client) in line.into_iter().enumerate() {
        drop(leaving);
        let id = format!("device-{}", n + 1);
        let mut inside = backend.accept();
        assert_eq!(who(&mut inside, login(&id).len()), login(&id));
        waiting(&gateway, backend.address, 3.0 - n as f64);
        assert!(backend.is_untouched(), "one at a time");
        leaving = (client, inside);
    }
    drop(leaving);
    gateway.wait_metric("corelane_admission_wait_seconds_count{pool=\"c2s\"}", 4.0);
    for line in gateway.session_lines(5) {
        assert_eq!((&line["placement"], &line["attempts"]), (&"home".into(), &1.into()), "{line}");
    }
}

#[test]
fn the_line_is_bounded_and_so_is_the_wait() {
    let backend = Backend::manual();
    let pool = "max_connections = 1\nadmission_queue = 2\nadmission_timeout = \"1h\"";
    let gateway = Gateway::start(&frame_config(&[backend.address], pool, ""));
    let _first = Client::login(gateway.address("devices"), "device-0");
    let _inside = backend.accept();
    let _waiters: Vec<Client> = (1..=2)
        .map(|n| in_line(&gateway, &backend, &format!("device-{n}"), f64::from(n)))
        .collect();
    Client::login(gateway.address("devices"), "device-3").assert_closed_silently();
    gateway.assert_end("admission_queue_full");
    failed_waits(&gateway, "queue_full", 1.0);

    let gateway = Gateway::start(&frame_config(&[backend.address], &pool.replace("1h", "1s"), ""));
    let _first = Client::login(gateway.address("devices"), "device-0");
    let _inside = backend.accept();
    let begun = Instant::now();
    let waiters =
        (1..=2).map(|n| Client::login(gateway.address("devices"), &format!("device-{n}")));
    for mut waiter in waiters.collect::<Vec<_>>() {
        waiter.assert_closed_silently();
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    failed_waits(&gateway, "timeout", 2.0);
    for line in gateway.session_lines(2) {
        assert_eq!((&line["end"], &line["side"]), (&"admission_timeout".into(), &"us".into()));
        assert_eq!(line["backend"], backend.address.to_string().as_str(), "{line}");
    }
    waiting(&gateway, backend.address, 0.0);
    assert!(backend.is_untouched());
    let labels = "pool=\"c2s\",reason=\"admission_timeout\"";
    gateway.wait_metric(&format!("corelane_placement_failures_total{{{labels}}}"), 2.0);
}

#[test]
fn who_leaves_while_waiting_costs_nothing() {
    let backend = Backend::manual();
    let pool = "max_connections = 1";
    let gateway = Gateway::start(&frame_config(&[backend.address], pool, ""));
    let first = Client::login(gateway.address("devices"), "device-0");
    let inside = backend.accept();
    let gone = in_line(&gateway, &backend, "device-1", 1.0);
    let mut stays = in_line(&gateway, &backend, "device-2", 2.0);
    gone.reset();
    // A half-close is no reason: it may want the answer.
    stays.fin();
    drop((first, inside));
    let mut next = backend.accept();
    assert_eq!(who(&mut next, login("device-2").len()), login("device-2"));
    next.send(b"for you");
    assert_eq!(stays.receive(7), b"for you");
    failed_waits(&gateway, "left", 1.0);
    let lines = gateway.session_lines(2);
    assert!(lines.iter().any(|line| line["end"] == "client_reset" && line["key"] == "device-1"));
}

#[test]
fn those_who_wait_end_with_the_process() {
    let backend = Backend::manual();
    let pool = "max_connections = 1\nadmission_timeout = \"1m\"";
    let toml = frame_config(&[backend.address], pool, "")
        .replace("[runtime]\n", "[runtime]\ndrain_timeout = \"500ms\"\n");
    let mut gateway = Gateway::start(&toml);
    let _first = Client::login(gateway.address("devices"), "device-0");
    let _inside = backend.accept();
    let mut waiter = in_line(&gateway, &backend, "device-1", 1.0);
    gateway.signal("TERM");
    waiter.assert_closed_silently();
    assert!(gateway.wait().success());
    let lines = gateway.session_lines(2);
    assert!(lines.iter().all(|line| line["end"] == "drain_deadline"), "{lines:?}");
}

/// Accepts and notes when.
fn clocked(address: &str) -> (SocketAddr, Receiver<Instant>) {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, times) = mpsc::channel();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming().map_while(Result::ok) {
            if sender.send(Instant::now()).is_err() {
                return;
            }
            open.push(stream);
        }
    });
    (address, times)
}

fn collect(times: &Receiver<Instant>, count: usize) -> Vec<Instant> {
    let next = |_| times.recv_timeout(DEADLINE).expect("a session arrives");
    (0..count).map(next).collect()
}

#[test]
fn a_herd_arrives_at_connect_rate_whatever_shard_it_comes_to() {
    let (backend, times) = clocked("127.0.0.1:0");
    let pool = "connect_rate = \"50/s\"";
    let toml = frame_config(&[backend], pool, "").replace("cores = [0]", "cores = [0, 1]");
    let gateway = Gateway::start(&toml);
    let begun = Instant::now();
    let herd: Vec<Client> = (0..150)
        .map(|n| Client::login(gateway.address("devices"), &format!("device-{n}")))
        .collect();
    let times = collect(&times, 150);
    // Ten at once, then fifty a second.
    assert!(begun.elapsed() >= Duration::from_millis(2_600), "{:?}", begun.elapsed());
    // A machine that stalls makes them later, never earlier.
    for (number, time) in (1..).zip(&times) {
        let earliest = Duration::from_millis(20) * (number - 10_u32.min(number));
        let rounding = Duration::from_millis(100);
        assert!(*time - begun + rounding >= earliest, "{number} after {:?}", *time - begun);
    }
    // Their backend keeps its end open.
    herd.into_iter().for_each(Client::reset);
    let sessions = gateway.session_lines(150);
    let shards: std::collections::BTreeSet<i64> =
        sessions.iter().filter_map(|line| line["shard"].as_i64()).collect();
    assert_eq!(shards.len(), 2, "both shards had some");
    assert!(sessions.iter().all(|line| line["placement"] == "home"));
}

#[test]
fn who_has_no_home_goes_where_there_is_room() {
    let (small, large) = (Backend::manual(), Backend::echo("large"));
    let toml = frame_config(&[large], "max_connections = 100", "")
        .replace("crc32_mod", "round_robin")
        .replace(
            "backends = [",
            &format!("backends = [{{ address = \"{}\", max_connections = 1 }}, ", small.address),
        );
    let gateway = Gateway::start(&toml);
    let clients: Vec<Client> =
        (0..8).map(|n| Client::login(gateway.address("devices"), &format!("device-{n}"))).collect();
    let _inside = small.accept();
    let labels = format!("pool=\"c2s\",backend=\"{large}\"");
    gateway.wait_metric(&format!("corelane_backend_connections_active{{{labels}}}"), 7.0);
    assert!(small.is_untouched(), "one is what it bears");
    gateway.wait_metric("corelane_admission_wait_seconds_count{pool=\"c2s\"}", 0.0);
    drop(clients);
}

#[test]
fn a_full_line_is_a_reason_to_retry_where_retries_are_allowed() {
    let (home, other) = (Backend::manual(), Backend::manual());
    let pool = "max_connections = 1\nadmission_queue = 0\nretries = 1";
    let gateway = Gateway::start(&frame_config(&[home.address, other.address], pool, ""));
    let id = id_at(0, 2);
    let _first = Client::login(gateway.address("devices"), &id);
    let _inside = home.accept();
    let second = Client::login(gateway.address("devices"), &id);
    drop((other.accept(), second));
    let line = gateway.session_lines(1).remove(0);
    assert_eq!(line["placement"], "retry", "{line}");
}

/// A health port on the backend's address that answers while `well`.
fn health_port(ip: &str) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let well = Arc::new(AtomicBool::new(true));
    let answering = well.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            if answering.load(SeqCst) {
                // The check may have gone.
                let _gone = stream.write_all(b"OK");
            }
        }
    });
    (port, well)
}

fn checked(port: u16) -> String {
    format!(
        "[pool.c2s.health]\nkind = \"bytes\"\nexpect = \"OK\"\nport = {port}\ninterval = \"300ms\"\n\
         timeout = \"300ms\"\nrise = 2\nfall = 2\n"
    )
}

fn wait_state(gateway: &Gateway, backend: SocketAddr, state: &str) {
    let labels = format!("pool=\"c2s\",backend=\"{backend}\",state=\"{state}\"");
    gateway.wait_metric(&format!("corelane_backend_state{{{labels}}}"), 1.0);
    gateway.wait_shards();
}

#[test]
fn a_backend_that_returns_is_given_its_keys_slowly_and_no_other_gets_them() {
    let (port, well) = health_port("127.0.0.1");
    let (backend, times) = clocked("127.0.0.1:0");
    let pool = format!(
        "slow_start = \"3s\"\nconnect_rate = \"100/s\"\npanic_threshold = \"100%\"\n{}",
        checked(port)
    );
    let gateway = Gateway::start(&frame_config(&[backend], &pool, ""));
    // At the start of the process nothing is slow: as many as a burst holds come at once.
    let clients: Vec<Client> =
        (0..20).map(|n| Client::login(gateway.address("devices"), &format!("early-{n}"))).collect();
    collect(&times, 20);
    gateway.wait_metric("corelane_admission_wait_seconds_count{pool=\"c2s\"}", 0.0);
    clients.into_iter().for_each(Client::reset);

    well.store(false, SeqCst);
    wait_state(&gateway, backend, "unhealthy");
    Client::login(gateway.address("devices"), "refused").assert_closed_silently();
    let returned = Instant::now();
    well.store(true, SeqCst);
    wait_state(&gateway, backend, "ready");
    let herd: Vec<Client> = (0..120)
        .map(|n| Client::login(gateway.address("devices"), &format!("device-{n}")))
        .collect();
    let times = collect(&times, 120);
    let by = |ms| times.iter().filter(|t| **t < returned + Duration::from_millis(ms)).count();
    // 10/s at first, 100/s after three seconds: 17 in the first second, 67 in two, 150 in all.
    assert!(by(1_000) <= 40, "{} in the first second", by(1_000));
    assert!(by(2_000) <= 100, "{} in two", by(2_000));
    assert!(times[119] - returned >= Duration::from_millis(1_500), "all at once");
    // Their backend keeps its end open.
    herd.into_iter().for_each(Client::reset);
    let lines = gateway.session_lines(141);
    assert!(lines.iter().filter(|line| line["placement"] == "home").count() == 140);
}

#[test]
fn who_waits_for_a_backend_that_falls_ill_chooses_again() {
    let (port, well) = health_port("127.0.0.21");
    let other_port = TcpListener::bind(("127.0.0.22", port)).unwrap();
    std::thread::spawn(move || {
        for mut stream in other_port.incoming().map_while(Result::ok) {
            let _gone = stream.write_all(b"OK");
        }
    });
    let (ill, ill_times) = clocked("127.0.0.21:0");
    let (other, other_times) = clocked("127.0.0.22:0");
    let pool = format!("max_connections = 1\non_down = \"next\"\n{}", checked(port));
    let gateway = Gateway::start(&frame_config(&[ill, other], &pool, ""));
    let id = id_at(0, 2);
    let _first = Client::login(gateway.address("devices"), &id);
    collect(&ill_times, 1);
    let _second = Client::login(gateway.address("devices"), &id);
    waiting(&gateway, ill, 1.0);
    well.store(false, SeqCst);
    collect(&other_times, 1);
    waiting(&gateway, ill, 0.0);
    gateway.wait_metric("corelane_placements_total{pool=\"c2s\",reason=\"next_unhealthy\"}", 1.0);
    assert!(ill_times.try_recv().is_err());
}

//! A gateway with checks and ejection: who is ill gets no new sessions, with a reason that is
//! counted, nobody's session is cut, and better all than none.

mod gateway;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use gateway::backend::{Backend, refusing_address};
use gateway::client::{Client, login};
use gateway::machine::reserve;
use gateway::{DEADLINE, Gateway, frame_config};

/// An id whose home is backend `index` of `count`.
fn id_at(index: usize, count: usize) -> String {
    (0..)
        .map(|n| format!("device-{n}"))
        .find(|id| crc32fast::hash(id.as_bytes()) as usize % count == index)
        .unwrap()
}

const EVERY_100_MS: &str = "kind = \"bytes\"\nexpect = \"OK\"\ninterval = \"100ms\"\n\
                            timeout = \"100ms\"\nrise = 2\nfall = 2\n";

fn state(gateway: &Gateway, backend: SocketAddr, state: &str) -> f64 {
    let labels = format!("pool=\"c2s\",backend=\"{backend}\",state=\"{state}\"");
    gateway.metric(&format!("corelane_backend_state{{{labels}}}"))
}

fn wait_state(gateway: &Gateway, backend: SocketAddr, wanted: &str) {
    let give_up = Instant::now() + DEADLINE;
    while state(gateway, backend, wanted) < 1.0 {
        assert!(Instant::now() < give_up, "{backend} never became {wanted}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    gateway.wait_shards();
}

fn pool_metric(gateway: &Gateway, name: &str) -> f64 {
    gateway.metric(&format!("{name}{{pool=\"c2s\"}}"))
}

/// Three backends that are asked on one port besides, each on its own address.
struct Trio {
    backends: Vec<SocketAddr>,
    wells: Vec<Arc<AtomicBool>>,
    health_port: u16,
}

impl Trio {
    fn new() -> Trio {
        let mut backends = Vec::new();
        let mut wells = Vec::new();
        let port = reserve(([0, 0, 0, 0], 0).into()).unwrap().port();
        let mut health_port = 0;
        for n in 11..14 {
            let well = Arc::new(AtomicBool::new(true));
            let listener = TcpListener::bind((format!("127.0.0.{n}"), health_port)).unwrap();
            health_port = listener.local_addr().unwrap().port();
            let answering = well.clone();
            std::thread::spawn(move || {
                for mut stream in listener.incoming().map_while(Result::ok) {
                    if answering.load(SeqCst) {
                        let _gone = stream.write_all(b"OK");
                    }
                }
            });
            let address: SocketAddr = format!("127.0.0.{n}:{port}").parse().unwrap();
            serve_named(address, format!("backend {n}"));
            backends.push(address);
            wells.push(well);
        }
        Trio { backends, wells, health_port }
    }

    fn config(&self, pool: &str) -> String {
        let health =
            format!("{pool}\n[pool.c2s.health]\nport = {}\n{EVERY_100_MS}", self.health_port);
        frame_config(&self.backends, &health, "")
    }
}

/// Greets with a name, then echoes.
fn serve_named(address: SocketAddr, name: String) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let name = name.clone();
            std::thread::spawn(move || {
                // Its client may go at any time.
                let _gone = stream.write_all(format!("{name}\n").as_bytes());
                let mut back = stream.try_clone().unwrap();
                let _gone = std::io::copy(&mut stream, &mut back);
                let _gone = back.shutdown(std::net::Shutdown::Write);
            });
        }
    });
}

fn greeting(client: &mut Client) -> String {
    String::from_utf8(client.receive("backend 11\n".len())).unwrap()
}

#[test]
fn a_backend_that_fails_its_checks_gets_no_new_sessions_and_keeps_its_old_ones() {
    let trio = Trio::new();
    let gateway = Gateway::start(&trio.config("on_down = \"next\""));
    let id = id_at(1, 3);
    let mut old = Client::login(gateway.address("devices"), &id);
    assert_eq!(greeting(&mut old), "backend 12\n");
    old.receive(login(&id).len());

    trio.wells[1].store(false, SeqCst);
    wait_state(&gateway, trio.backends[1], "unhealthy");
    let mut moved = Client::login(gateway.address("devices"), &id);
    assert_eq!(greeting(&mut moved), "backend 13\n");
    old.echo(b"still here");
    gateway.wait_metric("corelane_placements_total{pool=\"c2s\",reason=\"next_unhealthy\"}", 1.0);
    gateway.wait_metric("corelane_health_changes_total{pool=\"c2s\",to=\"down\"}", 1.0);
    assert!(pool_metric(&gateway, "corelane_pool_panic") < 0.5, "one of three is no panic");

    trio.wells[1].store(true, SeqCst);
    wait_state(&gateway, trio.backends[1], "ready");
    let mut home = Client::login(gateway.address("devices"), &id);
    assert_eq!(greeting(&mut home), "backend 12\n");
    old.echo(b"all the while");
    moved.receive(login(&id).len());
    moved.echo(b"and it stays where it is");
    let said = gateway.operational.wait("both lines", |lines| {
        let with = |word: &str| lines.iter().any(|line| line.contains(word));
        (with("backend out of service") && with("backend back in service")).then_some(true)
    });
    assert!(said);
}

#[test]
fn a_key_whose_home_is_unhealthy_is_refused_by_that_name() {
    let trio = Trio::new();
    let gateway = Gateway::start(&trio.config(""));
    trio.wells[0].store(false, SeqCst);
    wait_state(&gateway, trio.backends[0], "unhealthy");
    Client::login(gateway.address("devices"), &id_at(0, 3)).assert_closed_silently();
    let line = gateway.assert_end("backend_unhealthy");
    assert_eq!((&line["side"], &line["attempts"]), (&"backend".into(), &0.into()), "{line}");
    assert_eq!(line["backend"], trio.backends[0].to_string().as_str());
    let mut other = Client::login(gateway.address("devices"), &id_at(2, 3));
    assert_eq!(greeting(&mut other), "backend 13\n");
}

#[test]
fn with_too_many_out_of_service_all_are_used() {
    let trio = Trio::new();
    let gateway = Gateway::start(&trio.config(""));
    trio.wells[0].store(false, SeqCst);
    trio.wells[1].store(false, SeqCst);
    wait_state(&gateway, trio.backends[0], "unhealthy");
    wait_state(&gateway, trio.backends[1], "unhealthy");
    gateway.wait_metric("corelane_pool_panic{pool=\"c2s\"}", 1.0);
    let mut client = Client::login(gateway.address("devices"), &id_at(0, 3));
    assert_eq!(greeting(&mut client), "backend 11\n");
    gateway.wait_metric("corelane_placements_total{pool=\"c2s\",reason=\"panic\"}", 1.0);
    trio.wells[0].store(true, SeqCst);
    gateway.wait_metric("corelane_pool_panic{pool=\"c2s\"}", 0.0);
    gateway.wait_metric("corelane_pool_panics_total{pool=\"c2s\"}", 1.0);
    wait_state(&gateway, trio.backends[0], "ready");
    Client::login(gateway.address("devices"), &id_at(1, 3)).assert_closed_silently();
    gateway.wait_metric(
        "corelane_placement_failures_total{pool=\"c2s\",reason=\"backend_unhealthy\"}",
        1.0,
    );
}

/// A backend whose checks flap at every check: it comes to rest, and the sessions of its keys stop
/// moving.
#[test]
fn flapping_at_the_pace_of_checks_comes_to_rest() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answered = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = answered.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // Two good ones, two bad ones.
            if counter.fetch_add(1, SeqCst) % 4 < 2 {
                let _gone = stream.write_all(b"OK");
            }
        }
    });
    let check = EVERY_100_MS.replace("rise = 2", "rise = 1").replace("fall = 2", "fall = 1");
    let pool = format!("panic_threshold = \"100%\"\n[pool.c2s.health]\nport = {port}\n{check}");
    let gateway = Gateway::start(&frame_config(&[Backend::echo("one")], &pool, ""));
    let give_up = Instant::now() + DEADLINE;
    while answered.load(SeqCst) < 60 {
        assert!(Instant::now() < give_up, "checks are slow");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let moves =
        |to| gateway.metric(&format!("corelane_health_changes_total{{pool=\"c2s\",to=\"{to}\"}}"));
    // Returns after 1, after 2 in a row, and then never: 4 never come.
    assert!((moves("down") - 3.0).abs() < 0.1, "{} falls", moves("down"));
    assert!((moves("up") - 2.0).abs() < 0.1, "{} returns", moves("up"));
}

#[test]
fn connect_failures_in_a_row_eject_and_time_brings_back() {
    let failing = refusing_address();
    let pool = "on_down = \"next\"\nfail_timeout = \"100ms\"\n[pool.c2s.ejection]\n\
                failures = 2\nbase_time = \"1s\"\nmax_time = \"1s\"\n";
    let alive = Backend::echo("alive");
    let gateway = Gateway::start(&frame_config(&[failing, alive], pool, ""));
    let give_up = Instant::now() + DEADLINE;
    let id = id_at(0, 2);
    while state(&gateway, failing, "ejected") < 1.0 {
        assert!(Instant::now() < give_up, "never ejected");
        let mut client = Client::login(gateway.address("devices"), &id);
        client.fin();
        client.read_to_end();
    }
    gateway.wait_metric("corelane_ejections_total{pool=\"c2s\",reason=\"connect_failures\"}", 1.0);
    gateway.wait_shards();
    // The last of the loop may have been one already.
    let ejected = "corelane_placements_total{pool=\"c2s\",reason=\"next_ejected\"}";
    let before = gateway.metric(ejected);
    let mut moved = Client::login(gateway.address("devices"), &id);
    assert_eq!(moved.receive(6), b"alive\n");
    gateway.wait_metric(ejected, before + 1.0);

    let listener = TcpListener::bind(failing).unwrap();
    wait_state(&gateway, failing, "ready");
    let _home = Client::login(gateway.address("devices"), &id);
    let accepted = listener.accept();
    assert!(accepted.is_ok(), "its key has come home");
}

#[test]
fn early_ends_eject_and_the_cap_holds() {
    // Both accept and hang up.
    let hanging_up = |_| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || for _stream in listener.incoming().map_while(Result::ok) {});
        address
    };
    let backends: Vec<SocketAddr> = (0..2).map(hanging_up).collect();
    let pool = "on_down = \"next\"\n[pool.c2s.ejection]\nearly_count = 3\nbase_time = \"1h\"\n\
                max_time = \"1h\"\n";
    let gateway = Gateway::start(&frame_config(&backends, pool, ""));
    let early = |backend: SocketAddr| {
        let labels = format!("pool=\"c2s\",backend=\"{backend}\"");
        gateway.metric(&format!("corelane_backend_early_ends_total{{{labels}}}"))
    };
    let give_up = Instant::now() + DEADLINE;
    while early(backends[0]) < 2.5 {
        assert!(Instant::now() < give_up, "{} early ends", early(backends[0]));
        let mut client = Client::login(gateway.address("devices"), &id_at(0, 2));
        client.read_to_end();
    }
    wait_state(&gateway, backends[0], "ejected");
    gateway.wait_metric("corelane_ejections_total{pool=\"c2s\",reason=\"early_ends\"}", 1.0);
    while pool_metric(&gateway, "corelane_ejections_withheld_total") < 0.5 {
        assert!(Instant::now() < give_up, "the second is not over the cap");
        let mut client = Client::login(gateway.address("devices"), &id_at(1, 2));
        client.read_to_end();
    }
    assert!(state(&gateway, backends[1], "ready") > 0.5, "one of two is the cap");
    assert!(pool_metric(&gateway, "corelane_pool_panic") < 0.5);
}

#[test]
fn without_the_tables_nobody_is_asked_or_ejected() {
    let refusing = refusing_address();
    let untouched = Backend::manual();
    let pool = "fail_timeout = \"100ms\"";
    let gateway = Gateway::start(&frame_config(&[refusing, untouched.address], pool, ""));
    for _ in 0..6 {
        Client::login(gateway.address("devices"), &id_at(0, 2)).assert_closed_silently();
    }
    std::thread::park_timeout(Duration::from_millis(300));
    assert!(state(&gateway, refusing, "ready") > 0.5);
    assert!(untouched.is_untouched(), "nobody asked it");
}

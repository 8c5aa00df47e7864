//! Warm connections: made before they are needed, used once, checked before use, replaced.

mod gateway;

use std::io::Read;

use gateway::backend::Backend;
use gateway::client::{Client, Closed, login};
use gateway::{Gateway, frame_config};

fn series(name: &str, backend: &Backend) -> String {
    format!("{name}{{pool=\"c2s\",backend=\"{}\"}}", backend.address)
}

#[test]
fn warm_connections_are_made_used_and_replaced() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&frame_config(&[listening.address], "warm = 2", ""));
    let mut first = listening.accept();
    let _second = listening.accept();
    gateway.wait_metric(&series("corelane_backend_warm", &listening), 2.0);

    let mut client = Client::login(gateway.address("devices"), "a");
    assert_eq!(first.receive(login("a").len()), login("a"), "the oldest is used first");
    first.send(b"hello");
    assert_eq!(client.receive(5), b"hello");
    assert!(
        (gateway.metric(&series("corelane_backend_warm_used_total", &listening)) - 1.0).abs() < 0.1
    );
    let _third = listening.accept();
    gateway.wait_metric(&series("corelane_backend_warm", &listening), 2.0);
    client.fin();
    first.fin();
    let line = gateway.assert_end("client_fin");
    assert_eq!(line["connect_ms"], 0.0, "{line}");
}

#[test]
fn warm_connections_that_the_backend_closed_are_never_given_to_a_client() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&frame_config(&[listening.address], "warm = 4", ""));
    let closed: Vec<Client> = (0..4).map(|_| listening.accept()).collect();
    gateway.wait_metric(&series("corelane_backend_warm", &listening), 4.0);
    let stale = series("corelane_backend_warm_stale_total", &listening);
    for (n, backend) in closed.into_iter().enumerate() {
        // Half of them in good order, half with a reset.
        if n % 2 == 0 { drop(backend) } else { backend.reset() }
    }
    let mut client = Client::login(gateway.address("devices"), "a");
    // The gateway may have noticed already and refilled: whichever connection it is, it is alive.
    let (sender, spoken_to) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let (mut backend, sender) = (listening.accept(), sender.clone());
            std::thread::spawn(move || {
                let mut bytes = vec![0; login("a").len()];
                if backend.stream.read_exact(&mut bytes).is_ok() {
                    let _test_is_over = sender.send((backend, bytes));
                }
            });
        }
    });
    let (mut backend, bytes) = spoken_to.recv_timeout(gateway::DEADLINE).expect("a login frame");
    assert_eq!(bytes, login("a"));
    backend.send(b"hello");
    assert_eq!(client.receive(5), b"hello");
    gateway.wait_metric(&stale, 4.0);
}

#[test]
fn a_backend_that_comes_back_gets_its_warm_connections_without_a_storm() {
    let listening = Backend::manual();
    let address = listening.address;
    let reserved = gateway::backend::refusing_address();
    let toml = frame_config(&[address, reserved], "warm = 8", "");
    let gateway = Gateway::start(&toml);
    gateway.wait_metric(&series("corelane_backend_warm", &listening), 8.0);
    let refused = format!(
        "corelane_backend_connect_failures_total{{pool=\"c2s\",backend=\"{reserved}\",reason=\"connect_refused\"}}"
    );
    let begun = std::time::Instant::now();
    let before = gateway.metric(&refused);
    std::thread::park_timeout(std::time::Duration::from_secs(2));
    let attempts = gateway.metric(&refused) - before;
    // Pauses double up to five seconds: a dead backend costs a few attempts, not 20 ticks of them.
    let most = 2.0 + begun.elapsed().as_secs_f64();
    assert!(attempts <= most, "{attempts} attempts in {:?}", begun.elapsed());

    let listener = std::net::TcpListener::bind(reserved).unwrap();
    listener.set_nonblocking(true).unwrap();
    let give_up = std::time::Instant::now() + gateway::DEADLINE;
    let mut held = Vec::new();
    while held.len() < 8 {
        assert!(std::time::Instant::now() < give_up, "{} of 8 connections", held.len());
        match listener.accept() {
            Ok((stream, _)) => held.push(stream),
            Err(_) => std::thread::park_timeout(std::time::Duration::from_millis(20)),
        }
    }
}

#[test]
fn a_drain_closes_warm_connections_and_makes_no_new_ones() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&frame_config(&[listening.address], "warm = 2", ""));
    let mut used = listening.accept();
    let mut waiting = listening.accept();
    gateway.wait_metric(&series("corelane_backend_warm", &listening), 2.0);
    let mut client = Client::login(gateway.address("devices"), "a");
    used.receive(login("a").len());
    let mut refilled = listening.accept();
    gateway.wait_metric(&series("corelane_backend_warm", &listening), 2.0);
    gateway.signal("TERM");
    for backend in [&mut waiting, &mut refilled] {
        assert_eq!(backend.read_to_end(), (vec![], Closed::Fin));
    }
    gateway.wait_metric(&series("corelane_backend_warm", &listening), 0.0);
    client.send(b"goes on");
    assert_eq!(used.receive(7), b"goes on");
    assert!(listening.is_untouched());
}

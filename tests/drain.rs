//! TERM, INT and QUIT drain: nothing new is accepted, sessions live on up to `drain_timeout`, the
//! process exits with 0; a second signal ends at once.

mod gateway;

use std::time::{Duration, Instant};

use gateway::backend::Backend;
use gateway::client::{Client, Closed, login};
use gateway::{Gateway, frame_config};

fn config(backend: &Backend, drain_timeout: &str) -> String {
    frame_config(&[backend.address], "", "")
        .replace("[runtime]", &format!("[runtime]\ndrain_timeout = \"{drain_timeout}\""))
}

fn session(gateway: &Gateway, listening: &Backend) -> (Client, Client) {
    let client = Client::login(gateway.address("devices"), "a");
    let mut backend = listening.accept();
    backend.receive(login("a").len());
    (client, backend)
}

#[test]
fn sessions_live_on_while_nothing_new_is_accepted() {
    for signal in ["TERM", "INT", "QUIT"] {
        let listening = Backend::manual();
        let mut gateway = Gateway::start(&config(&listening, "20s"));
        let (mut client, mut backend) = session(&gateway, &listening);
        assert_eq!(gateway.get("/readyz").0, 200);
        gateway.signal(signal);
        gateway.operational.wait("draining line", |lines| {
            lines.iter().any(|line| line.contains("\"draining\"")).then_some(())
        });
        assert_eq!(gateway.get("/readyz").0, 503);
        assert_eq!(gateway.get("/livez").0, 200);
        let give_up = Instant::now() + gateway::DEADLINE;
        while std::net::TcpStream::connect_timeout(&gateway.address("devices"), gateway::DEADLINE)
            .is_ok()
        {
            assert!(Instant::now() < give_up, "still accepting");
        }
        client.send(b"still here");
        assert_eq!(backend.receive(10), b"still here");
        backend.send(b"me too");
        assert_eq!(client.receive(6), b"me too");
        client.fin();
        backend.fin();
        let begun = Instant::now();
        assert_eq!(gateway.wait().code(), Some(0), "{signal}");
        assert!(begun.elapsed() < Duration::from_secs(5), "did not wait for the deadline");
        gateway.assert_end("client_fin");
    }
}

#[test]
fn the_deadline_ends_what_is_left() {
    let listening = Backend::manual();
    let mut gateway = Gateway::start(&config(&listening, "1s"));
    let (mut client, mut backend) = session(&gateway, &listening);
    // One more that has not even said who it is.
    let mut silent = Client::connect(gateway.address("devices"));
    gateway.wait_metric("corelane_connections_active{listener=\"devices\"}", 2.0);
    gateway.signal("TERM");
    assert_eq!(client.read_to_end(), (vec![], Closed::Fin));
    assert_eq!(backend.read_to_end(), (vec![], Closed::Fin));
    silent.assert_closed_silently();
    assert_eq!(gateway.wait().code(), Some(0));
    for line in gateway.session_lines(2) {
        assert_eq!(line["end"], "drain_deadline", "{line}");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let listening = Backend::manual();
    let mut gateway = Gateway::start(&config(&listening, "1h"));
    let (mut client, _backend) = session(&gateway, &listening);
    gateway.signal("TERM");
    gateway.operational.wait("draining line", |lines| {
        lines.iter().any(|line| line.contains("\"draining\"")).then_some(())
    });
    let begun = Instant::now();
    gateway.signal("INT");
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5));
    client.read_to_end();
}

#[test]
fn a_signal_delivered_twice_is_one_request() {
    let listening = Backend::manual();
    let mut gateway = Gateway::start(&config(&listening, "20s"));
    let (client, mut backend) = session(&gateway, &listening);
    let mut client = client;
    let pid = gateway.child.id().to_string();
    let both = ["-TERM", &pid, &pid];
    assert!(std::process::Command::new("kill").args(both).status().unwrap().success());
    gateway.operational.wait("draining line", |lines| {
        lines.iter().any(|line| line.contains("\"draining\"")).then_some(())
    });
    client.send(b"still here");
    assert_eq!(backend.receive(10), b"still here");
    client.fin();
    backend.fin();
    assert_eq!(gateway.wait().code(), Some(0));
    gateway.assert_end("client_fin");
}

#[test]
fn a_gateway_without_sessions_ends_immediately() {
    let listening = Backend::manual();
    let mut gateway = Gateway::start(&config(&listening, "1h"));
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
}

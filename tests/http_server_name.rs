//! Backends that are called by the host of the request: the name they are asked for, the
//! certificate they must show, and connections that belong to a name.

mod gateway;
mod tls;
mod web;

use std::io::Read;
use std::sync::{Arc, Mutex};

use gateway::Gateway;
use gateway::backend::Backend;
use tls::{Authority, ClientSettings, tls_table};
use web::{Web, Wire, client, ok, one_pool};

/// A backend with certificates for these names, and the names that it was asked for, one for each
/// connection.
fn named(authority: &Authority, names: &[&str]) -> (Web, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let record = asked.clone();
    let config = authority.server(&authority.sign("b", names), false);
    let accept = move |socket| {
        let stream = tls::accept(socket, &config)?;
        let name = stream.conn.server_name().unwrap_or("-").to_owned();
        record.lock().unwrap().push(name);
        Ok(stream)
    };
    (Web::answering_inside(accept, |message| ok(message.field("host").unwrap_or("-"))), asked)
}

fn pool(authority: &Authority, keys: &str) -> String {
    format!("[pool.p.tls]\nca_file = \"{}\"\n{keys}\n", authority.ca_file())
}

fn ask(wire: &mut Wire, host: &str) -> u16 {
    wire.ask(&format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")).status()
}

#[test]
fn the_host_is_the_name_and_a_connection_belongs_to_its_name() {
    let authority = Authority::new("test");
    let (web, asked) = named(&authority, &["a.test", "b.test", "127.0.0.1", "::1"]);
    let from_host = "server_name_from = \"host\"";
    let gateway = Gateway::start(&one_pool("", &[web.address], &pool(&authority, from_host)));
    let mut wire = client(&gateway);
    for host in ["a.test", "A.Test:8443", "a.test.", "b.test", "b.test", "a.test"] {
        assert_eq!(ask(&mut wire, host), 200, "{host}");
    }
    assert_eq!(*asked.lock().unwrap(), ["a.test", "b.test"]);
    // Addresses are no names to ask for (RFC 6066), and must be in the certificate all the same.
    for host in ["127.0.0.1:80", "[::1]", "127.0.0.1"] {
        assert_eq!(ask(&mut wire, host), 200, "{host}");
    }
    assert_eq!(*asked.lock().unwrap(), ["a.test", "b.test", "-", "-"]);
    assert_eq!(gateway.metric("corelane_http_backend_connections_reused_total"), 5.0);
}

#[test]
fn a_host_that_the_certificate_does_not_have_is_not_served() {
    let authority = Authority::new("test");
    let (web, _) = named(&authority, &["a.test"]);
    let from_host = "server_name = \"a.test\"\nserver_name_from = \"host\"";
    let gateway = Gateway::start(&one_pool("", &[web.address], &pool(&authority, from_host)));
    assert_eq!(ask(&mut client(&gateway), "a.test"), 200);
    // With a connection kept that was made by the right name.
    for host in ["other.test", "10.0.0.1"] {
        assert_eq!(ask(&mut client(&gateway), host), 502, "{host}");
    }
    let lines = gateway.session_lines(3);
    assert_eq!(lines.iter().filter(|line| line["end"] == "connect_name").count(), 2, "{lines:?}");
    // Nobody else suffers from it: not for the time that a backend which failed is passed over.
    assert_eq!(ask(&mut client(&gateway), "a.test"), 200);
    assert_eq!(web.seen().len(), 2);
}

#[test]
fn a_name_that_a_backend_refuses_is_not_held_against_it() {
    let authority = Authority::new("test");
    let (files, other) = (authority.sign("b", &["b.test"]), Backend::echo(""));
    // A gateway is the backend: it refuses names that it has no certificate for.
    let table = tls_table("unknown_name = \"reject\"", &[&files]);
    let behind = Gateway::start(&tls::tcp_config(&[other], &table, ""));
    let front = authority.sign("front", &["a.test", "b.test"]);
    let toml = tls::tcp_config(
        &[behind.address("secure")],
        &tls_table("", &[&front]),
        &pool(&authority, "server_name_from = \"sni\""),
    );
    let gateway = Gateway::start(&toml);
    let trusting = authority.client(&ClientSettings::default());
    let mut refused = tls::client(gateway.address("secure"), "a.test", &trusting);
    assert_eq!(refused.read(&mut [0; 1]).expect("close_notify"), 0);
    gateway.assert_end("connect_name");
    let mut served = tls::client(gateway.address("secure"), "b.test", &trusting);
    tls::echo(&mut served, b"at once");
}

#[test]
fn a_host_that_is_no_name_is_the_clients_fault_and_nothing_stands_in_for_it() {
    let authority = Authority::new("test");
    let (web, asked) = named(&authority, &["a.test"]);
    let keys = "server_name = \"a.test\"\nserver_name_from = \"host\"";
    let gateway = Gateway::start(&one_pool("", &[web.address], &pool(&authority, keys)));
    for host in ["a..test", "-a.test", "a%20.test"] {
        assert_eq!(ask(&mut client(&gateway), host), 400, "{host}");
    }
    assert_eq!(web.connections(), 0);
    // Nobody brings a name: the configured one does.
    let answer = client(&gateway).ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(answer.status(), 200);
    assert_eq!(*asked.lock().unwrap(), ["a.test"]);
    // And without that there is none.
    let keys = "server_name_from = \"host\"";
    let gateway = Gateway::start(&one_pool("", &[web.address], &pool(&authority, keys)));
    assert_eq!(client(&gateway).ask("GET / HTTP/1.0\r\n\r\n").status(), 400);
    gateway.assert_end("connect_nameless");
}

#[test]
fn the_name_that_the_client_asked_the_listener_for_is_another_one() {
    let authority = Authority::new("test");
    let front = authority.sign("front", &["a.test", "b.test"]);
    let (web, asked) = named(&authority, &["a.test", "b.test"]);
    let toml = one_pool("", &[web.address], &pool(&authority, "server_name_from = \"sni\""));
    let table = tls_table("", &[&front]) + "[listener.http]";
    let gateway = Gateway::start(&toml.replace("[listener.http]", &table));
    let trusting = authority.client(&ClientSettings::default());
    for name in ["a.test", "b.test", "a.test"] {
        let client = tls::client(gateway.address("web"), name, &trusting);
        let answer = Wire::over(client).ask("GET / HTTP/1.1\r\nHost: whatever.test\r\n\r\n");
        assert_eq!(answer.text(), "whatever.test");
    }
    assert_eq!(*asked.lock().unwrap(), ["a.test", "b.test"]);
    // Without a name of the client's there is none for the backend.
    let nameless = ClientSettings { sni: false, ..ClientSettings::default() };
    let client = tls::client(gateway.address("web"), "a.test", &authority.client(&nameless));
    let answer = Wire::over(client).ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(answer.status(), 400);
}

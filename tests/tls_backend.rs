//! TLS to backends: whom the gateway believes, who it says it is, and checks of their health.

mod gateway;
mod tls;

use std::io::{Read, Write};
use std::net::SocketAddr;

use gateway::Gateway;
use gateway::backend::Backend;
use gateway::client::Client;
use tls::{Authority, ClientSettings, SecureBackend, client, receive, tcp_config, tls_table};

fn pool_tls(authority: &Authority, more: &str) -> String {
    format!("[pool.p.tls]\nca_file = \"{}\"\n{more}\n", authority.ca_file())
}

fn gateway(backends: &[SocketAddr], pool: &str) -> Gateway {
    Gateway::start(&tcp_config(backends, "", pool))
}

#[test]
fn plain_clients_reach_backends_inside_tls() {
    let authority = Authority::new("test");
    let files = authority.sign("b", &["b.test"]);
    let backend = SecureBackend::start(&authority.server(&files, false));
    let gateway = gateway(&[backend.address], &pool_tls(&authority, "server_name = \"b.test\""));
    let mut client = Client::connect(gateway.address("secure"));
    let mut served = backend.accept().expect("a handshake");
    assert_eq!(served.conn.server_name(), Some("b.test"));
    client.send(b"hello");
    assert_eq!(receive(&mut served, 5), b"hello");
    served.write_all(b"welcome").unwrap();
    served.flush().unwrap();
    assert_eq!(client.receive(7), b"welcome");
    client.fin();
    assert_eq!(served.read(&mut [0; 1]).expect("close_notify"), 0);
    // Without one of its own: bytes may be missing.
    drop(served);
    assert_eq!(client.read_to_end().1, gateway::client::Closed::Reset);
    gateway.assert_end("backend_truncated");
}

#[test]
fn backends_of_another_name_or_authority_are_not_believed() {
    let (authority, other) = (Authority::new("test"), Authority::new("other"));
    for (signer, name, what) in [(&authority, "c.test", "name"), (&other, "b.test", "authority")] {
        let files = signer.sign("b", &[name]);
        let backend = SecureBackend::start(&signer.server(&files, false));
        let gateway =
            gateway(&[backend.address], &pool_tls(&authority, "server_name = \"b.test\""));
        Client::connect(gateway.address("secure")).assert_closed_silently();
        assert!(backend.accept().is_err(), "{what}");
        gateway.assert_end("connect_certificate");
        let failures = format!(
            "corelane_backend_connect_failures_total{{pool=\"p\",backend=\"{}\",\
             reason=\"connect_certificate\"}}",
            backend.address
        );
        assert_eq!(gateway.metric(&failures), 1.0, "{what}");
    }
}

#[test]
fn with_insecure_anybody_is_believed() {
    let authority = Authority::new("test");
    let files = authority.sign("c", &["c.test"]);
    let backend = SecureBackend::start(&authority.server(&files, false));
    let pool = "[pool.p.tls]\nserver_name = \"b.test\"\ninsecure = true\n";
    let gateway = gateway(&[backend.address], pool);
    let warned = gateway.operational.all().iter().any(|line| line.contains("in between"));
    assert!(warned, "it is warned of");
    let mut client = Client::connect(gateway.address("secure"));
    client.send(b"hello");
    assert_eq!(receive(&mut backend.accept().unwrap(), 5), b"hello");
}

#[test]
fn a_backend_may_ask_who_we_are() {
    let authority = Authority::new("test");
    let files = authority.sign("b", &["b.test"]);
    let own = authority.sign("gateway", &["gateway.test"]);
    let backend = SecureBackend::start(&authority.server(&files, true));
    let identity = format!(
        "server_name = \"b.test\"\ncert_file = \"{}\"\nkey_file = \"{}\"",
        own.cert.display(),
        own.key.display()
    );
    let known = gateway(&[backend.address], &pool_tls(&authority, &identity));
    let mut client = Client::connect(known.address("secure"));
    client.send(b"hello");
    let mut served = backend.accept().expect("a handshake");
    assert_eq!(served.conn.peer_certificates().unwrap()[0], own.chain()[0]);
    assert_eq!(receive(&mut served, 5), b"hello");
    let unknown = gateway(&[backend.address], &pool_tls(&authority, "server_name = \"b.test\""));
    let _client = Client::connect(unknown.address("secure"));
    assert!(backend.accept().is_err());
}

#[test]
fn the_next_backend_is_tried_when_one_speaks_no_tls() {
    let authority = Authority::new("test");
    let files = authority.sign("b", &["b.test"]);
    let plain = Backend::echo("");
    let backend = SecureBackend::start(&authority.server(&files, false));
    let pool = format!(
        "retries = 1\nconnect_timeout = \"2s\"\n{}",
        pool_tls(&authority, "server_name = \"b.test\"")
    );
    let gateway = gateway(&[plain, backend.address], &pool);
    let mut client = Client::connect(gateway.address("secure"));
    client.send(b"hello");
    assert_eq!(receive(&mut backend.accept().unwrap(), 5), b"hello");
    drop(client);
    let line = gateway.session_lines(1).remove(0);
    assert_eq!((&line["placement"], &line["attempts"]), (&"retry".into(), &2.into()), "{line}");
}

#[test]
fn a_backend_that_never_answers_the_handshake_is_given_up() {
    let authority = Authority::new("test");
    let silent = Backend::manual();
    let pool = format!(
        "connect_timeout = \"500ms\"\n{}",
        pool_tls(&authority, "server_name = \"b.test\"")
    );
    let gateway = gateway(&[silent.address], &pool);
    Client::connect(gateway.address("secure")).assert_closed_silently();
    gateway.assert_end("connect_timeout");
}

#[test]
fn the_clients_own_name_may_be_the_backends() {
    let authority = Authority::new("test");
    let front = authority.sign("a", &["x.test"]);
    let files = authority.sign("b", &["x.test"]);
    let backend = SecureBackend::start(&authority.server(&files, false));
    let toml = tcp_config(
        &[backend.address],
        &tls_table("", &[&front]),
        &pool_tls(&authority, "server_name_from = \"sni\""),
    );
    let gateway = Gateway::start(&toml);
    let config = authority.client(&ClientSettings::default());
    let mut there = client(gateway.address("secure"), "x.test", &config);
    let mut served = backend.accept().expect("a handshake");
    assert_eq!(served.conn.server_name(), Some("x.test"));
    there.write_all(b"hello").unwrap();
    assert_eq!(receive(&mut served, 5), b"hello");
    let nameless = ClientSettings { sni: false, ..ClientSettings::default() };
    let _client = client(gateway.address("secure"), "x.test", &authority.client(&nameless));
    let line = gateway.session_lines(1).remove(0);
    assert_eq!(line["end"], "connect_nameless", "{line}");
}

#[test]
fn the_proxy_header_comes_before_the_handshake() {
    let authority = Authority::new("test");
    let files = authority.sign("b", &["b.test"]);
    let backend = Backend::manual();
    let pool =
        format!("proxy_protocol = \"v2\"\n{}", pool_tls(&authority, "server_name = \"b.test\""));
    let gateway = gateway(&[backend.address], &pool);
    let mut client = Client::connect(gateway.address("secure"));
    client.send(b"hello");
    let mut plain = backend.accept();
    assert_eq!(plain.receive(28)[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    let config = authority.server(&files, false);
    let connection = tokio_rustls::rustls::ServerConnection::new(config).unwrap();
    let mut served = tokio_rustls::rustls::StreamOwned::new(connection, plain.stream);
    assert_eq!(receive(&mut served, 5), b"hello");
}

#[test]
fn checks_are_made_inside_tls() {
    let authority = Authority::new("test");
    let files = authority.sign("b", &["b.test"]);
    let good = SecureBackend::start(&authority.server(&files, false));
    let plain = Backend::echo("");
    let pool = format!(
        "on_down = \"next\"\n{}[pool.p.health]\nkind = \"tcp\"\ninterval = \"200ms\"\n\
         timeout = \"150ms\"\nrise = 1\nfall = 1\n",
        pool_tls(&authority, "server_name = \"b.test\"")
    );
    let pool = pool.replace("on_down = \"next\"\n", "");
    let gateway = gateway(&[good.address, plain], &pool);
    let unhealthy = |address: SocketAddr| {
        format!("corelane_backend_state{{pool=\"p\",backend=\"{address}\",state=\"unhealthy\"}}")
    };
    gateway.wait_metric(&unhealthy(plain), 1.0);
    assert_eq!(gateway.metric(&unhealthy(good.address)), 0.0);
    assert!(good.accept().is_ok(), "checks end their handshake");
}

#[test]
fn warm_connections_do_their_handshake_when_they_are_used() {
    let authority = Authority::new("test");
    let files = authority.sign("b", &["b.test"]);
    let backend = SecureBackend::start(&authority.server(&files, false));
    let pool = format!("warm = 1\n{}", pool_tls(&authority, "server_name = \"b.test\""));
    let gateway = gateway(&[backend.address], &pool);
    for round in 1..=3 {
        let warm = format!("corelane_backend_warm{{pool=\"p\",backend=\"{}\"}}", backend.address);
        gateway.wait_metric(&warm, 1.0);
        let mut client = Client::connect(gateway.address("secure"));
        client.send(b"hello");
        let mut served = backend.accept().expect("a handshake");
        assert_eq!(receive(&mut served, 5), b"hello", "{round}");
        client.reset();
        assert!(served.read(&mut [0; 1]).is_err(), "passed on before this side closes");
    }
    for line in gateway.session_lines(3) {
        assert_eq!(line["end"], "client_reset", "{line}");
    }
    let used = "corelane_backend_warm_used_total{pool=\"p\",backend=";
    assert_eq!(gateway.metric(&format!("{used}\"{}\"}}", backend.address)), 3.0);
    assert_eq!(gateway.metric("corelane_bugs_total"), 0.0);
}

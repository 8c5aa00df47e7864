//! TLS of a listener with rustls as the client: versions, names, certificates, protocols, tickets.

mod gateway;
mod tls;

use std::io::{Read, Write};

use gateway::backend::Backend;
use gateway::client::login;
use gateway::{Gateway, frame_config};
use tls::{Authority, ClientSettings, client, connect, echo, receive, tcp_config, tls_table};
use tokio_rustls::rustls::version::{TLS12, TLS13};

fn handshakes(gateway: &Gateway, version: &str, kind: &str) -> f64 {
    gateway.metric(&format!(
        "corelane_tls_handshakes_total{{listener=\"secure\",version=\"{version}\",kind=\"{kind}\"}}"
    ))
}

#[test]
fn both_versions_reach_the_backend_in_plain() {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let backend = Backend::echo("");
    let gateway = Gateway::start(&tcp_config(&[backend], &tls_table("", &[&files]), ""));
    for (version, label) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let settings = ClientSettings { versions: &[version], ..ClientSettings::default() };
        let mut client = client(gateway.address("secure"), "a.test", &authority.client(&settings));
        echo(&mut client, b"hello");
        echo(&mut client, &[7; 100_000]);
        tls::finish(&mut client);
        let mut rest = Vec::new();
        assert_eq!(client.read_to_end(&mut rest).expect("close_notify"), 0);
        assert_eq!(handshakes(&gateway, label, "full"), 1.0);
    }
    let lines = gateway.session_lines(2);
    for line in lines {
        assert_eq!(line["end"], "client_fin", "{line}");
        assert_eq!(line["bytes_in"], 100_005, "plaintext is counted: {line}");
    }
}

#[test]
fn the_lowest_version_is_kept_to() {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let backend = Backend::echo("");
    let table = tls_table("min_version = \"1.3\"", &[&files]);
    let gateway = Gateway::start(&tcp_config(&[backend], &table, ""));
    let old = ClientSettings { versions: &[&TLS12], ..ClientSettings::default() };
    let refused = tls::try_client(gateway.address("secure"), "a.test", &authority.client(&old));
    assert!(refused.unwrap_err().to_string().contains("ProtocolVersion"));
    gateway.assert_end("tls_handshake");
    let mut new =
        client(gateway.address("secure"), "a.test", &authority.client(&ClientSettings::default()));
    echo(&mut new, b"hello");
}

#[test]
fn a_name_chooses_its_certificate() {
    let authority = Authority::new("test");
    let first = authority.sign("first", &["first.test"]);
    let exact = authority.sign("exact", &["x.wild.test", "other.test"]);
    let wild = authority.sign("wild", &["*.wild.test"]);
    let backend = Backend::echo("");
    let table = tls_table("", &[&first, &exact, &wild]);
    let gateway = Gateway::start(&tcp_config(&[backend], &table, ""));
    let config = authority.client(&ClientSettings::default());
    let shown = |name: &str| {
        let client = tls::try_client(gateway.address("secure"), name, &config);
        client.map(|client| client.conn.peer_certificates().unwrap()[0].clone())
    };
    for (name, files) in [
        ("first.test", &first),
        ("x.wild.test", &exact),
        ("other.test", &exact),
        ("y.wild.test", &wild),
        ("Y.WILD.test", &wild),
    ] {
        assert_eq!(shown(name).unwrap(), files.chain()[0], "{name}");
    }
    // The first, which is for another name.
    for name in ["unknown.test", "a.b.wild.test", "wild.test"] {
        let error = shown(name).unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{name}: {error}");
    }
    let nameless = ClientSettings { sni: false, ..ClientSettings::default() };
    let client = client(gateway.address("secure"), "first.test", &authority.client(&nameless));
    assert_eq!(client.conn.peer_certificates().unwrap()[0], first.chain()[0]);
    let expiry = "corelane_tls_certificate_expiry_timestamp_seconds{listener=\"secure\",name=";
    for name in ["first.test", "x.wild.test", "*.wild.test"] {
        assert!(gateway.metric(&format!("{expiry}\"{name}\"}}")) > 1.7e9, "{name}");
    }
}

#[test]
fn unknown_names_are_refused_where_asked_for() {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let backend = Backend::echo("");
    let table = tls_table("unknown_name = \"reject\"", &[&files]);
    let gateway = Gateway::start(&tcp_config(&[backend], &table, ""));
    let config = authority.client(&ClientSettings::default());
    assert!(tls::try_client(gateway.address("secure"), "b.test", &config).is_err());
    gateway.assert_end("tls_name");
    echo(&mut client(gateway.address("secure"), "a.test", &config), b"hello");
}

#[test]
fn clients_show_certificates_where_they_must_and_good_ones_where_they_may() {
    let (authority, other) = (Authority::new("test"), Authority::new("other"));
    let files = authority.sign("a", &["a.test"]);
    let (good, bad) = (authority.sign("good", &["device-1"]), other.sign("bad", &["device-1"]));
    for policy in ["required", "optional"] {
        let backend = Backend::echo("");
        let keys = format!(
            "client_certificates = \"{policy}\"\nclient_ca_file = \"{}\"",
            authority.ca_file()
        );
        let gateway = Gateway::start(&tcp_config(&[backend], &tls_table(&keys, &[&files]), ""));
        let attempt = |identity| {
            let settings = ClientSettings { identity, ..ClientSettings::default() };
            let config = authority.client(&settings);
            let mut client = tls::try_client(gateway.address("secure"), "a.test", &config).ok()?;
            // With TLS 1.3 the client hears of a refusal only now.
            client.write_all(b"hello").ok()?;
            let mut answer = [0; 5];
            client.read_exact(&mut answer).ok()
        };
        assert!(attempt(Some(&good)).is_some(), "{policy}");
        assert!(attempt(Some(&bad)).is_none(), "{policy}");
        assert_eq!(attempt(None).is_some(), policy == "optional", "{policy}");
        let refused = if policy == "optional" { 1.0 } else { 2.0 };
        gateway.wait_metric(
            "corelane_tls_handshake_failures_total{listener=\"secure\",reason=\"tls_certificate\"}",
            refused,
        );
    }
}

#[test]
fn protocols_are_agreed_on_or_refused() {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let backend = Backend::echo("");
    let table = tls_table("alpn = [\"mqtt\", \"http/1.1\"]", &[&files]);
    let gateway = Gateway::start(&tcp_config(&[backend], &table, ""));
    let agreed = |alpn: &[&str]| {
        let settings = ClientSettings { alpn, ..ClientSettings::default() };
        let config = authority.client(&settings);
        let client = tls::try_client(gateway.address("secure"), "a.test", &config).ok()?;
        Some(client.conn.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(agreed(&["h2", "http/1.1"]), Some(Some(b"http/1.1".to_vec())));
    assert_eq!(agreed(&["http/1.1", "mqtt"]), Some(Some(b"mqtt".to_vec())));
    assert_eq!(agreed(&[]), Some(None));
    assert_eq!(agreed(&["h2"]), None);
}

#[test]
fn sessions_are_resumed_by_tickets_unless_that_is_off() {
    for (keys, resumed) in [("", 1.0), ("resumption = false", 0.0)] {
        for (version, label) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
            let authority = Authority::new("test");
            let files = authority.sign("a", &["a.test"]);
            let backend = Backend::echo("");
            let gateway = Gateway::start(&tcp_config(&[backend], &tls_table(keys, &[&files]), ""));
            let versions = &[version];
            let settings = ClientSettings { versions, resume: true, ..ClientSettings::default() };
            let config = authority.client(&settings);
            for _ in 0..2 {
                let mut client = client(gateway.address("secure"), "a.test", &config);
                echo(&mut client, b"hello");
            }
            assert_eq!(handshakes(&gateway, label, "resumed"), resumed, "{keys} {label}");
            assert_eq!(handshakes(&gateway, label, "full"), 2.0 - resumed, "{keys} {label}");
        }
    }
}

#[test]
fn frames_are_read_inside_tls_and_proxy_headers_before_it() {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let backend = Backend::manual();
    let proxied = "[listener.proxy_protocol]\nfrom = [\"127.0.0.0/8\"]\n";
    let tables = proxied.to_owned() + &tls_table("", &[&files]);
    let toml = frame_config(&[backend.address], "proxy_protocol = \"v2\"", &tables);
    let gateway = Gateway::start(&toml);
    let mut socket = connect(gateway.address("devices"));
    socket.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n").unwrap();
    let name = "a.test".try_into().unwrap();
    let config = authority.client(&ClientSettings::default());
    let connection = tokio_rustls::rustls::ClientConnection::new(config, name).unwrap();
    let mut client = tokio_rustls::rustls::StreamOwned::new(connection, socket);
    // In two records, in the middle of the frame.
    let frame = login("device-7");
    client.write_all(&frame[..9]).unwrap();
    client.flush().unwrap();
    client.write_all(&frame[9..]).unwrap();
    let mut served = backend.accept();
    let header = served.receive(28);
    assert_eq!(header[16..20], [192, 0, 2, 1], "the client that the header named");
    assert_eq!(served.receive(frame.len()), frame);
    served.send(b"welcome");
    assert_eq!(receive(&mut client, 7), b"welcome");
    drop(client);
    let line = gateway.session_lines(1).remove(0);
    assert_eq!(line["key"], "device-7", "{line}");
    assert_eq!(line["end"], "client_truncated", "no close_notify was sent: {line}");
}

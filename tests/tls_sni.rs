//! Routing by the name in a ClientHello that is passed on as it came.

mod gateway;
mod tls;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use gateway::backend::Backend;
use gateway::client::Client;
use gateway::{Gateway, ONE_SHARD};
use tls::{Authority, ClientSettings, Files, SecureBackend, client, connect, receive};
use tokio_rustls::rustls::{ClientConfig, ClientConnection};

fn config(named: SocketAddr, wild: SocketAddr, rest: SocketAddr, keys: &str) -> String {
    format!(
        r#"{ONE_SHARD}
[[listener]]
name = "names"
bind = ["127.0.0.1:0"]
protocol = "tcp"
pool = "rest"
[listener.tcp]
key = "sni"
{keys}
[listener.tcp.names]
"a.test" = "named"
"*.wild.test" = "wild"
[pool.named]
balance = "round_robin"
backends = ["{named}"]
[pool.wild]
balance = "round_robin"
backends = ["{wild}"]
[pool.rest]
balance = "maglev"
backends = ["{rest}"]
"#
    )
}

struct Three {
    authority: Authority,
    backends: [SecureBackend; 3],
    files: [Files; 3],
}

fn three() -> Three {
    let authority = Authority::new("test");
    let files = ["named", "wild", "rest"]
        .map(|file| authority.sign(file, &["a.test", "*.wild.test", "wild.test", "b.test"]));
    let backends = [0, 1, 2].map(|at| SecureBackend::start(&authority.server(&files[at], false)));
    Three { authority, backends, files }
}

#[test]
fn names_lead_to_their_pools_and_the_backends_certificate_is_seen() {
    let Three { authority, backends: [named, wild, rest], files } = three();
    let gateway = Gateway::start(&config(named.address, wild.address, rest.address, ""));
    let trusting = authority.client(&ClientSettings::default());
    for (name, backend, files) in [
        ("a.test", &named, &files[0]),
        ("A.Test", &named, &files[0]),
        ("x.wild.test", &wild, &files[1]),
        ("wild.test", &rest, &files[2]),
        ("b.test", &rest, &files[2]),
    ] {
        let mut there = client(gateway.address("names"), name, &trusting);
        assert_eq!(there.conn.peer_certificates().unwrap()[0], files.chain()[0], "{name}");
        let mut served = backend.accept().expect("a handshake");
        there.write_all(name.as_bytes()).unwrap();
        assert_eq!(receive(&mut served, name.len()), name.as_bytes());
    }
    let lines = gateway.session_lines(5);
    assert!(lines.iter().any(|line| line["key"] == "a.test"), "{lines:?}");
}

#[test]
fn clients_without_a_name_follow_missing_key() {
    let nameless = ClientSettings { sni: false, ..ClientSettings::default() };
    let Three { authority, backends: [named, wild, rest], .. } = three();
    let addresses = (named.address, wild.address, rest.address);
    let gateway = Gateway::start(&config(addresses.0, addresses.1, addresses.2, ""));
    let trusting = authority.client(&nameless);
    assert!(tls::try_client(gateway.address("names"), "a.test", &trusting).is_err());
    gateway.assert_end("key_missing");
    let keys = "missing_key = \"pool:wild\"";
    let gateway = Gateway::start(&config(addresses.0, addresses.1, addresses.2, keys));
    let _client = client(gateway.address("names"), "a.test", &trusting);
    assert!(wild.accept().is_ok());
}

fn hello(config: &Arc<ClientConfig>) -> (ClientConnection, Vec<u8>) {
    let name = "a.test".try_into().unwrap();
    let mut connection = ClientConnection::new(config.clone(), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    (connection, bytes)
}

#[test]
fn a_hello_is_passed_on_byte_by_byte_whatever_its_pieces() {
    let backend = Backend::manual();
    let other = Backend::manual();
    let toml = config(backend.address, other.address, other.address, "");
    let gateway = Gateway::start(&toml);
    let authority = Authority::new("test");
    let trusting = authority.client(&ClientSettings::default());
    let (_connection, bytes) = hello(&trusting);
    for at in 1..bytes.len() {
        let mut socket = connect(gateway.address("names"));
        socket.write_all(&bytes[..at]).unwrap();
        std::thread::yield_now();
        socket.write_all(&bytes[at..]).unwrap();
        socket.write_all(b"behind").unwrap();
        let mut served = backend.accept();
        assert_eq!(served.receive(bytes.len()), bytes, "split at {at}");
        assert_eq!(served.receive(6), b"behind");
    }
    // A hello in records of one byte of handshake each.
    let mut records = Vec::new();
    for byte in &bytes[5..] {
        records.extend_from_slice(&[0x16, 3, 1, 0, 1, *byte]);
    }
    let mut client = Client::connect(gateway.address("names"));
    client.send(&records);
    assert_eq!(backend.accept().receive(records.len()), records);
}

#[test]
fn what_is_no_hello_is_closed_with_its_reason() {
    let backend = Backend::manual();
    let toml = config(backend.address, backend.address, backend.address, "timeout = \"300ms\"");
    let gateway = Gateway::start(&toml);
    let authority = Authority::new("test");
    let bytes = hello(&authority.client(&ClientSettings::default())).1;
    let mut endless = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    endless.resize(40_000, 0);
    let samples: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", "tls_invalid"),
        (&[0xff; 64], "tls_invalid"),
        (&endless, "tls_invalid"),
        (&bytes[..40], "preface_timeout"),
        (b"", "preface_silent"),
    ];
    for (index, (sample, end)) in samples.into_iter().enumerate() {
        let mut socket = connect(gateway.address("names"));
        socket.write_all(sample).unwrap();
        let mut answer = Vec::new();
        // Bytes that were not read make it a reset.
        let _reset = socket.read_to_end(&mut answer);
        assert_eq!(answer, b"", "nobody answers for the backend");
        let line = gateway.session_lines(index + 1).remove(index);
        assert_eq!(line["end"], end, "{line}");
    }
    assert!(backend.is_untouched());
}

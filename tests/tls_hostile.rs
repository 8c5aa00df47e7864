//! Clients that break TLS: garbage, pieces, silence, floods, seeded mutations.

mod gateway;
mod tls;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::Gateway;
use gateway::backend::Backend;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tls::{Authority, ClientSettings, client, connect, echo, tcp_config, tls_table};
use tokio_rustls::rustls::{ClientConfig, ClientConnection};

fn secured(keys: &str) -> (Gateway, Authority) {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let backend = Backend::echo("");
    let gateway = Gateway::start(&tcp_config(&[backend], &tls_table(keys, &[&files]), ""));
    (gateway, authority)
}

fn failures(reason: &str) -> String {
    format!("corelane_tls_handshake_failures_total{{listener=\"secure\",reason=\"{reason}\"}}")
}

/// The first flight of a client.
fn hello(config: &Arc<ClientConfig>) -> (ClientConnection, Vec<u8>) {
    let name = "a.test".try_into().unwrap();
    let mut connection = ClientConnection::new(config.clone(), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    (connection, bytes)
}

fn read_rest(mut socket: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Bytes that were not read make it a reset.
    let _reset = socket.read_to_end(&mut bytes);
    bytes
}

#[test]
fn what_is_not_tls_is_closed_with_an_alert_and_its_reason() {
    let (gateway, _authority) = secured("");
    let samples: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0],
        // SSL 2 and an alert out of nothing.
        &[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10],
        &[0; 300],
        // Application data before any handshake.
        &[0x17, 3, 3, 0, 5, 1, 2, 3, 4, 5],
    ];
    for sample in samples {
        let mut socket = connect(gateway.address("secure"));
        socket.write_all(sample).unwrap();
        let answer = read_rest(socket);
        assert!(answer.is_empty() || answer[0] == 0x15, "{sample:?}: {answer:?}");
    }
    let ends: Vec<_> = gateway.session_lines(5).iter().map(|l| l["end"].clone()).collect();
    assert_eq!(ends, ["tls_invalid"; 5]);
    assert_eq!(gateway.metric(&failures("tls_invalid")), 5.0);
}

#[test]
fn a_hello_in_any_two_pieces_is_one() {
    let (gateway, authority) = secured("");
    let config = authority.client(&ClientSettings::default());
    let len = hello(&config).1.len();
    for at in (1..len).step_by(7).chain([1, 2, 3, 4, 5, 6, len - 1]) {
        let mut socket = connect(gateway.address("secure"));
        let (mut connection, bytes) = hello(&config);
        socket.write_all(&bytes[..at]).unwrap();
        std::thread::yield_now();
        socket.write_all(&bytes[at..]).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).unwrap_or_else(|e| panic!("{at}: {e}"));
        }
    }
    // And byte by byte.
    let mut socket = connect(gateway.address("secure"));
    let (mut connection, bytes) = hello(&config);
    for byte in bytes {
        socket.write_all(&[byte]).unwrap();
    }
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).unwrap();
    }
}

#[test]
fn slow_handshakes_meet_their_deadline_and_silent_ones_too() {
    let (gateway, authority) = secured("handshake_timeout = \"500ms\"");
    let config = authority.client(&ClientSettings::default());
    let silent = connect(gateway.address("secure"));
    let mut slow = connect(gateway.address("secure"));
    let begun = Instant::now();
    for byte in hello(&config).1 {
        // Ended before the hello is.
        if slow.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    read_rest(slow);
    read_rest(silent);
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(400), "{took:?}");
    let ends: Vec<_> = gateway.session_lines(2).iter().map(|l| l["end"].clone()).collect();
    assert_eq!(ends, ["tls_timeout", "tls_timeout"]);
}

#[test]
fn clients_that_leave_during_the_handshake_have_their_reason() {
    let (gateway, authority) = secured("");
    let config = authority.client(&ClientSettings::default());
    let mut socket = connect(gateway.address("secure"));
    socket.write_all(&hello(&config).1[..50]).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    read_rest(socket);
    gateway.assert_end("tls_fin");
    // One that trusts somebody else says so.
    let stranger = Authority::new("stranger").client(&ClientSettings::default());
    assert!(tls::try_client(gateway.address("secure"), "a.test", &stranger).is_err());
    gateway.wait_metric(&failures("tls_alert"), 1.0);
}

#[test]
fn a_flood_of_handshakes_waits_its_turn_and_holds_little() {
    let (gateway, authority) = secured("max_handshakes = 4\nhandshake_timeout = \"2s\"");
    let config = authority.client(&ClientSettings::default());
    let address = gateway.address("secure");
    let before = gateway.resident_bytes();
    // Half a hello each: four of them take all turns, the others wait in vain.
    let half = hello(&config).1;
    let flood: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut socket = connect(address);
            socket.write_all(&half[..half.len() / 2]).unwrap();
            socket
        })
        .collect();
    let held = gateway.resident_bytes().saturating_sub(before);
    assert!(held < 8 << 20, "{held} bytes");
    // A few more have their turn, if the machine is so slow that their own time is not over when
    // the first ones' is.
    gateway.wait_until("the end of all", || {
        let (turns, waits) =
            (gateway.metric(&failures("tls_timeout")), gateway.metric(&failures("tls_busy")));
        assert!(turns < 100.0, "{turns} of 200 had a turn of four");
        turns >= 4.0 && turns + waits == 200.0
    });
    drop(flood);
    // All turns are free again.
    let many: Vec<_> = (0..12)
        .map(|_| {
            let config = config.clone();
            std::thread::spawn(move || echo(&mut client(address, "a.test", &config), b"hello"))
        })
        .collect();
    for one in many {
        one.join().unwrap();
    }
}

#[test]
fn whoever_waits_is_served_when_a_turn_is_free() {
    let (gateway, authority) = secured("max_handshakes = 1");
    let config = authority.client(&ClientSettings::default());
    let address = gateway.address("secure");
    let mut first = connect(address);
    let (mut connection, bytes) = hello(&config);
    first.write_all(&bytes[..10]).unwrap();
    gateway.wait_metric("corelane_connections_active{listener=\"secure\"}", 1.0);
    let waiting = std::thread::spawn({
        let config = config.clone();
        move || echo(&mut client(address, "a.test", &config), b"second")
    });
    gateway.wait_metric("corelane_connections_active{listener=\"secure\"}", 2.0);
    assert!(!waiting.is_finished());
    first.write_all(&bytes[10..]).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut first).unwrap();
    }
    waiting.join().unwrap();
}

/// Every byte that a client sends may be wrong: the gateway answers somehow, and goes on.
#[test]
fn mutated_streams_end_sessions_and_nothing_else() {
    let (gateway, authority) = secured("client_certificates = \"off\"");
    let address = gateway.address("secure");
    let versions = tokio_rustls::rustls::DEFAULT_VERSIONS;
    for round in 0..300_u64 {
        let seed = 0x7150_0000 + round;
        let mut random = StdRng::seed_from_u64(seed);
        let versions = &versions[usize::from(round % 2 == 0)..][..1];
        let config = authority.client(&ClientSettings { versions, ..Default::default() });
        mutate_one(address, &config, &mut random);
        if round % 100 == 99 {
            // Still there.
            let config = authority.client(&ClientSettings::default());
            echo(&mut client(address, "a.test", &config), b"hello");
            assert_eq!(gateway.metric("corelane_bugs_total"), 0.0, "seed {seed:#x}");
        }
    }
}

fn mutate_one(address: SocketAddr, config: &Arc<ClientConfig>, random: &mut StdRng) {
    let mut socket = connect(address);
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let name = "a.test".try_into().unwrap();
    let mut connection = ClientConnection::new(config.clone(), name).unwrap();
    // In which of our flights something is wrong, and what.
    let wrong_flight = random.random_range(0..4);
    for flight in 0..5 {
        if !connection.is_handshaking() {
            let _closed = connection.writer().write_all(b"some text");
        }
        let mut bytes = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut bytes).unwrap();
        }
        if flight == wrong_flight && !bytes.is_empty() {
            mutate(&mut bytes, random);
        }
        if socket.write_all(&bytes).is_err() {
            return;
        }
        match connection.read_tls(&mut socket) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if connection.process_new_packets().is_err() {
            return;
        }
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..5) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes.truncate(at.max(1)),
            3 => bytes.insert(at, random.random()),
            _ => {
                let copy = bytes[at..].to_vec();
                bytes.extend_from_slice(&copy);
            }
        }
    }
}

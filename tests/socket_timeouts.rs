//! `tcp_user_timeout` ends a session whose peer takes nothing more, with the side that was at
//! fault; `tcp_keepalive` is set on the sockets of both sides.

mod gateway;

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{Gateway, frame_config};

fn config(backend: &Backend, listener: &str, pool: &str) -> String {
    frame_config(&[backend.address], pool, "")
        .replace("[listener.frame]", &format!("{listener}\n[listener.frame]"))
}

/// Sends until the connection breaks, which has to be by a reset.
fn flood(sender: &mut Client) {
    let bytes = [0x55; 65536];
    let error = loop {
        if let Err(error) = sender.stream.write_all(&bytes) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_takes_nothing_for_too_long_is_given_up() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&config(&listening, "tcp_user_timeout = \"1s\"", ""));
    let _client = Client::login(gateway.address("devices"), "a");
    let mut backend = listening.accept();
    backend.receive(login("a").len());
    flood(&mut backend);
    gateway.assert_end("client_timeout");
}

#[test]
fn a_backend_that_takes_nothing_for_too_long_is_given_up() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&config(&listening, "", "tcp_user_timeout = \"1s\""));
    let mut client = Client::login(gateway.address("devices"), "a");
    let _backend = listening.accept();
    flood(&mut client);
    gateway.assert_end("backend_timeout");
}

/// The timer of a TCP socket of this machine, as proc(5) numbers them: 2 is keepalive.
fn timer(local: SocketAddr, remote: SocketAddr) -> u32 {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            format!("{:08X}:{:04X}", u32::from(*v4.ip()).swap_bytes(), v4.port())
        }
        SocketAddr::V6(_) => panic!("{address} is not IPv4"),
    };
    let pair = format!(" {} {} ", hex(local), hex(remote));
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = sockets.lines().find(|line| line.contains(&pair)).expect("the socket");
    let timer = line.split_whitespace().nth(5).and_then(|field| field.split(':').next());
    u32::from_str_radix(timer.unwrap(), 16).unwrap()
}

#[test]
fn keepalive_is_off_unless_asked_for_and_then_on_both_sides() {
    for (setting, expected) in [("", 0), ("tcp_keepalive = \"1h\"", 2)] {
        let listening = Backend::manual();
        let gateway = Gateway::start(&config(&listening, setting, setting));
        let mut client = Client::login(gateway.address("devices"), "a");
        let mut backend = listening.accept();
        backend.receive(login("a").len());
        backend.send(b"acknowledges what came before");
        client.receive(29);
        for peer in [&client, &backend] {
            let (local, remote) =
                (peer.stream.peer_addr().unwrap(), peer.stream.local_addr().unwrap());
            let give_up = std::time::Instant::now() + gateway::DEADLINE;
            // Retransmission and delayed acknowledgement use the same timer for a moment.
            while timer(local, remote) != expected {
                assert!(std::time::Instant::now() < give_up, "timer {}", timer(local, remote));
                std::thread::park_timeout(std::time::Duration::from_millis(20));
            }
        }
    }
}

//! Draining with more than one listener and more than one shard: every listening socket closes,
//! whether or not its shard still has sessions, and what a finished shard had open is closed too.

mod gateway;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use gateway::backend::Backend;
use gateway::client::{Client, Closed, login};
use gateway::{DEADLINE, Gateway, frame_config};

const TWO_BINDS: &str = "bind = [\"127.0.0.1:0\", \"127.0.0.2:0\"]";

fn two_shards(config: &str) -> String {
    config.replace("cores = [0]", "cores = [0, 1]")
}

/// Every listening address, in the order of binding.
fn addresses(gateway: &Gateway) -> Vec<SocketAddr> {
    let lines = gateway.operational.all();
    let lines = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|line: &serde_json::Value| line["message"] == "listening")
        .filter_map(|line| line["address"].as_str()?.parse().ok())
        .collect()
}

fn drain(gateway: &Gateway) {
    gateway.signal("TERM");
    gateway.operational.wait("draining line", |lines| {
        lines.iter().any(|line| line.contains("\"draining\"")).then_some(())
    });
}

/// Waits until 32 attempts in a row are refused: with two shards, as good as all of them.
fn assert_closes(address: SocketAddr) {
    let give_up = Instant::now() + DEADLINE;
    let mut refused = 0;
    while refused < 32 {
        assert!(Instant::now() < give_up, "{address} still takes connections");
        match TcpStream::connect_timeout(&address, DEADLINE) {
            Ok(_open) => refused = 0,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn every_listener_of_a_shard_closes_without_being_called_first() {
    let listening = Backend::manual();
    let toml = frame_config(&[listening.address], "", "");
    let gateway = Gateway::start(&toml.replace("bind = [\"127.0.0.1:0\"]", TWO_BINDS));
    let addresses = addresses(&gateway);
    assert_eq!(addresses.len(), 2);
    let _client = Client::login(addresses[0], "a");
    let mut backend = listening.accept();
    backend.receive(login("a").len());
    drain(&gateway);
    for address in addresses {
        // Not by connecting: that would wake a listener which the drain forgot.
        let give_up = Instant::now() + DEADLINE;
        while TcpListener::bind(address).is_err() {
            assert!(Instant::now() < give_up, "{address} is still listened on");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_shard_without_sessions_closes_its_listeners_while_another_drains() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&two_shards(&frame_config(&[listening.address], "", "")));
    let _client = Client::login(gateway.address("devices"), "a");
    let mut backend = listening.accept();
    backend.receive(login("a").len());
    drain(&gateway);
    assert_closes(gateway.address("devices"));
}

#[test]
fn the_last_session_of_a_shard_is_closed_while_another_shard_drains() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&two_shards(&frame_config(&[listening.address], "", "")));
    let mut sessions = Vec::new();
    for n in 0..16 {
        let id = format!("{n}");
        let client = Client::login(gateway.address("devices"), &id);
        let mut backend = listening.accept();
        backend.receive(login(&id).len());
        sessions.push((client, backend));
    }
    drain(&gateway);
    // All but one end: at least one shard sees its last session end, and its reset must go out.
    let _last = sessions.pop();
    for (mut client, backend) in sessions {
        backend.reset();
        assert_eq!(client.read_to_end(), (vec![], Closed::Reset));
    }
}

#[test]
fn clients_in_the_queue_of_a_draining_shard_are_served_or_told() {
    let backend = Backend::echo("only");
    for _ in 0..5 {
        let toml = two_shards(&frame_config(&[backend], "", ""));
        let toml = toml.replace("[runtime]", "[runtime]\ndrain_timeout = \"2s\"");
        let mut gateway = Gateway::start(&toml);
        let address = gateway.address("devices");
        let mut clients = Vec::new();
        gateway.signal("TERM");
        while let Ok(stream) = TcpStream::connect_timeout(&address, DEADLINE) {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            clients.push(stream);
            if clients.len() > 2000 {
                break;
            }
        }
        for mut client in clients {
            // Speaking, as devices do: of a handshake that is being completed when its listener
            // closes the kernel may keep nothing, and tell the client when it sends.
            let _reset_already = client.write_all(&login("a"));
            let mut byte = [0];
            if let Err(error) = client.read(&mut byte) {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            }
        }
        assert_eq!(gateway.wait().code(), Some(0));
    }
}

//! FIN is forwarded as FIN after all data, RST as RST, in every order, from both sides, over quiet
//! (polled) and busy (armed) relays.

mod gateway;

use gateway::backend::Backend;
use gateway::client::{Client, Closed, login};
use gateway::{Gateway, frame_config};

struct Pair {
    gateway: Gateway,
    client: Client,
    backend: Client,
}

/// A session over which a first frame went, and then `rounds` messages each way.
fn pair(rounds: usize) -> Pair {
    let listening = Backend::manual();
    let gateway = Gateway::start(&frame_config(&[listening.address], "", ""));
    let mut client = Client::login(gateway.address("devices"), "a");
    let mut backend = listening.accept();
    assert_eq!(backend.receive(login("a").len()), login("a"));
    for _ in 0..rounds {
        client.send(b"ping");
        assert_eq!(backend.receive(4), b"ping");
        backend.send(b"pong");
        assert_eq!(client.receive(4), b"pong");
    }
    if rounds > 2 {
        assert!(gateway.metric("corelane_relay_warmed_up_total") >= 2.0, "reads are not armed");
    }
    Pair { gateway, client, backend }
}

/// Quiet and busy.
const ROUNDS: [usize; 2] = [0, 20];

#[test]
fn client_fin_first_then_backend_data_then_fin() {
    for rounds in ROUNDS {
        let Pair { gateway, mut client, mut backend } = pair(rounds);
        client.send(b"last words");
        client.fin();
        assert_eq!(backend.read_to_end(), (b"last words".to_vec(), Closed::Fin));
        backend.send(&[7; 300_000]);
        backend.fin();
        assert_eq!(client.read_to_end(), (vec![7; 300_000], Closed::Fin));
        gateway.assert_end("client_fin");
    }
}

#[test]
fn backend_fin_first_then_client_data_then_fin() {
    for rounds in ROUNDS {
        let Pair { gateway, mut client, mut backend } = pair(rounds);
        backend.send(b"last words");
        backend.fin();
        assert_eq!(client.read_to_end(), (b"last words".to_vec(), Closed::Fin));
        client.send(&[7; 300_000]);
        client.fin();
        assert_eq!(backend.read_to_end(), (vec![7; 300_000], Closed::Fin));
        gateway.assert_end("backend_fin");
    }
}

#[test]
fn both_fins_at_once() {
    for rounds in ROUNDS {
        let Pair { gateway, mut client, mut backend } = pair(rounds);
        client.send(b"from client");
        backend.send(b"from backend");
        client.fin();
        backend.fin();
        assert_eq!(client.read_to_end(), (b"from backend".to_vec(), Closed::Fin));
        assert_eq!(backend.read_to_end(), (b"from client".to_vec(), Closed::Fin));
        let end = gateway.session_lines(1)[0]["end"].clone();
        assert!(end == "client_fin" || end == "backend_fin", "{end}");
    }
}

#[test]
fn client_reset_is_a_reset_for_the_backend() {
    for rounds in ROUNDS {
        let Pair { gateway, client, mut backend } = pair(rounds);
        client.reset();
        assert_eq!(backend.read_to_end(), (vec![], Closed::Reset));
        gateway.assert_end("client_reset");
    }
}

#[test]
fn backend_reset_is_a_reset_for_the_client() {
    for rounds in ROUNDS {
        let Pair { gateway, mut client, backend } = pair(rounds);
        backend.reset();
        assert_eq!(client.read_to_end(), (vec![], Closed::Reset));
        gateway.assert_end("backend_reset");
    }
}

#[test]
fn data_before_a_reset_is_delivered_before_the_reset() {
    for rounds in ROUNDS {
        let Pair { gateway, mut client, mut backend } = pair(rounds);
        client.send(b"last words");
        assert_eq!(backend.receive(10), b"last words");
        client.reset();
        assert_eq!(backend.read_to_end(), (vec![], Closed::Reset));
        gateway.assert_end("client_reset");
    }
}

#[test]
fn client_fin_then_client_reset() {
    for rounds in ROUNDS {
        let Pair { gateway, client, mut backend } = pair(rounds);
        client.fin();
        assert_eq!(backend.read_to_end(), (vec![], Closed::Fin));
        client.reset();
        // The backend has seen the FIN and sends nothing: only the reset can tell it.
        assert_reset_on_write(&mut backend);
        gateway.assert_end("client_reset");
    }
}

#[test]
fn backend_fin_then_backend_reset() {
    for rounds in ROUNDS {
        let Pair { gateway, mut client, backend } = pair(rounds);
        backend.fin();
        assert_eq!(client.read_to_end(), (vec![], Closed::Fin));
        backend.reset();
        assert_reset_on_write(&mut client);
        gateway.assert_end("backend_reset");
    }
}

#[test]
fn client_fin_then_backend_reset() {
    for rounds in ROUNDS {
        let Pair { gateway, mut client, mut backend } = pair(rounds);
        client.fin();
        assert_eq!(backend.read_to_end(), (vec![], Closed::Fin));
        backend.reset();
        assert_eq!(client.read_to_end(), (vec![], Closed::Reset));
        gateway.assert_end("backend_reset");
    }
}

#[test]
fn backend_fin_then_client_reset() {
    for rounds in ROUNDS {
        let Pair { gateway, mut client, mut backend } = pair(rounds);
        backend.fin();
        assert_eq!(client.read_to_end(), (vec![], Closed::Fin));
        client.reset();
        assert_eq!(backend.read_to_end(), (vec![], Closed::Reset));
        gateway.assert_end("client_reset");
    }
}

#[test]
fn a_reset_while_the_other_side_still_sends() {
    let Pair { gateway, client, mut backend } = pair(20);
    let sender = std::thread::spawn(move || {
        use std::io::Write;
        let mut sent = 0;
        while let Ok(n) = backend.stream.write(&[1; 65536]) {
            sent += n;
        }
        sent
    });
    let mut client = client;
    client.receive(1_000_000);
    client.reset();
    assert!(sender.join().unwrap() >= 1_000_000);
    gateway.assert_end("client_reset");
}

/// The peer was reset: after the reset has arrived, a write fails at once.
fn assert_reset_on_write(peer: &mut Client) {
    use std::io::Write;
    let give_up = std::time::Instant::now() + gateway::DEADLINE;
    while std::time::Instant::now() < give_up {
        if let Some(error) = peer.stream.take_error().unwrap() {
            assert_eq!(error.raw_os_error(), Some(libc::EPIPE), "reset after FIN is EPIPE");
            assert!(peer.stream.write(b"x").is_err());
            return;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    panic!("no reset arrived");
}

//! A stalled reader stops its sender; the gateway's memory does not grow with what waits.

mod gateway;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{Gateway, frame_config};

/// One backend. A side may be stalled for long, on a slow machine.
fn config(listening: &Backend) -> String {
    frame_config(&[listening.address], "tcp_user_timeout = \"1h\"", "")
        .replace("[listener.frame]", "tcp_user_timeout = \"1h\"\n[listener.frame]")
}

/// Sends until nothing more is taken for a while.
fn fill(sender: &mut Client) -> usize {
    sender.stream.set_nonblocking(true).unwrap();
    let (mut sent, mut full) = (0, 0);
    while full < 20 {
        match sender.stream.write(&[0x55; 65536]) {
            Ok(n) => {
                sent += n;
                full = 0;
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                full += 1;
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
        assert!(sent < 1 << 30, "nothing ever stopped the sender");
    }
    sender.stream.set_nonblocking(false).unwrap();
    sent
}

#[test]
fn stalled_readers_stop_their_senders_within_bounded_memory() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&config(&listening));
    let before = gateway.resident_bytes();
    let mut sessions = Vec::new();
    for n in 0..10 {
        let id = format!("stalled-{n}");
        let mut client = Client::login(gateway.address("devices"), &id);
        let mut backend = listening.accept();
        backend.receive(login(&id).len());
        let (to_backend, to_client) = (fill(&mut client), fill(&mut backend));
        sessions.push((client, backend, to_backend, to_client));
    }
    let grown = gateway.resident_bytes().saturating_sub(before);
    // Two directions, one buffer of 64 KiB each, and some change.
    assert!(grown < 10 * 200 * 1024, "{grown} bytes for 10 stalled sessions");

    // And every byte that was taken arrives once the readers wake up.
    let Some((mut client, mut backend, to_backend, to_client)) = sessions.pop() else {
        panic!("no sessions");
    };
    let reader = std::thread::spawn(move || {
        assert!(backend.receive(to_backend).iter().all(|byte| *byte == 0x55));
        backend
    });
    assert!(client.receive(to_client).iter().all(|byte| *byte == 0x55));
    reader.join().unwrap();
}

#[test]
fn the_reset_of_a_stalled_reader_reaches_its_sender_as_a_reset() {
    for client_stalls in [true, false] {
        let listening = Backend::manual();
        let gateway = Gateway::start(&config(&listening));
        let client = Client::login(gateway.address("devices"), "a");
        let mut backend = listening.accept();
        backend.receive(login("a").len());
        let (stalled, mut sender, end) = match client_stalls {
            true => (client, backend, "client_reset"),
            false => (backend, client, "backend_reset"),
        };
        fill(&mut sender);
        stalled.reset();
        gateway.assert_end(end);
        // A FIN before it would turn this into a broken pipe.
        let give_up = std::time::Instant::now() + gateway::DEADLINE;
        let error = loop {
            if let Some(error) = sender.stream.take_error().unwrap() {
                break error;
            }
            assert!(std::time::Instant::now() < give_up, "still connected");
            std::thread::park_timeout(Duration::from_millis(5));
        };
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{end}");
    }
}

#[test]
fn a_stalled_reader_that_has_sent_its_fin_costs_no_cpu() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&config(&listening));
    let mut client = Client::login(gateway.address("devices"), "a");
    let mut backend = listening.accept();
    client.fin();
    let (bytes, _) = backend.read_to_end();
    assert_eq!(bytes, login("a"));
    // io_uring's poll reports a half-closed socket as ready whatever was asked for: a relay that
    // polls for room would spin here.
    let sent = fill(&mut backend);
    let before = gateway.cpu();
    std::thread::park_timeout(Duration::from_secs(2));
    let spent = gateway.cpu() - before;
    assert!(spent < Duration::from_millis(200), "{spent:?} of CPU while waiting for two seconds");
    // And an armed send would end up in a kernel thread that blocks in it.
    let threads = std::fs::read_dir(format!("/proc/{}/task", gateway.child.id())).unwrap().count();
    assert!(threads <= 5, "{threads} threads");
    let received = std::thread::spawn(move || client.receive(sent).len());
    assert_eq!(received.join().unwrap(), sent);
}

#[test]
fn a_stall_that_begins_with_nothing_sent_costs_no_cpu_either() {
    let directory = gateway::directory();
    let path = directory.join("front.sock");
    let listening = Backend::manual();
    let toml = config(&listening).replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let gateway = Gateway::start(&toml);
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(gateway::DEADLINE)).unwrap();
    client.write_all(&login("a")).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut backend = listening.accept();
    assert_eq!(backend.read_to_end().0, login("a"));
    // One small message at a time: a UNIX socket takes all of it or, when it is full, nothing.
    let mut sent = 0;
    for _ in 0..600 {
        backend.send(&[0x55; 500]);
        sent += 500;
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let before = gateway.cpu();
    std::thread::park_timeout(Duration::from_secs(1));
    let spent = gateway.cpu() - before;
    assert!(spent < Duration::from_millis(150), "{spent:?} of CPU while waiting for a second");
    let mut received = vec![0; sent];
    client.read_exact(&mut received).unwrap();
    assert!(received.iter().all(|byte| *byte == 0x55));
}

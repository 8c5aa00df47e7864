//! The soak passes where bytes are transparent, and notices where they are not.

mod rig;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use rig::{File, run};
use serde_json::Value;

#[test]
fn direct_sessions_are_byte_exact() {
    let json = File::new("soak.json", "");
    let line = "soak --direct --backends 127.0.0.1:0,127.0.0.1:0,127.0.0.1:0 --sessions 60 \
                --size-max 128KiB --seed 11";
    let outcome = run(&format!("{line} --json {}", json.0.display()));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stdout);
    let document: Value = serde_json::from_slice(&std::fs::read(&json.0).unwrap()).unwrap();
    let of = |name: &str| document[name].as_u64().unwrap();
    assert_eq!((of("sessions"), of("failed"), of("misrouted")), (60, 0, 0));
    assert_eq!(of("route_checked"), 60);
    assert!(of("bytes_up") > 1 << 20 && of("bytes_down") > 1 << 20, "{document}");
}

/// What the relay in front of the soak's server does wrong.
#[derive(Clone, Copy)]
enum Wrong {
    Nothing,
    FlipsAByte,
    SwallowsTheLastByte,
    KeepsTheFin,
}

/// Runs a soak through a relay in this process.
fn through(wrong: Wrong, port: u16) -> rig::Outcome {
    let server = SocketAddr::from(([127, 0, 0, 77], port));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            std::thread::spawn(move || relay(client.unwrap(), server, wrong));
        }
    });
    run(&format!(
        "soak --target {target} --backends {server} --sessions 12 --size-max 20000 \
         --session-timeout 3s"
    ))
}

fn relay(client: TcpStream, server: SocketAddr, wrong: Wrong) {
    let backend = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    backend.connect(&server.into()).unwrap();
    let backend = TcpStream::from(backend);
    let (client_reader, backend_writer) = (client.try_clone(), backend.try_clone());
    std::thread::spawn(move || {
        copy(client_reader.unwrap(), backend_writer.unwrap(), Wrong::Nothing);
    });
    copy(backend, client, wrong);
}

/// Copies one direction to its end; the wrong is done to it.
fn copy(mut from: TcpStream, mut to: TcpStream, wrong: Wrong) {
    // Swallowing: the last byte of each read goes with the next one, and the very last with none.
    let mut held = Vec::new();
    let mut buffer = [0; 4_096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        held.extend_from_slice(&buffer[..read]);
        let kept = match wrong {
            Wrong::SwallowsTheLastByte => held.split_off(held.len() - 1),
            Wrong::FlipsAByte => {
                held[read / 2] ^= 0x10;
                Vec::new()
            }
            Wrong::Nothing | Wrong::KeepsTheFin => Vec::new(),
        };
        if to.write_all(&held).is_err() {
            return;
        }
        held = kept;
    }
    match wrong {
        // Kept open, so that closing it does not send the FIN that is to be missing.
        Wrong::KeepsTheFin => std::mem::forget(to),
        // The other side may be gone already.
        _ => drop(to.shutdown(Shutdown::Write)),
    }
}

#[test]
fn an_honest_relay_passes() {
    let outcome = through(Wrong::Nothing, 23_101);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stdout);
}

#[test]
fn a_flipped_byte_is_found() {
    let outcome = through(Wrong::FlipsAByte, 23_102);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("differs"), "{}", outcome.stdout);
}

#[test]
fn a_swallowed_byte_is_found() {
    let outcome = through(Wrong::SwallowsTheLastByte, 23_103);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("FIN after"), "{}", outcome.stdout);
}

#[test]
fn a_half_close_that_is_not_forwarded_is_found() {
    let outcome = through(Wrong::KeepsTheFin, 23_104);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("not over after"), "{}", outcome.stdout);
}

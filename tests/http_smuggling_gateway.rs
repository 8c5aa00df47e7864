//! Every trick of the corpus through a running gateway, whole and in pieces: its backend sees the
//! requests that the client's bytes contain by the strict reading, and never another one.

mod gateway;
mod http_reading;
mod web;

use std::io::Write;
use std::net::Shutdown;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway::Gateway;
use http_reading::{Trick, tricks, verdict};
use web::{Web, client, ok, one_pool};

/// A gateway, and the start lines of all requests that its backend understood.
struct Bench {
    gateway: Gateway,
    seen: Arc<Mutex<Vec<String>>>,
    _web: Web,
}

impl Bench {
    fn start() -> Bench {
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let record = seen.clone();
        let web = Web::serve(move |_, mut wire| {
            wire.stream.set_read_timeout(None).unwrap();
            while let Some(message) = wire.message("") {
                record.lock().unwrap().push(message.start_line().to_owned());
                if !wire.try_send(ok("")) {
                    return;
                }
            }
        });
        let gateway = Gateway::start(&one_pool("", &[web.address], ""));
        Bench { gateway, seen, _web: web }
    }

    /// Sends a client's bytes and waits until its connection is over. What the backend saw.
    fn run(&self, pieces: &[&[u8]]) -> Vec<String> {
        self.seen.lock().unwrap().clear();
        let mut wire = client(&self.gateway);
        for piece in pieces {
            // It may have been refused after the first.
            if wire.stream.write_all(piece).is_err() {
                break;
            }
            if pieces.len() > 1 {
                std::thread::park_timeout(Duration::from_micros(50));
            }
        }
        let _gone = wire.stream.shutdown(Shutdown::Write);
        wire.rest();
        self.seen.lock().unwrap().clone()
    }
}

/// The requests that a trick contains: start lines as a backend gets them are not what the client
/// wrote (absolute forms), so only their number is told.
fn contained(trick: &Trick) -> usize {
    match trick.verdict.strip_prefix("rest:") {
        Some(rest) => {
            let behind = &trick.bytes[trick.bytes.len() - rest.parse::<usize>().unwrap()..];
            1 + usize::from(verdict(&[behind]) == "ok")
        }
        None => usize::from(trick.verdict == "ok"),
    }
}

fn check(bench: &Bench, trick: &Trick, pieces: &[&[u8]], how: &str) {
    let seen = bench.run(pieces);
    assert_eq!(seen.len(), contained(trick), "{} ({}), {how}: {seen:?}", trick.name, trick.verdict);
    for line in seen {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words.len() == 3 && words[2] == "HTTP/1.1", "{}: {line}", trick.name);
    }
}

#[test]
fn a_backend_sees_what_its_client_sent_and_nothing_else() {
    let bench = Bench::start();
    let tricks = tricks();
    assert!(tricks.len() > 200);
    for trick in &tricks {
        check(&bench, trick, &[&trick.bytes], "whole");
    }
}

#[test]
fn however_its_bytes_are_split() {
    let bench = Bench::start();
    for (index, trick) in tricks().iter().enumerate().filter(|(_, t)| t.bytes.len() < 4096) {
        let single: Vec<&[u8]> = trick.bytes.chunks(1).collect();
        if single.len() < 200 {
            check(&bench, trick, &single, "byte by byte");
        }
        // Every place for some trick, some places for every trick.
        for at in (index % 9..trick.bytes.len()).step_by(9) {
            let (first, second) = trick.bytes.split_at(at);
            check(&bench, trick, &[first, second], &format!("split at {at}"));
        }
    }
}

//! Slow readers on either side hold back the other one, and cost a bounded amount of memory.

mod gateway;
mod web;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gateway::Gateway;
use web::{Web, Wire, client, one_pool};

const BODY: u64 = 256 << 20;

/// Waits until a counter stands still. What it says then.
fn settled(counter: &AtomicU64) -> u64 {
    let mut before = u64::MAX;
    for _ in 0..200 {
        std::thread::park_timeout(Duration::from_millis(150));
        let now = counter.load(Ordering::SeqCst);
        if now == before && now > 0 {
            return now;
        }
        before = now;
    }
    panic!("never stood still");
}

fn pour(stream: &mut impl Write, count: &AtomicU64) {
    let piece = vec![b'x'; 64 * 1024];
    let mut left = BODY;
    while left > 0 {
        let n = match stream.write(&piece[..piece.len().min(left as usize)]) {
            Ok(n) => n as u64,
            Err(_) => return,
        };
        left -= n;
        count.fetch_add(n, Ordering::SeqCst);
    }
}

fn drink(stream: &mut impl Read, mut left: u64) {
    let mut bytes = vec![0; 256 * 1024];
    while left > 0 {
        let n = stream.read(&mut bytes).unwrap() as u64;
        assert!(n > 0, "{left} bytes are missing");
        left -= n;
    }
}

#[test]
fn a_client_that_reads_slowly_holds_its_backend_back() {
    let poured = Arc::new(AtomicU64::new(0));
    let count = poured.clone();
    let web = Web::serve(move |_, mut wire: Wire| {
        if wire.message("").is_some() {
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"));
            pour(&mut wire.stream, &count);
        }
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let before = gateway.resident_bytes();
    let mut wire = client(&gateway);
    wire.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let held = settled(&poured);
    assert!(held < BODY / 4, "{held} bytes were taken for a client that reads nothing");
    assert!(gateway.resident_bytes() < before + (4 << 20), "kept in memory");
    let head = wire.head().unwrap();
    assert_eq!(head.status(), 200);
    let first = wire.read.len() as u64;
    drink(&mut wire.stream, BODY - first);
    assert_eq!(poured.load(Ordering::SeqCst), BODY);
}

#[test]
fn a_backend_that_reads_slowly_holds_its_client_back() {
    let (start, started) = std::sync::mpsc::channel::<()>();
    let started = std::sync::Mutex::new(started);
    let web = Web::serve(move |_, mut wire: Wire| {
        wire.head().unwrap();
        started.lock().unwrap().recv().unwrap();
        let first = wire.read.len() as u64;
        drink(&mut wire.stream, BODY - first);
        wire.send(web::ok("all of it"));
    });
    let gateway = Gateway::start(&one_pool("max_body = \"1024MiB\"", &[web.address], ""));
    let before = gateway.resident_bytes();
    let mut wire = client(&gateway);
    wire.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY}\r\n\r\n"));
    let poured = Arc::new(AtomicU64::new(0));
    let count = poured.clone();
    let mut stream = wire.stream.try_clone().unwrap();
    let pouring = std::thread::spawn(move || pour(&mut stream, &count));
    let held = settled(&poured);
    assert!(held < BODY / 4, "{held} bytes were taken for a backend that reads nothing");
    assert!(gateway.resident_bytes() < before + (4 << 20), "kept in memory");
    start.send(()).unwrap();
    pouring.join().unwrap();
    assert_eq!(wire.message("POST").unwrap().text(), "all of it");
}

#[test]
fn idle_connections_hold_no_buffers() {
    let web = Web::named("w");
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let ask = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(client(&gateway).ask(ask).status(), 200);
    let before = gateway.resident_bytes();
    let mut clients: Vec<Wire> = (0..400).map(|_| client(&gateway)).collect();
    for wire in &mut clients {
        assert_eq!(wire.ask(ask).status(), 200);
    }
    let each = (gateway.resident_bytes().saturating_sub(before)) / 400;
    assert!(each < 4096, "{each} bytes for each idle connection");
}

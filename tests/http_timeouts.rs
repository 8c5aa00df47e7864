//! Deadlines of a request under way: each side that stands still is told apart, and nobody is cut
//! off who moves.

mod gateway;
mod web;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use gateway::Gateway;
use web::{Web, Wire, client, ok, one_pool};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const UNFINISHED: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc";

fn assert_took(begun: Instant, least_ms: u64) {
    let took = begun.elapsed();
    let span = Duration::from_millis(least_ms)..Duration::from_millis(least_ms + 4_000);
    assert!(span.contains(&took), "{took:?}");
}

fn pause() {
    std::thread::park_timeout(Duration::from_millis(150));
}

#[test]
fn an_early_response_that_moves_is_not_cut_off_by_the_body_that_does_not() {
    let web = Web::serve(|_, mut wire: Wire| {
        wire.head().unwrap();
        wire.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\n");
        for piece in ["no", " to", " it", ""] {
            pause();
            wire.send(&piece.as_bytes()[..piece.len().min(2)]);
        }
        wire.send("!!");
        wire.rest();
    });
    let gateway = Gateway::start(&one_pool("body_timeout = \"400ms\"", &[web.address], ""));
    let mut wire = client(&gateway);
    let begun = Instant::now();
    let answer = wire.ask(UNFINISHED);
    assert_eq!((answer.status(), answer.text().as_str()), (403, "no t i!!"));
    assert_took(begun, 600);
    assert_eq!(answer.field("connection"), Some("close"), "the rest of the body is not waited for");
    assert!(wire.rest().1);
    drop(wire);
    gateway.assert_end("http_closed");
}

#[test]
fn an_early_response_ends_when_neither_it_nor_the_body_moves() {
    let web = Web::serve(|_, mut wire: Wire| {
        wire.head().unwrap();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
        wire.rest();
    });
    let gateway = Gateway::start(&one_pool("body_timeout = \"400ms\"", &[web.address], ""));
    let mut wire = client(&gateway);
    let begun = Instant::now();
    wire.send(UNFINISHED);
    let (bytes, fin) = wire.rest();
    assert!(!fin, "looks whole: {}", String::from_utf8_lossy(&bytes));
    assert_took(begun, 400);
    gateway.assert_end("http_body_timeout");
}

#[test]
fn a_body_that_moves_keeps_a_backend_that_has_not_answered() {
    let web = Web::answering(|message| ok(&message.text()));
    let http = "body_timeout = \"400ms\"\nbackend = { read_timeout = \"200ms\" }";
    let gateway = Gateway::start(&one_pool(http, &[web.address], ""));
    let mut wire = client(&gateway);
    wire.send(UNFINISHED);
    for piece in ["d", "e", "f", "g", "h", "i"] {
        pause();
        wire.send(piece);
    }
    assert_eq!(wire.message("POST").unwrap().text(), "abcdefghi");
}

#[test]
fn a_backend_that_takes_nothing_of_a_request_is_given_up() {
    // Reads not one byte.
    let held = Mutex::new(Vec::new());
    let web = Web::serve(move |_, wire: Wire| held.lock().unwrap().push(wire));
    let http =
        "max_body = \"1024MiB\"\nbackend = { send_timeout = \"500ms\", read_timeout = \"1h\" }";
    let other = SocketAddr::new([127, 0, 0, 2].into(), web.address.port());
    let gateway = Gateway::start(&one_pool(http, &[web.address, other], "retries = 1"));
    let mut wire = client(&gateway);
    wire.stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let begun = Instant::now();
    wire.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n");
    let mut sender = Wire::new(wire.stream.try_clone().unwrap());
    let sending = std::thread::spawn(move || while sender.try_send([b'x'; 65_536]) {});
    let answer = wire.message("PUT").expect("an answer");
    assert_eq!((answer.status(), answer.field("connection")), (504, Some("close")));
    assert_took(begun, 500);
    // Part of the body has gone: nobody else is asked.
    assert_eq!(web.connections(), 1);
    wire.stream.shutdown(std::net::Shutdown::Both).unwrap();
    sending.join().unwrap();
    gateway.assert_end("http_backend_send_timeout");
    let failures =
        "corelane_http_failures_total{listener=\"web\",reason=\"http_backend_send_timeout\"}";
    assert_eq!(gateway.metric(failures), 1.0);
}

#[test]
fn a_response_head_that_does_not_come_or_stops_is_a_504() {
    for beginning in ["", "HTTP/1.1 200 OK\r\nContent-", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let web = Web::serve(move |_, mut wire: Wire| {
            wire.head().unwrap();
            wire.send(beginning);
            wire.rest();
        });
        let http = "backend = { read_timeout = \"400ms\" }";
        let gateway = Gateway::start(&one_pool(http, &[web.address], ""));
        let mut wire = client(&gateway);
        let begun = Instant::now();
        wire.send(GET);
        let mut answer = wire.message("GET").expect("an answer");
        if answer.status() == 100 {
            answer = wire.message("GET").expect("an answer");
        }
        assert_eq!(answer.status(), 504, "{beginning:?}");
        assert_took(begun, 400);
        // It would be listened to for a while.
        drop(wire);
        gateway.assert_end("http_read_timeout");
    }
}

#[test]
fn a_response_body_that_stops_does_not_look_whole() {
    let web = Web::serve(|_, mut wire: Wire| {
        wire.head().unwrap();
        wire.send("HTTP/1.1 200 OK\r\n\r\nhalf");
        wire.rest();
    });
    let http = "backend = { read_timeout = \"400ms\" }";
    let gateway = Gateway::start(&one_pool(http, &[web.address], ""));
    let mut wire = client(&gateway);
    wire.send(GET);
    let (bytes, fin) = wire.rest();
    assert!(!fin, "looks whole: {}", String::from_utf8_lossy(&bytes));
    gateway.assert_end("http_read_timeout");
}

//! Backends that are not there, die, stall or talk nonsense, and clients that do: what is tried
//! again, what is answered, and what is cut so that nobody takes it for whole.

mod gateway;
mod web;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gateway::Gateway;
use gateway::backend::deaf;
use web::{Web, Wire, client, eventually, ok, one_pool};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
const PUT: &str = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";

/// Nobody listens there.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// One that reads a request and closes, and how many it got.
fn mute() -> (Web, Arc<Mutex<Vec<String>>>) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let record = seen.clone();
    let web = Web::serve(move |_, mut wire| {
        if let Some(message) = wire.message("") {
            record.lock().unwrap().push(message.start_line().to_owned() + &message.text());
        }
    });
    (web, seen)
}

#[test]
fn a_refused_connection_is_tried_elsewhere_whatever_the_request() {
    let web = Web::named("w");
    let gateway = Gateway::start(&one_pool("", &[nobody(), web.address], "retries = 1"));
    for request in [GET, POST, PUT] {
        let mut client = client(&gateway);
        assert_eq!(client.ask(request).status(), 200, "{request}");
    }
    let gateway = Gateway::start(&one_pool("", &[nobody()], ""));
    let mut client = client(&gateway);
    let answer = client.ask(POST);
    assert_eq!((answer.status(), answer.field("connection")), (502, Some("close")));
    assert!(client.rest().1);
    assert_eq!(gateway.assert_end("connect_refused")["attempts"], 1);
}

/// A rule chooses its status for a pool without a backend to use, and for no other trouble.
#[test]
fn what_a_client_is_told_of_backends_that_cannot_be_had() {
    let (silent, _held) = deaf("127.0.0.1:0".parse().unwrap());
    let pool = "connect_timeout = \"300ms\"";
    let config = |backend: &str, pool: &str| {
        let toml = one_pool("", &[nobody()], pool)
            .replace("pool = \"p\"", "pool = \"p\"\nunavailable = 503");
        let start = toml.find("backends = [").unwrap();
        let end = start + toml[start..].find('\n').unwrap();
        toml.replace(&toml[start..end], &format!("backends = [{backend}]"))
    };
    let down = format!("{{ address = \"{}\", state = \"down\" }}", nobody());
    for (backend, status, end) in [
        (format!("\"{}\"", nobody()), 502, "connect_refused"),
        (format!("\"{silent}\""), 504, "connect_timeout"),
        (down, 503, "backend_down"),
    ] {
        let gateway = Gateway::start(&config(&backend, pool));
        assert_eq!(client(&gateway).ask(GET).status(), status, "{end}");
        gateway.assert_end(end);
    }
}

#[test]
fn only_what_may_be_repeated_is_sent_twice() {
    for (request, repeated) in [(GET, true), (PUT, true), (POST, false)] {
        let (first, seen_first) = mute();
        let (second, seen_second) = mute();
        let third = Web::named("w");
        let backends = [first.address, second.address, third.address];
        let gateway = Gateway::start(&one_pool("", &backends, "retries = 2"));
        let answer = client(&gateway).ask(request);
        let (one, two) = (seen_first.lock().unwrap().clone(), seen_second.lock().unwrap().clone());
        if repeated {
            assert_eq!(answer.status(), 200, "{request}");
            assert_eq!((one.len(), two.len(), third.seen().len()), (1, 1, 1), "{request}");
            assert_eq!(one, two, "the same, body and all");
        } else {
            assert_eq!(answer.status(), 502, "{request}");
            assert_eq!((one.len(), two.len(), third.seen().len()), (1, 0, 0), "{request}");
            let line = gateway.assert_end("http_unanswered");
            assert_eq!(line["attempts"], 1);
        }
    }
    // No more often than configured.
    let (first, seen_first) = mute();
    let gateway = Gateway::start(&one_pool("", &[first.address, first.address.ip_any()], ""));
    assert_eq!(client(&gateway).ask(GET).status(), 502);
    assert_eq!(seen_first.lock().unwrap().len(), 1);
}

trait AnyIp {
    fn ip_any(self) -> SocketAddr;
}

impl AnyIp for SocketAddr {
    /// The same port on another address of this machine.
    fn ip_any(self) -> SocketAddr {
        SocketAddr::new([127, 0, 0, 2].into(), self.port())
    }
}

#[test]
fn a_body_that_has_gone_is_not_sent_again() {
    let (first, seen) = mute();
    let second = Web::named("w");
    let http = "backend = { idle = 0 }";
    let gateway = Gateway::start(&one_pool(http, &[first.address, second.address], "retries = 1"));
    let mut client = client(&gateway);
    let body = "x".repeat(100_000);
    client.send(format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()));
    for piece in body.as_bytes().chunks(10_000) {
        client.send(piece);
        std::thread::park_timeout(Duration::from_millis(2));
    }
    assert_eq!(client.message("PUT").unwrap().status(), 502);
    assert_eq!((seen.lock().unwrap().len(), second.seen().len()), (1, 0));
}

#[test]
fn a_kept_connection_that_closes_under_a_request_is_replaced_if_that_is_safe() {
    // The second request of each connection meets a close.
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let web = Web::serve(move |_, mut wire| {
        if wire.message("").is_some() {
            wire.send(ok("first"));
        }
        if wire.message("").is_some() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut wire = client(&gateway);
    assert_eq!(wire.ask(GET).text(), "first");
    assert_eq!(wire.ask(GET).text(), "first", "on a new connection");
    assert_eq!((web.connections(), count.load(Ordering::SeqCst)), (2, 1));
    assert_eq!(wire.ask(POST).status(), 502, "it may have been done");
    assert_eq!((web.connections(), count.load(Ordering::SeqCst)), (2, 2));
}

#[test]
fn a_response_that_breaks_off_does_not_look_whole() {
    let answers: [&'static [u8]; 3] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalfX",
    ];
    for bytes in answers {
        let web = Web::serve(move |_, mut wire| {
            if wire.message("").is_some() {
                wire.send(bytes);
                // Let the head pass before the end comes.
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        let gateway = Gateway::start(&one_pool("", &[web.address], "retries = 3"));
        let mut wire = client(&gateway);
        wire.send(GET);
        let (bytes, fin) = wire.rest();
        let text = String::from_utf8(bytes).unwrap();
        assert!(!fin || !text.contains("200 OK"), "looks whole: {text}");
        assert_eq!(web.connections(), 1, "an answer had begun");
    }
}

#[test]
fn an_answer_that_is_none_is_a_502() {
    let answers: [&'static [u8]; 5] = [
        b"SSH-2.0-nothing\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ];
    for bytes in answers {
        let web = Web::serve(move |_, mut wire| {
            if wire.message("").is_some() {
                wire.send(bytes);
                wire.rest();
            }
        });
        let gateway = Gateway::start(&one_pool("", &[web.address], "retries = 2"));
        let mut wire = client(&gateway);
        let what = String::from_utf8_lossy(bytes);
        assert_eq!(wire.ask(GET).status(), 502, "{what}");
        assert!(wire.rest().1);
        drop(wire);
        assert_eq!(web.connections(), 1, "said once, not asked again: {what}");
        gateway.assert_end("http_response_invalid");
    }
}

#[test]
fn every_wait_has_its_end() {
    let silent = Web::serve(|_, mut wire| {
        wire.rest();
    });
    let http = "head_timeout = \"1s\"\nbody_timeout = \"1s\"\nidle_timeout = \"2s\"\n\
                backend = { read_timeout = \"1s\" }";
    let gateway = Gateway::start(&one_pool(http, &[silent.address], ""));
    let took = |begun: Instant, least_s: u64| {
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(least_s), "{took:?}");
    };
    let begun = Instant::now();
    let mut wire = client(&gateway);
    assert_eq!(wire.ask(GET).status(), 504);
    took(begun, 1);
    let mut wire = client(&gateway);
    let begun = Instant::now();
    assert_eq!(wire.ask("GET / HTTP/1.1\r\nHost:").status(), 408);
    took(begun, 1);
    let mut wire = client(&gateway);
    let begun = Instant::now();
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(wire.ask(head).status(), 408);
    took(begun, 1);
    let mut wire = client(&gateway);
    let begun = Instant::now();
    assert_eq!(wire.rest(), (Vec::new(), true));
    took(begun, 2);
    let mut ends: Vec<String> = gateway
        .session_lines(4)
        .iter()
        .map(|line| line["end"].as_str().unwrap().to_owned())
        .collect();
    ends.sort();
    assert_eq!(ends, ["http_body_timeout", "http_head_timeout", "http_idle", "http_read_timeout"]);
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let gone = Arc::new(AtomicUsize::new(0));
    let count = gone.clone();
    let web = Web::serve(move |_, mut wire: Wire| {
        wire.head().unwrap();
        wire.rest();
        count.fetch_add(1, Ordering::SeqCst);
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    // While its answer is awaited.
    let mut wire = client(&gateway);
    wire.send(GET);
    eventually("the request arrives", || web.connections() == 1);
    wire.reset();
    eventually("the backend is told", || gone.load(Ordering::SeqCst) == 1);
    // Within its body.
    let mut wire = client(&gateway);
    wire.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc");
    eventually("the request arrives", || web.connections() == 2);
    drop(wire);
    eventually("the backend is told", || gone.load(Ordering::SeqCst) == 2);
    let lines = gateway.session_lines(2);
    let ends: Vec<&str> = lines.iter().map(|line| line["end"].as_str().unwrap()).collect();
    assert_eq!(ends, ["client_reset", "http_truncated"]);
    let active = "corelane_backend_connections_active{pool=\"p\",backend=\"";
    gateway.wait_metric(&format!("{active}{}\"}}", web.address), 0.0);
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let web = Web::answering(|_| {
        std::thread::park_timeout(Duration::from_millis(100));
        ok("late")
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut wire = client(&gateway);
    wire.send(GET);
    wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(wire.message("GET").unwrap().text(), "late");
    assert!(wire.rest().1);
}

//! Backends of http listeners inside TLS: connections that are kept, ends that are believed, what
//! is tried again.

mod gateway;
mod tls;
mod web;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gateway::Gateway;
use tls::{Authority, ClientSettings, Files, TlsBackend, finish_backend, tls_table};
use tokio_rustls::rustls::ServerConfig;
use web::{Message, Web, Wire, client, ok, one_pool};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";

/// An authority, and what a backend called `b.test` needs.
fn believed() -> (Authority, Arc<ServerConfig>, Files) {
    let authority = Authority::new("test");
    let files = authority.sign("b", &["b.test"]);
    let config = authority.server(&files, false);
    (authority, config, files)
}

fn pool(authority: &Authority, keys: &str) -> String {
    let ca_file = authority.ca_file();
    format!("{keys}\n[pool.p.tls]\nserver_name = \"b.test\"\nca_file = \"{ca_file}\"\n")
}

fn serve(
    config: &Arc<ServerConfig>,
    serve: impl Fn(usize, Wire<TlsBackend>) + Send + Sync + 'static,
) -> Web {
    let config = config.clone();
    Web::serve_inside(move |socket| tls::accept(socket, &config), serve)
}

fn answering(
    config: &Arc<ServerConfig>,
    answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
) -> Web {
    let config = config.clone();
    Web::answering_inside(move |socket| tls::accept(socket, &config), answer)
}

/// A gateway with plain clients.
fn start(authority: &Authority, backends: &[SocketAddr], keys: &str) -> Gateway {
    Gateway::start(&one_pool("", backends, &pool(authority, keys)))
}

#[test]
fn connections_are_kept_for_plain_clients_and_for_those_inside_tls() {
    let (authority, config, _) = believed();
    let front = authority.sign("a", &["a.test"]);
    let web = answering(&config, |message| ok(message.start_line()));
    let toml = one_pool("", &[web.address], &pool(&authority, ""));
    let second = toml.replace("\"web\"", "\"secure\"");
    let second = second.split("[[listener]]").nth(1).unwrap().split("[pool.p]").next().unwrap();
    let table = tls_table("", &[&front]) + "[listener.http]";
    let second = second.replace("[listener.http]", &table);
    let gateway = Gateway::start(&format!("{toml}\n[[listener]]{second}"));
    let trusting = authority.client(&ClientSettings::default());
    for n in 0..4 {
        let request = format!("GET /{n} HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut wire = client(&gateway);
        assert_eq!(wire.ask(&request).text(), format!("GET /{n} HTTP/1.1"));
        let secure = tls::client(gateway.address("secure"), "a.test", &trusting);
        let mut secure = Wire::over(secure);
        assert_eq!(secure.ask(&request).text(), format!("GET /{n} HTTP/1.1"));
        assert_eq!(secure.ask(POST).text(), "POST / HTTP/1.1");
    }
    assert_eq!(web.connections(), 1);
    assert_eq!(gateway.metric("corelane_http_backend_connections_reused_total"), 11.0);
}

#[test]
fn a_body_that_ends_with_its_connection_is_whole_after_close_notify_only() {
    for whole in [true, false] {
        let (authority, config, _) = believed();
        let web = serve(&config, move |_, mut wire| {
            if wire.message("").is_some() {
                wire.send("HTTP/1.1 200 OK\r\n\r\nall there is");
                std::thread::park_timeout(Duration::from_millis(50));
                if whole {
                    finish_backend(&mut wire.stream);
                }
            }
        });
        let gateway = start(&authority, &[web.address], "");
        let mut wire = client(&gateway);
        wire.send(GET);
        let (bytes, fin) = wire.rest();
        let text = String::from_utf8(bytes).unwrap();
        if whole {
            assert!(fin && text.contains("all there is"), "{text}");
            // Chunked for a client of 1.1: the last chunk tells the end.
            gateway.assert_end("http_closed");
        } else {
            assert!(!fin && !text.ends_with("0\r\n\r\n"), "looks whole: {text}");
            gateway.assert_end("http_response_truncated");
        }
    }
}

/// A backend that reads a request and closes, with close_notify or without.
fn mute(config: &Arc<ServerConfig>, polite: bool) -> (Web, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let web = serve(config, move |_, mut wire| {
        if wire.message("").is_some() {
            count.fetch_add(1, Ordering::SeqCst);
            if polite {
                finish_backend(&mut wire.stream);
            }
        }
    });
    (web, seen)
}

#[test]
fn what_a_backend_may_have_seen_is_sent_twice_only_if_that_is_safe() {
    for polite in [true, false] {
        for (request, repeated) in [(GET, true), (POST, false)] {
            let (authority, config, _) = believed();
            let (first, seen) = mute(&config, polite);
            let second = answering(&config, |_| ok("second"));
            let gateway = start(&authority, &[first.address, second.address], "retries = 1");
            let answer = client(&gateway).ask(request);
            assert_eq!(answer.status(), if repeated { 200 } else { 502 }, "{request}");
            let others = usize::from(repeated);
            assert_eq!((seen.load(Ordering::SeqCst), second.seen().len()), (1, others));
        }
    }
}

#[test]
fn who_is_not_believed_gets_no_request_and_another_does() {
    let (authority, config, _) = believed();
    let wrong = authority.sign("c", &["c.test"]);
    let unbelieved = answering(&authority.server(&wrong, false), |_| ok("wrong"));
    let plain = Web::named("plain");
    let web = answering(&config, |_| ok("right"));
    let backends = [unbelieved.address, plain.address, web.address];
    let gateway = start(&authority, &backends, "retries = 2\nconnect_timeout = \"500ms\"");
    assert_eq!(client(&gateway).ask(POST).text(), "right");
    assert_eq!((unbelieved.seen().len(), web.seen().len()), (0, 1));
    let gateway = start(&authority, &[unbelieved.address], "");
    assert_eq!(client(&gateway).ask(POST).status(), 502);
    gateway.assert_end("connect_certificate");
}

#[test]
fn a_kept_connection_that_closes_under_a_request_is_replaced_if_that_is_safe() {
    let (authority, config, _) = believed();
    // The second request of each connection meets a close.
    let web = serve(&config, |_, mut wire| {
        if wire.message("").is_some() {
            wire.send(ok("first"));
            wire.message("");
        }
    });
    let gateway = start(&authority, &[web.address], "");
    let mut wire = client(&gateway);
    assert_eq!(wire.ask(GET).text(), "first");
    assert_eq!(wire.ask(GET).text(), "first", "on a new connection");
    assert_eq!(web.connections(), 2);
    assert_eq!(wire.ask(POST).status(), 502, "it may have been done");
    assert_eq!(web.connections(), 2);
}

/// Its close_notify has come with the response: whoever gets such a connection gets no answer.
#[test]
fn a_connection_that_has_said_its_end_is_not_kept() {
    let (authority, config, _) = believed();
    let web = serve(&config, |_, mut wire| {
        while wire.message("").is_some() {
            // In one segment, and no FIN yet.
            wire.stream.conn.writer().write_all(&ok("page")).unwrap();
            wire.stream.conn.send_close_notify();
            wire.stream.flush().unwrap();
        }
    });
    let gateway = start(&authority, &[web.address], "");
    let mut wire = client(&gateway);
    for n in 1..=3 {
        assert_eq!(wire.ask(POST).text(), "page");
        assert_eq!(web.connections(), n);
    }
}

#[test]
fn large_bodies_pass_both_ways_between_tls_and_tls() {
    const BODY: usize = 8 << 20;
    let (authority, config, _) = believed();
    let front = authority.sign("a", &["a.test"]);
    let web = answering(&config, |message| ok(&message.text()));
    let toml = one_pool("max_body = \"16MiB\"", &[web.address], &pool(&authority, ""));
    let table = tls_table("", &[&front]) + "[listener.http]";
    let gateway = Gateway::start(&toml.replace("[listener.http]", &table));
    let trusting = authority.client(&ClientSettings::default());
    let mut wire = Wire::over(tls::client(gateway.address("web"), "a.test", &trusting));
    let body: String = (0..BODY).map(|n| char::from(b'a' + (n / 7 % 26) as u8)).collect();
    for _ in 0..2 {
        wire.send(format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY}\r\n\r\n{body}"));
        assert!(wire.message("PUT").unwrap().text() == body, "the same comes back");
    }
    assert_eq!(web.connections(), 1);
}

#[test]
fn an_upgrade_loses_no_byte_between_tls_and_tls() {
    let (authority, config, _) = believed();
    let front = authority.sign("a", &["a.test"]);
    let web = serve(&config, |_, mut wire| {
        wire.head().unwrap();
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nbehind the 101",
        );
        assert_eq!(wire.bytes(5), b"eager");
        let message = wire.bytes(1 << 20);
        wire.send(message);
        finish_backend(&mut wire.stream);
        assert_eq!(wire.rest(), (b"bye".to_vec(), true));
    });
    let toml = one_pool("", &[web.address], &pool(&authority, ""));
    let table = tls_table("", &[&front]) + "[listener.http]";
    let gateway = Gateway::start(&toml.replace("[listener.http]", &table));
    let trusting = authority.client(&ClientSettings::default());
    let mut wire = Wire::over(tls::client(gateway.address("web"), "a.test", &trusting));
    wire.send(
        "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\neager",
    );
    assert_eq!(wire.head().unwrap().status(), 101);
    assert_eq!(wire.bytes(14), b"behind the 101");
    let message: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 241) as u8).collect();
    wire.send(&message);
    assert_eq!(wire.bytes(message.len()), message);
    assert_eq!(wire.stream.read(&mut [0; 1]).expect("close_notify"), 0);
    wire.send("bye");
    tls::finish(&mut wire.stream);
    gateway.assert_end("backend_fin");
}

#[test]
fn a_backend_that_never_answers_the_handshake_is_given_up() {
    let (authority, config, _) = believed();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let web = answering(&config, |_| ok("right"));
    let backends = [silent.local_addr().unwrap(), web.address];
    let gateway = start(&authority, &backends, "retries = 1\nconnect_timeout = \"300ms\"");
    assert_eq!(client(&gateway).ask(POST).text(), "right");
    assert_eq!(web.seen().len(), 1);
}

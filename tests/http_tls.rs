//! https and wss: the rules of HTTP hold inside TLS, and those of TLS around HTTP.

mod gateway;
mod tls;
mod web;

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gateway::Gateway;
use tls::{Authority, ClientSettings, TlsClient, finish, tls_table};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use web::{Web, Wire, eventually, ok, one_pool};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                        Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A gateway whose http listener is inside TLS; `tls` holds further keys of that.
fn secured(http: &str, backend: SocketAddr, (tls, pool): (&str, &str)) -> (Gateway, Authority) {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let keys = tls.replace("CA", &authority.ca_file());
    let toml = one_pool(http, &[backend], pool);
    let toml = toml.replace("[listener.http]", &(tls_table(&keys, &[&files]) + "[listener.http]"));
    (Gateway::start(&toml), authority)
}

fn simple(http: &str, backend: SocketAddr) -> (Gateway, Authority) {
    secured(http, backend, ("", ""))
}

fn connected(gateway: &Gateway, authority: &Authority) -> Wire<TlsClient> {
    let config = authority.client(&ClientSettings::default());
    Wire::over(tls::client(gateway.address("web"), "a.test", &config))
}

#[test]
fn requests_follow_each_other_and_backends_are_told_of_https() {
    let web = Web::named("w");
    let http = "forward = { forwarded = \"set\", headers = { X-Told = \"{scheme}\" } }\n\
                access_log = { format = \"$scheme $status\" }\n";
    let (gateway, authority) = simple(http, web.address);
    for version in [&TLS12, &TLS13] {
        let settings = ClientSettings { versions: &[version], ..ClientSettings::default() };
        let config = authority.client(&settings);
        let client = tls::client(gateway.address("web"), "a.test", &config);
        let mut wire = Wire::over(client);
        for n in 0..5 {
            let answer = wire.ask(&format!("GET /{n} HTTP/1.1\r\nHost: h\r\n\r\n"));
            assert_eq!(answer.text(), format!("w GET /{n} HTTP/1.1 "));
        }
        let answer = wire.ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(answer.text(), "w POST / HTTP/1.1 abc");
    }
    for message in web.seen() {
        assert_eq!(message.field("x-forwarded-proto"), Some("https"));
        assert_eq!(message.field("x-told"), Some("https"));
        let forwarded = message.field("forwarded").unwrap();
        assert!(forwarded.contains("proto=https"), "{forwarded}");
    }
    assert_eq!(web.connections(), 1, "kept for the second client as well");
    gateway.sessions.wait("lines of the access log", |lines| {
        (lines.iter().filter(|line| *line == "https 200").count() == 12).then_some(())
    });
}

#[test]
fn pipelined_requests_in_any_records_are_answered_in_order() {
    let web = Web::named("w");
    let (gateway, authority) = simple("", web.address);
    let requests: String = (0..20)
        .map(|n| {
            format!("POST /{n} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nbody{}", n % 10)
        })
        .collect();
    for record_len in [requests.len(), 1, 7, 100] {
        let mut wire = connected(&gateway, &authority);
        for piece in requests.as_bytes().chunks(record_len) {
            wire.send(piece);
        }
        for n in 0..20 {
            let text = wire.message("POST").expect("an answer").text();
            assert_eq!(text, format!("w POST /{n} HTTP/1.1 body{}", n % 10), "{record_len}");
        }
    }
}

/// Waits until a counter stands still. What it says then.
fn settled(counter: &AtomicU64) -> u64 {
    settled_by(|| counter.load(Ordering::SeqCst))
}

fn settled_by(count: impl Fn() -> u64) -> u64 {
    let mut before = u64::MAX;
    loop {
        std::thread::park_timeout(Duration::from_millis(150));
        let now = count();
        if now == before && now > 0 {
            return now;
        }
        before = now;
    }
}

#[test]
fn a_client_that_reads_slowly_holds_its_backend_back() {
    const BODY: u64 = 48 << 20;
    let poured = Arc::new(AtomicU64::new(0));
    let count = poured.clone();
    let web = Web::serve(move |_, mut wire: Wire| {
        if wire.message("").is_some() {
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"));
            let piece = vec![b'x'; 64 * 1024];
            while count.load(Ordering::SeqCst) < BODY && wire.try_send(&piece) {
                count.fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
        }
    });
    let (gateway, authority) = simple("", web.address);
    let before = gateway.resident_bytes();
    let mut wire = connected(&gateway, &authority);
    wire.send(GET);
    let held = settled(&poured);
    assert!(held < BODY / 2, "{held} bytes were taken for a client that reads nothing");
    assert!(gateway.resident_bytes() < before + (4 << 20), "kept in memory");
    assert_eq!(wire.message("GET").unwrap().body.len() as u64, BODY);
}

#[test]
fn a_backend_that_reads_slowly_holds_its_client_back() {
    const BODY: u64 = 48 << 20;
    let (start, started) = std::sync::mpsc::channel::<()>();
    let started = std::sync::Mutex::new(started);
    let web = Web::serve(move |_, mut wire: Wire| {
        let head = wire.head().unwrap();
        assert_eq!(head.field("content-length"), Some("50331648"));
        started.lock().unwrap().recv().unwrap();
        wire.bytes(BODY as usize);
        wire.send(ok("all of it"));
    });
    let (gateway, authority) = simple("max_body = \"64MiB\"", web.address);
    let before = gateway.resident_bytes();
    let poured = Arc::new(AtomicU64::new(0));
    let count = poured.clone();
    let mut wire = connected(&gateway, &authority);
    let pouring = std::thread::spawn(move || {
        wire.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY}\r\n\r\n"));
        let piece = vec![b'x'; 16 * 1024];
        while count.load(Ordering::SeqCst) < BODY {
            wire.send(&piece);
            count.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
        wire.message("POST").unwrap().text()
    });
    let held = settled(&poured);
    assert!(held < BODY / 2, "{held} bytes were taken for a backend that reads nothing");
    assert!(gateway.resident_bytes() < before + (4 << 20), "kept in memory");
    start.send(()).unwrap();
    assert_eq!(pouring.join().unwrap(), "all of it");
}

/// The end of a response may wait in records for room in the socket when the connection is over.
#[test]
fn the_last_response_of_a_connection_is_whole_for_slow_readers() {
    let web = Web::answering(|message| {
        let len: usize = message.start_line().split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
        [head.as_bytes(), &vec![b'y'; len]].concat()
    });
    let (gateway, authority) = simple("", web.address);
    let ask = |len: u64| {
        let mut wire = connected(&gateway, &authority);
        wire.send(format!("GET /{len} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
        wire
    };
    // How much is taken for a client that reads nothing.
    let wire = ask(32 << 20);
    let sent = "corelane_bytes_total{listener=\"web\",direction=\"out\"}";
    let held = settled_by(|| gateway.metric(sent) as u64);
    reset(wire.stream.sock);
    // Of some of these the last bytes are records that wait for room.
    let waiting: Vec<_> =
        (0..24).map(|n| held - (256 << 10) + n * (12 << 10)).map(|len| (len, ask(len))).collect();
    std::thread::park_timeout(Duration::from_millis(500));
    for (len, mut wire) in waiting {
        let answer = wire.message("GET").unwrap_or_else(|| panic!("{len} bytes broke off"));
        assert_eq!(answer.body.len() as u64, len);
        assert_eq!(wire.rest(), (Vec::new(), true), "close_notify");
    }
}

#[test]
fn after_a_101_both_sides_are_raw_and_no_byte_is_lost() {
    let web = Web::serve(|_, mut wire| {
        wire.head().unwrap();
        wire.send(format!("{SWITCHED}hello from behind the 101"));
        assert_eq!(wire.bytes(5), b"eager");
        wire.send("eager, too");
        for size in [1, 100, 5_000, 1 << 20] {
            let bytes = wire.bytes(size);
            wire.send(bytes);
        }
        assert!(wire.rest().1, "a close_notify is a FIN here");
        wire.send("the last word");
    });
    let (gateway, authority) = simple("", web.address);
    let mut wire = connected(&gateway, &authority);
    wire.send(format!("{UPGRADE}eager"));
    assert_eq!(wire.head().unwrap().status(), 101);
    assert_eq!(wire.bytes(25), b"hello from behind the 101");
    assert_eq!(wire.bytes(10), b"eager, too");
    for size in [1, 100, 5_000, 1 << 20] {
        let message: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        wire.send(&message);
        assert_eq!(wire.bytes(message.len()), message);
    }
    finish(&mut wire.stream);
    assert_eq!(wire.rest(), (b"the last word".to_vec(), true));
    gateway.assert_end("client_fin");
}

#[test]
fn ends_are_told_by_close_notify_and_their_lack_is_noticed() {
    let web = Web::answering(|_| {
        std::thread::park_timeout(Duration::from_millis(50));
        ok("late")
    });
    let (gateway, authority) = simple("idle_timeout = \"500ms\"", web.address);
    // One that has said that it sends no more is answered.
    let mut wire = connected(&gateway, &authority);
    wire.send(GET);
    finish(&mut wire.stream);
    assert_eq!(wire.message("GET").unwrap().text(), "late");
    assert!(wire.rest().1, "close_notify");
    // One that wants no more connection.
    let mut wire = connected(&gateway, &authority);
    assert_eq!(wire.ask("GET / HTTP/1.0\r\nHost: h\r\n\r\n").text(), "late");
    assert!(wire.rest().1, "close_notify");
    // One that says nothing.
    let mut wire = connected(&gateway, &authority);
    assert_eq!(wire.rest(), (Vec::new(), true));
    let ends = |count| {
        let lines = gateway.session_lines(count);
        lines[count - 1]["end"].as_str().unwrap().to_owned()
    };
    assert_eq!(ends(3), "http_idle");
    // Between requests nothing can be missing, within one it may.
    for (request, end) in [
        (GET, "client_fin"),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc", "client_truncated"),
        ("POST / HTTP/1.1\r\nHost:", "client_truncated"),
    ] {
        let count = gateway.sessions.all().len() + 1;
        let mut wire = connected(&gateway, &authority);
        wire.send(request);
        if request == GET {
            assert_eq!(wire.message("GET").unwrap().text(), "late");
        }
        wire.stream.sock.shutdown(Shutdown::Write).unwrap();
        wire.rest();
        assert_eq!(ends(count), end, "{request}");
    }
}

#[test]
fn who_must_show_a_certificate_and_does_not_sends_no_request() {
    let web = Web::named("w");
    let keys = "client_certificates = \"required\"\nclient_ca_file = \"CA\"";
    let (gateway, authority) = secured("", web.address, (keys, ""));
    let good = authority.sign("good", &["device-1"]);
    let other = Authority::new("other");
    let bad = other.sign("bad", &["device-1"]);
    for (identity, served) in [(Some(&good), true), (Some(&bad), false), (None, false)] {
        let settings = ClientSettings { identity, ..ClientSettings::default() };
        let config = authority.client(&settings);
        let answer = tls::try_client(gateway.address("web"), "a.test", &config).map(Wire::over);
        let answer = answer.ok().and_then(|mut wire| {
            // With TLS 1.3 the client hears of a refusal only now.
            wire.try_send(GET).then(|| wire.message("GET")).flatten()
        });
        assert_eq!(answer.map(|answer| answer.status()), served.then_some(200));
    }
    gateway.wait_metric(
        "corelane_tls_handshake_failures_total{listener=\"web\",reason=\"tls_certificate\"}",
        2.0,
    );
    assert_eq!(web.seen().len(), 1);
}

fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn resets_are_noticed_and_passed_on() {
    let gone = Arc::new(AtomicUsize::new(0));
    let count = gone.clone();
    let web = Web::serve(move |number, mut wire: Wire| {
        wire.head().unwrap();
        if number == 0 {
            wire.rest();
            count.fetch_add(1, Ordering::SeqCst);
            return;
        }
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        std::thread::park_timeout(Duration::from_millis(50));
        wire.reset();
    });
    let (gateway, authority) = simple("", web.address);
    let mut wire = connected(&gateway, &authority);
    wire.send(GET);
    eventually("the request arrives", || web.connections() == 1);
    reset(wire.stream.sock);
    eventually("the backend is told", || gone.load(Ordering::SeqCst) == 1);
    let mut wire = connected(&gateway, &authority);
    wire.send(GET);
    let (bytes, whole) = wire.rest();
    assert!(!whole, "looks whole: {}", String::from_utf8_lossy(&bytes));
    let lines = gateway.session_lines(2);
    let ends: Vec<&str> = lines.iter().map(|line| line["end"].as_str().unwrap()).collect();
    assert_eq!(ends, ["client_reset", "http_response_truncated"]);
}

#[test]
fn a_client_that_takes_no_more_of_its_answer_is_given_up() {
    let web = Web::answering(|_| ok(&"z".repeat(24 << 20)));
    let (gateway, authority) = simple("send_timeout = \"400ms\"", web.address);
    let mut wire = connected(&gateway, &authority);
    let begun = Instant::now();
    wire.send(GET);
    gateway.assert_end("http_send_timeout");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(!wire.rest().1, "what broke off does not look whole");
}

#[test]
fn a_broken_record_ends_the_connection() {
    let web = Web::named("w");
    let (gateway, authority) = simple("", web.address);
    let mut wire = connected(&gateway, &authority);
    assert_eq!(wire.ask(GET).status(), 200);
    wire.stream.sock.write_all(&[&[23, 3, 3, 0, 40][..], &[0; 40]].concat()).unwrap();
    assert!(!wire.rest().1);
    gateway.assert_end("client_tls");
}

#[test]
fn explain_knows_that_clients_are_inside_tls() {
    let (gateway, _authority) = simple("", ([127, 0, 0, 1], 1).into());
    let file = gateway.directory().join("corelane.toml");
    let head = gateway.directory().join("head");
    let text = std::fs::read_to_string(&file).unwrap();
    let keyed = text.replace("pool = \"p\"", "pool = \"p\"\nkey = \"{scheme}-{host}\"");
    std::fs::write(&file, keyed.replace("round_robin", "maglev")).unwrap();
    std::fs::write(&head, GET).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_corelane"))
        .args(["explain".as_ref(), "-c".as_ref(), file.as_os_str()])
        .args(["--http".as_ref(), head.as_os_str()])
        .output()
        .unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("= https-h\n"), "{page}\n{}", String::from_utf8_lossy(&output.stderr));
}

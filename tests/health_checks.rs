//! Checks of real listeners: each way of being ill is told by its name, and a verdict changes only
//! after as many checks in a row as the configuration says.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use corelane::config::{self, Environment};
use corelane::health::Outcome;
use corelane::health::checker::{CHECKS_MAX, Checkers, Flip};
use corelane::table::{Layout, Table};
use tokio::sync::{mpsc, watch};

/// Nothing here takes longer, on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// A listener that does `serve` with every connection; how many there were.
fn backend(
    serve: impl Fn(TcpStream, usize) + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (count, serve) = (Arc::new(AtomicUsize::new(0)), Arc::new(serve));
    let counter = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let number = counter.fetch_add(1, SeqCst);
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream, number));
        }
    });
    (address, count)
}

/// Reads what is asked, and answers; a check that has gone by then has had its time.
fn answer(mut stream: TcpStream, bytes: &[u8]) {
    let mut asked = [0; 1024];
    if stream.read(&mut asked).is_ok_and(|n| n > 0) {
        let _gone = stream.write_all(bytes);
    }
}

fn table(backends: &[String], pool: &str, health: &str) -> Table {
    let backends: Vec<String> = backends.iter().map(|b| format!("{b:?}")).collect();
    let text = format!(
        r#"
[[listener]]
name = "devices"
bind = ["127.0.0.1:0"]
protocol = "frame"
pool = "p"
[listener.frame]
header = ">ccHH"
fields = ["type", "version", "time", "length"]
key = "json:devid"
[pool.p]
balance = "crc32_mod"
backends = [{}]
{pool}
[pool.p.health]
interval = "100ms"
timeout = "100ms"
{health}
"#,
        backends.join(", ")
    );
    let environment = Environment { variable: &|_| None, cores: vec![0], descriptors_max: 100_000 };
    let loaded = config::parse(&text, "checks.toml", &environment);
    let config = loaded.unwrap_or_else(|faults| panic!("{faults}")).config;
    Table::first(&Layout::of_pools(config.pools), 1)
}

/// Checkers under way, and what they say.
struct Checking {
    tables: watch::Sender<Arc<Table>>,
    flips: mpsc::Receiver<Flip>,
    _checkers: Checkers,
}

impl Checking {
    fn start(table: Table) -> Checking {
        let (tables, follow) = watch::channel(Arc::new(table));
        let (sender, flips) = mpsc::channel(64);
        let mut checkers = Checkers::new(follow, sender, 1);
        checkers.follow();
        Checking { tables, flips, _checkers: checkers }
    }

    async fn flip(&mut self) -> Flip {
        let flip = tokio::time::timeout(DEADLINE, self.flips.recv()).await;
        flip.expect("a flip in time").expect("a checker")
    }

    fn count(&self, outcome: Outcome) -> u64 {
        self.tables.borrow().pools[0].health.checks[outcome as usize].value()
    }

    async fn wait_count(&self, outcome: Outcome, least: u64) {
        let give_up = Instant::now() + DEADLINE;
        while self.count(outcome) < least {
            assert!(Instant::now() < give_up, "{outcome:?}: {}", self.count(outcome));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

const PING: &str = "kind = \"bytes\"\nsend = \"PING\"\nexpect = \"PONG\"";

/// Whom the full backlog of a listener keeps waiting.
fn black_hole() -> (String, Vec<socket2::Socket>) {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let deaf = new().expect("a socket");
    deaf.bind(&"127.0.0.1:0".parse::<SocketAddr>().expect("any").into()).expect("a port");
    deaf.listen(0).expect("listening");
    let address = deaf.local_addr().expect("an address");
    let mut held = vec![deaf];
    for _ in 0..8 {
        let socket = new().expect("a socket");
        socket.set_nonblocking(true).expect("an option");
        // EINPROGRESS: the backlog fills without anybody accepting.
        let _pending = socket.connect(&address);
        held.push(socket);
    }
    (address.as_socket().expect("TCP").to_string(), held)
}

#[tokio::test]
async fn every_way_of_being_ill_is_told_by_its_name() {
    let refusing = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").to_string()
    };
    let (deaf, _held) = black_hole();
    let silent = backend(|mut stream, _| {
        // Until the check gives up.
        let _gone = stream.read_to_end(&mut Vec::new());
    });
    let closing = backend(|stream, _| drop(stream));
    let short = backend(|stream, _| answer(stream, b"PO"));
    let wrong = backend(|stream, _| answer(stream, b"PUNG"));
    let http = "kind = \"http\"\npath = \"/ready\"";
    let failing = backend(|stream, _| {
        answer(stream, b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno");
    });
    let babbling = backend(|stream, _| answer(stream, b"220 mail.example ESMTP\r\n"));
    let endless = backend(|stream, _| answer(stream, &[b'a'; 100_000]));
    let cases = [
        (refusing.clone(), "kind = \"tcp\"", Outcome::Refused, "refused"),
        ("unix:/no/such.sock".to_owned(), "kind = \"tcp\"", Outcome::Refused, "No such file"),
        (deaf.clone(), "kind = \"tcp\"", Outcome::Timeout, "timeout: after 100ms"),
        (silent.0.to_string(), PING, Outcome::Timeout, "timeout: after 100ms"),
        (closing.0.to_string(), PING, Outcome::Closed, "closed: "),
        (short.0.to_string(), PING, Outcome::Closed, "after 2 bytes of 4"),
        (wrong.0.to_string(), PING, Outcome::Unexpected, "unexpected: byte 1 differs"),
        (failing.0.to_string(), http, Outcome::Unexpected, "unexpected: status 500"),
        (babbling.0.to_string(), http, Outcome::Unexpected, "unexpected: "),
        (endless.0.to_string(), http, Outcome::Unexpected, "unexpected: "),
        (closing.0.to_string(), http, Outcome::Closed, "closed: "),
        (silent.0.to_string(), http, Outcome::Timeout, "timeout: "),
    ];
    for (address, health, outcome, said) in cases {
        let health = format!("{health}\nfall = 2");
        let mut checking = Checking::start(table(std::slice::from_ref(&address), "", &health));
        let flip = checking.flip().await;
        assert!(!flip.up && flip.address.to_string() == address, "{flip:?}");
        assert!(flip.why.contains(said), "{address} {health}: {}", flip.why);
        assert!(checking.count(outcome) >= 2, "{address} {health}: {outcome:?}");
        assert_eq!(checking.count(Outcome::Good), 0, "{address} {health}");
    }
}

/// Answers according to a script, number by number; then for good.
fn scripted(script: &'static str, good: &'static [u8], bad: &'static [u8]) -> SocketAddr {
    let serve = move |stream: TcpStream, number: usize| {
        let ill = script.as_bytes().get(number) == Some(&b'-');
        answer(stream, if ill { bad } else { good });
    };
    backend(serve).0
}

#[tokio::test]
async fn a_verdict_changes_only_after_fall_and_rise_in_a_row() {
    // Two bad ones are not three, and one good one is not two.
    let script = "+--+--+---+-++";
    let good: &[u8] = b"HTTP/1.1 204 Fine\r\n\r\n";
    let bad: &[u8] = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    let http = "kind = \"http\"\nrise = 2\nfall = 3";
    let cases = [
        (scripted(script, b"PONG", b"BUSY"), format!("{PING}\nrise = 2\nfall = 3")),
        (scripted(script, good, bad), http.to_owned()),
    ];
    for (address, health) in cases {
        let mut checking = Checking::start(table(&[address.to_string()], "", &health));
        let down = checking.flip().await;
        let (goods, bads) = (checking.count(Outcome::Good), checking.count(Outcome::Unexpected));
        assert!(!down.up, "{down:?}");
        assert_eq!((goods, bads), (3, 7), "{health}");
        let up = checking.flip().await;
        assert!(up.up, "{up:?}");
        assert_eq!((checking.count(Outcome::Good), checking.count(Outcome::Unexpected)), (6, 8));
        assert!(checking.flips.try_recv().is_err(), "and nothing else");
    }
}

#[tokio::test]
async fn good_backends_of_every_kind_stay_in_service() {
    let path = std::env::temp_dir().join(format!("corelane-check-{}.sock", std::process::id()));
    // Left by an earlier run of the same process id.
    let _absent = std::fs::remove_file(&path);
    let unix = UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || {
        for mut stream in unix.incoming().map_while(Result::ok) {
            let _gone = stream.write_all(b"220 ready\r\n");
        }
    });
    // A frame that must come whole, and an answer in one.
    let framed = backend(|mut stream, _| {
        let mut login = [0; 24];
        let sent = stream.read_exact(&mut login).map(|()| login);
        if sent.is_ok_and(|bytes| bytes == *b"\x01\x01\0\0\0\x12{\"devid\":\"health\"}") {
            let _gone = stream.write_all(b"\x02\x01\0\x1e\0\x0b{\"ok\":true}");
        }
    });
    let frames = r#"kind = "bytes"
listener = "devices"
send = { type = 1, version = 1, body = '{"devid":"health"}' }
expect = { type = 2, version = "1..=3", body = '{"ok":' }"#;
    let asked = Arc::new(std::sync::Mutex::new(String::new()));
    let seen = asked.clone();
    let http = backend(move |mut stream, _| {
        let mut request = [0; 1024];
        let n = stream.read(&mut request).unwrap_or(0);
        if n > 0 {
            let request = String::from_utf8_lossy(&request[..n]).into_owned();
            *seen.lock().expect("the last request") = request;
        }
        let _gone = stream.write_all(b"HTTP/1.0 302 Away\r\nLocation: /\r\n\r\n");
    });
    let cases = [
        (framed.0.to_string(), "", frames.to_owned()),
        (http.0.to_string(), "", "kind = \"http\"\nstatus = \"200..=399\"".to_owned()),
        (format!("unix:{}", path.display()), "", "kind = \"bytes\"\nexpect = \"220\"".to_owned()),
        // The port that is asked is another one than sessions go to.
        ("127.0.0.1:1".to_owned(), "", format!("kind = \"tcp\"\nport = {}", http.0.port())),
    ];
    for (address, pool, health) in cases {
        let mut checking = Checking::start(table(std::slice::from_ref(&address), pool, &health));
        checking.wait_count(Outcome::Good, 5).await;
        assert!(checking.flips.try_recv().is_err(), "{address}");
        let all: u64 = Outcome::ALL.iter().map(|outcome| checking.count(*outcome)).sum();
        assert_eq!(all, checking.count(Outcome::Good), "{address} {health}");
    }
    let request = asked.lock().expect("the last request").to_lowercase();
    assert!(request.starts_with("get / http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nhost: {}\r\n", http.0)), "{request}");
    std::fs::remove_file(&path).expect("the socket's file");
}

#[tokio::test]
async fn a_backend_that_wants_a_proxy_header_gets_one_that_speaks_for_us() {
    let wanting = backend(|mut stream, _| {
        let mut header = [0; 16];
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20";
        if stream.read_exact(&mut header).is_ok() && header.starts_with(local) {
            answer(stream, b"PONG");
        }
    });
    let pool = "proxy_protocol = \"v2\"";
    let mut checking = Checking::start(table(&[wanting.0.to_string()], pool, PING));
    checking.wait_count(Outcome::Good, 5).await;
    assert!(checking.flips.try_recv().is_err());
}

#[tokio::test]
async fn what_we_lack_is_not_held_against_a_backend() {
    let good = backend(|stream, _| drop(stream));
    // Nobody here has this address: no local port can be had.
    let pool = "source_addresses = [\"192.0.2.1\"]";
    let mut checking =
        Checking::start(table(&[good.0.to_string()], pool, "kind = \"tcp\"\nfall = 1"));
    checking.wait_count(Outcome::Ours, 5).await;
    assert!(checking.flips.try_recv().is_err());
}

#[tokio::test]
async fn checks_follow_the_table() {
    let (first, first_count) = backend(|stream, _| drop(stream));
    let (second, second_count) = backend(|stream, _| drop(stream));
    let tcp = "kind = \"tcp\"";
    let checking = Checking::start(table(&[first.to_string()], "", tcp));
    checking.wait_count(Outcome::Good, 3).await;
    assert_eq!(second_count.load(SeqCst), 0);
    checking.tables.send_replace(Arc::new(table(&[second.to_string()], "", tcp)));
    // Counters of the new pool.
    checking.wait_count(Outcome::Good, 3).await;
    let (before, gone) = (second_count.load(SeqCst), first_count.load(SeqCst));
    checking.wait_count(Outcome::Good, 6).await;
    assert!(second_count.load(SeqCst) > before);
    assert!(first_count.load(SeqCst) <= gone + 1, "one may have been under way");

    let mut without = table(&[second.to_string()], "", tcp);
    let pool = Arc::get_mut(&mut without.pools[0]).expect("the only one");
    pool.settings.health.check = None;
    checking.tables.send_replace(Arc::new(without));
    let give_up = Instant::now() + DEADLINE;
    let mut seen = second_count.load(SeqCst);
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = second_count.load(SeqCst);
        if now == seen {
            return;
        }
        seen = now;
        assert!(Instant::now() < give_up, "still checked");
    }
}

/// A thousand backends that all keep a check waiting for its whole timeout: never more than
/// `CHECKS_MAX` are asked at once, and all of them are asked.
#[tokio::test]
async fn many_backends_are_checked_within_a_bound() {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let listener = new().expect("a socket");
    listener.bind(&"0.0.0.0:0".parse::<SocketAddr>().expect("any").into()).expect("a port");
    listener.listen(4_096).expect("listening");
    let port = listener.local_addr().expect("an address").as_socket().expect("TCP").port();
    listener.set_nonblocking(true).expect("an option");
    let listener = tokio::net::TcpListener::from_std(listener.into()).expect("a listener");
    let addresses: Vec<String> =
        (0..1_000).map(|n| format!("127.1.{}.{}:{port}", n / 250, 1 + n % 250)).collect();
    let silent = "kind = \"bytes\"\nexpect = \"never\"";
    let mut checking = Checking::start(table(&addresses, "", silent));
    let (mut open, mut most) = (tokio::task::JoinSet::new(), 0);
    let mut asked: HashMap<std::net::IpAddr, usize> = HashMap::new();
    let whole = async {
        while asked.len() < 1_000 {
            tokio::select! {
                accepted = listener.accept() => {
                    let (mut stream, _) = accepted.expect("a connection");
                    *asked.entry(stream.local_addr().expect("ours").ip()).or_default() += 1;
                    open.spawn(async move {
                        let _ended = tokio::io::AsyncReadExt::read_u8(&mut stream).await;
                    });
                    most = most.max(open.len());
                }
                Some(_) = open.join_next(), if !open.is_empty() => {}
                Some(flip) = checking.flips.recv() => assert!(!flip.up),
            }
        }
    };
    tokio::time::timeout(DEADLINE, whole).await.expect("all are asked in time");
    // Ours are closed before the other side hears of it: a few more may seem open.
    assert!(most <= CHECKS_MAX + CHECKS_MAX / 2, "{most} at once");
    let most_asked = asked.values().max().copied().unwrap_or_default();
    assert!(most_asked <= 4, "one was asked {most_asked} times before the last one was");
}

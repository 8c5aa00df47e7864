//! The admin interface over real sockets: phases, answers, shards that answer and shards that do
//! not, and callers that are rude.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use corelane::admin::{AdminListener, AdminState, Phase, Stage, serve};
use corelane::balance::Algorithm;
use corelane::config::{self, Address, BackendState};
use corelane::end::{End, Placement};
use corelane::log::Logs;
use corelane::metrics::{Metrics, PerShard};
use corelane::shard::mailbox::{Message, SessionPage, SessionQuestion, SessionView, ShardHandle};
use corelane::table::{Layout, Table};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

/// Longest a test waits for an answer.
const DEADLINE: Duration = Duration::from_secs(20);

/// Sessions that a fake shard gives at a time.
const PAGE: usize = 300;

/// What a fake shard does when it is asked for sessions.
#[derive(Clone, Copy)]
enum Manner {
    /// Shows as many of this number as are wanted.
    Answers(usize),
    /// Keeps the question and says nothing.
    Silent,
    /// Throws the question away.
    Ends,
}

/// A thread that owns a real mailbox. It ends when it is told to drain.
fn shard(index: usize, manner: Manner) -> (ShardHandle, JoinHandle<()>) {
    let (wake, mut woken) = UnixStream::pair().expect("a pair");
    let handle = ShardHandle::new(wake.into());
    let mailbox = handle.clone();
    let thread = std::thread::spawn(move || {
        let mut kept = Vec::new();
        while woken.read_exact(&mut [0; 8]).is_ok() {
            while let Some(message) = mailbox.take() {
                match (message, manner) {
                    (Message::Sessions { question, reply }, Manner::Answers(open)) => {
                        let SessionQuestion { from, limit, .. } = question;
                        let end = open.min(from + limit.min(PAGE));
                        let views = (from..end).map(|number| view(index, number)).collect();
                        let next = (end < open && end - from < limit).then_some(end);
                        // The caller may have given up.
                        let _ = reply.send(SessionPage { views, next });
                    }
                    (Message::Sessions { reply, .. }, Manner::Silent) => kept.push(reply),
                    (Message::Sessions { .. }, Manner::Ends) => {}
                    (Message::Drain(_), _) => return,
                    (other, _) => panic!("{other:?}"),
                }
            }
        }
    });
    (handle, thread)
}

fn view(shard: usize, number: usize) -> SessionView {
    SessionView {
        id: format!("{shard}-{number}-1"),
        client: "192.0.2.7:40312".to_owned(),
        listener: "devices".to_owned(),
        key: format!("key\u{1b}[31m\u{202e}-{shard}-{number}"),
        key_hex: None,
        pool: "c2s".to_owned(),
        backend: "127.0.0.1:1000".to_owned(),
        placement: "home",
        state: "relay",
        shard,
        table: 1,
        since: "2026-01-01T00:00:00.000Z".to_owned(),
        age_seconds: 1.5,
        idle_seconds: 0.5,
        bytes_in: number as u64,
        bytes_out: 2,
    }
}

fn pool() -> config::Pool {
    let backend = |port: u16, state| config::Backend {
        address: Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port))),
        weight: 2,
        state,
    };
    config::Pool {
        name: "c2s".to_owned(),
        balance: Algorithm::Crc32Mod,
        on_down: config::OnDown::Next,
        connect_timeout: Duration::from_secs(1),
        retries: 1,
        fail_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(600),
        warm: 0,
        socket: config::SocketOptions { user_timeout: Duration::from_secs(30), keepalive: None },
        proxy_out: false,
        tls: None,
        source_addresses: Vec::new(),
        on_remove: config::OnRemove::Keep,
        close_rate: 200,
        sources: Vec::new(),
        bounded_load: None,
        health: config::Health::default(),
        backends: vec![backend(1000, BackendState::Ready), backend(1001, BackendState::Down)],
    }
}

fn devices() -> config::Listener {
    config::Listener {
        name: "devices".to_owned(),
        bind: vec![Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 9000)))],
        protocol: config::Protocol::Tcp { key: None },
        pool: Some(0),
        lookup: None,
        backlog: 1,
        socket: config::SocketOptions { user_timeout: Duration::from_secs(30), keepalive: None },
        proxy: None,
        tls: None,
    }
}

fn configuration() -> config::Config {
    let text = "[admin]\nlisten = \"127.0.0.1:0\"\nhosts = [\"gateway.example\"]\n\
                [[listener]]\nname = \"devices\"\nbind = [\"127.0.0.1:9000\"]\n\
                protocol = \"tcp\"\npool = \"c2s\"\n[listener.tcp]\nkey = \"client_ip\"\n\
                [pool.c2s]\nbalance = \"crc32_mod\"\nbackends = [\"127.0.0.1:1000\"]\n";
    let environment =
        config::Environment { variable: &|_| None, cores: vec![0], descriptors_max: 20_000 };
    config::parse(text, "admin.toml", &environment).expect("no faults").config
}

/// A running interface with its shards.
struct Admin {
    address: Address,
    state: AdminState,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Admin {
    fn start(address: &Address, manners: &[Manner]) -> Admin {
        let listener = AdminListener::bind(address).expect("bound");
        let address = listener.address().clone();
        let shards = manners.len();
        let metrics =
            Arc::new(Metrics { process: Default::default(), shards: PerShard::new(shards) });
        let layout = Layout { listeners: vec![devices()], ..Layout::of_pools(vec![pool()]) };
        let table = Table::first(&layout, shards);
        for (shard, manner) in manners.iter().enumerate() {
            if let Manner::Answers(open) = manner {
                table.listeners[0].cells.of(shard).active.add(*open as u64);
                metrics.process.connections.fetch_add(*open as u32, Relaxed);
            }
        }
        let running = manners.iter().enumerate().map(|(index, manner)| shard(index, *manner));
        let (shards, mut threads): (Vec<_>, Vec<_>) = running.unzip();
        // The interface reads the last table even when nobody can send another one.
        let (_, table) = watch::channel(Arc::new(table));
        let (commands, _) = mpsc::channel(1);
        let (_, sources) = watch::channel(Arc::from([]));
        let phase = Arc::new(Phase::default());
        let logs = Logs::default();
        let (_, configs) = watch::channel(Arc::new(configuration()));
        let (audit, events) = Default::default();
        let state = AdminState {
            metrics,
            logs,
            table,
            shards,
            phase,
            sources,
            commands,
            configs,
            audit,
            events,
        };
        let (stop, stopped) = oneshot::channel();
        let served = state.clone();
        threads.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                tokio::select! {
                    () = serve(listener, served) => panic!("the interface ended by itself"),
                    _ = stopped => {}
                }
            });
        }));
        Admin { address, state, stop: Some(stop), threads }
    }

    fn on_loopback(manners: &[Manner]) -> Admin {
        Admin::start(&any_port(), manners)
    }

    /// Sends bytes and reads the answer to its end.
    fn exchange(&self, request: &str) -> Answer {
        Answer::parse(exchange(&self.address, request.as_bytes()))
    }

    fn get(&self, path: &str) -> Answer {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:9901\r\n\r\n"))
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        for shard in &self.state.shards {
            let _ = shard.send(Message::Drain(Duration::ZERO));
        }
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

fn any_port() -> Address {
    Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// What every kind of stream can do.
trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

fn connect(address: &Address) -> Box<dyn Stream> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, DEADLINE).expect("connected");
            stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            Box::new(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).expect("connected");
            stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
            Box::new(stream)
        }
    }
}

fn exchange(address: &Address, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(address);
    stream.write_all(request).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer and its end before the deadline");
    answer
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn parse(bytes: Vec<u8>) -> Answer {
        let text = String::from_utf8(bytes).expect("UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().expect("a status line").split(' ').nth(1).expect("a status");
        let header = |line: &str| {
            let (name, value) = line.split_once(':').expect("a header");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let headers = lines.map(header).collect();
        Answer { status: status.parse().expect("a number"), headers, body: body.to_owned() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/json");
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// The detail of an error of this status.
    #[track_caller]
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem: Value = serde_json::from_str(&self.body).expect("JSON");
        assert_eq!(problem["status"], status);
        assert!(problem["title"].is_string());
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

/// A directory of one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("corelane-admin-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory");
        Directory(path)
    }

    fn socket(&self) -> (PathBuf, Address) {
        let path = self.0.join("admin.sock");
        (path.clone(), Address::Unix(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn readiness_follows_the_phase_and_liveness_does_not() {
    let admin = Admin::on_loopback(&[]);
    assert!(admin.get("/readyz").problem(503).starts_with("starting"));
    assert_eq!(admin.get("/livez").status, 200);
    admin.state.phase.advance(Stage::Ready);
    assert_eq!(admin.get("/readyz").status, 200);
    admin.state.phase.advance(Stage::Draining);
    assert!(admin.get("/readyz").problem(503).starts_with("draining"));
    admin.state.phase.advance(Stage::Ready);
    assert!(admin.get("/readyz").problem(503).starts_with("draining"), "there is no way back");
    assert_eq!(admin.get("/livez").status, 200);
    assert_eq!(admin.get("/healthz").status, 200);
}

#[test]
fn what_the_index_lists_is_there() {
    let admin = Admin::on_loopback(&[Manner::Answers(1)]);
    admin.state.phase.advance(Stage::Ready);
    let index = admin.get("/").json();
    let listed = index.as_array().expect("a list");
    let (shown, others): (Vec<&Value>, Vec<&Value>) =
        listed.iter().partition(|entry| entry["method"] == "GET");
    assert_eq!((shown.len(), others.len()), (19, 10));
    for entry in others {
        let path = entry["path"].as_str().expect("a path");
        // Some of them can be read, too, and a session is never shown alone.
        let status = admin.get(path).status;
        assert!([404, 405, 503].contains(&status), "{path}: {status}");
    }
    for entry in shown {
        let path = &entry["path"];
        let path = path.as_str().expect("a path");
        // Nobody answers commands here, and a stream of events has no end.
        if ["/log", "/events"].contains(&path) {
            continue;
        }
        let path = path.replace("{pool}", "c2s").replace("{backend}", "127.0.0.1:1000");
        let path = path.replace("{key}", "a");
        let answer = admin.get(&path);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    assert_eq!(admin.get("/version").json()["version"], env!("CARGO_PKG_VERSION"));
    let metrics = admin.get("/metrics");
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text;"));
    assert!(metrics.body.contains("\ncorelane_connections_active{listener=\"devices\"} 1\n"));
    assert!(metrics.body.ends_with("# EOF\n"));
}

#[test]
fn other_paths_methods_and_queries_are_refused() {
    let admin = Admin::on_loopback(&[Manner::Answers(1)]);
    for path in ["/nothing", "/livez/", "/metrics/x", "/..", "//", "/sessions/1/2"] {
        admin.get(path).problem(404);
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let request = format!("{method} /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = admin.exchange(&request);
        answer.problem(405);
        assert_eq!(answer.header("allow"), "GET,HEAD", "{method}");
    }
    for query in ["limit=x", "limit=-1", "limit=", "limt=5", "limit=1&limit=2"] {
        admin.get(&format!("/sessions?{query}")).problem(400);
    }
    assert!(admin.get("/sessions?limit=10001").problem(400).contains("10000"));
    let head = admin.exchange("HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn sessions_of_all_shards_are_shown_up_to_the_limit() {
    let admin = Admin::on_loopback(&[Manner::Answers(500), Manner::Answers(20)]);
    let count = |answer: &Value, shard: usize| {
        let sessions = answer["sessions"].as_array().expect("a list");
        sessions.iter().filter(|session| session["shard"] == shard).count()
    };
    let answer = admin.get("/sessions");
    assert!(!answer.body.contains(['\u{1b}', '\u{202e}']), "keys cannot disturb a terminal");
    let answer = answer.json();
    assert_eq!((&answer["open"], &answer["limit"]), (&json!(520), &json!(100)));
    assert_eq!((count(&answer, 0), count(&answer, 1)), (80, 20));
    let expected = serde_json::to_value(view(0, 3)).expect("JSON");
    assert!(answer["sessions"].as_array().expect("a list").contains(&expected));

    let all = admin.get("/sessions?limit=10000").json();
    assert_eq!((count(&all, 0), count(&all, 1)), (500, 20));
    assert_eq!(admin.get("/sessions?limit=1").json()["sessions"].as_array().map(Vec::len), Some(1));
    assert_eq!(admin.get("/sessions?limit=0").json()["sessions"], json!([]));
}

#[test]
fn a_silent_shard_is_named_when_its_second_is_over() {
    let admin = Admin::on_loopback(&[Manner::Answers(5), Manner::Silent, Manner::Answers(5)]);
    let before = Instant::now();
    let detail = admin.get("/sessions").problem(503);
    let waited = before.elapsed();
    assert_eq!(detail, "shard 1 did not answer within a second");
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(admin.get("/livez").status, 200, "everything else works");
}

#[test]
fn a_shard_that_has_ended_is_named_at_once() {
    let admin = Admin::on_loopback(&[Manner::Answers(5), Manner::Ends]);
    assert_eq!(admin.get("/sessions").problem(503), "shard 1 has ended");
}

#[test]
fn pools_show_settings_and_counters() {
    let admin = Admin::on_loopback(&[Manner::Answers(0), Manner::Answers(0)]);
    let table = admin.state.table.borrow().clone();
    let pool = &table.pools[0];
    let terms = pool.terms(&pool.backends[0]);
    for _ in 0..12 {
        assert!(pool.backends[0].shared.room.enter(&terms, Instant::now()));
    }
    assert!(pool.backends[0].shared.room.wait(1));
    for shard in 0..2 {
        let cells = pool.backends[0].shared.cells.of(shard);
        cells.sessions.add(10);
        cells.bytes_in.add(100);
        cells.connect_failures[End::ConnectRefused as usize].add(3);
        pool.cells.of(shard).placements[Placement::Home as usize].add(9);
    }
    let backend = |address: &str, state: &str| {
        json!({
            "address": address, "weight": 2, "state": state, "waiting": 0, "live": 0, "sessions": 0,
            "connect_failures": {}, "bytes_in": 0, "bytes_out": 0, "warm": 0, "warm_used": 0,
            "warm_stale": 0,
        })
    };
    let mut first = backend("127.0.0.1:1000", "ready");
    first["live"] = json!(12);
    first["waiting"] = json!(1);
    first["sessions"] = json!(20);
    first["bytes_in"] = json!(200);
    first["connect_failures"] = json!({"connect_refused": 6});
    let expected = json!({
        "table": 1,
        "pools": [{
            "name": "c2s", "balance": "crc32_mod", "on_down": "next",
            "panicking": false,
            "placements": {"home": 18},
            "backends": [first, backend("127.0.0.1:1001", "down")],
            "removed": [],
        }],
    });
    assert_eq!(admin.get("/pools").json(), expected);
}

#[test]
fn only_addresses_and_localhost_are_answered_over_tcp() {
    let admin = Admin::on_loopback(&[]);
    let with_host =
        |host: &str| admin.exchange(&format!("GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n")).status;
    for host in ["127.0.0.1", "localhost:9901", "[::1]:9901", "10.1.2.3:80", "Gateway.example"] {
        assert_eq!(with_host(host), 200, "{host}");
    }
    for host in ["example.com", "127.0.0.1.example.com:9901", "localhost.example.com", ""] {
        assert_eq!(with_host(host), 421, "{host}");
    }
    let second = "GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: example.com\r\n\r\n";
    assert_ne!(admin.exchange(second).status, 200, "a second Host does not slip through");
    let absolute = "GET http://example.com/livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    admin.exchange(absolute).problem(421);
    let old = "GET /livez HTTP/1.0\r\n\r\n";
    assert_eq!(admin.exchange(old).status, 200, "old probes send no Host");
}

#[test]
fn a_unix_socket_serves_its_group_and_is_removed_at_the_end() {
    let directory = Directory::new();
    let (path, address) = directory.socket();
    let admin = Admin::start(&address, &[Manner::Answers(2)]);
    let metadata = std::fs::symlink_metadata(&path).expect("the socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let curl = admin.exchange("GET /livez HTTP/1.1\r\nHost: anything\r\n\r\n");
    assert_eq!(curl.status, 200, "no browser reaches a UNIX socket, so any Host will do");
    assert_eq!(admin.get("/sessions").json()["open"], 2);
    drop(admin);
    assert!(!path.exists());
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
    let directory = Directory::new();
    let (path, address) = directory.socket();
    // A listener that is closed leaves its file behind, as a killed process does.
    drop(UnixListener::bind(&path).expect("bound"));
    assert!(path.exists());
    let first = Admin::start(&address, &[]);
    assert_eq!(first.get("/livez").status, 200);

    let error = AdminListener::bind(&address).expect_err("somebody answers");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("another process answers"), "{error}");
    assert_eq!(first.get("/livez").status, 200, "the first one is not disturbed");

    // Somebody else's file of the same name is not ours to remove.
    std::fs::remove_file(&path).expect("removed");
    let theirs = UnixListener::bind(&path).expect("bound");
    drop(first);
    assert!(path.exists());
    drop(theirs);
}

#[test]
fn a_file_in_the_way_is_left_alone() {
    let directory = Directory::new();
    let (path, address) = directory.socket();
    std::fs::write(&path, "precious").expect("a file");
    let error = AdminListener::bind(&address).expect_err("a file is in the way");
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).expect("the file"), "precious");
    let absent = Address::Unix(Path::new("/proc/absent/admin.sock").into());
    let error = AdminListener::bind(&absent).expect_err("no directory");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_tcp_address_is_bound_once() {
    let first = AdminListener::bind(&any_port()).expect("bound");
    let error = AdminListener::bind(first.address()).expect_err("in use");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn one_request_is_answered_per_connection() {
    let admin = Admin::on_loopback(&[]);
    let request = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answers = exchange(&admin.address, request.repeat(3).as_bytes());
    let answers = String::from_utf8(answers).expect("UTF-8");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1);
    assert!(answers.to_ascii_lowercase().contains("connection: close"));
}

#[test]
fn a_caller_that_closes_its_side_after_asking_is_answered() {
    let admin = Admin::on_loopback(&[Manner::Answers(3)]);
    let Address::Tcp(address) = &admin.address else { panic!("TCP") };
    let mut stream = TcpStream::connect_timeout(address, DEADLINE).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream.write_all(b"GET /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("closed");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    assert_eq!(Answer::parse(answer).json()["open"], 3);
}

#[test]
fn an_endless_or_broken_head_is_refused() {
    let admin = Admin::on_loopback(&[]);
    let Address::Tcp(address) = &admin.address else { panic!("TCP") };
    let mut stream = TcpStream::connect_timeout(address, DEADLINE).expect("connected");
    stream.set_write_timeout(Some(DEADLINE)).expect("a deadline");
    let sent = (0..1_000_000).find(|_| stream.write_all(b"X-Header: value\r\n").is_err());
    assert!(sent.is_some(), "16 MB of headers were taken");

    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(15_000));
    assert_eq!(admin.exchange(&long).status, 404);
    for garbage in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        let answer = exchange(&admin.address, garbage.as_bytes());
        assert!(answer.starts_with(b"HTTP/1.1 400") || answer.is_empty(), "{garbage:?}");
    }
    assert_eq!(admin.get("/livez").status, 200);
}

#[test]
fn callers_that_say_nothing_cannot_keep_others_out() {
    let admin = Admin::on_loopback(&[]);
    let silent: Vec<_> = (0..64).map(|_| connect(&admin.address)).collect();
    let half_way: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = connect(&admin.address);
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: ").expect("sent");
            stream
        })
        .collect();
    let before = Instant::now();
    assert_eq!(admin.get("/livez").status, 200);
    let waited = before.elapsed();
    assert!(waited < Duration::from_secs(9), "waited {waited:?}");
    for mut stream in silent.into_iter().chain(half_way) {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn callers_that_read_nothing_are_few_and_given_up() {
    let directory = Directory::new();
    // A UNIX socket's buffer is small: an answer of megabytes waits for its reader.
    let (_, address) = directory.socket();
    let admin = Admin::start(&address, &[Manner::Answers(10_000)]);
    let all = "/sessions?limit=10000";
    let answer = admin.get(all);
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    assert_eq!(answer.json()["sessions"].as_array().map(Vec::len), Some(10_000));
    let mut unread: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = connect(&admin.address);
            let request = format!("GET {all} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("sent");
            // Its answer has begun.
            stream.read_exact(&mut [0; 4]).expect("the first bytes");
            stream
        })
        .collect();
    let before = Instant::now();
    assert!(admin.get(all).problem(503).contains("other requests"));
    assert_eq!(admin.get("/livez").status, 200);
    while admin.get("/sessions").status != 200 {
        assert!(before.elapsed() < DEADLINE, "nobody was given up");
    }
    let mut rest = Vec::new();
    let _ = unread[0].read_to_end(&mut rest);
    assert!(rest.len() < answer.body.len(), "the connection was cut");
}

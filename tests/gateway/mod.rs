//! A running gateway, its backends and its clients, for tests: real processes and real sockets.
#![allow(dead_code, reason = "each test uses a part of this")]

pub mod backend;
pub mod client;
pub mod looked_up;
#[path = "../machine/mod.rs"]
#[allow(clippy::duplicate_mod, reason = "stores and gateways are used without each other")]
pub mod machine;
pub mod path;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nothing in these tests takes longer, on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Lines of one of the gateway's outputs, as they come.
#[derive(Clone, Default)]
pub struct Lines {
    inner: Arc<(Mutex<Output>, Condvar)>,
}

#[derive(Default)]
struct Output {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn follow(source: impl Read + Send + 'static) -> Lines {
        let lines = Lines::default();
        let writer = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                writer.inner.0.lock().unwrap().lines.push(line);
                writer.inner.1.notify_all();
            }
            writer.inner.0.lock().unwrap().ended = true;
            writer.inner.1.notify_all();
        });
        lines
    }

    pub fn all(&self) -> Vec<String> {
        self.inner.0.lock().unwrap().lines.clone()
    }

    /// Waits until `found` makes something of the lines so far.
    pub fn wait<T>(&self, what: &str, found: impl FnMut(&[String]) -> Option<T>) -> T {
        match self.wait_or_end(found) {
            Some(result) => result,
            None => panic!("no {what}; lines: {:#?}", self.all()),
        }
    }

    /// The same; `None` when the output ends or the deadline passes.
    pub fn wait_or_end<T>(&self, mut found: impl FnMut(&[String]) -> Option<T>) -> Option<T> {
        let give_up = Instant::now() + DEADLINE;
        let mut output = self.inner.0.lock().unwrap();
        loop {
            if let Some(result) = found(&output.lines) {
                return Some(result);
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() || output.ended {
                return None;
            }
            output = self.inner.1.wait_timeout(output, left).unwrap().0;
        }
    }
}

/// A gateway process.
pub struct Gateway {
    pub child: Child,
    pub operational: Lines,
    pub sessions: Lines,
    pub admin: SocketAddr,
    listeners: HashMap<String, SocketAddr>,
    directory: PathBuf,
}

/// The start of a configuration whose gateway has one shard and an admin interface.
pub const ONE_SHARD: &str = "[runtime]\ncores = [0]\nmax_connections = 1000\n";

/// How to start.
#[derive(Default)]
pub struct Start {
    /// Limit of open files, hard and soft.
    pub descriptors: Option<u64>,
    /// Extra work in the child before it becomes the gateway.
    pub before_exec: Option<fn() -> std::io::Result<()>>,
    /// Environment.
    pub variables: Vec<(String, String)>,
    /// Further keys of `[admin]`.
    pub admin: String,
    /// `[admin]` is in the configuration already.
    pub own_admin: bool,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A directory of this test's own.
pub fn directory() -> PathBuf {
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("gateway-{}-{serial}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn command(directory: &std::path::Path, toml: &str, start: &Start) -> Command {
    let file = directory.join("corelane.toml");
    std::fs::write(&file, toml).unwrap();
    let mut command = match start.descriptors {
        None => Command::new(env!("CARGO_BIN_EXE_corelane")),
        Some(limit) => {
            let mut command = Command::new("prlimit");
            command.arg(format!("--nofile={limit}:{limit}"));
            command.arg(env!("CARGO_BIN_EXE_corelane"));
            command
        }
    };
    command.arg("run").arg("-c").arg(file).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(start.variables.iter().cloned());
    if let Some(before) = start.before_exec {
        // SAFETY: the closure only makes system calls; it is a plain fn, chosen by the test.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(before);
        }
    }
    command
}

/// Runs a gateway that is expected not to start: its exit code and standard error.
pub fn run_to_end(toml: &str, start: &Start) -> (Option<i32>, String) {
    let directory = directory();
    let output = command(&directory, toml, start).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

impl Gateway {
    /// Starts a gateway and waits until it is ready. `[admin]` is added.
    pub fn start(toml: &str) -> Gateway {
        Gateway::start_with(toml, &Start::default())
    }

    pub fn start_with(toml: &str, start: &Start) -> Gateway {
        let directory = directory();
        let toml = match start.own_admin {
            true => toml.to_owned(),
            false => format!("{toml}\n[admin]\nlisten = \"127.0.0.1:0\"\n{}", start.admin),
        };
        let mut child = command(&directory, &toml, start).spawn().unwrap();
        let operational = Lines::follow(child.stderr.take().unwrap());
        let sessions = Lines::follow(child.stdout.take().unwrap());
        let mut gateway = Gateway {
            child,
            operational,
            sessions,
            admin: "127.0.0.1:0".parse().unwrap(),
            listeners: HashMap::new(),
            directory,
        };
        let ready = gateway.operational.wait("ready line", |lines| {
            lines.iter().any(|line| line.contains("\"ready\"")).then(|| lines.to_vec())
        });
        for line in ready {
            let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
            let address = line["address"].as_str().and_then(|text| text.parse().ok());
            match (line["message"].as_str(), line["listener"].as_str(), address) {
                (Some("listening"), Some(name), Some(address)) => {
                    gateway.listeners.entry(name.to_owned()).or_insert(address);
                }
                (Some("admin interface listening"), _, Some(address)) => gateway.admin = address,
                _ => {}
            }
        }
        gateway
    }

    /// Starts a gateway without an admin interface; `None` when it ends instead of getting ready.
    pub fn try_start(toml: &str) -> Option<Gateway> {
        let directory = directory();
        let mut child = command(&directory, toml, &Start::default()).spawn().unwrap();
        let operational = Lines::follow(child.stderr.take().unwrap());
        let sessions = Lines::follow(child.stdout.take().unwrap());
        let admin = "127.0.0.1:0".parse().unwrap();
        let listeners = HashMap::new();
        let ready = operational
            .wait_or_end(|lines| lines.iter().any(|line| line.contains("\"ready\"")).then_some(()));
        let gateway = Gateway { child, operational, sessions, admin, listeners, directory };
        ready.map(|()| gateway)
    }

    /// The address of a listener.
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.listeners[listener]
    }

    /// The directory of its configuration.
    pub fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    /// What the admin interface shows at a path: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path)
    }

    /// One HTTP request to the admin interface: status and body.
    pub fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect_timeout(&self.admin, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let status = response.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }

    /// One request with a JSON body: status and body.
    pub fn send(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect_timeout(&self.admin, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let status = response.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).expect(body))
    }

    /// Replaces its configuration file, `[admin]` added as at its start.
    pub fn rewrite(&self, toml: &str) {
        let toml = format!("{toml}\n[admin]\nlisten = \"127.0.0.1:0\"\n");
        std::fs::write(self.directory.join("corelane.toml"), toml).unwrap();
    }

    /// Waits until something is so.
    pub fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        let give_up = Instant::now() + DEADLINE;
        while !is_so() {
            assert!(Instant::now() < give_up, "not within {DEADLINE:?}: {what}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// The value of a metric; `series` is its name with labels as the page writes them.
    pub fn metric(&self, series: &str) -> f64 {
        let (_, page) = self.get("/metrics");
        page.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or(0.0)
    }

    /// Waits until a metric has a value.
    pub fn wait_metric(&self, series: &str, value: f64) {
        let give_up = Instant::now() + DEADLINE;
        loop {
            let seen = self.metric(series);
            if (seen - value).abs() < f64::EPSILON {
                return;
            }
            assert!(Instant::now() < give_up, "{series} is {seen}, not {value}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Waits until every shard places by the table that the pages show: it takes one at its next
    /// turn.
    pub fn wait_shards(&self) {
        self.wait_until("the table in every shard", || {
            let (_, page) = self.get("/metrics");
            let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse().ok());
            let versions = |name: &str| -> Vec<u64> {
                page.lines().filter(|line| line.starts_with(name)).filter_map(value).collect()
            };
            let published = versions("corelane_table_version ");
            let taken = versions("corelane_shard_table_version{");
            assert!(!published.is_empty() && !taken.is_empty(), "{page}");
            taken.iter().all(|taken| *taken >= published[0])
        });
    }

    /// Waits for the lines of `count` ended sessions.
    pub fn session_lines(&self, count: usize) -> Vec<Value> {
        let lines = self.sessions.wait(&format!("{count} session lines"), |lines| {
            (lines.len() >= count).then(|| lines.to_vec())
        });
        lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// Waits for the line of the only session and checks why it ended.
    pub fn assert_end(&self, end: &str) -> Value {
        let line = self.session_lines(1).remove(0);
        assert_eq!(line["end"], end, "{line}");
        line
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Stops its every thread, and waits until they stand: what must be found at once would be
    /// found one by one otherwise.
    pub fn pause(&self) {
        self.signal("STOP");
        self.wait_until("every thread stopped", || machine::is_stopped(self.child.id()));
    }

    /// Waits for the process to end.
    pub fn wait(&mut self) -> ExitStatus {
        let give_up = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < give_up, "the gateway did not end");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Resident memory, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// User and system time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        if std::thread::panicking() {
            eprintln!("gateway said: {:#?}", self.operational.all());
        }
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}

/// A configuration with one frame listener `devices` on a free port of 127.0.0.1 and one pool `c2s`
/// over `backends`. `pool` holds further keys of the pool, `frame` further keys of the listener.
pub fn frame_config(backends: &[SocketAddr], pool: &str, frame: &str) -> String {
    let backends: Vec<String> = backends.iter().map(|b| format!("\"{b}\"")).collect();
    format!(
        r#"{ONE_SHARD}
[[listener]]
name = "devices"
bind = ["127.0.0.1:0"]
protocol = "frame"
pool = "c2s"
[listener.frame]
header = ">ccHH"
fields = ["type", "version", "time", "length"]
key = "json:devid"
{frame}
[pool.c2s]
balance = "crc32_mod"
backends = [{}]
{pool}
"#,
        backends.join(", ")
    )
}

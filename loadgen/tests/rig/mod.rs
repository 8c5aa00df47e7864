//! What the tests of the load generator share: its processes, and servers that answer wrongly.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// No run of a test lasts longer.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a finished process left.
pub struct Outcome {
    /// Its exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// The document on standard output (`--json -`).
    pub fn json(&self) -> Value {
        let context = format!("stdout: {}\nstderr: {}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{context}"))
    }
}

/// A running load generator; killed when dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Process {
    /// Starts the binary with these arguments, separated by spaces.
    pub fn start(arguments: &str) -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_corelane-loadgen"))
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let lines = lines_of(child.stdout.take().expect("piped"));
        let errors = lines_of(child.stderr.take().expect("piped"));
        Process { child, lines, errors }
    }

    /// The next line of standard output.
    pub fn line(&self) -> String {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => line,
            Err(error) => panic!("no line: {error}; {:?}", self.errors.try_iter().last()),
        }
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name} {id}");
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Outcome {
        let stdout = rest_of(&self.lines, "standard output");
        let stderr = rest_of(&self.errors, "standard error");
        let status: ExitStatus = self.child.wait().expect("it was started by us");
        Outcome { code: status.code(), stdout, stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn rest_of(lines: &Receiver<String>, what: &str) -> String {
    let deadline = Instant::now() + DEADLINE;
    let mut text = String::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => text.extend([line.as_str(), "\n"]),
            Err(RecvTimeoutError::Disconnected) => return text,
            Err(RecvTimeoutError::Timeout) => panic!("not over in time; {what}: {text}"),
        }
    }
}

/// Runs to the end.
pub fn run(arguments: &str) -> Outcome {
    Process::start(arguments).finish()
}

/// Runs `devices` against these servers, without a gateway, and returns the exit code with the
/// only arm of the document.
pub fn direct(servers: &[SocketAddr], arguments: &str) -> (Option<i32>, Value) {
    let addresses = list(servers);
    let line = format!("devices --quiet --json - --direct {addresses} {arguments}");
    let outcome = run(&line);
    let mut document = outcome.json();
    eprintln!("{}", outcome.stderr);
    (outcome.code, document["arms"][0].take())
}

/// A counter of an arm.
pub fn counter(arm: &Value, name: &str) -> u64 {
    arm["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
}

/// The counters that say something was wrong or broken, if they are not 0.
pub fn wrong(arm: &Value) -> Vec<String> {
    let names = "misrouted lost duplicated out_of_order corrupted foreign connect_refused \
                 connect_timeout connect_no_port connect_no_descriptor connect_other peer_closed \
                 peer_reset peer_other login_timeout reader_idle fin_unanswered";
    let names = names.split_whitespace().filter(|name| counter(arm, name) > 0);
    names.map(str::to_string).collect()
}

/// Addresses as a command line wants them.
pub fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
}

/// Message servers in a process of their own, on free ports.
pub struct Backends {
    /// The process.
    pub process: Process,
    /// Where they listen.
    pub addresses: Vec<SocketAddr>,
}

impl Backends {
    /// Starts `count` servers with further arguments.
    pub fn start(count: usize, arguments: &str) -> Backends {
        let line = format!("backend --count {count} --base 127.0.0.1:0 --json - {arguments}");
        let process = Process::start(&line);
        let addresses = (0..count)
            .map(|_| {
                let line = process.line();
                let (_, address) = line.split_once(' ').expect("a verb and an address");
                address.parse().expect("an address")
            })
            .collect();
        Backends { process, addresses }
    }

    /// Ends the process and gives its statistics, one entry a server.
    pub fn stop(self) -> Value {
        self.process.signal("TERM");
        let outcome = self.process.finish();
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.json()
    }
}

/// One frame as it arrived at a server in this process.
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// Reads one frame; `None` at the end of the stream.
pub fn read_frame(stream: &mut TcpStream) -> Option<Frame> {
    let mut bytes = vec![0; 6];
    stream.read_exact(&mut bytes).ok()?;
    bytes.resize(6 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]])), 0);
    stream.read_exact(&mut bytes[6..]).ok()?;
    Some(Frame { kind: bytes[0], bytes })
}

/// A frame of a type with a body.
pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("short bodies").to_be_bytes();
    [&[kind, 1, 0, 30, len[0], len[1]], body].concat()
}

/// The acknowledgement of a login frame by a server of that name.
pub fn login_ack(login: &Frame, server: &str) -> Vec<u8> {
    let body: Value = serde_json::from_slice(&login.bytes[6..]).expect("a login");
    let ack = serde_json::json!({ "server": server, "devid": body["devid"] });
    frame(2, ack.to_string().as_bytes())
}

/// Starts a server in this process: logins and heartbeats are answered as they should be, data
/// frames by `answer`, which gets the frame and its number on that connection, from 0.
pub fn server<F>(answer: F) -> SocketAddr
where
    F: Fn(&Frame, usize) -> Vec<u8> + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepted");
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                let mut number = 0;
                while let Some(frame) = read_frame(&mut stream) {
                    let bytes = match frame.kind {
                        1 => login_ack(&frame, &address.to_string()),
                        3 => self::frame(4, &[]),
                        _ => {
                            number += 1;
                            answer(&frame, number - 1)
                        }
                    };
                    if stream.write_all(&bytes).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A file that is removed when dropped.
pub struct File(pub PathBuf);

impl File {
    /// Writes a file whose name nobody else has.
    pub fn new(name: &str, text: &str) -> File {
        let path = std::env::temp_dir().join(format!("loadgen-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("a temporary file");
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // What is gone already needs no removing.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A gateway's configuration with one listener and one pool.
pub fn gateway_config(name: &str, bind: SocketAddr, pool: &str) -> File {
    File::new(
        name,
        &format!(
            r#"
[[listener]]
name = "devices"
bind = ["{bind}"]
protocol = "frame"
pool = "c2s"

[listener.frame]
header = ">ccHH"
fields = ["type", "version", "time", "length"]
key = "json:devid"

[pool.c2s]
{pool}
"#
        ),
    )
}

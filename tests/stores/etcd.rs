//! A real etcd: one member, or several.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use corelane::config::{EtcdSource, Secret, StoreTls};
use corelane::source::{Timings, etcd::watch};

use super::desk::Watch;
use super::process::{DEADLINE, Directory, Process, free_port};

/// What is watched.
pub const PREFIX: &str = "/corelane/c2s/";

pub struct Etcd {
    pub process: Process,
    pub port: u16,
    pub directory: Directory,
    arguments: Vec<String>,
}

impl Etcd {
    pub fn start() -> Etcd {
        Etcd::start_with(&[])
    }

    /// With options of etcd's, in which `{port}` is the port for clients.
    pub fn start_with(options: &[&str]) -> Etcd {
        let mut etcd = Etcd::members(1, options).pop().unwrap();
        etcd.wait();
        etcd
    }

    /// Several members of one etcd, ready.
    pub fn start_many(count: usize) -> Vec<Etcd> {
        let mut members = Etcd::members(count, &[]);
        members.iter_mut().for_each(Etcd::wait);
        members
    }

    fn members(count: usize, options: &[&str]) -> Vec<Etcd> {
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let all: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(member, (_, peer))| format!("m{member}=http://127.0.0.1:{peer}"))
            .collect();
        let all = all.join(",");
        let start = |(member, (port, peer)): (usize, &(u16, u16))| {
            let directory = Directory::new("etcd");
            let fixed = format!(
                "--name m{member} --data-dir data --listen-client-urls http://127.0.0.1:{port} \
                 --advertise-client-urls http://127.0.0.1:{port} \
                 --listen-peer-urls http://127.0.0.1:{peer} \
                 --initial-advertise-peer-urls http://127.0.0.1:{peer} --initial-cluster {all} \
                 --initial-cluster-token t{} --heartbeat-interval 50 \
                 --election-timeout 500 --logger zap --log-outputs stderr",
                ports[0].1
            );
            let mut arguments: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
            arguments.extend(options.iter().map(|o| o.replace("{port}", &port.to_string())));
            let process = Process::start(&directory, "etcd", &arguments);
            Etcd { process, port: *port, directory, arguments }
        };
        ports.iter().enumerate().map(start).collect()
    }

    /// Waits until it answers, which it does when it has a leader.
    pub fn wait(&mut self) {
        let port = self.port;
        self.process.wait(|| {
            let range = r#"{"key":"AA==","count_only":true}"#;
            Gateway::connect(port)
                .and_then(|mut gateway| gateway.post("/v3/kv/range", range))
                .is_ok()
        });
    }

    /// Starts again with what the directory holds.
    pub fn restart(&mut self) {
        self.process.kill();
        self.start_again();
    }

    /// Starts a process that was killed.
    pub fn start_again(&mut self) {
        self.process = Process::start(&self.directory, "etcd", &self.arguments);
        self.wait();
    }

    /// Where the data are.
    pub fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    /// Runs etcdctl with words separated by blanks.
    pub fn run(&self, command: &str) -> String {
        self.run_with(command, "")
    }

    pub fn run_with(&self, command: &str, input: &str) -> String {
        let mut child = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=127.0.0.1:{}", self.port))
            .args(command.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "etcdctl {command}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn put(&self, name: &str, value: &str) {
        self.run(&format!("put {PREFIX}{name} {value}"));
    }

    pub fn delete(&self, name: &str) {
        self.run(&format!("del {PREFIX}{name}"));
    }

    /// Several operations in one revision: lines of etcdctl's language, such as `put KEY VALUE`.
    pub fn transaction(&self, operations: &[String]) {
        self.run_with("txn", &format!("\n{}\n\n\n", operations.join("\n")));
    }

    /// Of the store.
    pub fn revision(&self) -> i64 {
        let said = self.run("get nothing -w json");
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        said["header"]["revision"].as_i64().unwrap()
    }

    pub fn settings(&self) -> EtcdSource {
        settings(&[self.port])
    }

    pub fn watch(&self) -> Watch {
        start(self.settings(), TIMINGS)
    }
}

/// Short, and no resync while a test lasts.
pub const TIMINGS: Timings =
    Timings { resync: Duration::from_secs(600), timeout: Duration::from_secs(1) };

pub fn settings(ports: &[u16]) -> EtcdSource {
    EtcdSource {
        endpoints: ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect(),
        prefix: PREFIX.to_owned(),
        credentials: None,
        tls: StoreTls::default(),
    }
}

pub fn with_password(settings: EtcdSource, name: &str, password: &str) -> EtcdSource {
    let credentials = Some((name.to_owned(), Secret::new(password.to_owned())));
    EtcdSource { credentials, ..settings }
}

pub fn start(settings: EtcdSource, timings: Timings) -> Watch {
    Watch::start(move |desk| watch(settings, timings, desk))
}

/// etcd's HTTP interface on one connection: quicker than a process for every put.
pub struct Gateway {
    stream: BufReader<TcpStream>,
}

impl Gateway {
    #[expect(clippy::disallowed_methods, reason = "a test's thread may block")]
    pub fn connect(port: u16) -> std::io::Result<Gateway> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        // A disk that others use may hold a write up for seconds.
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Gateway { stream: BufReader::new(stream) })
    }

    pub fn put(&mut self, name: &str, value: &str) {
        let key = base64(format!("{PREFIX}{name}").as_bytes());
        let value = base64(value.as_bytes());
        self.post("/v3/kv/put", &format!(r#"{{"key":"{key}","value":"{value}"}}"#)).unwrap();
    }

    /// Posts JSON; an error if the answer is not "200".
    pub fn post(&mut self, path: &str, body: &str) -> std::io::Result<String> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let (mut len, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_lowercase();
            if line.is_empty() {
                break;
            }
            chunked |= line == "transfer-encoding: chunked";
            if let Some(value) = line.strip_prefix("content-length:") {
                len = value.trim().parse().map_err(std::io::Error::other)?;
            }
        }
        let mut body = Vec::new();
        loop {
            if chunked {
                len = usize::from_str_radix(&self.line()?, 16).map_err(std::io::Error::other)?;
            }
            let begin = body.len();
            body.resize(begin + len, 0);
            self.stream.read_exact(&mut body[begin..])?;
            if chunked {
                self.line()?;
            }
            if !chunked || len == 0 {
                break;
            }
        }
        match status.contains(" 200 ") {
            true => Ok(String::from_utf8_lossy(&body).into_owned()),
            false => Err(std::io::Error::other(status)),
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

/// With padding.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for place in 0..4 {
            match place <= chunk.len() {
                true => text.push(char::from(LETTERS[bits >> (18 - 6 * place) & 63])),
                false => text.push('='),
            }
        }
    }
    text
}

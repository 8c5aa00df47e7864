//! Backends that record what reaches them, byte by byte, and answer with their number.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::stores::process::{DEADLINE, pause};

/// What "dGhlIHNhbXBsZSBub25jZQ==", the key of RFC 6455's example, is answered with.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request that a backend got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub backend: u8,
    pub method: String,
    pub target: String,
    pub version: String,
    /// As they came, in their order.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Arrival {
    pub fn line(&self) -> String {
        format!("{} {} {}", self.method, self.target, self.version)
    }

    /// Names in lower case. The order of several values of one name is kept.
    pub fn sorted_fields(&self) -> Vec<(String, String)> {
        let mut fields: Vec<_> = self.fields.clone();
        fields.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        fields
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// What backends have got.
#[derive(Clone, Default)]
pub struct Recorder {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    connections: Arc<Mutex<usize>>,
}

impl Recorder {
    /// Everything since the last time.
    pub fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut self.arrivals.lock().unwrap())
    }

    /// Connections that backends have accepted so far.
    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    /// A backend at this address: it answers 200 with its number, unless the request has a field
    /// `x-answer` that says otherwise.
    pub fn backend(&self, address: SocketAddr, number: u8) {
        let listener = TcpListener::bind(address).unwrap();
        let recorder = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                *recorder.connections.lock().unwrap() += 1;
                let recorder = recorder.clone();
                std::thread::spawn(move || {
                    // The other side may go at any time.
                    let _gone = recorder.serve(stream, number);
                });
            }
        });
    }

    fn serve(&self, mut stream: TcpStream, number: u8) -> std::io::Result<()> {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(mut arrival) = read_request(&mut reader)? {
            arrival.backend = number;
            let keep = arrival.version == "HTTP/1.1"
                && !arrival.value("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
            let answer = arrival.value("x-answer").unwrap_or("plain").to_owned();
            let upgrade = arrival.value("upgrade").is_some();
            self.arrivals.lock().unwrap().push(arrival);
            if upgrade && answer == "plain" {
                return echo_after_upgrade(stream, reader);
            }
            let keep = keep && !["until-close", "hang-up"].contains(&&*answer);
            respond(&mut stream, &answer, (number, keep))?;
            if !keep {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn respond(stream: &mut TcpStream, answer: &str, how: (u8, bool)) -> std::io::Result<()> {
    let (number, keep) = how;
    let name = format!("backend {number}\n");
    let (status, kind) = match answer.split_once(' ') {
        Some((status, kind)) => (status, kind),
        None => ("200", answer),
    };
    // Who closes says so: nginx would keep the connection otherwise, though it asked to close it.
    let close = if keep { "" } else { "Connection: close\r\n" };
    let head = format!("HTTP/1.1 {status} Said\r\nX-Backend: {number}\r\n{close}");
    let text = match kind {
        "plain" => format!("{head}Content-Length: {}\r\n\r\n{name}", name.len()),
        "empty" => format!("{head}\r\n"),
        "chunked" => {
            let len = name.len();
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{len:x}\r\n{name}\r\n0\r\n\r\n")
        }
        "until-close" => format!("{head}\r\n{name}"),
        "long" => format!("{head}Content-Length: 1000000\r\n\r\n{}", "x".repeat(1_000_000)),
        "slow" => {
            pause(Duration::from_millis(900));
            format!("{head}Content-Length: {}\r\n\r\n{name}", name.len())
        }
        "hang-up" => String::new(),
        "nonsense" => "this is not HTTP\r\n\r\n".to_owned(),
        other => panic!("x-answer: {other}"),
    };
    stream.write_all(text.as_bytes())
}

fn echo_after_upgrade(
    mut stream: TcpStream,
    mut reader: BufReader<TcpStream>,
) -> std::io::Result<()> {
    stream.write_all(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        )
        .as_bytes(),
    )?;
    let mut bytes = [0; 65536];
    loop {
        let count = reader.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..count])?;
    }
}

/// The next request; `None` at the end. What is not a request is an arrival as well, by its bytes.
fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Arrival>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok((!head.is_empty()).then(|| unreadable(&head)));
        }
    }
    let text = String::from_utf8_lossy(&head[..head.len() - 4]).into_owned();
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or("").split(' ').collect();
    let [method, target, version] = words[..] else { return Ok(Some(unreadable(&head))) };
    let mut fields = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Ok(Some(unreadable(&head))) };
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
    let mut arrival = Arrival {
        backend: 0,
        method: method.to_owned(),
        target: target.to_owned(),
        version: version.to_owned(),
        fields,
        body: Vec::new(),
    };
    if arrival.value("transfer-encoding").is_some() {
        arrival.body = read_chunks(reader)?;
    } else if let Some(length) = arrival.value("content-length") {
        let Ok(length) = length.parse() else { return Ok(Some(unreadable(&head))) };
        arrival.body = vec![0; length];
        reader.read_exact(&mut arrival.body)?;
    }
    Ok(Some(arrival))
}

fn read_chunks(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = line.trim_end().split(';').next().unwrap_or("");
        let size = usize::from_str_radix(size, 16).map_err(std::io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        if size == 0 {
            while line != "\r\n" && !line.is_empty() {
                line.clear();
                reader.read_line(&mut line)?;
            }
            return Ok(body);
        }
        reader.read_exact(&mut chunk)?;
        body.extend_from_slice(&chunk[..size]);
    }
}

fn unreadable(bytes: &[u8]) -> Arrival {
    Arrival {
        backend: 0,
        method: "UNREADABLE".to_owned(),
        target: bytes.escape_ascii().to_string(),
        version: String::new(),
        fields: Vec::new(),
        body: Vec::new(),
    }
}

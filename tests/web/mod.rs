//! HTTP backends that record every byte, and clients that send what they are told, for tests.
#![allow(dead_code, reason = "each test uses a part of this")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::gateway::{DEADLINE, Gateway, ONE_SHARD};

/// A message as it came over a connection.
#[derive(Debug, Clone)]
pub struct Message {
    /// Which connection of its receiver, from 0.
    pub connection: usize,
    /// Start line and fields, with the empty line.
    pub head: String,
    /// Without its framing.
    pub body: Vec<u8>,
}

impl Message {
    /// The value of a field, whose name is compared without regard to case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn start_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn status(&self) -> u16 {
        let code = self.start_line().split(' ').nth(1);
        code.and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One end of a connection, plain or inside TLS, with what was read too far.
pub struct Wire<S = TcpStream> {
    pub stream: S,
    pub read: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire::over(stream)
    }

    pub fn connect(address: SocketAddr) -> Wire {
        Wire::new(TcpStream::connect_timeout(&address, DEADLINE).unwrap())
    }

    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

impl<S: Read + Write> Wire<S> {
    /// Of a stream whose deadlines are set.
    pub fn over(stream: S) -> Wire<S> {
        Wire { stream, read: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self.stream.flush().unwrap();
    }

    /// Sends; the other side may be gone already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).and_then(|()| self.stream.flush()).is_ok()
    }

    /// Reads once more; `false` at the end, or when the connection broke.
    fn more(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(n) => {
                self.read.extend_from_slice(&bytes[..n]);
                true
            }
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "nothing came in time");
                false
            }
        }
    }

    /// Exactly so many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        while self.read.len() < len {
            assert!(self.more(), "ended after {:?}", String::from_utf8_lossy(&self.read));
        }
        self.read.drain(..len).collect()
    }

    /// The bytes up to and with the next `end`.
    fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|bytes| bytes == end) {
                return Some(self.read.drain(..at + end.len()).collect());
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// The next head; `None` at the end.
    pub fn head(&mut self) -> Option<Message> {
        let head = String::from_utf8_lossy(&self.until(b"\r\n\r\n")?).into_owned();
        Some(Message { connection: 0, head, body: Vec::new() })
    }

    /// The next message; `None` when the connection ends within it. `asked` is the method that it
    /// answers, if it is a response.
    pub fn message(&mut self, asked: &str) -> Option<Message> {
        let mut message = self.head()?;
        let status = message.status();
        let response = message.head.starts_with("HTTP/");
        let bodiless =
            response && (asked == "HEAD" || status / 100 == 1 || status == 204 || status == 304);
        if bodiless {
            return Some(message);
        }
        if message.field("transfer-encoding").is_some() {
            loop {
                let line = String::from_utf8(self.until(b"\r\n")?).unwrap();
                let size = line.trim().split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size, 16).unwrap();
                if size == 0 {
                    while self.until(b"\r\n")? != b"\r\n" {}
                    return Some(message);
                }
                while self.read.len() < size + 2 {
                    if !self.more() {
                        return None;
                    }
                }
                message.body.extend(self.read.drain(..size));
                self.read.drain(..2);
            }
        }
        match message.field("content-length").map(|len| len.parse::<usize>().unwrap()) {
            Some(len) => {
                while self.read.len() < len {
                    if !self.more() {
                        return None;
                    }
                }
                message.body = self.read.drain(..len).collect();
            }
            None if response => {
                while self.more() {}
                message.body = std::mem::take(&mut self.read);
            }
            None => {}
        }
        Some(message)
    }

    /// A response to a request that is sent first.
    pub fn ask(&mut self, request: &str) -> Message {
        self.send(request);
        let method = request.split(' ').next().unwrap_or_default();
        self.message(method).unwrap_or_else(|| panic!("no answer to {request:?}"))
    }

    /// All that comes until the end, and whether that was a FIN.
    pub fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return (std::mem::take(&mut self.read), true),
                Ok(n) => self.read.extend_from_slice(&bytes[..n]),
                Err(error) => {
                    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "no end in time");
                    return (std::mem::take(&mut self.read), false);
                }
            }
        }
    }
}

/// A backend.
pub struct Web {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
    connections: Arc<AtomicUsize>,
}

impl Web {
    /// Serves every connection with `serve`, in a thread each.
    pub fn serve(serve: impl Fn(usize, Wire) + Send + Sync + 'static) -> Web {
        Web::serve_inside(Ok, move |number, wire: Wire| serve(number, Wire::new(wire.stream)))
    }

    /// The same over what `secure` makes of a connection; one of which it makes nothing counts.
    pub fn serve_inside<S: Read + Write>(
        secure: impl Fn(TcpStream) -> std::io::Result<S> + Send + Sync + 'static,
        serve: impl Fn(usize, Wire<S>) + Send + Sync + 'static,
    ) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, serve) = (connections.clone(), Arc::new((secure, serve)));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let serve = serve.clone();
                std::thread::spawn(move || {
                    let (secure, serve) = &*serve;
                    if let Ok(stream) = secure(stream) {
                        serve(number, Wire::over(stream));
                    }
                });
            }
        });
        Web { address, seen: Arc::default(), connections }
    }

    /// Answers every request with what `answer` makes of it, on connections that stay open. The
    /// bytes of the answer are sent as they are.
    pub fn answering(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Web {
        Web::answering_inside(Ok, answer)
    }

    /// The same over what `secure` makes of a connection, whose deadlines it should not set: idle
    /// connections are the gateway's to close.
    pub fn answering_inside<S: Read + Write + 'static>(
        secure: impl Fn(TcpStream) -> std::io::Result<S> + Send + Sync + 'static,
        answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
    ) -> Web {
        let seen: Arc<Mutex<Vec<Message>>> = Arc::default();
        let record = seen.clone();
        let web = Web::serve_inside(secure, move |connection, mut wire| {
            while let Some(message) = wire.message("") {
                let message = Message { connection, ..message };
                record.lock().unwrap().push(message.clone());
                if !wire.try_send(answer(&message)) {
                    return;
                }
            }
        });
        Web { seen, ..web }
    }

    /// Answers with its name and what it was asked.
    pub fn named(name: &'static str) -> Web {
        Web::answering(move |message| {
            let body = format!("{name} {} {}", message.start_line(), message.text());
            ok(&body)
        })
    }

    /// Every request that came.
    pub fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }

    /// Connections that were made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A response with this body.
pub fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A gateway with a listener `web`, whose rules and pools are in `rest`. `http` holds keys of the
/// listener's http table.
pub fn config(http: &str, rest: &str) -> String {
    format!(
        "{ONE_SHARD}\n[[listener]]\nname = \"web\"\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n\
         [listener.http]\n{http}\n{rest}"
    )
}

/// The same with one pool `p` over these backends, to which everything goes. `pool` holds its keys.
pub fn one_pool(http: &str, backends: &[SocketAddr], pool: &str) -> String {
    let backends: Vec<String> = backends.iter().map(|address| format!("\"{address}\"")).collect();
    let backends = backends.join(", ");
    let balance = if pool.contains("balance") { "" } else { "balance = \"round_robin\"" };
    let rest = format!(
        "[[listener.http.rule]]\nname = \"all\"\npool = \"p\"\n\
         [pool.p]\n{balance}\nbackends = [{backends}]\n{pool}\n"
    );
    config(http, &rest)
}

/// A connection to the listener of [`config`].
pub fn client(gateway: &Gateway) -> Wire {
    Wire::connect(gateway.address("web"))
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < give_up, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

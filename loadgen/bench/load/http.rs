//! HTTP in the load: devices that send requests, backends that answer them, and the handshake of
//! WebSocket at both ends. Heads are read by httparse; bodies are framed by their length alone,
//! which is all that is sent here.
//!
//! A request carries its number at the end of its path and its place in a header. The answer's body
//! says the number and which backend answered, so that one that went astray is not counted.

use std::io::{self, Read as _, Write as _};
use std::time::Instant;

use httparse::{EMPTY_HEADER, Header, Status};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::args::{Method, Requests};
use super::connection::{Connection, Role};
use super::engine::{CHUNK, Engine, Phase};
use super::traffic::Fate;

/// Fields of a head at most: a few more than forwarders add.
const FIELDS_MAX: usize = 32;
/// Bytes of the number in a path.
const NUMBER_LEN: usize = 16;
/// Bytes of the body of an answer: number, blank, backend, end of line.
const ANSWER_LEN: usize = NUMBER_LEN + 1 + 4 + 1;
/// What RFC 6455 takes for its example, with which it was computed by hand.
const UPGRADE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// A device asks for WebSocket.
pub const UPGRADE_REQUEST: &[u8] =
    b"GET /ws HTTP/1.1\r\nHost: bench.test\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const BODY: &str = "{\"event\":\"paid\",\"order\":12345678}";

/// The request that all devices send, with two places that change.
pub struct Request {
    bytes: Vec<u8>,
    number_at: usize,
    place_at: usize,
    places: u64,
    is_placed: bool,
}

impl Request {
    /// A request of number 0.
    pub fn new(requests: &Requests) -> Request {
        let (method, body) = match requests.method {
            Method::Get => ("GET", ""),
            Method::Post => ("POST", BODY),
        };
        let mut text = format!("{method} /call/");
        let number_at = text.len();
        text += "0000000000000000 HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: corelane-bench\r\n\
                 Accept: */*\r\n";
        text += &format!("{}: ", requests.header);
        let place_at = text.len();
        text += "000\r\n";
        if !body.is_empty() {
            let length = body.len();
            text += &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        }
        text += "\r\n";
        text += body;
        Request {
            bytes: text.into_bytes(),
            number_at,
            place_at,
            places: u64::from(requests.places),
            is_placed: requests.is_placed,
        }
    }

    /// The request with this number.
    fn numbered(&mut self, number: u64) -> &[u8] {
        let place = number % self.places;
        // Both have as many digits as there is room for.
        let _fits = write!(&mut self.bytes[self.number_at..][..NUMBER_LEN], "{number:016x}");
        let _fits = write!(&mut self.bytes[self.place_at..][..3], "{place:03}");
        &self.bytes
    }

    /// Whether the body of an answer is the one to this number.
    fn is_answer(&self, body: &[u8], number: u64, backends: usize) -> bool {
        let mut expected = [0; ANSWER_LEN];
        put_answer(&mut expected, number, (number % self.places) as usize % backends);
        match self.is_placed {
            true => body == expected,
            false => body.len() == ANSWER_LEN && body[..NUMBER_LEN] == expected[..NUMBER_LEN],
        }
    }
}

fn put_answer(body: &mut [u8; ANSWER_LEN], number: u64, backend: usize) {
    // As many digits as there is room for.
    let _fits = writeln!(&mut body[..], "{number:016x} {backend:04}");
}

/// The header of a masked binary frame that fills the whole message. Any mask will do, and the
/// numbers that messages carry are written over what it masked.
pub fn put_frame_header(message: &mut [u8]) {
    const FINAL_BINARY: u8 = 0x82;
    const MASKED: u8 = 0x80;
    message[0] = FINAL_BINARY;
    match message.len() - 6 {
        payload @ 0..=125 => message[1] = MASKED | payload as u8,
        // Two bytes of length more.
        payload => {
            message[1] = MASKED | 126;
            message[2..4].copy_from_slice(&(payload as u16 - 2).to_be_bytes());
        }
    }
}

/// A request as a backend sees it.
#[derive(Debug, PartialEq)]
struct Asked {
    /// Bytes of head and body.
    len: usize,
    /// The connection ends with it.
    is_last: bool,
    what: What,
}

#[derive(Debug, PartialEq)]
enum What {
    /// The request with this number.
    Number(u64),
    /// WebSocket; the value of Sec-WebSocket-Accept.
    Upgrade(String),
}

/// `None`: not all of it has come. A fault ends the connection.
fn parse_request(bytes: &[u8]) -> Result<Option<Asked>, &'static str> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let head = match request.parse(bytes) {
        Ok(Status::Complete(head)) => head,
        Ok(Status::Partial) => return Ok(None),
        Err(_fault) => return Err("head"),
    };
    let fields = &*request.headers;
    let len = head + content_length(fields)?.unwrap_or(0);
    if bytes.len() < len {
        return Ok(None);
    }
    // HTTP/1.0 ends a connection with the answer, unless it was agreed otherwise.
    let is_last = has_token(fields, "close")
        || request.version == Some(0) && !has_token(fields, "keep-alive");
    if has_token(fields, "upgrade") {
        let key = field(fields, "sec-websocket-key").ok_or("no key")?;
        let what = What::Upgrade(derive_accept_key(key.as_bytes()));
        return Ok(Some(Asked { len, is_last: false, what }));
    }
    let path = request.path.unwrap_or_default();
    let number = path.rsplit('/').next().filter(|digits| digits.len() == NUMBER_LEN);
    let number = number.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or("path")?;
    Ok(Some(Asked { len, is_last, what: What::Number(number) }))
}

/// Where head and body of a response end, and whether it is the last on its connection.
struct Responded {
    head: usize,
    len: usize,
    is_last: bool,
}

/// `None`: not all of it has come. A fault ends the connection.
fn parse_response(bytes: &[u8]) -> Result<Option<Responded>, &'static str> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(bytes) {
        Ok(Status::Complete(head)) => head,
        Ok(Status::Partial) => return Ok(None),
        Err(_fault) => return Err("head"),
    };
    match response.code {
        Some(200) => {}
        Some(400..=499) => return Err("status_4xx"),
        Some(500..=599) => return Err("status_5xx"),
        _ => return Err("status"),
    }
    let fields = &*response.headers;
    let len = head + content_length(fields)?.ok_or("no_length")?;
    let is_last = has_token(fields, "close");
    Ok((bytes.len() >= len).then_some(Responded { head, len, is_last }))
}

fn content_length(fields: &[Header<'_>]) -> Result<Option<usize>, &'static str> {
    if field(fields, "transfer-encoding").is_some() {
        return Err("chunked");
    }
    let length = field(fields, "content-length").map(str::parse);
    length.transpose().map_err(|_number| "length")
}

fn field<'f>(fields: &[Header<'f>], name: &str) -> Option<&'f str> {
    let found = fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(found.value).ok()
}

/// Whether Connection has a word.
fn has_token(fields: &[Header<'_>], token: &str) -> bool {
    let connection = field(fields, "connection").unwrap_or_default();
    connection.split(',').any(|word| word.trim().eq_ignore_ascii_case(token))
}

impl Role {
    /// A backend's connection.
    pub fn serving(backend: usize) -> Role {
        Role::Serving { backend: backend as u16, partial: Vec::new(), is_last: false }
    }
}

impl Engine {
    /// A backend answers what has come.
    pub(super) fn serve(&mut self, connection: &mut Connection, ending: bool) -> io::Result<Fate> {
        loop {
            let Role::Serving { backend, partial, is_last } = &mut connection.role else {
                return self.echo(connection, ending);
            };
            let backend = usize::from(*backend);
            if !connection.out.is_empty() {
                return Ok(Fate::Open);
            }
            if *is_last {
                return Ok(Fate::Closed(None));
            }
            let n = match connection.socket.read(&mut self.buffer) {
                Ok(0) => return Ok(Fate::Closed(None)),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Fate::Open),
                Err(error) => return Err(error),
            };
            let mut come = std::mem::take(partial);
            come.extend_from_slice(&self.buffer[..n]);
            while let Role::Serving { is_last: false, .. } = connection.role {
                let asked = match parse_request(&come) {
                    Ok(Some(asked)) => asked,
                    Ok(None) => break,
                    // Our own devices sent it: what a forwarder made of it is its fault.
                    Err(fault) => return answer_fault(connection, fault),
                };
                answer(connection, &asked, backend)?;
                come.drain(..asked.len);
            }
            match &mut connection.role {
                Role::Serving { partial, is_last, .. } => {
                    *partial = come;
                    if *is_last && connection.out_is_empty() {
                        return Ok(Fate::Closed(None));
                    }
                }
                // What came behind the handshake is echoed.
                _ => connection.send(&come)?,
            }
            if n < CHUNK && !ending {
                return Ok(Fate::Open);
            }
        }
    }

    /// Sends a device's next request, whose latency counts from `due`.
    pub(super) fn ask(&mut self, connection: &mut Connection, due: Instant) -> io::Result<()> {
        let number = self.next_sequence;
        let Some(request) = &mut self.request else { return Ok(()) };
        self.next_sequence += 1;
        if let Role::Asking(_, talk) = &mut connection.role {
            talk.in_flight.push_back((number, due));
        }
        connection.send(request.numbered(number))
    }

    /// A device reads answers, and sends the next request upon each.
    pub(super) fn read_responses(
        &mut self,
        index: usize,
        connection: &mut Connection,
        ending: bool,
    ) -> io::Result<Fate> {
        loop {
            let n = match connection.socket.read(&mut self.buffer) {
                Ok(0) => return Ok(Fate::Closed(Some("fin"))),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Fate::Open),
                Err(error) => return Err(error),
            };
            let Role::Asking(_, talk) = &mut connection.role else { return Ok(Fate::Open) };
            talk.partial.extend_from_slice(&self.buffer[..n]);
            let responded = match parse_response(&talk.partial) {
                Ok(responded) => responded,
                Err(fault) => return Ok(Fate::Closed(Some(fault))),
            };
            if let Some(responded) = responded {
                let fault = self.responded(index, connection, &responded);
                if fault.is_some() || responded.is_last {
                    return Ok(Fate::Closed(fault));
                }
                if self.phase == Phase::Load {
                    self.ask(connection, Instant::now())?;
                }
            }
            if n < CHUNK && !ending {
                return Ok(Fate::Open);
            }
        }
    }

    /// Counts a whole response; what is wrong with it, if anything.
    fn responded(
        &mut self,
        index: usize,
        connection: &mut Connection,
        responded: &Responded,
    ) -> Option<&'static str> {
        let Role::Asking(errand, talk) = &mut connection.role else { return None };
        let Some((number, due)) = talk.in_flight.pop_front() else { return Some("foreign") };
        let (Some(body), Some(request)) =
            (talk.partial.get(responded.head..responded.len), &self.request)
        else {
            return Some("foreign");
        };
        if !request.is_answer(body, number, self.plan.backends.len()) {
            return Some("corrupt");
        }
        if talk.partial.len() > responded.len {
            return Some("foreign");
        }
        talk.partial.clear();
        self.counts.completed += 1;
        let latency = due.elapsed().as_nanos() as u64;
        self.counts.latency.saturating_record(latency);
        if errand.take().is_some() {
            self.logging_in -= 1;
            self.logged_in += 1;
            self.devices.push(index);
        }
        None
    }

    /// A device waits for 101.
    pub(super) fn read_upgrade(
        &mut self,
        index: usize,
        connection: &mut Connection,
    ) -> io::Result<Fate> {
        loop {
            let n = match connection.socket.read(&mut self.buffer) {
                Ok(0) => return Ok(Fate::Closed(Some("fin"))),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Fate::Open),
                Err(error) => return Err(error),
            };
            let Role::Upgrading { errand, partial } = &mut connection.role else {
                return Ok(Fate::Open);
            };
            partial.extend_from_slice(&self.buffer[..n]);
            let errand = *errand;
            match is_upgraded(partial) {
                Ok(false) => {}
                Ok(true) => return Ok(self.logged_in(index, connection, errand)),
                Err(fault) => return Ok(Fate::Closed(Some(fault))),
            }
        }
    }
}

fn answer(connection: &mut Connection, asked: &Asked, backend: usize) -> io::Result<()> {
    match &asked.what {
        What::Upgrade(accept) => {
            connection.role = Role::Echo;
            let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\nSec-WebSocket-Accept: ";
            connection.send(format!("{head}{accept}\r\n\r\n").as_bytes())
        }
        What::Number(number) => {
            let head: &[u8] = match asked.is_last {
                false => {
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 22\r\n\r\n"
                }
                true => {
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 22\r\n\
                      Connection: close\r\n\r\n"
                }
            };
            let mut body = [0; ANSWER_LEN];
            put_answer(&mut body, *number, backend);
            let mut whole = [0; 160];
            let len = head.len() + body.len();
            whole[..head.len()].copy_from_slice(head);
            whole[head.len()..len].copy_from_slice(&body);
            if let Role::Serving { is_last, .. } = &mut connection.role {
                *is_last = asked.is_last;
            }
            connection.send(&whole[..len])
        }
    }
}

fn answer_fault(connection: &mut Connection, fault: &str) -> io::Result<Fate> {
    let length = fault.len();
    let text = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{fault}"
    );
    connection.send(text.as_bytes())?;
    Ok(Fate::Closed(None))
}

/// Whether a device's request for WebSocket was granted; `false`: not all of the answer has come.
fn is_upgraded(bytes: &[u8]) -> Result<bool, &'static str> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(bytes) {
        Ok(Status::Complete(head)) => head,
        Ok(Status::Partial) => return Ok(false),
        Err(_fault) => return Err("head"),
    };
    if response.code != Some(101) {
        return Err("not_upgraded");
    }
    if field(response.headers, "sec-websocket-accept")
        != Some(&derive_accept_key(UPGRADE_KEY.as_bytes()))
    {
        return Err("accept");
    }
    // Nobody speaks before the device does.
    if bytes.len() > head { Err("foreign") } else { Ok(true) }
}

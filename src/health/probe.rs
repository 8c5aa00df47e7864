//! One check of one backend: what is asked, and what came of it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream as PlainTcp};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as PlainUnix;
use std::pin::pin;

use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::backend;
use crate::config::{Address, Answer, AnswerFrame, Check, CheckKind, Pool};
use crate::end::{End, Side};
use crate::proxy;
use crate::sys::Connecting;
use crate::tls::Brought;

/// Longest head of an HTTP answer, bytes.
const HEAD_LEN_MAX: usize = 16 * 1024;

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it should be.
    Good,
    /// The connection was refused.
    Refused,
    /// No good answer in time.
    Timeout,
    /// No way to it.
    Unreachable,
    /// It closed or reset the connection instead of answering.
    Closed,
    /// It answered something else.
    Unexpected,
    /// We could not ask: no port, no descriptor. Says nothing about the backend.
    Ours,
}

impl Outcome {
    /// Every outcome; `ALL[outcome as usize] == outcome`.
    pub const ALL: [Outcome; 7] = [
        Outcome::Good,
        Outcome::Refused,
        Outcome::Timeout,
        Outcome::Unreachable,
        Outcome::Closed,
        Outcome::Unexpected,
        Outcome::Ours,
    ];

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Good => "good",
            Outcome::Refused => "refused",
            Outcome::Timeout => "timeout",
            Outcome::Unreachable => "unreachable",
            Outcome::Closed => "closed",
            Outcome::Unexpected => "unexpected",
            Outcome::Ours => "not_asked",
        }
    }
}

/// Why a check was not good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Never `Good`.
    pub outcome: Outcome,
    /// For people: a word on what was seen.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.outcome.label(), self.detail)
    }
}

fn failure(outcome: Outcome, detail: impl Into<String>) -> Failure {
    Failure { outcome, detail: detail.into() }
}

/// Checks the backend at `address` of a pool within the check's timeout; `turn` chooses among the
/// pool's source addresses.
///
/// # Errors
/// What was wrong.
pub async fn run(
    pool: &Pool,
    check: &Check,
    address: &Address,
    turn: usize,
) -> Result<(), Failure> {
    match tokio::time::timeout(check.timeout, ask(pool, check, address, turn)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(failure(Outcome::Timeout, format!("after {:?}", check.timeout))),
    }
}

async fn ask(pool: &Pool, check: &Check, address: &Address, turn: usize) -> Result<(), Failure> {
    let address = match (address, check.port) {
        (Address::Tcp(tcp), Some(port)) => Address::Tcp(SocketAddr::new(tcp.ip(), port)),
        (address, _) => address.clone(),
    };
    // On its own port a backend expects what sessions send it first: a header that speaks for us.
    let header = if pool.proxy_out && check.port.is_none() { proxy::build(None) } else { vec![] };
    let started = backend::start(pool, &address, || turn).map_err(|error| refusal(&error))?;
    let fd = OwnedFd::from(started.socket);
    match &address {
        Address::Tcp(_) => {
            let stream = TcpStream::from_std(PlainTcp::from(fd)).map_err(|error| ours(&error))?;
            stream.writable().await.map_err(|error| refusal(&error))?;
            decided(&SockRef::from(&stream), &address)?;
            secure_and_talk(stream, pool, (check, &address), &header).await
        }
        Address::Unix(_) => {
            let stream = UnixStream::from_std(PlainUnix::from(fd)).map_err(|error| ours(&error))?;
            stream.writable().await.map_err(|error| refusal(&error))?;
            decided(&SockRef::from(&stream), &address)?;
            secure_and_talk(stream, pool, (check, &address), &header).await
        }
    }
}

/// Checks a backend over a connection that stands, inside TLS where sessions are, too. A port of
/// the check's own speaks plain.
async fn secure_and_talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut stream: S,
    pool: &Pool,
    (check, address): (&Check, &Address),
    header: &[u8],
) -> Result<(), Failure> {
    let closed = |error: io::Error| failure(Outcome::Closed, error.to_string());
    stream.write_all(header).await.map_err(closed)?;
    let Some(tls) = pool.tls.as_ref().filter(|_| check.port.is_none()) else {
        return talk(stream, check, address).await;
    };
    let Some(name) = tls.name(&Brought::default()) else {
        return Err(failure(Outcome::Ours, "TLS: no name to call the backend by"));
    };
    let connector = TlsConnector::from(tls.config.clone());
    let secured = connector.connect(name, stream).await.map_err(|error| {
        // A backend that answers with something else than trust is not to be sent anybody.
        let outcome = match error.kind() {
            io::ErrorKind::InvalidData => Outcome::Unexpected,
            _ => Outcome::Closed,
        };
        failure(outcome, format!("TLS: {error}"))
    })?;
    talk(secured, check, address).await
}

/// Whether the connection stands.
fn decided(socket: &SockRef<'_>, address: &Address) -> Result<(), Failure> {
    if let Err(error) = socket.take_error().and_then(|error| error.map_or(Ok(()), Err)) {
        return Err(refusal(&error));
    }
    // Where nobody listens on this machine, a socket may have met itself.
    backend::outcome(socket, address, Connecting::Connected)
        .map_err(|end| failure(Outcome::Refused, end.label()))
}

fn ours(error: &io::Error) -> Failure {
    failure(Outcome::Ours, error.to_string())
}

/// Why there is no connection.
fn refusal(error: &io::Error) -> Failure {
    let end = backend::classify(error);
    let outcome = match end {
        End::ConnectTimeout => Outcome::Timeout,
        End::ConnectUnreachable => Outcome::Unreachable,
        end if end.side() == Side::Us => Outcome::Ours,
        _ => Outcome::Refused,
    };
    failure(outcome, error.to_string())
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut stream: S,
    check: &Check,
    address: &Address,
) -> Result<(), Failure> {
    let closed = |error: io::Error| failure(Outcome::Closed, error.to_string());
    match &check.kind {
        CheckKind::Tcp => Ok(()),
        CheckKind::Bytes { send, expect } => {
            stream.write_all(send).await.map_err(closed)?;
            let mut received = Vec::new();
            loop {
                match expect.judge(&received) {
                    Judged::Good => return Ok(()),
                    Judged::Wrong(why) => return Err(failure(Outcome::Unexpected, why)),
                    Judged::NeedMore(len) => {
                        let more = len.saturating_sub(received.len()) as u64;
                        let read = (&mut stream).take(more).read_to_end(&mut received).await;
                        if received.len() < len {
                            let detail = match read {
                                Ok(_) => format!("after {} bytes of {len}", received.len()),
                                Err(error) => error.to_string(),
                            };
                            return Err(failure(Outcome::Closed, detail));
                        }
                    }
                }
            }
        }
        CheckKind::Http { path, host, status } => {
            let host = host.clone().unwrap_or_else(|| match address {
                Address::Tcp(address) => address.to_string(),
                Address::Unix(_) => "localhost".to_owned(),
            });
            let got = request(stream, path, &host).await?;
            if status.contains(&got) {
                Ok(())
            } else {
                Err(failure(Outcome::Unexpected, format!("status {got}")))
            }
        }
    }
}

/// Sends a GET request; the status of its answer.
async fn request<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    path: &str,
    host: &str,
) -> Result<u16, Failure> {
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("corelane/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(String::new())
        .map_err(|error| failure(Outcome::Ours, error.to_string()))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_LEN_MAX);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| unanswered(&error))?;
    let answer = pin!(sender.send_request(request));
    let answer = beside(answer, connection).await.map_err(|error| unanswered(&error))?;
    Ok(answer.status().as_u16())
}

/// Waits for `first` while `second` runs: the answer, while the connection is turned. A connection
/// that ends may have brought the answer just before.
async fn beside<F: Future + Unpin>(mut first: F, second: impl Future) -> F::Output {
    tokio::select! {
        biased;
        output = &mut first => return output,
        _ended = second => {}
    }
    first.await
}

fn unanswered(error: &hyper::Error) -> Failure {
    let outcome = if error.is_parse() { Outcome::Unexpected } else { Outcome::Closed };
    failure(outcome, error.to_string())
}

/// What the first bytes of an answer say.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    /// Undecided before there are this many bytes in all.
    NeedMore(usize),
    Good,
    Wrong(String),
}

impl Answer {
    /// Judges an answer by what has come of it. Bytes after what decides are not looked at.
    fn judge(&self, bytes: &[u8]) -> Judged {
        match self {
            Answer::Prefix(prefix) => judge_prefix(prefix, bytes, 0),
            Answer::Frame(frame) => frame.judge(bytes),
        }
    }
}

/// `offset` is where in the answer `bytes` begin.
fn judge_prefix(prefix: &[u8], bytes: &[u8], offset: usize) -> Judged {
    let len = bytes.len().min(prefix.len());
    if bytes[..len] != prefix[..len] {
        let differ = |(a, b): (&u8, &u8)| a != b;
        let at = bytes.iter().zip(prefix).position(differ).unwrap_or(0);
        return Judged::Wrong(format!("byte {} differs", offset + at));
    }
    if len < prefix.len() { Judged::NeedMore(offset + prefix.len()) } else { Judged::Good }
}

impl AnswerFrame {
    fn judge(&self, bytes: &[u8]) -> Judged {
        let header_len = self.layout.header_len();
        let Some((header, body)) = bytes.split_at_checked(header_len) else {
            return Judged::NeedMore(header_len);
        };
        for expect in &self.fields {
            let value = self.layout.value(header, expect.field);
            if !value.is_some_and(|value| expect.range.contains(&value)) {
                let name = self.layout.fields().get(expect.field).map_or("?", |field| &field.name);
                let value = value.unwrap_or_default();
                return Judged::Wrong(format!("{name} is {value}"));
            }
        }
        let announced = self.layout.body_len(header);
        if announced < i128::try_from(self.body.len()).unwrap_or(i128::MAX) {
            return Judged::Wrong(format!("a body of {announced} bytes"));
        }
        judge_prefix(&self.body, body, header_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Expect, Layout};

    #[test]
    fn outcomes_are_their_own_indexes() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
    }

    #[test]
    fn a_prefix_is_judged_at_every_split() {
        let answer = Answer::Prefix(b"+PONG".to_vec());
        for len in 0..5 {
            assert_eq!(answer.judge(&b"+PONG\r\n"[..len]), Judged::NeedMore(5));
        }
        assert_eq!(answer.judge(b"+PONG"), Judged::Good);
        assert_eq!(answer.judge(b"+PONG\r\n"), Judged::Good);
        assert_eq!(answer.judge(b"+PX"), Judged::Wrong("byte 2 differs".to_owned()));
    }

    #[test]
    fn a_frame_is_judged_by_its_fields_then_by_its_body() {
        let layout = Layout::compile(">ccHH", &["type", "version", "time", "length"]).unwrap();
        let answer = Answer::Frame(Box::new(AnswerFrame {
            layout: layout.clone(),
            fields: vec![Expect { field: 0, range: 2..=3 }],
            body: b"{\"ok\"".to_vec(),
        }));
        let frame = |kind, body: &[u8]| layout.build(&[(0, kind)], body).unwrap();
        let good = frame(2, b"{\"ok\":1}");
        for len in 0..good.len() {
            let judged = answer.judge(&good[..len]);
            let expected = match len {
                0..6 => Judged::NeedMore(6),
                6..11 => Judged::NeedMore(11),
                _ => Judged::Good,
            };
            assert_eq!(judged, expected, "{len} bytes");
        }
        assert_eq!(answer.judge(&frame(4, b"")), Judged::Wrong("type is 4".to_owned()));
        let short = Judged::Wrong("a body of 4 bytes".to_owned());
        assert_eq!(answer.judge(&frame(3, b"{\"ok")), short);
        let other = Judged::Wrong("byte 8 differs".to_owned());
        assert_eq!(answer.judge(&frame(3, b"{\"no\":1}")), other);
    }
}

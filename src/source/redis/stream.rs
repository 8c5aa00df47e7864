//! A stream to Redis: TCP, TLS or a UNIX socket, with an end to how much it may say.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::config::{RedisSource, StoreTls};
use crate::source::{Failure, FailureCause, tls};

/// Where a Redis is, and which of its databases is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    way: Way,
    /// For SELECT.
    pub database: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

impl Place {
    /// Reads a URL: `redis://HOST[:PORT][/DB]`, `rediss://` the same with TLS,
    /// `redis+unix:///PATH[?db=DB]`.
    ///
    /// # Errors
    /// What the library says.
    pub fn parse(settings: &RedisSource) -> Result<Place, Failure> {
        let malformed = |detail| Failure { cause: FailureCause::Malformed, detail };
        // The library opens no stream here, and reads URLs of TLS only when it may.
        let (plain, tls) = match settings.url.strip_prefix("rediss://") {
            Some(rest) => (format!("redis://{rest}"), true),
            None => (settings.url.clone(), false),
        };
        let info: ConnectionInfo = plain
            .into_connection_info()
            .map_err(|error| malformed(format!("url {:?}: {error}", settings.url)))?;
        let way = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Way::Tcp { host: host.clone(), port: *port, tls },
            ConnectionAddr::Unix(path) => Way::Unix(path.clone()),
            _ => return Err(malformed(format!("url {:?}: not understood", settings.url))),
        };
        Ok(Place { way, database: info.redis_settings().db() })
    }

    /// The same database at another address, if there is one; spoken to in the same way.
    pub fn or_at(self, node: Option<(String, u16)>) -> Place {
        match (&self.way, node) {
            (Way::Tcp { tls, .. }, Some((host, port))) => {
                Place { way: Way::Tcp { host, port, tls: *tls }, ..self }
            }
            _ => self,
        }
    }

    /// Opens a stream. The caller sets the deadline.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(&self, settings: &StoreTls) -> Result<Box<dyn Duplex>, Failure> {
        let unreachable = |error: std::io::Error| Failure {
            cause: FailureCause::Unreachable,
            detail: format!("connecting to {self}: {error}"),
        };
        match &self.way {
            Way::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(unreachable)?)),
            Way::Tcp { host, port, tls } => {
                let stream =
                    TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                stream.set_nodelay(true).map_err(unreachable)?;
                if !tls {
                    return Ok(Box::new(stream));
                }
                let connector = TlsConnector::from(tls::client_config(settings)?);
                let name = ServerName::try_from(host.clone()).map_err(|error| Failure {
                    cause: FailureCause::Malformed,
                    detail: format!("{host:?}: {error}"),
                })?;
                Ok(Box::new(connector.connect(name, stream).await.map_err(unreachable)?))
            }
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.way {
            Way::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Way::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Way::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// How many bytes may still be read until somebody says that more are welcome.
#[derive(Debug, Clone)]
pub struct Allowance {
    left: Arc<AtomicUsize>,
    len_max: usize,
}

impl Allowance {
    /// Of this many bytes, more than 0.
    pub fn new(len_max: usize) -> Allowance {
        Allowance { left: Arc::new(AtomicUsize::new(len_max)), len_max }
    }

    /// Full again: another answer is awaited.
    pub fn renew(&self) {
        self.left.store(self.len_max, Ordering::Relaxed);
    }

    /// Whether a stream broke because it said too much.
    pub fn is_used_up(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

/// A stream that fails when its allowance is used up: the library would read an answer of any
/// length into memory.
pub struct Bounded {
    stream: Box<dyn Duplex>,
    allowance: Allowance,
}

impl Bounded {
    /// Reads from a stream for as long as the allowance lasts.
    pub fn new(stream: Box<dyn Duplex>, allowance: Allowance) -> Bounded {
        Bounded { stream, allowance }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        let left = &self.allowance.left;
        let rest = left.load(Ordering::Relaxed).saturating_sub(read);
        left.store(rest, Ordering::Relaxed);
        if rest == 0 {
            return Poll::Ready(Err(std::io::Error::other("an answer too long")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn place(url: &str) -> Result<String, Failure> {
        let settings = RedisSource {
            url: url.to_string(),
            key: "k".to_string(),
            username: None,
            password: None,
            tls: StoreTls::default(),
        };
        Place::parse(&settings).map(|place| {
            let tls = matches!(place.way, Way::Tcp { tls: true, .. });
            format!("{place} {} {tls}", place.database)
        })
    }

    #[test]
    fn urls() {
        assert_eq!(place("redis://127.0.0.1").unwrap(), "127.0.0.1:6379 0 false");
        assert_eq!(place("redis://store.example:7000/3").unwrap(), "store.example:7000 3 false");
        assert_eq!(place("rediss://[::1]:7000").unwrap(), "[::1]:7000 0 true");
        assert_eq!(place("redis+unix:///run/r.sock?db=2").unwrap(), "unix:/run/r.sock 2 false");
        for wrong in ["", "http://a", "redis://", "redis://a/x", "redis://0.0.0.0", "rediss://:1"] {
            assert_eq!(place(wrong).unwrap_err().cause, FailureCause::Malformed, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_stream_ends_when_it_says_too_much() {
        let (ours, mut theirs) = tokio::io::duplex(1_024);
        let allowance = Allowance::new(100);
        let mut stream = Bounded::new(Box::new(ours), allowance.clone());
        let mut bytes = [0; 60];
        for _ in 0..3 {
            theirs.write_all(&[7; 60]).await.unwrap();
            stream.read_exact(&mut bytes).await.unwrap();
            allowance.renew();
        }
        theirs.write_all(&[7; 120]).await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
        assert!(!allowance.is_used_up());
        stream.read_exact(&mut bytes).await.unwrap_err();
        assert!(allowance.is_used_up());
    }
}

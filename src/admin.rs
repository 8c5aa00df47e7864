//! The admin interface: what an operator, a probe or Prometheus asks over HTTP. It only looks.
//!
//! It runs on the control plane's runtime. One request per connection, and a deadline on each
//! connection: nobody can hold a slot by sending or reading slowly.

mod body;
mod http;
mod phase;
mod pools;
mod sessions;
mod socket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::control::Command;
use crate::listen::unix::SocketFile;
use crate::log::Logs;
use crate::metrics::Metrics;
use crate::shard::mailbox::ShardHandle;
use crate::source::view::SourceView;
use crate::table::Table;
use socket::Listening;

pub use phase::{Phase, Stage};
pub use socket::AdminListener;

/// Connections served at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;

/// From accept to the end of the request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// From accept to the last byte of the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request's head.
const HEAD_LEN_MAX: usize = 16 * 1024;

/// Pause after a failed accept: out of descriptors, trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the interface shows.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Counters of the two logs.
    pub logs: Logs,
    /// The table in force.
    pub table: watch::Receiver<Arc<Table>>,
    /// Every shard, in order.
    pub shards: Vec<ShardHandle>,
    /// Whether clients are served.
    pub phase: Arc<Phase>,
    /// Where backends come from.
    pub sources: watch::Receiver<Arc<[SourceView]>>,
    /// To the control plane.
    pub commands: mpsc::Sender<Command>,
}

/// Answers requests until the future is dropped; then the socket file, if any, is removed.
///
/// It must be polled on a tokio runtime with I/O and time enabled.
pub async fn serve(listener: AdminListener, state: AdminState) {
    let address = listener.address().clone();
    let check_host = matches!(listener.socket, Listening::Tcp(_));
    let router = http::router(state, check_host);
    match Acceptor::new(listener.socket) {
        Ok(acceptor) => accept_all(acceptor, router).await,
        Err(error) => tracing::error!(%address, %error, "admin interface not served"),
    }
}

async fn accept_all(acceptor: Acceptor, router: Router) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this future, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        // An error would mean that the semaphore is closed, which nobody does.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match acceptor.accept().await {
            Ok(Stream::Tcp(stream)) => {
                connections.spawn(answer(stream, router.clone(), slot));
            }
            Ok(Stream::Unix(stream)) => {
                connections.spawn(answer(stream, router.clone(), slot));
            }
            Err(error) => {
                tracing::warn!(%error, "admin connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, one request.
async fn answer<S>(stream: S, router: Router, slot: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LEN_MAX)
        .keep_alive(false)
        // `nc -N` and the like close their side after the request and still want the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_elapsed) => tracing::debug!("admin connection took too long"),
    }
    drop(slot);
}

enum Acceptor {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Acceptor {
    fn new(socket: Listening) -> io::Result<Acceptor> {
        Ok(match socket {
            Listening::Tcp(listener) => Acceptor::Tcp(TcpListener::from_std(listener)?),
            Listening::Unix(listener, file) => {
                Acceptor::Unix { listener: UnixListener::from_std(listener)?, _file: file }
            }
        })
    }

    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Acceptor::Tcp(listener) => Stream::Tcp(listener.accept().await?.0),
            Acceptor::Unix { listener, .. } => Stream::Unix(listener.accept().await?.0),
        })
    }
}

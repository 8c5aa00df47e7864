//! The admin interface: what an operator, a probe or Prometheus asks over HTTP.
//!
//! It runs on the control plane's runtime. One request per connection, and a deadline on each
//! connection: nobody can hold a slot by sending or reading slowly. A stream of events has another:
//! it goes on as long as it is read.

mod answer;
pub mod audit;
mod body;
mod closing;
mod edits;
pub mod events;
mod guard;
mod http;
mod life;
mod openapi;
mod phase;
mod pools;
mod process;
mod sessions;
mod socket;
mod sources;
mod watch;
mod whereis;
mod who;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch::Receiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::control::commands::Command;
use crate::listen::unix::SocketFile;
use crate::log::Logs;
use crate::metrics::Metrics;
use crate::shard::mailbox::ShardHandle;
use crate::source::view::SourceView;
use crate::table::Table;
use audit::Audit;
use events::Events;
use life::Life;
use socket::Listening;
use who::Peer;

pub use phase::{Phase, Stage};
pub use socket::AdminListener;

/// Connections served at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;

/// From accept to the end of the request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// From accept to the last byte of the answer, unless it is a stream.
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
    pub table: Receiver<Arc<Table>>,
    /// Every shard, in order.
    pub shards: Vec<ShardHandle>,
    /// Whether clients are served.
    pub phase: Arc<Phase>,
    /// Where backends come from.
    pub sources: Receiver<Arc<[SourceView]>>,
    /// To the control plane.
    pub commands: mpsc::Sender<Command>,
    /// The configuration in force.
    pub configs: Receiver<Arc<Config>>,
    /// Who changed what.
    pub audit: Arc<Audit>,
    /// What happens.
    pub events: Arc<Events>,
}

/// Answers requests until the future is dropped; then the socket file, if any, is removed.
///
/// It must be polled on a tokio runtime with I/O and time enabled.
pub async fn serve(listener: AdminListener, state: AdminState) {
    let address = listener.address().clone();
    let check_host = matches!(listener.socket, Listening::Tcp(_));
    let router = http::router(state.clone(), check_host);
    match Acceptor::new(listener.socket) {
        Ok(acceptor) => {
            tokio::join!(accept_all(acceptor, router), watch::watch(state));
        }
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
            Ok(Stream::Tcp(stream, address)) => {
                let caller = Caller { peer: Peer::Tcp(address), router: router.clone(), slot };
                connections.spawn(answer(stream, caller));
            }
            Ok(Stream::Unix(stream)) => {
                let peer = match stream.peer_cred() {
                    Ok(known) => Peer::Unix { uid: known.uid(), pid: known.pid() },
                    Err(_gone_already) => Peer::Unknown,
                };
                let caller = Caller { peer, router: router.clone(), slot };
                connections.spawn(answer(stream, caller));
            }
            Err(error) => {
                tracing::warn!(%error, "admin connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Who is at the other end of a connection, and what it is answered by.
struct Caller {
    peer: Peer,
    router: Router,
    slot: OwnedSemaphorePermit,
}

/// One connection, one request.
async fn answer<S>(stream: S, caller: Caller)
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin,
{
    let Caller { peer, router, slot } = caller;
    let router = TowerToHyperService::new(router);
    let socket = stream.as_fd().try_clone_to_owned();
    let life = Life::default();
    let of_request = life.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(of_request.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LEN_MAX)
        .keep_alive(false)
        // `nc -N` and the like close their side after the request and still want the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        result = connection => if let Err(error) = result {
            tracing::debug!(%error, "admin connection failed");
        },
        () = life.over(CONNECTION_TIMEOUT, socket) => tracing::debug!("admin connection took too long"),
    }
    drop(slot);
}

enum Acceptor {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

enum Stream {
    Tcp(TcpStream, SocketAddr),
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
            Acceptor::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Stream::Tcp(stream, address)
            }
            Acceptor::Unix { listener, .. } => Stream::Unix(listener.accept().await?.0),
        })
    }
}

//! K message servers in one process: who they are, what they answer, what they do wrong.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Error, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::answer::{Connection, Ended};
use crate::cli::{AnswerMode, BackendArgs};
use crate::frame::FRAME_LEN_MAX;
use crate::machine;
use crate::report::write_json;
use crate::units::Fault;
use crate::web;

/// Connections the kernel may complete before we accept them.
const BACKLOG: i32 = 4_096;
/// Pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a stalled connection is looked at for the other end's reset.
const STALL_TURN: Duration = Duration::from_millis(100);

/// What one server saw.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Statistics {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Most connections open at a time.
    pub open_most: u64,
    /// Logins acknowledged.
    pub logins: u64,
    /// Heartbeats answered.
    pub heartbeats: u64,
    /// Data frames, or WebSocket messages, read.
    pub data_frames: u64,
    /// HTTP requests answered.
    pub requests: u64,
    /// Connections upgraded to WebSocket.
    pub upgrades: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes answered.
    pub bytes_out: u64,
    /// Connections the other end finished.
    pub ended_by_fin: u64,
    /// Connections that broke.
    pub ended_by_error: u64,
    /// Connections ended by the fault asked for.
    pub ended_by_fault: u64,
    /// Frames that are none.
    pub bad_frames: u64,
    /// Accept calls that failed.
    pub accept_errors: u64,
}

#[derive(Serialize)]
struct ServerReport {
    server: String,
    fault: Option<String>,
    #[serde(flatten)]
    statistics: Statistics,
}

/// A bound socket and what it will do.
struct Bound {
    place: usize,
    socket: Socket,
    address: SocketAddr,
    fault: Option<Fault>,
}

/// One server, for its connections.
pub struct Server {
    /// What it calls itself: its address.
    pub name: String,
    /// Whether that address is every address, so that each connection tells better.
    pub wildcard: bool,
    /// How data is answered.
    pub mode: AnswerMode,
    /// What it does wrong.
    pub fault: Option<Fault>,
    /// Largest frame accepted, bytes.
    pub frame_max: usize,
    statistics: RefCell<Statistics>,
    /// Shared with the thread's other servers.
    pub buffers: Rc<Buffers>,
}

/// Shared by all connections of a thread.
pub struct Buffers {
    /// Where sockets are read to.
    pub read: RefCell<Vec<u8>>,
    /// Where answers are composed.
    pub write: RefCell<Vec<u8>>,
}

/// Serves until told to stop; exit code 0.
pub fn run(args: &BackendArgs) -> anyhow::Result<u8> {
    machine::raise_descriptor_limit()?;
    anyhow::ensure!(args.threads > 0, "--threads is at least 1");
    let addresses = args.addresses()?;
    let faults = args.faults(addresses.len())?;
    let mut shares: Vec<Vec<Bound>> = (0..args.threads).map(|_| Vec::new()).collect();
    for (place, (address, fault)) in addresses.into_iter().zip(faults).enumerate() {
        let bound = bind(place, address, fault).with_context(|| format!("binding {address}"))?;
        let verb = if fault == Some(Fault::Refuse) { "refusing" } else { "listening" };
        println!("{verb} {}", bound.address);
        shares[place % args.threads as usize].push(bound);
    }
    std::io::stdout().flush()?;
    let (stop, stopped) = watch::channel(());
    let mut threads = Vec::new();
    for share in shares {
        let (args, stopped) = (args.clone(), stopped.clone());
        threads.push(std::thread::spawn(move || serve_share(&args, share, stopped)));
    }
    wait_for_end(args.duration)?;
    drop(stop);
    let mut reports = BTreeMap::new();
    for thread in threads {
        let served = thread.join().map_err(|panic| {
            anyhow!("a server failed: {}", panic.downcast_ref::<String>().map_or("", |s| s))
        })?;
        reports.extend(served?);
    }
    let reports: Vec<ServerReport> = reports.into_values().collect();
    match &args.json {
        Some(path) => write_json(path, &reports)?,
        None => print_reports(&reports)?,
    }
    Ok(0)
}

fn print_reports(reports: &[ServerReport]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for ServerReport { server, fault, statistics: s } in reports {
        let fault = fault.as_deref().map_or(String::new(), |fault| format!(" [{fault}]"));
        writeln!(
            out,
            "{server}{fault}: accepted {} (at most {} at a time), logins {}, heartbeats {}, data \
             {}, requests {}, upgrades {}, bytes in {} out {}, ended by FIN {}, by error {}, by fault {}, bad frames {}",
            s.accepted,
            s.open_most,
            s.logins,
            s.heartbeats,
            s.data_frames,
            s.requests,
            s.upgrades,
            s.bytes_in,
            s.bytes_out,
            s.ended_by_fin,
            s.ended_by_error,
            s.ended_by_fault,
            s.bad_frames,
        )?;
    }
    Ok(())
}

fn wait_for_end(duration: Option<Duration>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let end = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = tokio::signal::ctrl_c() => done?,
            _ = terminate.recv() => {}
            () = end => {}
        }
        Ok(())
    })
}

/// Binds now, so that every address is known, or refused, before anything is served.
fn bind(place: usize, address: SocketAddr, fault: Option<Fault>) -> std::io::Result<Bound> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    if fault != Some(Fault::Refuse) {
        socket.listen(BACKLOG)?;
    }
    let local = socket.local_addr()?.as_socket();
    let address = local.ok_or_else(|| Error::other("the socket has no IP address"))?;
    Ok(Bound { place, socket, address, fault })
}

fn serve_share(
    args: &BackendArgs,
    share: Vec<Bound>,
    mut stopped: watch::Receiver<()>,
) -> anyhow::Result<BTreeMap<usize, ServerReport>> {
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(Default::default())?;
    let buffers = Rc::new(Buffers {
        read: RefCell::new(vec![0; 4 * FRAME_LEN_MAX]),
        write: RefCell::default(),
    });
    runtime.block_on(async {
        let mut servers = Vec::new();
        let mut idle = Vec::new();
        for bound in share {
            let server = Rc::new(Server {
                name: bound.address.to_string(),
                wildcard: bound.address.ip().is_unspecified(),
                mode: args.mode,
                fault: bound.fault,
                frame_max: args.frame_max,
                statistics: RefCell::default(),
                buffers: Rc::clone(&buffers),
            });
            servers.push((bound.place, Rc::clone(&server)));
            match bound.fault {
                Some(Fault::Refuse | Fault::NoAccept) => idle.push(bound.socket),
                _ => {
                    let listener = TcpListener::from_std(bound.socket.into())?;
                    tokio::task::spawn_local(accept(server, listener));
                }
            }
        }
        // The sender is dropped to stop us; that is the only change there is.
        let _ = stopped.changed().await;
        drop(idle);
        let report = |server: &Server| ServerReport {
            server: server.name.clone(),
            fault: server.fault.map(|fault| format!("{fault:?}")),
            statistics: server.statistics.borrow().clone(),
        };
        Ok(servers.iter().map(|(place, server)| (*place, report(server))).collect())
    })
}

async fn accept(server: Rc<Server>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                server.note(|s| {
                    s.accepted += 1;
                    s.open += 1;
                    s.open_most = s.open_most.max(s.open);
                });
                tokio::task::spawn_local(serve(Rc::clone(&server), stream));
            }
            Err(_) => {
                server.note(|s| s.accept_errors += 1);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(server: Rc<Server>, stream: TcpStream) {
    let ended = match server.fault {
        Some(Fault::Stall) => stall(&stream).await,
        _ => match server.mode {
            AnswerMode::Http => web::backend::http(&server, stream).await,
            AnswerMode::Ws => web::backend::ws(&server, stream).await,
            AnswerMode::Ack | AnswerMode::Echo => Connection::new(&server, stream).serve().await,
        },
    };
    server.note(|s| {
        s.open -= 1;
        match ended {
            Ended::Fin => s.ended_by_fin += 1,
            Ended::Error => s.ended_by_error += 1,
            Ended::Fault => s.ended_by_fault += 1,
        }
    });
}

/// Reads nothing until the other end resets the connection.
async fn stall(stream: &TcpStream) -> Ended {
    loop {
        match stream.ready(Interest::WRITABLE).await {
            Ok(ready) if !ready.is_write_closed() => tokio::time::sleep(STALL_TURN).await,
            _ => return Ended::Fault,
        }
    }
}

impl Server {
    /// What it calls itself on this connection.
    pub fn name_on(&self, stream: &TcpStream) -> String {
        match (self.wildcard, stream.local_addr()) {
            (true, Ok(address)) => address.to_string(),
            _ => self.name.clone(),
        }
    }

    /// Books something.
    pub fn note(&self, note: impl FnOnce(&mut Statistics)) {
        note(&mut self.statistics.borrow_mut());
    }
}

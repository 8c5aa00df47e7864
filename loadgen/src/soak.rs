//! Byte-exact soak: many sessions with both ends in this process, random sizes, splits and orders
//! of closing, both directions at once. Each end regenerates what the other sends and compares.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::cli::SoakArgs;
use crate::frame::{Decoded, FRAME_LEN_MAX, HEADER_LEN, Login, decode, encode, kind};
use crate::machine;
use crate::oracle::{self, Home, Routes};
use crate::random::{Random, mix};
use crate::report::write_json;

/// Largest piece that one write or read call is given.
const PIECE_LEN_MAX: usize = 64 * 1024;
/// Faults that are described in words.
const EXAMPLES_MAX: usize = 10;
/// After so many failed sessions no more are started: what is to be known is known.
const FAILED_MAX: u64 = 1_000;

/// Who says FIN first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseOrder {
    /// The backend's FIN waits for the client's.
    ClientFirst,
    /// The client's FIN waits for the backend's.
    BackendFirst,
    /// Each end's FIN follows its last byte.
    Independent,
}

/// Everything random about a session, from its seed.
#[derive(Debug, Clone)]
struct SessionPlan {
    devid: String,
    seed: u64,
    up_len: usize,
    down_len: usize,
    order: CloseOrder,
}

/// What the backend's end found; an error is a sentence.
type BackendEnd = (String, Result<(), String>);

struct Expected {
    plan: SessionPlan,
    done: oneshot::Sender<BackendEnd>,
}

/// Sessions whose connection the backends await, by device id.
type Registry = Rc<RefCell<HashMap<String, Expected>>>;

#[derive(Debug, Default, Serialize)]
struct Findings {
    seed: u64,
    sessions: u64,
    failed: u64,
    misrouted: u64,
    route_checked: u64,
    bytes_up: u64,
    bytes_down: u64,
    seconds: f64,
    routes: Option<Routes>,
    examples: Vec<String>,
}

/// Runs the soak; exit code 0 if every byte arrived, 1 if not.
pub fn run(args: &SoakArgs) -> anyhow::Result<u8> {
    let fits = machine::raise_descriptor_limit()?;
    if u64::from(args.sessions) * 2 > fits || args.sessions == 0 {
        bail!("--sessions is 1 to {} here: both ends need a descriptor", fits / 2);
    }
    anyhow::ensure!(args.size_max > 0, "--size-max is at least 1 byte");
    let gateway = args.config.as_deref().map(oracle::read_gateway).transpose()?;
    let table = gateway.map(|config| Routes::of_gateway(&config, args.target)).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())?;
    let findings = runtime.block_on(soak(args, table))?;
    for example in &findings.examples {
        println!("FAULT {example}");
    }
    println!(
        "{} sessions in {:.1} s, {} bytes up and {} down, seed {}: {} failed, {} misrouted ({} \
         checked)",
        findings.sessions,
        findings.seconds,
        findings.bytes_up,
        findings.bytes_down,
        findings.seed,
        findings.failed,
        findings.misrouted,
        findings.route_checked,
    );
    let good = findings.failed == 0 && findings.misrouted == 0;
    println!("{}", if good { "PASS" } else { "FAIL" });
    if let Some(path) = &args.json {
        write_json(path, &findings)?;
    }
    Ok(u8::from(!good))
}

async fn soak(args: &SoakArgs, table: Option<Routes>) -> anyhow::Result<Findings> {
    let addresses = match (&table, args.backends.is_empty()) {
        (Some(table), true) => table.addresses()?,
        (None, true) => bail!("give the servers' addresses by --backends or --config"),
        (_, false) => args.backends.clone(),
    };
    let registry = Registry::default();
    let mut bound = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("binding the server {address}"))?;
        bound.push(listener.local_addr()?);
        tokio::task::spawn_local(accept(listener, Rc::clone(&registry)));
    }
    let routes = table.unwrap_or_else(|| match args.direct {
        true => Routes::crc32_mod(&bound),
        false => Routes::unknown("routing is not checked without --config"),
    });
    let session = Rc::new(Shared { args: args.clone(), bound, routes, registry });
    let mut findings = Findings { seed: args.seed, ..Findings::default() };
    let began = Instant::now();
    let mut interrupted = false;
    let mut running = JoinSet::new();
    let mut next = 0;
    let mut start = |running: &mut JoinSet<SessionEnd>| {
        running.spawn_local(Rc::clone(&session).one(next));
        next += 1;
    };
    (0..args.sessions).for_each(|_| start(&mut running));
    while !running.is_empty() {
        tokio::select! {
            Some(ended) = running.join_next() => {
                findings.add(ended.map_err(|error| anyhow!("a session's task: {error}"))?);
                let goes_on = !interrupted && findings.failed < FAILED_MAX;
                if goes_on && began.elapsed() < args.duration {
                    start(&mut running);
                }
            }
            done = tokio::signal::ctrl_c(), if !interrupted => {
                done?;
                interrupted = true;
            }
        }
    }
    findings.seconds = began.elapsed().as_secs_f64();
    findings.routes = Some(session.routes.clone());
    Ok(findings)
}

/// What one session found.
struct SessionEnd {
    plan: SessionPlan,
    fault: Option<String>,
    /// `None`: not checked.
    misrouted: Option<Option<String>>,
}

impl Findings {
    fn add(&mut self, end: SessionEnd) {
        self.sessions += 1;
        if end.fault.is_none() {
            self.bytes_up += end.plan.up_len as u64;
            self.bytes_down += end.plan.down_len as u64;
        }
        let misrouted = end.misrouted.and_then(|misrouted| {
            self.route_checked += 1;
            misrouted
        });
        self.misrouted += u64::from(misrouted.is_some());
        self.failed += u64::from(end.fault.is_some());
        for fault in [misrouted, end.fault].into_iter().flatten() {
            if self.examples.len() < EXAMPLES_MAX {
                let SessionPlan { devid, up_len, down_len, order, .. } = &end.plan;
                let what = format!("device {devid} ({up_len} up, {down_len} down, {order:?})");
                self.examples.push(format!("{what}: {fault}"));
            }
        }
    }
}

struct Shared {
    args: SoakArgs,
    bound: Vec<SocketAddr>,
    routes: Routes,
    registry: Registry,
}

impl Shared {
    fn plan(&self, number: u64) -> SessionPlan {
        let seed = mix(self.args.seed ^ mix(number + 1));
        let mut random = Random::new(seed);
        let orders = [CloseOrder::ClientFirst, CloseOrder::BackendFirst, CloseOrder::Independent];
        SessionPlan {
            devid: self.args.id_template.id(number),
            seed,
            up_len: some_len(&mut random, self.args.size_max),
            down_len: some_len(&mut random, self.args.size_max),
            order: orders[random.below(3) as usize],
        }
    }

    async fn one(self: Rc<Shared>, number: u64) -> SessionEnd {
        let plan = self.plan(number);
        let home = self.routes.home(plan.devid.as_bytes());
        let target = match (self.args.target, home) {
            (Some(target), _) => target,
            (None, Home::At(place)) => self.bound[place],
            (None, _) => self.bound[0],
        };
        let (done, backend) = oneshot::channel();
        let expected = Expected { plan: plan.clone(), done };
        self.registry.borrow_mut().insert(plan.devid.clone(), expected);
        let session = async {
            client_end(&plan, target).await.map_err(|error| format!("client: {error}"))?;
            let (server, end) =
                backend.await.map_err(|error| format!("no backend finished it: {error}"))?;
            end.map_err(|error| format!("backend {server}: {error}"))?;
            Ok(server)
        };
        let outcome = match tokio::time::timeout(self.args.session_timeout, session).await {
            Ok(outcome) => outcome,
            Err(late) => Err(format!("not over after {:?}: {late}", self.args.session_timeout)),
        };
        self.registry.borrow_mut().remove(&plan.devid);
        let (fault, misrouted) = match (outcome, home) {
            (Err(fault), _) => (Some(fault), None),
            (Ok(_), Home::Open | Home::Refused) => (None, None),
            (Ok(server), Home::At(place)) if self.is_at(&server, place) => (None, Some(None)),
            (Ok(server), Home::At(place)) => {
                let home = &self.routes.backends[place];
                (None, Some(Some(format!("landed on {server}, belongs to {home}"))))
            }
        };
        SessionEnd { plan, fault, misrouted }
    }

    fn is_at(&self, server: &str, place: usize) -> bool {
        self.routes.place_of(server) == Some(place)
    }
}

/// Lengths of every magnitude, the shortest and the longest often.
fn some_len(random: &mut Random, len_max: usize) -> usize {
    match random.below(12) {
        0 => 0,
        1 => 1,
        2 => len_max,
        _ => {
            let bits = random.below(u64::from(usize::BITS - len_max.leading_zeros())) + 1;
            1 + random.below((1 << bits).min(len_max as u64)) as usize
        }
    }
}

async fn client_end(plan: &SessionPlan, target: SocketAddr) -> Result<(), String> {
    let mut login = Vec::new();
    let body = Login { devid: plan.devid.as_str().into(), pad: None };
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    encode(&mut login, kind::LOGIN, 30, &[&body]);
    let stream = TcpStream::connect(target).await.map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (reader, writer) = stream.into_split();
    let up = Bytes::new(plan.seed, UP);
    let down = Bytes::new(plan.seed, DOWN);
    let pieces = Pieces::new(plan.seed ^ 1);
    let (eof, at_eof) = oneshot::channel();
    let waits = (plan.order == CloseOrder::BackendFirst).then_some(at_eof);
    let sending = send(writer, (login, up, plan.up_len), pieces.clone(), waits);
    let receiving = receive(reader, (Vec::new(), down, plan.down_len), pieces, eof);
    both(sending, receiving).await
}

async fn backend_end(stream: TcpStream, first: Vec<u8>, plan: &SessionPlan) -> Result<(), String> {
    let (reader, writer) = stream.into_split();
    let up = Bytes::new(plan.seed, UP);
    let down = Bytes::new(plan.seed, DOWN);
    let pieces = Pieces::new(plan.seed ^ 2);
    let (eof, at_eof) = oneshot::channel();
    let waits = (plan.order == CloseOrder::ClientFirst).then_some(at_eof);
    let sending = send(writer, (Vec::new(), down, plan.down_len), pieces.clone(), waits);
    let receiving = receive(reader, (first, up, plan.up_len), pieces, eof);
    both(sending, receiving).await
}

/// Both directions to their ends; the first fault ends both.
async fn both(
    sending: impl Future<Output = Result<(), String>>,
    receiving: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    tokio::try_join!(sending, receiving).map(|_| ())
}

async fn accept(listener: TcpListener, registry: Registry) {
    loop {
        // What cannot be accepted fails its session by the session's own deadline.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let registry = Rc::clone(&registry);
        tokio::task::spawn_local(async move {
            let server = stream.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string());
            // A connection without a login belongs to no session: nobody awaits its outcome.
            if let Some((expected, stream, rest)) = identify(stream, &registry).await {
                let end = backend_end(stream, rest, &expected.plan).await;
                let _ = expected.done.send((server, end));
            }
        });
    }
}

/// Reads the login frame, and possibly some of what follows it.
async fn identify(
    mut stream: TcpStream,
    registry: &Registry,
) -> Option<(Expected, TcpStream, Vec<u8>)> {
    stream.set_nodelay(true).ok()?;
    let mut bytes = Vec::with_capacity(HEADER_LEN + 64);
    loop {
        if let Decoded::Frame(_, body, whole) = decode(&bytes, FRAME_LEN_MAX) {
            let login: Login<'_> = serde_json::from_slice(body).ok()?;
            let expected = registry.borrow_mut().remove(&*login.devid)?;
            return Some((expected, stream, bytes[whole.len()..].to_vec()));
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

const UP: u64 = 0x7570;
const DOWN: u64 = 0x646f_776e;

/// An endless pseudo-random stream that does not depend on how it is cut.
struct Bytes {
    random: Random,
    word: [u8; 8],
    used: usize,
}

impl Bytes {
    fn new(seed: u64, direction: u64) -> Bytes {
        Bytes { random: Random::new(mix(seed ^ direction)), word: [0; 8], used: 8 }
    }

    fn next(&mut self) -> u8 {
        if self.used == 8 {
            self.word = self.random.next().to_le_bytes();
            self.used = 0;
        }
        self.used += 1;
        self.word[self.used - 1]
    }
}

/// How large the next write or read is, and whether to pause before it.
#[derive(Clone)]
struct Pieces {
    random: Random,
    len_max: u64,
}

impl Pieces {
    fn new(seed: u64) -> Pieces {
        let mut random = Random::new(seed);
        let len_max = [64, 1_500, 9_000, PIECE_LEN_MAX as u64][random.below(4) as usize];
        Pieces { random, len_max }
    }

    async fn next(&mut self) -> usize {
        match self.random.below(64) {
            0 => tokio::time::sleep(Duration::from_millis(1 + self.random.below(4))).await,
            1..8 => tokio::task::yield_now().await,
            _ => {}
        }
        let len_max = if self.random.below(8) == 0 { 3 } else { self.len_max };
        1 + self.random.below(len_max) as usize
    }
}

/// Sends a preface and a stream in random pieces, then a FIN: at once, or after the other end's.
async fn send(
    mut writer: OwnedWriteHalf,
    (mut bytes, mut stream, stream_len): (Vec<u8>, Bytes, usize),
    mut pieces: Pieces,
    waits: Option<oneshot::Receiver<()>>,
) -> Result<(), String> {
    bytes.extend((0..stream_len).map(|_| stream.next()));
    let mut sent = 0;
    while sent < bytes.len() {
        let end = (sent + pieces.next().await).min(bytes.len());
        let write = writer.write_all(&bytes[sent..end]).await;
        write.map_err(|error| format!("write at {sent}: {error}"))?;
        sent = end;
    }
    if let Some(at_eof) = waits {
        at_eof.await.map_err(|error| format!("waiting for the other end's FIN: {error}"))?;
    }
    writer.shutdown().await.map_err(|error| format!("FIN: {error}"))
}

/// Reads to the end and compares: the bytes already read, then random pieces.
async fn receive(
    mut reader: OwnedReadHalf,
    (first, mut stream, stream_len): (Vec<u8>, Bytes, usize),
    mut pieces: Pieces,
    eof: oneshot::Sender<()>,
) -> Result<(), String> {
    let mut buffer = first;
    let mut received = 0;
    loop {
        for byte in &buffer {
            if received == stream_len {
                return Err(format!("more than the {stream_len} bytes that were sent"));
            }
            if *byte != stream.next() {
                return Err(format!("byte {received} of {stream_len} differs"));
            }
            received += 1;
        }
        buffer.resize(pieces.next().await.min(PIECE_LEN_MAX), 0);
        let read = reader.read(&mut buffer).await;
        let read = read.map_err(|error| format!("read at {received} of {stream_len}: {error}"))?;
        buffer.truncate(read);
        if read == 0 {
            break;
        }
    }
    if received < stream_len {
        return Err(format!("FIN after {received} of {stream_len} bytes"));
    }
    // Nobody waits for it unless the order of closing says so.
    let _ = eof.send(());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_every_magnitude_and_a_bound() {
        let mut random = Random::new(3);
        let lens: Vec<usize> = (0..5_000).map(|_| some_len(&mut random, 1 << 18)).collect();
        assert!(lens.iter().all(|len| *len <= 1 << 18));
        for bound in [0, 1, 16, 256, 4_096, 65_536, 1 << 18] {
            assert!(lens.iter().any(|len| *len <= bound && *len >= bound / 16), "{bound}");
        }
    }

    #[test]
    fn streams_repeat_and_directions_differ() {
        let take = |direction| {
            let mut bytes = Bytes::new(5, direction);
            (0..100).map(|_| bytes.next()).collect::<Vec<u8>>()
        };
        assert_eq!(take(UP), take(UP));
        assert_ne!(take(UP), take(DOWN));
    }
}

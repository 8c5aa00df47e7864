//! The life of one WebSocket client: connect, upgrade, beat, send, and connect again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::Clients;
use super::message::Composer;
use crate::cli::Heartbeat;
use crate::counters::{Count, Measure};
use crate::device::dial;
use crate::oracle::Home;
use crate::random::{Random, mix};
use crate::squad::Phase;
use crate::web::{WebPlan, check};
use crate::window::{Answer, Window};

/// How heartbeats begin that are text; a number follows.
const HEARTBEAT_TEXT: &str = "heartbeat ";

/// What a client is between and during connections.
pub struct Client {
    /// Its number in the run.
    number: u32,
    /// The number of its templates.
    id: u64,
    /// Where it must land.
    pub home: Home,
    /// Messages that wait for the socket.
    pub queued: Cell<u64>,
    /// Messages without an answer; sequence numbers go on over connections.
    window: RefCell<Window>,
    /// Heartbeats without an answer.
    beats: RefCell<VecDeque<u64>>,
    beaten: Cell<u64>,
    /// Where orders go while there is a connection.
    orders: RefCell<Option<UnboundedSender<Order>>>,
    upgrades: Cell<u64>,
    settled: Cell<bool>,
    lost_at_ns: Cell<Option<u64>>,
    random: RefCell<Random>,
}

/// What a client is told from outside its own task.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// Send a message that was due at this moment, ns.
    Send(u64),
    /// Say goodbye.
    Leave,
}

/// How a connection, or an attempt at one, ended.
enum Ended {
    /// Not by us, or by a deadline of ours; counted as this.
    Broken(Count, String),
    /// By us, at the end of the run.
    Left,
}

type Socket = WebSocketStream<TcpStream>;

impl Client {
    /// A client that has not connected yet.
    pub fn new(plan: &WebPlan, number: u32) -> Client {
        let id = plan.args.first_id.saturating_add(number.into());
        Client {
            number,
            id,
            home: plan.home(id),
            queued: Cell::new(0),
            window: RefCell::default(),
            beats: RefCell::default(),
            beaten: Cell::new(0),
            orders: RefCell::default(),
            upgrades: Cell::new(0),
            settled: Cell::new(false),
            lost_at_ns: Cell::new(None),
            random: RefCell::new(Random::new(mix(plan.args.seed ^ mix(u64::from(number) + 1)))),
        }
    }

    /// Tells a client something, if it is connected.
    pub fn order(&self, order: Order) {
        if let Some(orders) = &*self.orders.borrow() {
            let taken = orders.send(order).is_ok();
            if taken && matches!(order, Order::Send(_)) {
                self.queued.set(self.queued.get() + 1);
            }
        }
    }

    /// Whether it once was upgraded and is not connected.
    pub fn is_gone(&self) -> bool {
        self.upgrades.get() > 0 && self.orders.borrow().is_none()
    }

    fn settle(&self, all: &Clients) {
        if !self.settled.replace(true) {
            all.settled.set(all.settled.get() + 1);
        }
    }

    fn composer<'a>(&self, all: &'a Clients) -> Composer<'a> {
        Composer { pool: &all.pool, client: self.id, len: all.args.payload, text: all.args.text }
    }
}

/// Lives until the run ends, or until the client may not connect again.
pub async fn live(all: &Clients, n: usize) {
    let client = &all.clients[n];
    let mut failures: u32 = 0;
    loop {
        let upgrades = client.upgrades.get();
        let ended = tokio::select! {
            ended = connect(all, client) => ended,
            () = all.leave.notified() => return,
        };
        let ended = match ended {
            Ok((socket, started_ns)) => stay(all, n, socket, started_ns).await,
            Err(ended) => ended,
        };
        client.settle(all);
        if let Ended::Broken(count, why) = ended {
            book_break(all, client, (count, &why));
        } else {
            return;
        }
        if !all.args.reconnect || !all.may_send() {
            return;
        }
        if client.upgrades.get() != upgrades {
            failures = 0;
        }
        let pause = backoff(all, client, failures);
        failures = failures.saturating_add(1);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = all.leave.notified() => return,
        }
    }
}

/// Exponential, capped, with full jitter: uniform between zero and the bound.
fn backoff(all: &Clients, client: &Client, failures: u32) -> Duration {
    let bound = all.args.backoff.saturating_mul(1 << failures.min(20)).min(all.args.backoff_max);
    let bound_ns = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(client.random.borrow_mut().below(bound_ns.max(1)))
}

/// Connects and asks for the upgrade.
async fn connect(all: &Clients, client: &Client) -> Result<(Socket, u64), Ended> {
    let plan = &all.plan;
    let broken = |count, why: String| Ended::Broken(count, why);
    let (source, target) =
        (plan.source_of(client.number), plan.target_of(client.number, client.home));
    let started_ns = plan.now_ns();
    all.count(Count::Attempts);
    let attempt = timeout(plan.args.connect_timeout, dial(source, target));
    let late = |late| std::io::Error::new(ErrorKind::TimedOut, late);
    let stream = attempt.await.map_err(late).flatten();
    let stream = stream
        .map_err(|error| broken(Count::of_connect(&error), format!("to {target}: {error}")))?;
    {
        let mut tally = all.tally.borrow_mut();
        tally.count(Count::Connected);
        tally.record(Measure::Connect, plan.now_ns() - started_ns);
    }
    let head = plan
        .head(client.id)
        .map_err(|error| broken(Count::UpgradeRefused, format!("cannot be asked: {error:#}")))?;
    let request = format!("ws://{target}{}", head.target).into_client_request();
    let mut request = request.map_err(|error| broken(Count::UpgradeRefused, error.to_string()))?;
    request.headers_mut().extend(head.headers);
    let upgrade = timeout(all.args.upgrade_timeout, client_async(request, stream)).await;
    let (socket, response) = match upgrade {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(Error::Http(response))) => {
            let status = response.status();
            return Err(broken(Count::UpgradeRefused, format!("answered with {status}")));
        }
        Ok(Err(error)) => return Err(broken(count_of(&error), error.to_string())),
        Err(late) => return Err(broken(Count::UpgradeTimeout, late.to_string())),
    };
    let mut tally = all.tally.borrow_mut();
    check::place(plan, &mut tally, (client.id, client.home), response.headers());
    Ok((socket, started_ns))
}

/// What the end of a connection with this error is counted as.
fn count_of(error: &Error) -> Count {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => Count::PeerClosed,
        Error::Protocol(
            ProtocolError::ResetWithoutClosingHandshake | ProtocolError::HandshakeIncomplete,
        ) => Count::PeerClosed,
        Error::Io(error) => match error.kind() {
            ErrorKind::UnexpectedEof => Count::PeerClosed,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Count::PeerReset,
            _ => Count::PeerOther,
        },
        // Not what the other end of a WebSocket may send.
        _ => Count::Corrupted,
    }
}

/// From the upgrade to the end of the connection.
async fn stay(all: &Clients, n: usize, socket: Socket, started_ns: u64) -> Ended {
    let client = &all.clients[n];
    let (orders, ordered) = unbounded_channel();
    *client.orders.borrow_mut() = Some(orders);
    {
        let now_ns = all.plan.now_ns();
        let mut tally = all.tally.borrow_mut();
        tally.count(Count::Upgraded);
        tally.record(Measure::FirstReply, now_ns - started_ns);
        if client.upgrades.get() == 0 {
            tally.count(Count::ClientsUpgraded);
        }
        if let Some(lost_at_ns) = client.lost_at_ns.take() {
            tally.count(Count::Reconnected);
            tally.record(Measure::Reconnect, now_ns - lost_at_ns);
        }
    }
    client.upgrades.set(client.upgrades.get() + 1);
    client.settle(all);
    all.roster.borrow_mut().push(n);
    if all.phase.get() == Phase::Leave {
        client.order(Order::Leave);
    }
    let (sink, stream) = socket.split();
    let ended = tokio::select! {
        ended = read(all, client, stream) => ended,
        ended = write(all, client, (sink, ordered)) => ended,
    };
    all.roster.borrow_mut().retain(|other| *other != n);
    client.orders.borrow_mut().take();
    client.queued.set(0);
    ended
}

/// Sends what is ordered, and heartbeats while nothing is. Ends only when it fails.
async fn write(
    all: &Clients,
    client: &Client,
    (mut sink, mut ordered): (SplitSink<Socket, Message>, UnboundedReceiver<Order>),
) -> Ended {
    loop {
        let order = timeout(all.args.heartbeat, ordered.recv()).await;
        let leaving = matches!(order, Ok(Some(Order::Leave)));
        let message = match order {
            Ok(Some(Order::Send(due_ns))) => {
                client.queued.set(client.queued.get().saturating_sub(1));
                message_due(all, client, due_ns)
            }
            Ok(Some(Order::Leave)) => Message::Close(None),
            // The sender goes with the connection, and we with it.
            Ok(None) => return std::future::pending().await,
            Err(_) if all.may_send() => heartbeat(all, client),
            Err(_) => continue,
        };
        if let Err(error) = sink.send(message).await {
            return Ended::Broken(count_of(&error), error.to_string());
        }
        if leaving {
            return std::future::pending().await;
        }
    }
}

fn message_due(all: &Clients, client: &Client, due_ns: u64) -> Message {
    let sequence = client.window.borrow_mut().send(due_ns);
    let message = client.composer(all).message(sequence);
    all.outstanding.set(all.outstanding.get() + 1);
    let mut tally = all.tally.borrow_mut();
    tally.count(Count::Sent);
    tally.count_many(Count::BytesSent, message.len() as u64);
    tally.record(Measure::SendLag, all.plan.now_ns().saturating_sub(due_ns));
    message
}

fn heartbeat(all: &Clients, client: &Client) -> Message {
    let beat = client.beaten.get();
    client.beaten.set(beat + 1);
    client.beats.borrow_mut().push_back(beat);
    all.outstanding.set(all.outstanding.get() + 1);
    all.count(Count::HeartbeatsSent);
    match all.args.heartbeat_with {
        Heartbeat::Ping => Message::Ping(beat.to_be_bytes().to_vec().into()),
        Heartbeat::Text => Message::text(format!("{HEARTBEAT_TEXT}{beat}")),
    }
}

/// Reads until the connection is over.
async fn read(all: &Clients, client: &Client, mut stream: SplitStream<Socket>) -> Ended {
    let mut closing = false;
    loop {
        let next = match timeout(all.args.reader_idle, stream.next()).await {
            Ok(next) => next,
            Err(late) => return Ended::Broken(Count::ReaderIdle, late.to_string()),
        };
        let leaving = all.phase.get() == Phase::Leave;
        match next {
            Some(Ok(Message::Close(_))) if leaving => {
                if !std::mem::replace(&mut closing, true) {
                    all.count(Count::CloseAnswered);
                }
            }
            Some(Ok(Message::Close(frame))) => {
                let why = frame.map_or("without a reason".into(), |frame| frame.to_string());
                return Ended::Broken(Count::PeerClosed, format!("close frame {why}"));
            }
            Some(Ok(message)) => received(all, client, &message),
            None if closing => return Ended::Left,
            // Behind both close frames it does not matter how the connection ends.
            Some(Err(_)) if closing => return Ended::Left,
            None => return Ended::Broken(Count::PeerClosed, "without a close frame".into()),
            Some(Err(error)) => return Ended::Broken(count_of(&error), error.to_string()),
        }
    }
}

fn received(all: &Clients, client: &Client, message: &Message) {
    let now_ns = all.plan.now_ns();
    let beat = match message {
        // The library answers it.
        Message::Ping(_) => return,
        Message::Pong(bytes) => Some(bytes.first_chunk().map(|number| u64::from_be_bytes(*number))),
        Message::Text(text) => {
            text.as_str().strip_prefix(HEARTBEAT_TEXT).map(|number| number.parse().ok())
        }
        _ => None,
    };
    match beat {
        Some(beat) => heartbeat_answered(all, client, beat),
        None => echoed(all, client, (message, now_ns)),
    }
}

fn heartbeat_answered(all: &Clients, client: &Client, beat: Option<u64>) {
    let expected = client.beats.borrow_mut().pop_front();
    if let Some(expected) = expected {
        all.outstanding.set(all.outstanding.get() - 1);
        all.count(Count::HeartbeatsAnswered);
        if beat != Some(expected) {
            let what = || format!("client {}: heartbeat {expected} became {beat:?}", client.id);
            all.tally.borrow_mut().fault(Count::Corrupted, what);
        }
    } else {
        let what = || format!("client {}: heartbeat {beat:?} answered twice", client.id);
        all.tally.borrow_mut().fault(Count::Duplicated, what);
    }
}

fn echoed(all: &Clients, client: &Client, (message, now_ns): (&Message, u64)) {
    let mut tally = all.tally.borrow_mut();
    let id = client.id;
    let Some(sequence) = Composer::sequence(message) else {
        return tally.fault(Count::Corrupted, || format!("client {id}: no message of ours"));
    };
    let intended_ns = match client.window.borrow_mut().answer(sequence) {
        Answer::InOrder(intended_ns) => intended_ns,
        Answer::OutOfOrder(intended_ns) => {
            tally.fault(Count::OutOfOrder, || format!("client {id}: message {sequence}"));
            intended_ns
        }
        Answer::Duplicate => {
            return tally.fault(Count::Duplicated, || format!("client {id}: message {sequence}"));
        }
        Answer::Unknown => {
            let what = || format!("client {id}: message {sequence} was never sent");
            return tally.fault(Count::Corrupted, what);
        }
    };
    all.outstanding.set(all.outstanding.get() - 1);
    if !client.composer(all).is(message, sequence) {
        let what = || format!("client {id}: message {sequence} came back changed");
        tally.fault(Count::Corrupted, what);
    }
    tally.count(Count::Received);
    tally.count_many(Count::BytesReceived, message.len() as u64);
    tally.record(Measure::RoundTrip, now_ns.saturating_sub(intended_ns));
}

/// Books the end of a connection, or of an attempt, and what was in flight on it.
fn book_break(all: &Clients, client: &Client, (count, why): (Count, &str)) {
    if client.upgrades.get() > 0 && client.lost_at_ns.get().is_none() {
        client.lost_at_ns.set(Some(all.plan.now_ns()));
    }
    all.tally.borrow_mut().fault(count, || format!("client {}: {why}", client.id));
    abandon(all, client);
}

fn abandon(all: &Clients, client: &Client) {
    let messages = client.window.borrow_mut().abandon().map_or(0, |(count, _)| count as u64);
    let beats = client.beats.borrow_mut().drain(..).count() as u64;
    let gone = messages + beats;
    if gone == 0 {
        return;
    }
    all.outstanding.set(all.outstanding.get() - gone);
    let mut tally = all.tally.borrow_mut();
    if all.plan.args.tolerate_breaks {
        return tally.count_many(Count::Cut, gone);
    }
    tally.count_many(Count::Lost, gone - 1);
    let what = || format!("client {}: {messages} messages, {beats} heartbeats", client.id);
    tally.fault(Count::Lost, what);
}

/// The run is over and this client's connection is still there: nobody answered its close frame.
pub fn give_up(all: &Clients, client: &Client) {
    if client.orders.borrow_mut().take().is_some() {
        let what = || format!("client {}", client.id);
        all.tally.borrow_mut().fault(Count::CloseUnanswered, what);
    }
    abandon(all, client);
}

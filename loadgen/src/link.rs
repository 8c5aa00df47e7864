//! One connection of a device: what is written, what comes back, and whether it is right.

use std::future::poll_fn;
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Sleep;

use crate::cli::CloseHow;
use crate::counters::Count;
use crate::device::{Device, Ended, Order};
use crate::frame::{Data, Decoded, FRAME_LEN_MAX, Login, Remainder, decode, encode, kind};
use crate::random::Random;
use crate::squad::Squad;
use crate::units::Splits;
use crate::verify;

/// Bytes a device may have waiting for its socket before open-loop messages are left out.
pub const BACKLOG_LEN_MAX: usize = 1 << 20;
/// A queue larger than this gives its memory back once it is empty.
const RETAINED_LEN_MAX: usize = 1 << 10;
/// Random pieces are this short half of the time.
const SHORT_PIECE_LEN_MAX: u64 = 8;

/// A connection from the device's point of view.
pub struct Link {
    writer: Option<OwnedWriteHalf>,
    /// Bytes for which the socket had no room, or that wait for their turn in a split.
    pending: Vec<u8>,
    pending_start: usize,
    remainder: Remainder,
    order: Option<Order>,
    waker: Option<Waker>,
    last_read_ns: u64,
    last_write_ns: u64,
    leaving: bool,
    /// Heartbeats without an answer.
    pub heartbeats_out: u32,
    /// When the attempt began.
    pub started_ns: u64,
    /// Whether the login was acknowledged.
    pub logged_in: bool,
    /// What the socket said when it broke.
    pub failure: Option<Error>,
}

impl Link {
    fn new(writer: OwnedWriteHalf, started_ns: u64, now_ns: u64) -> Link {
        Link {
            writer: Some(writer),
            pending: Vec::new(),
            pending_start: 0,
            remainder: Remainder::default(),
            order: None,
            waker: None,
            last_read_ns: now_ns,
            last_write_ns: now_ns,
            leaving: false,
            heartbeats_out: 0,
            started_ns,
            logged_in: false,
            failure: None,
        }
    }

    /// Leaves an order for the device's task and wakes it.
    pub fn take_order(&mut self, order: Order) {
        self.order = Some(order);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Bytes that wait for the socket.
    pub fn backlog(&self) -> usize {
        self.pending.len() - self.pending_start
    }
}

/// What drives a connection: the device's task.
struct Driver<'s> {
    squad: &'s Squad,
    n: usize,
    reader: OwnedReadHalf,
    /// The pause between two pieces of a split.
    gap: Option<Pin<Box<Sleep>>>,
}

/// Logs in and stays connected until something ends it.
pub async fn stay(squad: &Squad, n: usize, stream: TcpStream, started_ns: u64) -> Ended {
    let (reader, writer) = stream.into_split();
    let now_ns = squad.now_ns();
    {
        let mut device = squad.devices[n].borrow_mut();
        device.generation = device.generation.wrapping_add(1);
        device.link = Some(Link::new(writer, started_ns, now_ns));
        let login = compose_login(squad, &device.devid);
        write(squad, &mut device, &login, now_ns);
        let deadline_ns = started_ns + squad.plan.args.login_timeout.as_nanos() as u64;
        squad.watch(deadline_ns, n, device.generation);
    }
    let mut driver = Driver { squad, n, reader, gap: None };
    let ended = poll_fn(|cx| driver.poll(cx)).await;
    let reset = match ended {
        Ended::Killed => true,
        Ended::Churned | Ended::Left => squad.plan.close == CloseHow::Reset,
        Ended::Broken(_) => false,
    };
    if reset {
        driver.reset();
    }
    ended
}

impl Driver<'_> {
    /// One turn: read, answer, write, obey.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let squad = self.squad;
        let device = &mut *squad.devices[self.n].borrow_mut();
        if let Some(link) = &mut device.link
            && !link.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            link.waker = Some(cx.waker().clone());
        }
        loop {
            match self.poll_read(device, cx) {
                Poll::Ready(None) => {}
                Poll::Ready(Some(ended)) => return Poll::Ready(ended),
                Poll::Pending => break,
            }
        }
        let Some(link) = &mut device.link else { return Poll::Ready(Ended::Left) };
        if let Err(error) = self.flush(link, &mut device.random, cx) {
            return Poll::Ready(broken(link, error));
        }
        match link.order.take() {
            None => Poll::Pending,
            Some(Order::Kill) => Poll::Ready(Ended::Killed),
            Some(Order::LoginTimeout) => Poll::Ready(Ended::Broken(Count::LoginTimeout)),
            Some(Order::ReaderIdle) => Poll::Ready(Ended::Broken(Count::ReaderIdle)),
            Some(Order::Leave) if squad.plan.close == CloseHow::Reset => Poll::Ready(Ended::Left),
            Some(Order::Leave) => {
                // Dropping the write half sends our FIN; the reader then waits for theirs.
                link.leaving = true;
                link.writer = None;
                Poll::Pending
            }
        }
    }

    /// Reads once and deals with every whole frame. `None` means: go on reading.
    fn poll_read(&mut self, device: &mut Device, cx: &mut Context<'_>) -> Poll<Option<Ended>> {
        let squad = self.squad;
        let Some(link) = &mut device.link else { return Poll::Ready(Some(Ended::Left)) };
        let mut buffer = squad.read_buffer.borrow_mut();
        let start = link.remainder.place(&mut buffer);
        let mut space = ReadBuf::new(&mut buffer[start..]);
        let outcome = std::task::ready!(Pin::new(&mut self.reader).poll_read(cx, &mut space));
        let end = start + space.filled().len();
        if let Err(error) = outcome {
            return Poll::Ready(Some(broken(link, error)));
        }
        if end == start {
            let ended = if link.leaving { Ended::Left } else { Ended::Broken(Count::PeerClosed) };
            return Poll::Ready(Some(ended));
        }
        let now_ns = squad.now_ns();
        link.last_read_ns = now_ns;
        let mut replies = squad.write_buffer.borrow_mut();
        replies.clear();
        let mut at = 0;
        // The longest frame a header can announce is allowed: what is no frame yet needs more.
        while let Decoded::Frame(header, body, whole) = decode(&buffer[at..end], FRAME_LEN_MAX) {
            at += whole.len();
            let received = verify::Received { kind: header.kind, body, whole, now_ns };
            verify::frame(squad, (self.n, &mut *device), &received, &mut replies);
        }
        squad.tally.borrow_mut().count_many(Count::BytesReceived, (end - start) as u64);
        if let Some(link) = &mut device.link {
            link.remainder.keep(&buffer[at..end]);
            if squad.plan.args.churn && link.logged_in {
                return Poll::Ready(Some(Ended::Churned));
            }
        }
        if !replies.is_empty() {
            write(squad, device, &replies, now_ns);
        }
        Poll::Ready(None)
    }

    /// Writes pending bytes: all at once, or piece by piece if frames are to be split.
    fn flush(
        &mut self,
        link: &mut Link,
        random: &mut Random,
        cx: &mut Context<'_>,
    ) -> std::io::Result<()> {
        while link.backlog() > 0 {
            if let Some(pause) = &mut self.gap {
                if pause.as_mut().poll(cx).is_pending() {
                    return Ok(());
                }
                self.gap = None;
            }
            let Some(writer) = &link.writer else { return Ok(()) };
            match writer.as_ref().poll_write_ready(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(ready) => ready?,
            }
            let args = &self.squad.plan.args;
            let waiting = &link.pending[link.pending_start..];
            let piece_len = piece_len(args.splits, waiting.len(), random);
            match writer.try_write(&waiting[..piece_len]) {
                Ok(written) => link.pending_start += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            if args.splits != Splits::None && link.backlog() > 0 {
                if args.split_gap.is_zero() {
                    // Let others run, so that the pieces have a chance to travel alone.
                    cx.waker().wake_by_ref();
                    return Ok(());
                }
                self.gap = Some(Box::pin(tokio::time::sleep(args.split_gap)));
            }
        }
        link.pending_start = 0;
        link.pending.clear();
        link.pending.shrink_to(RETAINED_LEN_MAX);
        Ok(())
    }

    /// Makes closing the socket a RST.
    fn reset(&mut self) {
        let mut device = self.squad.devices[self.n].borrow_mut();
        if let Err(error) = self.reader.as_ref().set_zero_linger() {
            self.squad.tally.borrow_mut().fault(Count::PeerOther, || format!("reset: {error}"));
        }
        if let Some(writer) = device.link.as_mut().and_then(|link| link.writer.take()) {
            // Dropping it would send a FIN first.
            writer.forget();
        }
    }
}

fn broken(link: &mut Link, error: Error) -> Ended {
    let count = match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Count::PeerReset,
        _ => Count::PeerOther,
    };
    link.failure = Some(error);
    Ended::Broken(count)
}

fn piece_len(splits: Splits, waiting: usize, random: &mut Random) -> usize {
    match splits {
        Splits::None => waiting,
        Splits::Bytewise => 1,
        Splits::Every(bytes) => bytes.min(waiting),
        Splits::Random => {
            let short = random.below(2) == 0;
            let bound =
                if short { SHORT_PIECE_LEN_MAX.min(waiting as u64) } else { waiting as u64 };
            1 + random.below(bound) as usize
        }
    }
}

/// Writes frames to a device's socket; what it does not take now waits for the device's task.
pub fn write(squad: &Squad, device: &mut Device, frames: &[u8], now_ns: u64) {
    let Some(link) = &mut device.link else { return };
    link.last_write_ns = now_ns;
    squad.tally.borrow_mut().count_many(Count::BytesSent, frames.len() as u64);
    let mut written = 0;
    if squad.plan.args.splits == Splits::None && link.backlog() == 0 {
        let Some(writer) = &link.writer else { return };
        // An error shows again, with the task there to deal with it, when the rest is flushed.
        written = writer.try_write(frames).unwrap_or(0);
    }
    if written < frames.len() {
        link.pending.extend_from_slice(&frames[written..]);
        if let Some(waker) = &link.waker {
            waker.wake_by_ref();
        }
    }
}

fn compose_login(squad: &Squad, devid: &str) -> Vec<u8> {
    let padding = squad.plan.args.login_padding;
    let pad = (padding > 0).then(|| "x".repeat(padding).into());
    let body = serde_json::to_vec(&Login { devid: devid.into(), pad }).unwrap_or_default();
    let mut frame = Vec::new();
    encode(&mut frame, kind::LOGIN, squad.plan.heartbeat_s, &[&body]);
    frame
}

/// Appends the device's next message and remembers that its answer is awaited.
pub fn compose_message(squad: &Squad, device: &mut Device, frames: &mut Vec<u8>, due_ns: u64) {
    let plan = &squad.plan;
    let sequence = device.window.send(due_ns);
    let devid = device.devid.as_bytes();
    let payload_len = plan.args.payload - crate::frame::data_overhead(devid);
    let payload = plan.payloads.payload(device.number.into(), sequence, payload_len);
    Data { sequence, devid, payload }.encode(frames, plan.heartbeat_s);
    squad.count(Count::Sent);
    squad.outstanding.set(squad.outstanding.get() + 1);
}

/// What netty's IdleStateHandler does: a heartbeat when nothing was written for a while, the end
/// when nothing was read. Says when to look again; `None` when there is nothing left to watch.
pub fn keep_alive(squad: &Squad, device: &mut Device, now_ns: u64) -> Option<u64> {
    let args = &squad.plan.args;
    let link = device.link.as_mut()?;
    if !link.logged_in {
        link.take_order(Order::LoginTimeout);
        return None;
    }
    let reader_idle_ns = args.reader_idle.as_nanos() as u64;
    if now_ns >= link.last_read_ns + reader_idle_ns {
        link.take_order(Order::ReaderIdle);
        return None;
    }
    let heartbeat_ns = args.heartbeat.as_nanos() as u64;
    if now_ns >= link.last_write_ns + heartbeat_ns && !link.leaving && squad.may_send() {
        link.heartbeats_out += 1;
        squad.outstanding.set(squad.outstanding.get() + 1);
        squad.count(Count::HeartbeatsSent);
        let mut frame = Vec::new();
        encode(&mut frame, kind::HEARTBEAT, squad.plan.heartbeat_s, &[]);
        write(squad, device, &frame, now_ns);
    }
    let link = device.link.as_ref()?;
    let beat_ns = (link.last_write_ns + heartbeat_ns).max(now_ns + 1);
    Some(beat_ns.min(link.last_read_ns + reader_idle_ns))
}

/// The connection is logged in: beats and idle times count from now.
pub fn start_watch(squad: &Squad, n: usize, device: &Device, now_ns: u64) {
    let args = &squad.plan.args;
    let first = args.heartbeat.min(args.reader_idle).as_nanos() as u64;
    squad.watch(now_ns + first, n, device.generation);
}

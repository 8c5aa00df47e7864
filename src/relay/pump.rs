//! One direction of a relay.
//!
//! A quiet direction waits on a poll and owns nothing: when bytes come they go through the shard's
//! scratch buffer, and only what the sink does not take is copied out. A busy direction has a read
//! armed with a buffer of its own, which saves the poll: one ring operation a message instead of
//! one and a receive call. It goes back to polling when it has been quiet for a second.

use std::io;
use std::net::Shutdown;

use monoio::io::Canceller;
use socket2::SockRef;

use super::buffer::BufferSize;
use super::{Failure, PumpEnd, Relay, sink_side};
use crate::session::{COOL_AFTER, Direction};

/// What came of moving bytes once.
enum Moved {
    /// Some bytes, all taken by the sink.
    All,
    /// The sink did not take these.
    Rest(Vec<u8>),
    /// There was nothing to read.
    Nothing,
    /// The source is at its end.
    End(PumpEnd),
}

/// Moves bytes until one side ends. `unsent` goes first.
///
/// What only stalled or busy directions need is boxed, so that a quiet one is small.
pub async fn run(relay: &Relay<'_>, direction: Direction, unsent: Vec<u8>) -> PumpEnd {
    if let Err(end) = send_first(relay, direction, unsent).await {
        return end;
    }
    let mut moved_at = None;
    loop {
        if let Err(error) = relay.source(direction).readable().await {
            return PumpEnd::SourceFailed(Failure::of(&error));
        }
        match move_once(relay, direction) {
            Moved::All => {}
            Moved::Rest(rest) => {
                if let Err(end) = Box::pin(send_all(relay, direction, rest)).await {
                    return end;
                }
            }
            Moved::Nothing => continue,
            Moved::End(end) => return end,
        }
        let now = relay.shard.now();
        let busy = moved_at.is_some_and(|at: u32| now - at < COOL_AFTER);
        moved_at = Some(now);
        if busy {
            relay.shard.cells().warmed_up.add(1);
            if let Some(end) = Box::pin(armed(relay, direction)).await {
                return end;
            }
            relay.shard.cells().cooled_down.add(1);
            moved_at = None;
        }
    }
}

/// Sends the preface, most often at once.
async fn send_first(
    relay: &Relay<'_>,
    direction: Direction,
    unsent: Vec<u8>,
) -> Result<(), PumpEnd> {
    let mut left = &unsent[..];
    send_some(relay, direction, &mut left)?;
    if !left.is_empty() {
        Box::pin(send_all(relay, direction, left.to_vec())).await?;
    }
    Ok(())
}

/// Receives into the shard's scratch buffer and sends from there.
fn move_once(relay: &Relay<'_>, direction: Direction) -> Moved {
    let mut scratch = relay.shard.scratch();
    let received = match relay.source(direction).receive(&mut scratch) {
        Ok(0) => return Moved::End(source_fin(relay, direction)),
        Ok(n) => n,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moved::Nothing,
        Err(error) => return Moved::End(PumpEnd::SourceFailed(Failure::of(&error))),
    };
    count_received(relay, direction, received);
    let mut bytes = &scratch[..received];
    match send_some(relay, direction, &mut bytes) {
        Ok(()) if bytes.is_empty() => Moved::All,
        Ok(()) => Moved::Rest(bytes.to_vec()),
        Err(end) => Moved::End(end),
    }
}

/// Moves bytes with a read armed in the ring; `None` when it went quiet.
async fn armed(relay: &Relay<'_>, direction: Direction) -> Option<PumpEnd> {
    let canceller = Canceller::new();
    let handle = canceller.handle();
    relay.arm(direction, canceller);
    let mut size = BufferSize::new(relay.shard.relay_buffer_max());
    let mut buf: Vec<u8> = Vec::new();
    loop {
        if buf.capacity() != size.bytes() {
            buf = Vec::with_capacity(size.bytes());
        }
        buf.clear();
        let (result, returned) = relay.source(direction).armed_read(buf, handle.clone()).await;
        buf = returned;
        let received = match result {
            Ok(0) => return Some(source_fin(relay, direction)),
            Ok(n) => n,
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => return None,
            Err(error) => return Some(PumpEnd::SourceFailed(Failure::of(&error))),
        };
        count_received(relay, direction, received);
        match send_all(relay, direction, buf).await {
            Ok(returned) => buf = returned,
            Err(end) => return Some(end),
        }
        size.after_read(received);
    }
}

/// Sends all of `buf`, waiting for the sink as long as it takes, and gives it back.
///
/// The ring's poll is the cheap wait and does for a sink whose peer has not sent FIN. When it came
/// back without any room the sink is half-closed, and only the shard's epoll set can tell.
async fn send_all(
    relay: &Relay<'_>,
    direction: Direction,
    buf: Vec<u8>,
) -> Result<Vec<u8>, PumpEnd> {
    let mut left = &buf[..];
    let (mut waited, mut half_closed) = (false, false);
    loop {
        let before = left.len();
        send_some(relay, direction, &mut left)?;
        if left.is_empty() {
            return Ok(buf);
        }
        half_closed |= waited && left.len() == before;
        waited = true;
        let sink = relay.sink(direction);
        let room = if half_closed {
            relay.shard.room(relay.session, sink, sink_side(direction)).await
        } else {
            sink.writable().await
        };
        if let Err(error) = room {
            return Err(sink_failed(relay, direction, &error));
        }
    }
}

/// Sends what the sink takes now and shortens `bytes` by it.
fn send_some(relay: &Relay<'_>, direction: Direction, bytes: &mut &[u8]) -> Result<(), PumpEnd> {
    while !bytes.is_empty() {
        match relay.sink(direction).send(bytes) {
            Ok(n) => {
                *bytes = &bytes[n..];
                count_sent(relay, direction, n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(sink_failed(relay, direction, &error)),
        }
    }
    Ok(())
}

fn sink_failed(relay: &Relay<'_>, direction: Direction, error: &io::Error) -> PumpEnd {
    let failure = Failure::of(error);
    relay.session.send_failed[direction as usize].set(Some(failure));
    PumpEnd::SinkFailed(failure)
}

/// The source has no more data: a FIN, unless a send to it failed before, which takes the error off
/// the socket and leaves a plain end of data behind.
fn source_fin(relay: &Relay<'_>, direction: Direction) -> PumpEnd {
    if let Some(failure) = relay.source_failed(direction) {
        return PumpEnd::SourceFailed(failure);
    }
    match SockRef::from(relay.sink(direction)).shutdown(Shutdown::Write) {
        Ok(()) => PumpEnd::Fin,
        Err(error) => sink_failed(relay, direction, &error),
    }
}

fn count_received(relay: &Relay<'_>, direction: Direction, n: usize) {
    let (session, n) = (relay.session, n as u64);
    session.active.set(relay.shard.now());
    match direction {
        Direction::ToBackend => {
            session.bytes_in.set(session.bytes_in.get() + n);
            relay.shard.listener_cells(session.listener).bytes_in.add(n);
        }
        Direction::ToClient => {
            relay.identity.shared.cells.of(relay.shard.index).bytes_in.add(n);
        }
    }
}

fn count_sent(relay: &Relay<'_>, direction: Direction, n: usize) {
    let (session, n) = (relay.session, n as u64);
    session.active.set(relay.shard.now());
    match direction {
        Direction::ToBackend => {
            relay.identity.shared.cells.of(relay.shard.index).bytes_out.add(n);
        }
        Direction::ToClient => {
            session.bytes_out.set(session.bytes_out.get() + n);
            relay.shard.listener_cells(session.listener).bytes_out.add(n);
        }
    }
}

impl Relay<'_> {
    /// Lets the shard's tick cancel the armed read of a direction that goes quiet.
    fn arm(&self, direction: Direction, canceller: Canceller) {
        *self.session.armed[direction as usize].borrow_mut() = Some(canceller);
        self.shard.look_soon(self.session);
    }
}

//! A connection that speaks HTTP: one request after the other, each to where its rule says.
//!
//! Between two requests a connection is this loop alone: no buffer, and a task of some hundred
//! bytes. A request is a task of its own inside it, with its buffers (`http/exchange.rs`): its head
//! is read, a rule chosen, a backend found (`http/place.rs`), and the bytes go both ways at once
//! (`http/transfer.rs`). How it ended is counted in one place (`http/record.rs`).

mod exchange;
mod head;
mod looked_up;
mod place;
mod record;
mod transfer;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use self::place::Upgraded;
use super::{Begun, Session, Stage};
use crate::config::{HttpListener, Protocol};
use crate::end::{End, Side};
use crate::relay::Failure;
use crate::shard::wheel::{Tick, ticks};
use crate::shard::{Shard, token};
use crate::stream::Stream;
use crate::sys;
use crate::table::Listener;
use crate::tls;

/// How long a client is listened to after we have said that this is the end: what closes a socket
/// with bytes unread resets it, and the answer with it (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(2);
/// And how many bytes are thrown away then.
const LINGER_LEN_MAX: usize = 8 << 20;

/// Bytes by which a buffer grows that holds an unusually long head.
const GROWTH: usize = 16 << 10;

/// One client's connection.
struct Connection<'a> {
    shard: &'a Shard,
    session: &'a Session,
    client: Stream,
    /// Received and not used yet: the next requests.
    input: Vec<u8>,
    /// A receive from the client may give something.
    readable: bool,
    /// Requests begun.
    requests: u32,
    /// The configuration of the request under way, or of the last one.
    listener: Arc<Listener>,
    /// The listener is no longer configured.
    leaving: bool,
}

/// What comes behind a request.
enum Next {
    /// The next one.
    Request,
    /// The end; `linger`: the client may still be sending.
    Close { end: End, linger: bool },
    /// Other bytes than HTTP's.
    Relay(Upgraded),
}

/// Serves requests until the connection is over, or is no HTTP any more. `input` was received
/// already.
pub async fn serve(
    shard: &Shard,
    session: &Session,
    client: Stream,
    input: Vec<u8>,
) -> Result<Begun, End> {
    let listener = session.listener.clone();
    let mut connection = Connection {
        shard,
        session,
        client: client.gather(shard.outbox(), token(session, Side::Client)),
        input,
        readable: true,
        requests: 0,
        listener,
        leaving: false,
    };
    loop {
        connection.wait_for_request().await?;
        let next = match Box::pin(exchange::serve(&mut connection)).await {
            Ok(next) => next,
            Err(end) => {
                if end == End::HttpTruncated {
                    // The answer before it was whole.
                    let _gone = connection.settle().await;
                }
                return Err(end);
            }
        };
        session.turned_after.clear();
        match next {
            Next::Request => {}
            Next::Close { end, linger } => {
                if connection.settle().await == Err(End::HttpSendTimeout) {
                    return Err(End::HttpSendTimeout);
                }
                if linger {
                    connection.linger().await;
                } else {
                    // Who reads nothing any more does not hear it.
                    let _unheard = connection.client.shutdown();
                }
                return Err(end);
            }
            Next::Relay(upgraded) => return Ok(connection.relay(upgraded)),
        }
    }
}

/// The settings of an http listener.
fn settings(listener: &Listener) -> Option<&HttpListener> {
    match &listener.settings.protocol {
        Protocol::Http(http) => Some(http),
        Protocol::Frame(_) | Protocol::Tcp { .. } => None,
    }
}

impl Connection<'_> {
    /// Waits until there are bytes of a request. Owns no buffer meanwhile.
    async fn wait_for_request(&mut self) -> Result<(), End> {
        if !self.input.is_empty() {
            return Ok(());
        }
        self.input = Vec::new();
        self.session.stage.set(Stage::Idle);
        let timeout = settings(&self.listener).map(|http| http.idle_timeout).unwrap_or_default();
        let until = self.deadline(timeout);
        let mut over = self.closes_when_idle().then_some(End::HttpClosed);
        loop {
            if self.readable {
                let mut buffer = self.shard.buffers().take();
                let received = self.receive(&mut buffer);
                self.input = buffer;
                match received {
                    Ok(0) => over = Some(End::ClientFin),
                    Ok(_) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Many clients end so; between requests nothing can be missing (RFC 9112, 9.8).
                    Err(error) if tls::Failure::of(&error) == Some(&tls::Failure::Truncated) => {
                        over = Some(End::ClientFin);
                    }
                    Err(error) => return Err(Failure::of(&error).end(Side::Client)),
                }
                self.shard.buffers().give(std::mem::take(&mut self.input));
            }
            // A request that has come is served, whatever was to end the wait.
            if let Some(end) = over {
                if self.settle().await == Err(End::HttpSendTimeout) {
                    return Err(End::HttpSendTimeout);
                }
                // A client inside TLS hears that this is the end.
                let _unheard = self.client.shutdown();
                return Err(end);
            }
            if let Err(end) = self.wait(until, End::HttpIdle).await {
                self.session.interrupt.take();
                (over, self.readable) = (Some(end), true);
            }
        }
    }

    /// Waits until the client's socket has taken what was answered, as long as `send_timeout`
    /// allows. What is cut off then must not look complete.
    ///
    /// # Errors
    /// Why it has not.
    async fn settle(&mut self) -> Result<(), End> {
        let timeout = settings(&self.listener).map(|http| http.send_timeout).unwrap_or_default();
        let until = self.deadline(timeout);
        loop {
            match self.client.flush() {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Failure::of(&error).end(Side::Client)),
            }
            if let Err(end) = self.wait(until, End::HttpSendTimeout).await {
                let socket = SockRef::from(self.client.socket());
                let _gone = socket.set_linger(Some(Duration::ZERO));
                return Err(end);
            }
        }
    }

    /// Whether nobody is to send another request.
    fn closes_when_idle(&self) -> bool {
        self.shard.is_draining() && self.requests > 0
    }

    /// Waits for either socket. Whether the client's and the backend's were reported.
    async fn wait(&mut self, until: Tick, end: End) -> Result<(bool, bool), End> {
        let (shard, session) = (self.shard, self.session);
        let room = self.client.wants().room;
        let watched = shard.watch(session, (Side::Client, self.client.socket()), room);
        if watched.is_err() {
            return Err(End::ClientError);
        }
        shard.set_deadline(session, until, end);
        session.interrupt.or(shard.reported_any(session)).await?;
        let reported = session.take_report(Side::Client);
        if reported {
            self.readable = true;
            // Records that wait for room. Nobody may be about to send anything else.
            if let Err(error) = self.client.flush()
                && error.kind() != io::ErrorKind::WouldBlock
            {
                return Err(Failure::of(&error).end(Side::Client));
            }
        }
        // Also of a connection that is kept for another request: nobody else takes it.
        Ok((reported, session.take_report(Side::Backend)))
    }

    /// The tick at which something is over that lasts so long.
    fn deadline(&self, timeout: Duration) -> Tick {
        self.shard.now().saturating_add(ticks(timeout)).saturating_add(1)
    }

    /// Receives into the spare room of a buffer.
    fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let received = receive(self.session, Side::Client, &mut self.client, buffer);
        match &received {
            Ok((n, more)) => {
                self.readable = *more;
                self.session.active.set(self.shard.now());
                self.session.bytes_in.set(self.session.bytes_in.get() + *n as u64);
                self.shard.listener_cells(&self.session.listener).bytes_in.add(*n as u64);
            }
            Err(_) => self.readable = false,
        }
        received.map(|(n, _)| n)
    }

    /// Sends what fits.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.client.send(bytes)?;
        self.session.active.set(self.shard.now());
        self.session.bytes_out.set(self.session.bytes_out.get() + n as u64);
        self.shard.listener_cells(&self.session.listener).bytes_out.add(n as u64);
        Ok(n)
    }

    /// Says that this is the end, and throws away what the client still sends, for a while.
    async fn linger(&mut self) {
        let until = self.deadline(LINGER);
        let mut left = LINGER_LEN_MAX;
        let mut said = false;
        self.readable = true;
        loop {
            if !said {
                said = match self.client.shutdown() {
                    Ok(()) => true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
                    Err(_) => return,
                };
            }
            while self.readable && left > 0 {
                let mut buffer = self.shard.buffers().take();
                let received = receive(self.session, Side::Client, &mut self.client, &mut buffer);
                self.shard.buffers().give(buffer);
                match received {
                    Ok((0, _)) => return,
                    Ok((n, more)) => {
                        left = left.saturating_sub(n);
                        self.readable = more;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.readable = false;
                    }
                    Err(_) => return,
                }
            }
            if left == 0 || self.wait(until, End::HttpClosed).await.is_err() {
                return;
            }
        }
    }

    /// Whether the connection was reset; bytes and a FIN are no harm.
    fn is_broken(&self) -> Option<End> {
        match sys::peek(self.client.socket().as_fd()) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                Some(Failure::of(&error).end(Side::Client))
            }
            _ => None,
        }
    }

    /// Hands the connection over to a relay.
    fn relay(self, upgraded: Upgraded) -> Begun {
        let Upgraded { link, backend, idle_timeout, ejecting } = upgraded;
        // What they hold is sent by a relay that knows of such.
        let plain = |stream: Stream| stream.into_plain().map_or_else(|held| held, Stream::Plain);
        Begun {
            client: plain(self.client),
            backend: plain(link),
            identity: backend,
            idle_timeout,
            ejecting,
            unsent: self.input,
            emptied: false,
        }
    }
}

/// Receives what is there, and says whether there may be more. A short receive has emptied a
/// socket, which is reported again when something comes, except an end that was reported with the
/// bytes.
fn receive(
    session: &Session,
    side: Side,
    stream: &mut Stream,
    buffer: &mut Vec<u8>,
) -> io::Result<(usize, bool)> {
    let room = buffer.capacity() - buffer.len();
    let n = stream.receive_more(buffer)?;
    let signal = session.signal(side).get();
    let emptied = n < room && n > 0 && stream.tls().is_none() && !signal.ending;
    Ok((n, !emptied))
}

//! One request and its response on their way, both at the same time: one bounded buffer for each
//! direction, and nothing is read for a side that does not take what is there.

mod down;
mod pass;

use std::io;
use std::time::{Duration, Instant};

use self::pass::{Passed, pass};
use super::Connection;
use super::place::Link;
use super::record::Fault;
use crate::config::HttpListener;
use crate::end::{End, Side};
use crate::http::Version;
use crate::http::body::{Body, BodyFault};
use crate::http::head::Scan;
use crate::http::request::RequestHead;
use crate::http::response::Asked;
use crate::metrics::BackendCells;
use crate::relay::Failure;
use crate::shard::Shard;
use crate::shard::wheel::{Tick, ticks};

/// Moves before others get a turn.
const MOVES_MAX: u32 = 16;

/// What came of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// The client has its response.
    Answered {
        /// The client may send another request.
        keep_client: bool,
        /// The backend takes another one.
        keep_backend: bool,
        /// Nothing of the request is still to come.
        read_all: bool,
    },
    /// Both sides speak something else from now on.
    Upgraded,
}

/// What is known of a response whose head has gone on.
struct Response {
    body: Body,
    unchunk: bool,
    closes: bool,
    keeps_alive: bool,
    upgraded: bool,
}

impl Response {
    /// Whether nothing of it is to come.
    fn is_over(&self) -> bool {
        self.upgraded || self.body.is_complete()
    }
}

/// What was counted and timed.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    /// Of the final response, as the backend has it.
    pub status: Option<u16>,
    /// Until the response's head was there.
    pub head_after: Option<Duration>,
    /// Until the response was complete.
    pub done_after: Option<Duration>,
    /// Bytes to the client.
    pub sent: u64,
    /// Of these: heads.
    pub sent_heads: u64,
    /// Bytes from the client behind the head.
    pub body_received: u64,
    /// Bytes to the backend.
    pub backend_sent: u64,
    /// Bytes from the backend.
    pub backend_received: u64,
}

/// A request on its way.
pub(super) struct Transfer<'t> {
    shard: &'t Shard,
    http: &'t HttpListener,
    asked: Asked,
    version: Version,
    /// As far as the client and its limits go.
    keeps: bool,
    /// For the backend: a head, and bytes of the body behind `head_len`.
    up: Vec<u8>,
    up_sent: usize,
    head_len: usize,
    /// `up` still holds all that was ever to be sent.
    intact: bool,
    /// The backend may take something.
    up_writable: bool,
    /// The backend reads no more of the request.
    refused: bool,
    body: Body,
    data_len: u64,
    /// A response's head, as far as it has come.
    answer: Vec<u8>,
    scan: Scan,
    interims: u32,
    response: Option<Response>,
    /// Bytes behind the response, which are nobody's.
    surplus: bool,
    /// For the client.
    down: Vec<u8>,
    down_sent: usize,
    down_writable: bool,
    up_moved: Tick,
    down_moved: Tick,
    /// When the backend was asked, if the access log may want to know.
    began: Option<Instant>,
    pub tally: Tally,
}

impl<'t> Transfer<'t> {
    /// Nothing was sent yet.
    pub(super) fn new(
        shard: &'t Shard,
        http: &'t HttpListener,
        (head, bytes): (&RequestHead, &[u8]),
        keeps: bool,
    ) -> Transfer<'t> {
        let now = shard.now();
        Transfer {
            shard,
            http,
            asked: Asked::of(head, bytes),
            version: head.version,
            keeps,
            up: Vec::new(),
            up_sent: 0,
            head_len: 0,
            intact: true,
            up_writable: true,
            refused: false,
            body: Body::new(head.framing),
            data_len: 0,
            answer: Vec::new(),
            scan: Scan::default(),
            interims: 0,
            response: None,
            surplus: false,
            down: Vec::new(),
            down_sent: 0,
            down_writable: true,
            up_moved: now,
            down_moved: now,
            began: None,
            tally: Tally::default(),
        }
    }

    /// Puts the head in front of what is to be sent, and behind it what has come of the body. For
    /// another attempt the same again.
    ///
    /// # Errors
    /// What is wrong with the body.
    pub(super) fn start(
        &mut self,
        connection: &mut Connection<'_>,
        write_head: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Fault> {
        let body = self.up.split_off(self.head_len.min(self.up.len()));
        if self.up.capacity() == 0 {
            self.up = self.shard.buffers().take();
        }
        self.up.clear();
        write_head(&mut self.up);
        (self.head_len, self.up_sent) = (self.up.len(), 0);
        self.up.extend_from_slice(&body);
        (self.up_writable, self.refused) = (true, false);
        self.answer.clear();
        self.scan = Scan::default();
        let now = self.shard.now();
        (self.up_moved, self.down_moved) = (now, now);
        self.began = self.http.access_log.is_some().then(Instant::now);
        let room = self.up.capacity() - self.up.len();
        if body.is_empty() && !self.body.is_complete() && connection.input.len() <= room {
            let from = self.up.len();
            self.up.append(&mut connection.input);
            let passed = pass(&mut self.body, (&mut self.up, from), false);
            connection.input = self.taken(passed)?;
        }
        Ok(())
    }

    /// Counts bytes of the request's body; gives what is behind them.
    fn taken(&mut self, passed: Result<Passed, BodyFault>) -> Result<Vec<u8>, Fault> {
        let passed = passed.map_err(Fault::Body)?;
        self.data_len += passed.data_len;
        self.tally.body_received += passed.data_len;
        if self.data_len > self.http.body_len_max {
            return Err(Fault::TooLarge);
        }
        Ok(passed.rest)
    }

    /// Whether another backend could be sent all of the request.
    pub(super) fn is_repeatable(&self) -> bool {
        self.intact && self.is_unanswered()
    }

    /// Whether not one byte was sent to the backend.
    pub(super) fn is_unsent(&self, link: &Link) -> bool {
        self.intact && self.up_sent <= link.stream.left_len()
    }

    /// Whether the backend has said nothing.
    pub(super) fn is_unanswered(&self) -> bool {
        self.response.is_none() && self.answer.is_empty() && self.interims == 0
    }

    /// Whether the client can still be told anything by us.
    pub(super) fn may_answer(&self) -> bool {
        self.response.is_none() && self.down.is_empty()
    }

    /// Whether all of the request has come.
    pub(super) fn has_read_all(&self) -> bool {
        self.body.is_complete()
    }

    /// Gives the buffers back.
    pub(super) fn finish(self) -> Tally {
        for buffer in [self.up, self.down, self.answer] {
            self.shard.buffers().give(buffer);
        }
        self.tally
    }

    /// Moves bytes until the client has its response.
    ///
    /// # Errors
    /// Why it will not get it.
    pub(super) async fn run(
        &mut self,
        connection: &mut Connection<'_>,
        link: &mut Link,
        cells: &BackendCells,
    ) -> Result<Done, Fault> {
        let mut expired = None;
        let mut moves = 0;
        loop {
            let up = self.push(connection, link, cells)?;
            let down = self.pull(connection, link, cells)?;
            if let Some(done) = self.done(connection, link) {
                self.tally.done_after = self.began.map(|began| began.elapsed());
                return Ok(done);
            }
            if up || down {
                (expired, moves) = (None, moves + 1);
                if moves < MOVES_MAX {
                    continue;
                }
                moves = 0;
                self.watch_again(connection, link)?;
            } else if let Some(end) = expired {
                return Err(late(end));
            }
            if let Err(end) = self.wait(connection, link).await {
                connection.session.interrupt.take();
                // One more look: the machine may have been late.
                expired = Some(end);
                (connection.readable, link.readable) = (true, true);
                (self.up_writable, self.down_writable) = (true, true);
            }
        }
    }

    fn done(&self, connection: &mut Connection<'_>, link: &Link) -> Option<Done> {
        let response = self.response.as_ref()?;
        let last = response.upgraded || response.closes;
        if last && response.is_over() {
            // Nothing is sent behind it that would find out. A failure is met again below.
            let _later = connection.client.flush();
        }
        if !self.down.is_empty() || connection.client.wants().room {
            return None;
        }
        if response.upgraded {
            return Some(Done::Upgraded);
        }
        let sent = self.up_sent == self.up.len() && link.stream.is_settled();
        response.body.is_complete().then(|| Done::Answered {
            keep_client: !response.closes && self.body.is_complete(),
            keep_backend: response.keeps_alive
                && sent
                && self.body.is_complete()
                && !self.surplus
                && !self.refused,
            read_all: self.body.is_complete(),
        })
    }

    // -- to the backend ------------------------------------------------------------------------

    /// Sends what there is of the request, and reads more of it. Whether anything moved.
    fn push(
        &mut self,
        connection: &mut Connection<'_>,
        link: &mut Link,
        cells: &BackendCells,
    ) -> Result<bool, Fault> {
        let mut moved = false;
        while self.up_writable && !self.refused {
            if self.up_sent == self.up.len() && !self.refill(connection)? {
                break;
            }
            let rest = self.up.get(self.up_sent..).unwrap_or_default();
            match link.stream.send(rest) {
                Ok(n) => {
                    self.up_sent += n;
                    self.up_moved = self.shard.now();
                    if self.up_sent == self.up.len() && self.body.is_complete() {
                        // From now on the backend has its time to answer.
                        self.down_moved = self.up_moved;
                    }
                    cells.bytes_out.add(n as u64);
                    self.tally.backend_sent += n as u64;
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.up_writable = false,
                // It may have answered before it closed: that is read first.
                Err(_) => (self.refused, link.readable) = (true, true),
            }
        }
        Ok(moved)
    }

    /// Takes more of the request's body. Whether there is more to send now.
    fn refill(&mut self, connection: &mut Connection<'_>) -> Result<bool, Fault> {
        if self.body.is_complete() {
            return Ok(false);
        }
        let mut bytes = std::mem::take(&mut connection.input);
        if bytes.is_empty() {
            if !connection.readable {
                return Ok(false);
            }
            bytes = self.shard.buffers().take();
            match connection.receive(&mut bytes) {
                Ok(0) => return Err(Fault::Cut(End::HttpTruncated)),
                Ok(_) => {}
                Err(error) => {
                    self.shard.buffers().give(bytes);
                    if error.kind() == io::ErrorKind::WouldBlock {
                        return Ok(false);
                    }
                    return Err(Fault::Cut(Failure::of(&error).end(Side::Client)));
                }
            }
        }
        let passed = pass(&mut self.body, (&mut bytes, 0), false);
        connection.input = self.taken(passed)?;
        self.shard.buffers().give(std::mem::replace(&mut self.up, bytes));
        (self.up_sent, self.head_len, self.intact) = (0, 0, false);
        self.up_moved = self.shard.now();
        Ok(true)
    }

    // -- waiting -------------------------------------------------------------------------------

    async fn wait(&mut self, connection: &mut Connection<'_>, link: &mut Link) -> Result<(), End> {
        let (shard, session) = (self.shard, connection.session);
        let held = (connection.client.wants().room, link.stream.wants().room);
        let stalled = !self.down.is_empty() || held.0;
        let room = !self.up_writable || held.1;
        let client = (Side::Client, connection.client.socket());
        shard.watch(session, client, stalled).map_err(|_no_memory| End::ClientError)?;
        let backend = (Side::Backend, link.stream.socket());
        shard.watch(session, backend, room).map_err(|_no_memory| End::BackendError)?;
        let (until, end) = self.deadline(held);
        let (client, backend) = connection.wait(until, end).await?;
        if client {
            self.down_writable = true;
            if held.0 && !connection.client.wants().room {
                self.down_moved = shard.now();
            }
            if self.body.is_complete()
                && let Some(end) = connection.is_broken()
            {
                return Err(end);
            }
        }
        if backend {
            (link.readable, self.up_writable) = (true, true);
            // A failure is met again by the next send.
            let _later = link.stream.flush();
            if held.1 && !link.stream.wants().room {
                (self.up_moved, self.down_moved) = (shard.now(), shard.now());
            }
        }
        Ok(())
    }

    /// Who is waited for, and how long. `held`: TLS has records for the client and for the backend
    /// that their sockets have not taken.
    fn deadline(&self, held: (bool, bool)) -> (Tick, End) {
        let http = self.http;
        let sending = (self.up_sent < self.up.len() || held.1) && !self.refused;
        let after =
            |moved: Tick, timeout: Duration| moved.saturating_add(ticks(timeout)).saturating_add(1);
        let up = if sending {
            let end = End::HttpBackendSendTimeout;
            Some((after(self.up_moved, http.backend.send_timeout), end))
        } else if !self.body.is_complete() && !self.refused {
            // Who is answered already may well listen before it goes on.
            let heard = if self.response.is_some() { self.down_moved } else { self.up_moved };
            Some((after(self.up_moved.max(heard), http.body_timeout), End::HttpBodyTimeout))
        } else {
            None
        };
        let down = if !self.down.is_empty() || held.0 {
            Some((after(self.down_moved, http.send_timeout), End::HttpSendTimeout))
        } else if up.is_none() {
            Some((after(self.down_moved, http.backend.read_timeout), End::HttpReadTimeout))
        } else {
            None
        };
        let first = up.into_iter().chain(down).min_by_key(|(at, _)| *at);
        first.unwrap_or((self.shard.now(), End::HttpReadTimeout))
    }

    /// Has both sockets reported after everybody else had a turn.
    fn watch_again(&mut self, connection: &Connection<'_>, link: &Link) -> Result<(), Fault> {
        let session = connection.session;
        let sockets =
            [(Side::Client, connection.client.socket()), (Side::Backend, link.stream.socket())];
        for (side, socket) in sockets {
            let watched = self.shard.watch(session, (side, socket), false);
            let again = watched.and_then(|()| self.shard.watch_again(session, (side, socket)));
            again.map_err(|_no_memory| Fault::Cut(End::ClientError))?;
        }
        Ok(())
    }
}

/// What it means that a deadline has passed, or that the session was interrupted.
fn late(end: End) -> Fault {
    match end {
        End::HttpBodyTimeout => Fault::Late(end),
        End::HttpReadTimeout | End::HttpBackendSendTimeout => Fault::Backend(end),
        end => Fault::Cut(end),
    }
}

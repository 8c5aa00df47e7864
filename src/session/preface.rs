//! Reading the first bytes of a session, within a bound and a deadline.
//!
//! Silent clients own no buffer: the first receive happens when there is something to receive. The
//! frame is parsed in place in the buffer it was received into, which then goes to the backend.

use std::io;
use std::time::{Duration, Instant};

use super::{Session, store_key};
use crate::config::{FrameListener, ProxyIn, ProxyOthers, SniKey};
use crate::end::{End, Side};
use crate::frame::Preface;
use crate::proxy::{self, Header};
use crate::shard::Shard;
use crate::shard::wheel::ticks;
use crate::stream::Stream;
use crate::sys::{Interest, Socket};
use crate::tls::{self, HELLO_LEN_MAX, Hello, HelloReader};

/// Room for the first receive, bytes: a login frame and more, in one allocation.
const FIRST_LEN: usize = 512;
/// Room for a ClientHello without post-quantum key shares, bytes; with them it is doubled.
const HELLO_LEN: usize = 1_024;

/// The first bytes of one client.
pub struct Reader<'a> {
    pub(super) shard: &'a Shard,
    pub(super) session: &'a Session,
    pub(super) client: Stream,
    pub(super) received: Vec<u8>,
    first_byte: Option<Instant>,
    /// Where the client's time for its preface begins: this long after accept, in milliseconds,
    /// which is the end of its handshake.
    pub(super) began_ms: u32,
    /// What is received now may belong to a PROXY header, which is not the client's: it is counted
    /// when the header is over, for a counter must never go back.
    in_header: bool,
    /// The deadline has passed; what is in the socket already still counts.
    expired: Option<End>,
    /// The last receive left nothing in the socket.
    emptied: bool,
}

/// What a client sent first.
pub struct First {
    /// Every byte read, a PROXY header excluded.
    pub bytes: Vec<u8>,
    /// When the first one was seen.
    pub byte_at: Instant,
    /// Whether nothing was left in the socket then, and more may come.
    pub emptied: bool,
}

impl<'a> Reader<'a> {
    /// Nothing was read yet.
    pub fn new(shard: &'a Shard, session: &'a Session, client: Socket) -> Reader<'a> {
        Reader {
            shard,
            session,
            client: Stream::Plain(client),
            received: Vec::new(),
            first_byte: None,
            began_ms: 0,
            in_header: false,
            expired: None,
            emptied: false,
        }
    }

    /// The connection, everything read that is for the backend, and when the first byte was seen.
    pub fn finish(self) -> (Stream, First) {
        let ending = self.session.signal(Side::Client).get().ending;
        let first = First {
            bytes: self.received,
            byte_at: self.first_byte.unwrap_or_else(Instant::now),
            emptied: self.emptied && !ending,
        };
        (self.client, first)
    }

    /// Reads the PROXY header of a peer that must send one, and removes it.
    pub async fn read_proxy_header(&mut self, settings: Option<&ProxyIn>) -> Result<(), End> {
        let Some(settings) = settings else {
            return Ok(());
        };
        if !is_listed(settings, self.session) {
            return match settings.others {
                ProxyOthers::Reject => Err(End::ProxyUntrusted),
                ProxyOthers::Plain => Ok(()),
            };
        }
        self.set_deadline(settings.timeout, End::ProxyTimeout);
        self.in_header = true;
        loop {
            match proxy::read(&self.received) {
                Header::NeedMore(len) => self.receive(len).await?,
                Header::Complete { len, addresses } => {
                    if let Some(addresses) = addresses {
                        // A session reads one header.
                        let _first = self.session.proxied.set(Box::new(addresses));
                    }
                    self.received.drain(..len);
                    self.in_header = false;
                    self.count(self.received.len());
                    return Ok(());
                }
                Header::Invalid => {
                    self.count(self.received.len());
                    return Err(End::ProxyInvalid);
                }
            }
        }
    }

    /// Reads frames until one says who is calling, and stores the key. `false`: none of them does.
    pub async fn read_key(&mut self, frame: &FrameListener) -> Result<bool, End> {
        let deadline = self.set_deadline(frame.timeout, End::PrefaceSilent);
        let untrusted = self.may_not_send_proxy();
        loop {
            if untrusted && proxy::looks_like_header(&self.received) {
                return Err(End::ProxyUntrusted);
            }
            match frame.rules.read(&self.received) {
                Preface::Key(key) => {
                    store_key(self.session, &key);
                    return Ok(true);
                }
                Preface::KeyMissing => return Ok(false),
                Preface::Invalid(end) => return Err(end),
                Preface::NeedMore(len) => {
                    if !self.received.is_empty() {
                        self.shard.set_deadline(self.session, deadline, End::PrefaceTimeout);
                    }
                    self.receive(len.min(frame.rules.preface_len_max())).await?;
                }
            }
        }
    }

    /// The name that the client asks for in TLS: that of its handshake with us, or else the one
    /// in a ClientHello that is for the backend. In lower case; `None` if it names nothing.
    pub async fn read_name(&mut self, sni: &SniKey) -> Result<Option<String>, End> {
        if let Some(tls) = self.client.tls() {
            return Ok(tls.name().map(str::to_owned));
        }
        let deadline = self.set_deadline(sni.timeout, End::PrefaceSilent);
        let mut reader = HelloReader::default();
        let mut looked_at = 0;
        loop {
            match reader.read(&self.received[looked_at..]) {
                Hello::Complete(name) => return Ok(name),
                Hello::Invalid => return Err(End::TlsInvalid),
                Hello::NeedMore => {}
            }
            looked_at = self.received.len();
            if looked_at > 0 {
                self.shard.set_deadline(self.session, deadline, End::PrefaceTimeout);
            }
            self.receive(HELLO_LEN_MAX.min((2 * looked_at).max(HELLO_LEN))).await?;
        }
    }

    fn may_not_send_proxy(&self) -> bool {
        let listener = &self.session.listener.settings;
        listener.proxy.as_ref().is_some_and(|proxy| !is_listed(proxy, self.session))
    }

    /// Sets the deadline of this stage, counted from accept or from the end of a handshake.
    /// Returns its tick.
    pub(super) fn set_deadline(&self, after: Duration, end: End) -> u32 {
        let began = Duration::from_millis(self.began_ms.into());
        let left = (after + began).saturating_sub(self.session.accepted.elapsed());
        let at = self.shard.now().saturating_add(ticks(left)).saturating_add(1);
        self.shard.set_deadline(self.session, at, end);
        at
    }

    /// Receives at least one byte more; makes room for `len` in all. A receive is tried before the
    /// wait: the first frame often comes with the handshake's last packet. And once more after the
    /// deadline: when the machine stalls, the timer must not win over bytes that came in time.
    async fn receive(&mut self, len: usize) -> Result<(), End> {
        loop {
            let room = len.max(FIRST_LEN).saturating_sub(self.received.len());
            self.received.reserve_exact(room);
            match self.client.receive_more(&mut self.received) {
                Ok(0) => return Err(End::PrefaceFin),
                Ok(n) => {
                    let short = self.received.len() < self.received.capacity();
                    // A TLS session may hold more.
                    self.emptied = short && self.client.tls().is_none();
                    self.first_byte.get_or_insert_with(Instant::now);
                    self.session.active.set(self.shard.now());
                    if !self.in_header {
                        self.count(n);
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(failure(&error)),
            }
            if let Some(end) = self.expired {
                return Err(end);
            }
            if self.received.is_empty() {
                self.received = Vec::new();
            }
            let interest = Interest { input: true, ..self.client.wants() };
            let socket = (Side::Client, self.client.socket());
            let ready = self.shard.ready(self.session, socket, interest);
            match self.session.interrupt.or(ready).await {
                // Room may be what was waited for: what is left of our last records goes out.
                Ok(Ok(())) => match self.client.flush() {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                        return Err(failure(&error));
                    }
                    _ => {}
                },
                Ok(Err(error)) => return Err(failure(&error)),
                Err(end @ (End::PrefaceSilent | End::PrefaceTimeout | End::ProxyTimeout)) => {
                    self.session.interrupt.take();
                    self.expired = Some(end);
                }
                Err(end) => return Err(end),
            }
        }
    }

    /// Counts bytes of the client.
    fn count(&self, n: usize) {
        self.session.bytes_in.set(self.session.bytes_in.get() + n as u64);
        self.shard.listener_cells(&self.session.listener).bytes_in.add(n as u64);
    }
}

fn failure(error: &io::Error) -> End {
    if let Some(tls) = tls::Failure::of(error) {
        return match tls {
            tls::Failure::Truncated => End::ClientTruncated,
            _ => End::ClientTls,
        };
    }
    match error.raw_os_error() {
        Some(libc::ECONNRESET) => End::PrefaceReset,
        _ => End::ClientError,
    }
}

fn is_listed(settings: &ProxyIn, session: &Session) -> bool {
    match session.peer {
        None => settings.from_unix,
        Some(peer) => {
            // A dual-stack socket shows IPv4 peers as mapped addresses.
            let ip = peer.ip().to_canonical();
            settings.from.iter().any(|network| network.contains(&ip))
        }
    }
}

//! A connection to a backend for one request: the pool's choice, then as many others as it allows;
//! one that is kept, or a new one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_rustls::rustls::pki_types::ServerName;

use super::super::looked_up::Addresses;
use super::super::{Asked, Placed, Session, Signal, Stage, proxied_addresses, secure_backend};
use super::Connection;
use crate::backend::{self, kept::Kept};
use crate::end::{End, Side};
use crate::http::client::Request;
use crate::placement::Search;
use crate::proxy;
use crate::shard::admission::{self, Turned};
use crate::shard::{Shard, token};
use crate::stream::Stream;
use crate::table::{Backend, Pool};
use crate::tls::{Brought, NameFrom};

/// A connection to a backend, for one request.
pub(super) struct Link {
    /// The connection.
    pub stream: Stream,
    /// The name that the client brought for the backend.
    pub name: Option<ServerName<'static>>,
    /// Whether it had requests before.
    pub requests: u32,
    /// What has to be sent before the request.
    pub header: Vec<u8>,
    /// A receive may give something.
    pub readable: bool,
}

/// What a request wants of a connection to a backend.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'q> {
    /// One that is kept will do, and this one may be kept.
    pub keeps: bool,
    /// The request's host, if backends of the pool are called by that.
    pub host: Option<&'q str>,
}

/// A client that is to get a raw connection to a backend.
pub(super) struct Upgraded {
    /// The connection.
    pub link: Stream,
    /// Whose it is; the session stays counted there.
    pub backend: Arc<Backend>,
    /// No byte either way for this long ends it.
    pub idle_timeout: Duration,
    /// Whether early ends count.
    pub ejecting: bool,
}

/// A request that counts on its backend, until this is dropped.
pub(super) struct Seat {
    /// The backend.
    pub backend: Arc<Backend>,
    shard: usize,
    active: bool,
    stays: bool,
}

impl Seat {
    fn new(backend: &Arc<Backend>, shard: usize) -> Seat {
        Seat { backend: backend.clone(), shard, active: false, stays: false }
    }

    /// The backend is connected.
    fn begin(&mut self) {
        if !self.active {
            let cells = self.backend.shared.cells.of(self.shard);
            cells.sessions.add(1);
            cells.active.add(1);
            self.active = true;
        }
    }

    /// The session goes on there as a relay, whose end counts it out.
    pub(super) fn stay(mut self) -> Arc<Backend> {
        self.stays = true;
        self.backend.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        self.backend.shared.closed();
        if self.active {
            self.backend.shared.cells.of(self.shard).active.sub(1);
        }
    }
}

/// Where the backends for a request come from.
pub(super) enum Choices<'s> {
    /// A pool's algorithm and policy.
    Pool(Search<'s>),
    /// A lookup's answer.
    Found(Addresses<'s>),
}

impl Choices<'_> {
    /// Notes that the last backend could not be had, or did not answer.
    ///
    /// # Errors
    /// The failure again, when no other may be tried.
    pub(super) fn failed(&mut self, end: End) -> Result<(), End> {
        match self {
            Choices::Pool(search) => search.failed(end),
            Choices::Found(addresses) => addresses.failed(end),
        }
    }
}

impl Connection<'_> {
    /// The next backend for a request, with a connection to it.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn next_backend(
        &mut self,
        pool: &Arc<Pool>,
        choices: &mut Choices<'_>,
        wanted: Wanted<'_>,
    ) -> Result<(Link, Seat), Turned> {
        match choices {
            Choices::Pool(search) => self.next_of_pool(pool, search, wanted).await,
            Choices::Found(addresses) => self.next_found(pool, addresses, wanted).await,
        }
    }

    async fn next_found(
        &mut self,
        pool: &Arc<Pool>,
        addresses: &mut Addresses<'_>,
        wanted: Wanted<'_>,
    ) -> Result<(Link, Seat), Turned> {
        let (shard, session) = (self.shard, self.session);
        loop {
            let (backend, placement) = addresses.next(shard, session)?;
            let mut seat = Seat::new(backend, shard.index);
            match self.link(pool, backend, wanted).await {
                Ok(link) => {
                    pool.cells.of(shard.index).placements[placement as usize].add(1);
                    seat.begin();
                    return Ok((link, seat));
                }
                Err(end) => {
                    drop(seat);
                    addresses.failed(end)?;
                }
            }
        }
    }

    async fn next_of_pool(
        &mut self,
        pool: &Arc<Pool>,
        search: &mut Search<'_>,
        wanted: Wanted<'_>,
    ) -> Result<(Link, Seat), Turned> {
        let (shard, session) = (self.shard, self.session);
        loop {
            let choice = shard.choose(search)?;
            let backend = &pool.backends[choice.backend];
            if let Some(placed) = &mut *session.placed.borrow_mut() {
                placed.backend = Some(backend.clone());
                placed.placement = Some(choice.placement);
            }
            match admission::enter(shard, session, self.client.socket(), (pool, backend)).await {
                Ok(()) => {}
                Err(Turned::Away(end)) => {
                    if end == End::AdmissionTimeout {
                        session.interrupt.take();
                    }
                    search.failed(end)?;
                    continue;
                }
                Err(Turned::Back) => return Err(Turned::Back),
            }
            let mut seat = Seat::new(backend, shard.index);
            session.attempts.set(u8::try_from(search.attempts()).unwrap_or(u8::MAX));
            match self.link(pool, backend, wanted).await {
                Ok(link) => {
                    pool.cells.of(shard.index).placements[choice.placement as usize].add(1);
                    seat.begin();
                    return Ok((link, seat));
                }
                Err(end) => {
                    drop(seat);
                    search.failed(end)?;
                }
            }
        }
    }

    /// A connection to this backend: a kept one if there is one and it will do, else a new one.
    pub(super) async fn link(
        &mut self,
        pool: &Pool,
        backend: &Backend,
        wanted: Wanted<'_>,
    ) -> Result<Link, End> {
        let (shard, session) = (self.shard, self.session);
        let name = self.brought_name(pool, wanted.host)?;
        if wanted.keeps
            && let Some(link) = kept_link(shard, session, (backend, name.as_ref()))
        {
            session.connect_time.set(Duration::ZERO);
            return Ok(link);
        }
        // Apart: most requests have a kept connection, and no room for this in their tasks.
        let connected = Box::pin(self.new_link(pool, backend, wanted.host)).await;
        session.stage.set(Stage::Request);
        match &connected {
            Ok(_) => backend.shared.connected(),
            Err(end) if end.side() == Side::Backend => shard.note_failing(backend, *end),
            Err(_) => {}
        }
        connected.map(|link| Link { name, ..link })
    }

    /// The name that the client brings for backends of this pool, where that is what they are
    /// called by.
    fn brought_name(
        &self,
        pool: &Pool,
        host: Option<&str>,
    ) -> Result<Option<ServerName<'static>>, End> {
        let tls = pool.settings.tls.as_ref();
        let Some(tls) = tls.filter(|tls| tls.settings.name_from.is_some()) else {
            return Ok(None);
        };
        let brought = Brought { sni: self.client.tls().and_then(|tls| tls.name()), host };
        tls.name(&brought).map(Some).ok_or(End::ConnectNameless)
    }

    async fn new_link(
        &mut self,
        pool: &Pool,
        backend: &Backend,
        host: Option<&str>,
    ) -> Result<Link, End> {
        let (shard, session) = (self.shard, self.session);
        session.signal(Side::Backend).set(Signal::default());
        let socket = backend::connect(shard, session, pool, backend).await?;
        let mut header = Vec::new();
        let stream = if pool.settings.tls.is_some() {
            let target = (pool, backend, socket);
            Box::pin(secure_backend(shard, session, (&self.client, host), target)).await?
        } else {
            if pool.settings.proxy_out {
                header = proxy::build(proxied_addresses(session, self.client.socket()));
            }
            Stream::Plain(socket).gather(shard.outbox(), token(session, Side::Backend))
        };
        // A TLS session may hold what came with its handshake.
        let readable = stream.tls().is_some();
        Ok(Link { stream, name: None, requests: 0, header, readable })
    }
}

fn kept_link(
    shard: &Shard,
    session: &Session,
    whose: (&Backend, Option<&ServerName<'static>>),
) -> Option<Link> {
    let own = token(session, Side::Backend);
    let kept = shard.kept().take(whose, own, shard.cells())?;
    let named = kept.token == Some(own);
    // Nothing had come when it was taken: what comes is reported.
    let polled = kept.token.is_some();
    let asked = if named { Asked::Input } else { Asked::Nothing };
    let signal = Signal { polled, asked, ..Signal::default() };
    session.signal(Side::Backend).set(signal);
    let readable = kept.stream.tls().is_some();
    kept.stream.set_token(own);
    let Kept { stream, name, requests, .. } = kept;
    Some(Link { stream, name, requests, header: Vec::new(), readable })
}

/// The request's host, if that is what backends of this pool are called by.
pub(super) fn host_for(pool: &Pool, request: &Request<'_>) -> Option<String> {
    let tls = pool.settings.tls.as_ref()?;
    if tls.settings.name_from != Some(NameFrom::Host) {
        return None;
    }
    let host = String::from_utf8(request.head.host(request.bytes)).ok()?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare.map(str::to_owned).unwrap_or(host);
    Some(host).filter(|host| !host.is_empty())
}

/// Where a request is to be placed, for its session's record.
pub(super) fn note_placed(session: &Session, pool: &Arc<Pool>, home: Option<usize>, version: u64) {
    *session.placed.borrow_mut() = Some(Placed {
        pool: pool.clone(),
        backend: home.and_then(|home| pool.backends.get(home)).cloned(),
        placement: None,
        table_version: version,
    });
}

/// Looks for room now, where a pool's backends bear so much only.
pub(super) fn with_room<'s>(search: Search<'s>, pool: &Pool) -> Search<'s> {
    match pool.settings.health.is_limiting() {
        true => search.with_room_at(Instant::now()),
        false => search,
    }
}

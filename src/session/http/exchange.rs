//! One request: its rule, its target, its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use super::super::{Asked, Stage, store_key};
use super::looked_up::to_lookup;
use super::place::{Choices, Link, Seat, Upgraded, Wanted, host_for, note_placed, with_room};
use super::record::{BODY_TOO_LARGE, Fault, Record};
use super::transfer::{Done, Transfer};
use super::{Connection, Next, settings};
use crate::backend::kept::Kept;
use crate::config::HttpListener;
use crate::end::{End, Placement, Side};
use crate::http::body::Body;
use crate::http::client::{self, Client, Request};
use crate::http::reply::Sending;
use crate::http::request::RequestHead;
use crate::http::rewrite::{self, Mode, Onward};
use crate::http::rule::{self, FixedReply, Rule, Target};
use crate::http::template::Values;
use crate::http::{Framing, Version};
use crate::placement::Search;
use crate::relay::Failure;
use crate::shard::admission::Turned;
use crate::shard::token;
use crate::shard::wheel::ticks;
use crate::table::{Backend, Pool};

/// Serves the request whose first bytes are there.
///
/// # Errors
/// Why the connection is over, with nothing left to say.
pub(super) async fn serve(connection: &mut Connection<'_>) -> Result<Next, End> {
    connection.session.stage.set(Stage::Request);
    connection.requests = connection.requests.saturating_add(1);
    connection.follow_table();
    let listener = connection.listener.clone();
    let Some(http) = settings(&listener) else { return Err(End::HttpClosed) };
    let mut record = Record::new();
    let next = match connection.read_head(http).await {
        Ok((head, bytes)) => {
            record.head_len = head.len as u64;
            let next = request(connection, http, (&head, &bytes), &mut record).await;
            connection.shard.buffers().give(bytes);
            next
        }
        Err(fault) => {
            let asked = Sending { head_only: false, keep: false, http10: false };
            connection.answer_fault(fault, (http, asked), &mut record).await
        }
    };
    record.finish(connection, http, &next);
    next
}

/// A request with what is known of it.
pub(super) struct Asking<'q> {
    pub http: &'q HttpListener,
    pub request: Request<'q>,
    request_id: String,
    pub sending: Sending,
    /// Where it goes, and what its key is.
    pub rule: &'q Rule,
    pub key: &'q [u8],
}

async fn request(
    connection: &mut Connection<'_>,
    http: &HttpListener,
    (head, bytes): (&RequestHead, &[u8]),
    record: &mut Record,
) -> Result<Next, End> {
    let client = client_of(connection, http, (head, bytes));
    let request = Request::new(bytes, head, client);
    let request_id = request_id(http, &request);
    let keeps = head.keeps_alive
        && !connection.leaving
        && !connection.closes_when_idle()
        && connection.requests < http.requests_max;
    let sending = Sending {
        head_only: request.method() == b"HEAD",
        keep: keeps,
        http10: head.version < Version::Http11,
    };
    let chosen = rule::choose(&http.rules, &request);
    record.rule = chosen.map(|(index, _)| index);
    record.capture(connection, http, (Some(&request), &request_id));
    if matches!(head.framing, Framing::Length(len) if len > http.body_len_max) {
        return connection.answer_fault(Fault::TooLarge, (http, sending), record).await;
    }
    let Some((_, rule)) = chosen else {
        record.reason = "no_rule";
        return connection.answer(&FixedReply::of_status(404), (http, head, sending), record).await;
    };
    let key = match rule::key(&rule.target, &request) {
        Ok(key) => key,
        Err(unfilled) => {
            record.reason = unfilled.gap.label("key_missing");
            let reply = FixedReply::of_status(rule.statuses.of(&unfilled));
            return connection.answer(&reply, (http, head, sending), record).await;
        }
    };
    store_key(connection.session, &key);
    let asking = Asking { http, request, request_id, sending, rule, key: &key };
    match &rule.target {
        Target::Reply(reply) => connection.answer(reply, (http, head, sending), record).await,
        Target::Pool { pool, .. } => to_pool(connection, &asking, *pool, record).await,
        Target::Lookup { lookup, .. } => to_lookup(connection, &asking, *lookup, record).await,
    }
}

fn client_of(
    connection: &Connection<'_>,
    http: &HttpListener,
    (head, bytes): (&RequestHead, &[u8]),
) -> Client {
    let forwarding = &http.forwarding;
    let address = connection.session.client();
    let ip = address.map(|address| address.ip());
    let trusted = client::is_trusted(ip, &forwarding.trusted, forwarding.trusted_unix);
    let mut client = Client { address, tls: connection.client.tls().is_some(), trusted };
    if trusted && forwarding.client_behind_proxies {
        let fields = head.fields.all(bytes, "x-forwarded-for");
        if let Some(ip) = client::behind_proxies(fields, &forwarding.trusted) {
            client.address = Some(SocketAddr::new(ip, 0));
        }
    }
    client
}

/// What X-Request-ID is to say: ours, or what a trusted client said where that stays. Empty if
/// nobody is to be told.
fn request_id(http: &HttpListener, request: &Request<'_>) -> String {
    if http.access_log.is_none() && !http.forwarding.tells_request_id() {
        return String::new();
    }
    let theirs = match http.forwarding.request_id {
        Mode::Append | Mode::Leave if request.client.trusted => {
            request.values("x-request-id").next()
        }
        Mode::Set | Mode::Append | Mode::Leave | Mode::Off => None,
    };
    match theirs.and_then(|id| std::str::from_utf8(id).ok()) {
        Some(id) => id.to_owned(),
        None => rewrite::request_id(rand::random()),
    }
}

/// Why a request did not come to its end on a backend.
pub(super) enum Missed {
    /// It failed there, or on the way.
    Fault(Fault),
    /// No backend could be had.
    Unavailable(End),
    /// To be placed again, by the table in force.
    Back,
}

impl From<Fault> for Missed {
    fn from(fault: Fault) -> Missed {
        Missed::Fault(fault)
    }
}

impl From<Turned> for Missed {
    fn from(turned: Turned) -> Missed {
        match turned {
            Turned::Back => Missed::Back,
            // Somebody else ended the session meanwhile, or the client did.
            Turned::Away(end) if is_final(end) => Missed::Fault(Fault::Cut(end)),
            Turned::Away(end) => Missed::Unavailable(end),
        }
    }
}

pub(super) fn is_final(end: End) -> bool {
    (end.side() == Side::Client && !matches!(end, End::ConnectNameless | End::ConnectName))
        || matches!(end, End::DrainDeadline | End::Operator | End::BackendRemoved)
}

async fn to_pool(
    connection: &mut Connection<'_>,
    asking: &Asking<'_>,
    index: usize,
    record: &mut Record,
) -> Result<Next, End> {
    record.placed = true;
    let (shard, session) = (connection.shard, connection.session);
    let head = (asking.request.head, asking.request.bytes);
    let mut transfer = Transfer::new(shard, asking.http, head, asking.sending.keep);
    let result = loop {
        let table = shard.table();
        let Some((index, pool)) = table.pool_of(&connection.listener, index) else {
            break Err(Missed::Unavailable(End::PoolRemoved));
        };
        let search = with_room(Search::new(pool, index, asking.key, Placement::Home), pool);
        note_placed(session, pool, search.home(), table.version);
        let choices = Choices::Pool(search);
        match attempts(connection, asking, (pool, choices), &mut transfer).await {
            Err(Missed::Back) => {}
            Err(missed) => {
                if let Missed::Unavailable(end) = missed {
                    pool.cells.of(shard.index).failures[end as usize].add(1);
                }
                break Err(missed);
            }
            Ok((done, link, seat)) => break Ok((done, link, seat, pool.clone())),
        }
    };
    conclude(connection, asking, (transfer, result), record).await
}

/// What a request came to: where its answer is, or why there is none.
pub(super) type Attempted = Result<(Done, Link, Seat, Arc<Pool>), Missed>;

/// Ends a request that was for a backend.
pub(super) async fn conclude(
    connection: &mut Connection<'_>,
    asking: &Asking<'_>,
    (transfer, result): (Transfer<'_>, Attempted),
    record: &mut Record,
) -> Result<Next, End> {
    if asking.request.head.upgrades {
        record.upgraded = Some(matches!(result, Ok((Done::Upgraded, ..))));
    }
    let (may_answer, read_all) = (transfer.may_answer(), transfer.has_read_all());
    record.tally = transfer.finish();
    match result {
        Ok((done, link, seat, pool)) => Ok(connection.done(done, asking, (link, seat, pool))),
        Err(Missed::Unavailable(end)) => connection.answer_unavailable(end, asking, record).await,
        Err(Missed::Back) => Err(End::PoolRemoved),
        Err(Missed::Fault(fault)) if may_answer => {
            let sending = Sending { keep: asking.sending.keep && read_all, ..asking.sending };
            connection.answer_fault(fault, (asking.http, sending), record).await
        }
        Err(Missed::Fault(fault)) => {
            // What broke off must not look complete.
            let socket = SockRef::from(connection.client.socket());
            let _gone = socket.set_linger(Some(Duration::ZERO));
            connection.count_fault(fault);
            record.reason = fault.label();
            Err(fault.end())
        }
    }
}

/// Asks one backend after the other, as far as that is allowed and safe.
pub(super) async fn attempts(
    connection: &mut Connection<'_>,
    asking: &Asking<'_>,
    (pool, mut choices): (&Arc<Pool>, Choices<'_>),
    transfer: &mut Transfer<'_>,
) -> Result<(Done, Link, Seat), Missed> {
    let keeps = keeps(asking.http, pool);
    let host = host_for(pool, &asking.request);
    let wanted = Wanted { keeps, host: host.as_deref() };
    loop {
        let (mut link, seat) = connection.next_backend(pool, &mut choices, wanted).await?;
        let end = loop {
            let wants_more = keeps && link.requests + 1 < asking.http.backend.requests_max;
            transfer.start(connection, |out| {
                out.append(&mut link.header);
                asking.write_head(&seat.backend, wants_more, out);
            })?;
            let cells = seat.backend.shared.cells.of(connection.shard.index);
            let end = match transfer.run(connection, &mut link, cells).await {
                Ok(done) => return Ok((done, link, seat)),
                Err(Fault::Backend(end)) => end,
                Err(fault) => return Err(fault.into()),
            };
            let safe = transfer.is_unsent(&link)
                || (asking.request.is_idempotent() && transfer.is_repeatable());
            if !safe || !transfer.is_unanswered() {
                return Err(Fault::Backend(end).into());
            }
            if link.requests == 0 || end != End::HttpUnanswered {
                break end;
            }
            // It was closed just when we used it: that is no fault of the backend's.
            let wanted = Wanted { keeps: false, ..wanted };
            match connection.link(pool, &seat.backend, wanted).await {
                Ok(fresh) => link = fresh,
                Err(end) => break end,
            }
        };
        if is_final(end) {
            return Err(Fault::Cut(end).into());
        }
        drop(seat);
        choices.failed(end).map_err(|end| match end.is_placement() {
            true => Missed::Unavailable(end),
            false => Missed::Fault(Fault::Backend(end)),
        })?;
    }
}

/// Whether connections of this pool serve more than one request.
fn keeps(http: &HttpListener, pool: &Pool) -> bool {
    // A PROXY header says whose connection it is.
    http.backend.idle > 0 && !pool.settings.proxy_out
}

impl Asking<'_> {
    /// The rule's `set`.
    pub(super) fn set(&self) -> &[(String, String)] {
        match &self.rule.target {
            Target::Lookup { set, .. } => set,
            Target::Pool { .. } | Target::Reply(_) => &[],
        }
    }

    fn write_head(&self, backend: &Backend, keep: bool, out: &mut Vec<u8>) {
        let values = Values {
            key: Some(self.key),
            set: self.set(),
            backend: Some(&backend.label),
            request_id: Some(&self.request_id),
        };
        let onward = Onward { forwarding: &self.http.forwarding, values, keep };
        rewrite::request_head(&self.request, &onward, out);
    }
}

impl Connection<'_> {
    /// Goes over to the configuration in force, if this listener is still in it.
    fn follow_table(&mut self) {
        if self.listener.generation == self.shard.generation() {
            return;
        }
        let table = self.shard.table();
        let same = table.listeners.iter().find(|other| other.label == self.listener.label);
        match same.filter(|listener| settings(listener).is_some()) {
            Some(listener) => self.listener = listener.clone(),
            None => self.leaving = true,
        }
    }

    /// What comes behind a response.
    fn done(
        &mut self,
        done: Done,
        asking: &Asking<'_>,
        (link, seat, pool): (Link, Seat, Arc<Pool>),
    ) -> Next {
        let Done::Answered { keep_client, keep_backend, read_all } = done else {
            // Late reports of other connections are not the relay's.
            self.shard.kept().close_named(token(self.session, Side::Backend), self.shard.cells());
            return Next::Relay(Upgraded {
                link: link.stream,
                backend: seat.stay(),
                idle_timeout: pool.settings.idle_timeout,
                ejecting: pool.settings.health.ejection.is_some(),
            });
        };
        if keep_backend {
            self.keep(asking.http, link, (&pool, &seat.backend));
        }
        if keep_client {
            return Next::Request;
        }
        let pipelined = asking.request.head.keeps_alive || !self.input.is_empty();
        Next::Close { end: End::HttpClosed, linger: pipelined || !read_all }
    }

    /// Keeps a backend's connection for another request.
    fn keep(&self, http: &HttpListener, link: Link, (pool, backend): (&Arc<Pool>, &Arc<Backend>)) {
        let settings = &http.backend;
        let requests = link.requests.saturating_add(1);
        let full = requests >= settings.requests_max || !keeps(http, pool);
        if full || self.shard.is_draining() || !self.shard.serves(pool, backend) {
            return;
        }
        let signal = self.session.signal(Side::Backend).get();
        let named = (signal.polled && signal.asked != Asked::Nothing)
            .then(|| token(self.session, Side::Backend));
        let until = self.shard.now().saturating_add(ticks(settings.idle_timeout));
        let kept = Kept { stream: link.stream, name: link.name, requests, token: named, until };
        let limits = (settings.idle as usize, self.shard.cells());
        self.shard.kept().put((pool, backend), kept, limits);
    }

    /// Answers a request ourselves. The connection stays if all of the request is here.
    pub(super) async fn answer(
        &mut self,
        reply: &FixedReply,
        (http, head, sending): (&HttpListener, &RequestHead, Sending),
        record: &mut Record,
    ) -> Result<Next, End> {
        let mut body = Body::new(head.framing);
        let taken = body.take(&self.input);
        let complete = match taken {
            Ok(taken) if taken.complete => {
                self.input.drain(..taken.len.min(self.input.len()));
                true
            }
            Ok(_) | Err(_) => false,
        };
        let sending = Sending { keep: sending.keep && complete, ..sending };
        self.say(reply, (http, sending), record).await?;
        if sending.keep {
            return Ok(Next::Request);
        }
        Ok(Next::Close { end: End::HttpClosed, linger: true })
    }

    /// Answers what cannot be served, and closes.
    async fn answer_fault(
        &mut self,
        fault: Fault,
        (http, sending): (&HttpListener, Sending),
        record: &mut Record,
    ) -> Result<Next, End> {
        record.reason = fault.label();
        self.count_fault(fault);
        let Some(status) = fault.status() else { return Err(fault.end()) };
        let sending = Sending { keep: false, ..sending };
        self.say(&FixedReply::of_status(status), (http, sending), record).await?;
        Ok(Next::Close { end: fault.end(), linger: true })
    }

    /// Answers that no backend can be had, and closes.
    async fn answer_unavailable(
        &mut self,
        end: End,
        asking: &Asking<'_>,
        record: &mut Record,
    ) -> Result<Next, End> {
        record.reason = end.label();
        self.count_fault(Fault::Backend(end));
        let sending = Sending { keep: false, ..asking.sending };
        let reply = FixedReply::of_status(asking.rule.statuses.without_backend(end));
        self.say(&reply, (asking.http, sending), record).await?;
        Ok(Next::Close { end, linger: true })
    }

    pub(super) fn count_fault(&self, fault: Fault) {
        let cells = &self.shard.listener_cells(&self.listener).http;
        match fault {
            Fault::Refused(refusal) => cells.refusals[refusal as usize].add(1),
            Fault::Body(fault) => cells.body_faults[fault as usize].add(1),
            Fault::TooLarge => cells.bodies_too_large.add(1),
            Fault::Cut(end) | Fault::Late(end) | Fault::Backend(end) => {
                cells.failures[end as usize].add(1);
            }
            Fault::Answer(_) => cells.failures[End::HttpResponseInvalid as usize].add(1),
        }
        debug_assert_eq!(Fault::TooLarge.label(), BODY_TOO_LARGE);
    }

    /// Sends an answer of ours.
    async fn say(
        &mut self,
        reply: &FixedReply,
        (http, sending): (&HttpListener, Sending),
        record: &mut Record,
    ) -> Result<(), End> {
        let mut out = self.shard.buffers().take();
        reply.write(sending, &mut out);
        record.status = reply.status;
        let head_len = out.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
        record.answer_len = (out.len() as u64, head_len as u64);
        let mut sent = 0;
        // Also what TLS has taken and the socket has not: it would be lost with it.
        while sent < out.len() || self.client.wants().room {
            let taken = match out.get(sent..).filter(|rest| !rest.is_empty()) {
                Some(rest) => self.send(rest),
                None => self.client.flush().map(|()| 0),
            };
            match taken {
                Ok(n) => sent += n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let client = (Side::Client, self.client.socket());
                    let watched = self.shard.watch(self.session, client, true);
                    watched.map_err(|_no_memory| End::ClientError)?;
                    let until = self.deadline(http.send_timeout);
                    self.wait(until, End::HttpSendTimeout).await?;
                }
                Err(error) => return Err(Failure::of(&error).end(Side::Client)),
            }
        }
        self.shard.buffers().give(out);
        Ok(())
    }
}

//! What became of a request: counted, and told to the access log, in one place.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use super::transfer::Tally;
use super::{Connection, Next};
use crate::config::HttpListener;
use crate::end::End;
use crate::http::access::{Captured, Names};
use crate::http::body::BodyFault;
use crate::http::client::Request;
use crate::http::head::Refusal;
use crate::log::AccessRecord;

/// Why a request is not answered by its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody is there to be told, or something else was said already.
    Cut(End),
    /// A head that is not served.
    Refused(Refusal),
    /// A body that cannot be passed on.
    Body(BodyFault),
    /// A body over `max_body`.
    TooLarge,
    /// The client took too long.
    Late(End),
    /// The backend failed.
    Backend(End),
    /// What the backend answered is no answer.
    Answer(&'static str),
}

/// Why a body is refused that is too long.
pub(super) const BODY_TOO_LARGE: &str = "body_too_large";

impl Fault {
    /// What the client is answered; `None`: nothing.
    pub(super) fn status(self) -> Option<u16> {
        match self {
            Fault::Cut(_) => None,
            Fault::Refused(refusal) => Some(refusal.status()),
            Fault::Body(_) => Some(400),
            Fault::TooLarge => Some(413),
            Fault::Late(_) => Some(408),
            Fault::Backend(End::HttpReadTimeout | End::HttpBackendSendTimeout) => Some(504),
            Fault::Backend(_) | Fault::Answer(_) => Some(502),
        }
    }

    /// The name in metrics and logs.
    pub(super) fn label(self) -> &'static str {
        match self {
            Fault::Cut(end) | Fault::Late(end) | Fault::Backend(end) => end.label(),
            Fault::Refused(refusal) => refusal.label(),
            Fault::Body(fault) => fault.label(),
            Fault::TooLarge => BODY_TOO_LARGE,
            Fault::Answer(label) => label,
        }
    }

    /// The end of the connection.
    pub(super) fn end(self) -> End {
        match self {
            Fault::Cut(end) | Fault::Late(end) | Fault::Backend(end) => end,
            Fault::Refused(_) | Fault::Body(_) | Fault::TooLarge => End::HttpRefused,
            Fault::Answer(_) => End::HttpResponseInvalid,
        }
    }
}

/// One request's record while it is served.
pub(super) struct Record {
    began: Instant,
    /// Index of its rule.
    pub rule: Option<usize>,
    /// What the client was answered; 0: nothing.
    pub status: u16,
    /// Why we answered ourselves, or why it ended early.
    pub reason: &'static str,
    /// Bytes of the request's head.
    pub head_len: u64,
    /// Bytes of our own answer, and of its head.
    pub answer_len: (u64, u64),
    /// What a backend was asked and said.
    pub tally: Tally,
    /// Whether a backend was looked for.
    pub placed: bool,
    /// `Some`: the client asked for another protocol, and whether it got it.
    pub upgraded: Option<bool>,
    captured: Option<Captured>,
}

impl Record {
    /// Of a request whose first bytes are there.
    pub(super) fn new() -> Record {
        Record {
            began: Instant::now(),
            rule: None,
            status: 0,
            reason: "",
            head_len: 0,
            answer_len: (0, 0),
            tally: Tally::default(),
            placed: false,
            upgraded: None,
            captured: None,
        }
    }

    /// Takes what the access log wants of a request, before its head is gone.
    pub(super) fn capture(
        &mut self,
        connection: &Connection<'_>,
        http: &HttpListener,
        (request, request_id): (Option<&Request<'_>>, &str),
    ) {
        let Some(log) = &http.access_log else { return };
        let rule = self.rule.and_then(|index| http.rules.get(index));
        let names = Names {
            listener: &connection.listener.label,
            rule: rule.map_or("", |rule| &rule.name),
            request_id,
            local: local_address(connection),
        };
        self.captured = Some(log.format.capture(request, &names));
    }

    /// The request is over.
    pub(super) fn finish(
        mut self,
        connection: &Connection<'_>,
        http: &HttpListener,
        next: &Result<Next, End>,
    ) {
        let (shard, session) = (connection.shard, connection.session);
        let duration = self.began.elapsed();
        let status = self.tally.status.unwrap_or(self.status);
        if let Err(end) = next
            && self.reason.is_empty()
        {
            self.reason = end.label();
        }
        let listener = &connection.listener;
        let cells = &shard.listener_cells(listener).http;
        if let Some(requests) = &listener.requests {
            requests.of_rule(self.rule, shard.index).count(status);
        }
        cells.durations.record(duration);
        match self.upgraded {
            Some(true) => cells.upgrades.add(1),
            Some(false) => cells.upgrades_refused.add(1),
            None => {}
        }
        let Some(log) = &http.access_log else { return };
        if self.captured.is_none() {
            // Its head was refused.
            self.capture(connection, http, (None, ""));
        }
        let placed = session.placed.borrow();
        let backend = placed.as_ref().filter(|_| self.placed);
        let tally = self.tally;
        let (answer_len, answer_head_len) = self.answer_len;
        let record = AccessRecord {
            log: log.clone(),
            captured: self.captured.unwrap_or_default(),
            ended: SystemTime::now(),
            duration,
            status,
            reason: self.reason,
            bytes_sent: tally.sent + answer_len,
            body_bytes_sent: (tally.sent + answer_len)
                .saturating_sub(tally.sent_heads + answer_head_len),
            request_length: self.head_len + tally.body_received,
            connection: (shard.index as u64) << 32 | u64::from(session.serial),
            connection_requests: connection.requests.into(),
            backend: backend.and_then(|placed| placed.backend.as_ref()).map(|b| b.label.clone()),
            attempts: if self.placed { session.attempts.get().into() } else { 0 },
            backend_status: tally.status,
            backend_connect: session.connect_time.get().filter(|_| self.placed),
            backend_head: tally.head_after,
            backend_response: tally.done_after,
            backend_bytes_sent: tally.backend_sent,
            backend_bytes_received: tally.backend_received,
        };
        shard.log_access(Box::new(record));
    }
}

fn local_address(connection: &Connection<'_>) -> Option<SocketAddr> {
    let told = connection.session.proxied.get().map(|addresses| addresses.1);
    told.or_else(|| {
        let socket = socket2::SockRef::from(connection.client.socket());
        socket.local_addr().ok()?.as_socket()
    })
}

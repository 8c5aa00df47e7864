//! Sessions of a shard: admission, begin, the one end, and what the admin interface sees of them.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use super::Shard;
use super::mailbox::{
    Handover, Message, SessionFilter, SessionId, SessionPage, SessionQuestion, SessionView,
};
use super::watch::SERIAL_MASK;
use super::wheel::TICK;
use crate::end::{End, Placement, Rejection, Side};
use crate::log::{SessionRecord, hex};
use crate::session::{self, Birth, Session, Stage};
use crate::sys::Accepted;
use crate::table::Listener;

/// Sessions looked at for one question in one turn: an answer about a hundred thousand must not
/// keep them waiting.
const LOOKED_AT_MAX: usize = 4096;

impl Shard {
    /// Decides about a connection just accepted: refuse it, give it to a less loaded shard, or
    /// begin a session.
    pub(super) fn admit(self: &Rc<Self>, listener: Arc<Listener>, accepted: Accepted) {
        let open = self.metrics.process.connections.fetch_add(1, Relaxed);
        if open as usize >= self.table.borrow().connections_max {
            self.metrics.process.connections.fetch_sub(1, Relaxed);
            self.count_rejection(&listener, Rejection::MaxConnections);
            refuse(accepted.socket);
            return;
        }
        let target = self.loads.place(self.index);
        if target == self.index {
            self.begin(listener, accepted);
            return;
        }
        self.cells().handed_over.add(1);
        let Accepted { socket, peer } = accepted;
        let message = Message::Connection(Handover { socket, listener, peer });
        if let Err(error) = self.mailboxes[target].send(message) {
            tracing::warn!(%error, shard = target, "could not wake a shard");
        }
    }

    /// Begins a session for a connection that is counted already.
    pub(super) fn begin(self: &Rc<Self>, listener: Arc<Listener>, accepted: Accepted) {
        self.activity.note();
        let cells = self.listener_cells(&listener);
        cells.sessions.add(1);
        cells.active.add(1);
        let serial = self.serial.get().wrapping_add(1) & SERIAL_MASK;
        self.serial.set(serial);
        let mut sessions = self.sessions.borrow_mut();
        let entry = sessions.vacant_entry();
        let slot = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let birth = Birth { slot, serial, listener, peer: accepted.peer };
        let session = Rc::new(Session::new(birth, self.read_clock()));
        entry.insert(session.clone());
        drop(sessions);
        monoio::spawn(session::run(self.clone(), session, accepted.socket));
    }

    /// The one place where a session ends: one reason, one count, at most one log line.
    pub fn end(&self, session: &Session, end: End) {
        let cells = self.listener_cells(&session.listener);
        cells.ends[end as usize].add(1);
        cells.active.sub(1);
        let life = session.accepted.elapsed();
        cells.lives.record(life);
        if session.stage.get() == Stage::Relay
            && let Some(backend) =
                session.placed.borrow().as_ref().and_then(|placed| placed.backend.as_ref())
        {
            backend.shared.closed();
            let cells = backend.shared.cells.of(self.index);
            cells.active.sub(1);
            if ended_early(session, end, life) {
                cells.early_ends.add(1);
            }
        }
        if self.log.is_on() && !self.log.push(self.record(session, end, life)) {
            self.cells().log_dropped.add(1);
        }
        self.sessions.borrow_mut().try_remove(session.slot as usize);
        self.loads.ended(self.index);
        self.metrics.process.connections.fetch_sub(1, Relaxed);
    }

    fn record(&self, session: &Session, end: End, duration: Duration) -> Box<SessionRecord> {
        let placed = session.placed.borrow();
        let placed = placed.as_ref();
        Box::new(SessionRecord {
            ended: std::time::SystemTime::now(),
            listener: session.listener.label.clone(),
            client: session.client(),
            via: session.proxied.get().and(session.peer),
            key: session.key.take(),
            pool: placed.map(|placed| placed.pool.label.clone()),
            backend: placed.and_then(|p| p.backend.as_ref()).map(|b| b.label.clone()),
            placement: placed.and_then(|placed| placed.placement),
            end,
            attempts: session.attempts.get().into(),
            bytes_in: session.bytes_in.get(),
            bytes_out: session.bytes_out.get(),
            preface: session.preface_time.get(),
            connect: session.connect_time.get(),
            duration,
            table_version: placed.map_or(0, |placed| placed.table_version),
            shard: self.index,
        })
    }

    pub(super) fn count_rejection(&self, listener: &Listener, reason: Rejection) {
        self.listener_cells(listener).rejections[reason as usize].add(1);
    }

    pub(super) fn session(&self, slot: u32, serial: u32) -> Option<Rc<Session>> {
        let sessions = self.sessions.borrow();
        sessions.get(slot as usize).filter(|session| session.serial == serial).cloned()
    }

    /// Answers a question as far as one turn allows.
    pub(super) fn page(&self, question: &SessionQuestion) -> SessionPage {
        let SessionQuestion { filter, from, limit } = question;
        let sessions = self.sessions.borrow();
        let end = sessions.capacity().min(from.saturating_add(LOOKED_AT_MAX));
        let mut views = Vec::new();
        for slot in *from..end {
            if views.len() == *limit {
                return SessionPage { views, next: None };
            }
            if let Some(session) = sessions.get(slot)
                && matches(filter, session)
            {
                views.push(self.view(session));
            }
        }
        let done = end >= sessions.capacity() || views.len() == *limit;
        SessionPage { views, next: (!done).then_some(end) }
    }

    /// Ends a session because an operator says so.
    pub(super) fn end_by_operator(&self, id: SessionId) -> Option<SessionView> {
        let session = self.session(id.slot, id.serial).filter(|_| id.shard == self.index)?;
        let view = self.view(&session);
        self.interrupt(&session, End::Operator);
        Some(view)
    }

    fn view(&self, session: &Session) -> SessionView {
        let placed = session.placed.borrow();
        let placed = placed.as_ref();
        let key = session.key.borrow();
        let idle = self.now().saturating_sub(session.active.get());
        let age = session.accepted.elapsed();
        let id = SessionId { shard: self.index, slot: session.slot, serial: session.serial };
        SessionView {
            id: id.to_string(),
            client: session.client().map_or_else(|| "unix".to_owned(), |a| a.to_string()),
            listener: session.listener.settings.name.clone(),
            key: String::from_utf8_lossy(&key).into_owned(),
            key_hex: std::str::from_utf8(&key).is_err().then(|| hex(&key)),
            pool: placed.map_or(String::new(), |p| p.pool.settings.name.clone()),
            backend: placed
                .and_then(|p| p.backend.as_ref())
                .map_or(String::new(), |b| b.label.to_string()),
            placement: placed.and_then(|p| p.placement).map_or("", Placement::label),
            state: session.stage.get().label(),
            shard: self.index,
            table: placed.map_or(0, |placed| placed.table_version),
            since: rfc3339(age),
            age_seconds: age.as_secs_f64(),
            idle_seconds: f64::from(idle) * TICK.as_secs_f64(),
            bytes_in: session.bytes_in.get(),
            bytes_out: session.bytes_out.get(),
        }
    }
}

fn matches(filter: &SessionFilter, session: &Session) -> bool {
    let SessionFilter { key, listener, pool, backend } = filter;
    let placed = session.placed.borrow();
    let placed = placed.as_ref();
    key.as_ref().is_none_or(|key| session.key.borrow().as_slice() == key)
        && listener.as_ref().is_none_or(|name| session.listener.settings.name == *name)
        && pool.as_ref().is_none_or(|name| placed.is_some_and(|p| *p.pool.label == **name))
        && backend.as_ref().is_none_or(|address| {
            let backend = placed.and_then(|placed| placed.backend.as_ref());
            backend.is_some_and(|backend| *backend.label == **address)
        })
}

/// The moment that was so long ago.
fn rfc3339(age: Duration) -> String {
    let now = SystemTime::now();
    let then = now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_millis(then).to_string()
}

/// Whether the backend ended a session that should have lived longer.
fn ended_early(session: &Session, end: End, life: Duration) -> bool {
    let placed = session.placed.borrow();
    let ejection = placed.as_ref().and_then(|placed| placed.pool.settings.health.ejection);
    let relayed = session.turned_after.get().map(|after| life.saturating_sub(after));
    end.side() == Side::Backend
        && ejection.zip(relayed).is_some_and(|(ejection, relayed)| relayed < ejection.early)
}

/// Closes with a reset: no TIME_WAIT is left behind, and the client knows at once.
fn refuse(socket: OwnedFd) {
    // The client may be gone already.
    let _gone = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

//! What a shard can be told from outside: a lock-free queue, and an eventfd that wakes its ring.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::SegQueue;
use serde::Serialize;

use super::closing::CloseOrder;
use crate::listen::Listeners;
use crate::lookup::{Answered, Forget};
use crate::table::{BackendShared, Listener, Table};

/// One message to a shard.
#[derive(Debug)]
pub enum Message {
    /// Place new sessions by this table from now on.
    Table(Arc<Table>),
    /// A reload: place by its table, and listen as it says.
    Listen(Listeners),
    /// Run this connection: another shard accepted it and is busier.
    Connection(Handover),
    /// What came of a question.
    Answer(Answered),
    /// A lookup's store has changed.
    Forget {
        /// [`crate::table::Lookup::id`] of the lookup.
        lookup: u64,
        /// What is not to be believed any longer.
        what: Forget,
    },
    /// Close a backend's sessions.
    Close(CloseOrder),
    /// Stop accepting, let sessions live for this long, then end them and return.
    Drain(Duration),
    /// Leave the sessions of a backend alone that an operator had closed.
    StopClosing(Arc<BackendShared>),
    /// Answer with some sessions.
    Sessions {
        /// Which ones.
        question: SessionQuestion,
        /// Where the answer goes.
        reply: tokio::sync::oneshot::Sender<SessionPage>,
    },
    /// End one session because an operator says so.
    End {
        /// Which one.
        id: SessionId,
        /// As it was; `None` when there is none of this name any more.
        reply: tokio::sync::oneshot::Sender<Option<SessionView>>,
    },
}

/// Sessions that somebody wants to see.
#[derive(Debug, Clone)]
pub struct SessionQuestion {
    /// Which ones.
    pub filter: Arc<SessionFilter>,
    /// Where the search goes on: 0, or what the last page said.
    pub from: usize,
    /// The most views wanted.
    pub limit: usize,
}

/// What a session has to be; everything that is absent does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Its key, byte for byte.
    pub key: Option<Vec<u8>>,
    /// Name of its listener.
    pub listener: Option<String>,
    /// Name of its pool.
    pub pool: Option<String>,
    /// Address of its backend.
    pub backend: Option<String>,
}

/// What a shard found. It looks at a bounded number of sessions at a time.
#[derive(Debug, Default)]
pub struct SessionPage {
    /// As they were at that moment.
    pub views: Vec<SessionView>,
    /// Where to go on; `None` when it has looked at all.
    pub next: Option<usize>,
}

/// The name of a session while it lives: `SHARD-SLOT-SERIAL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId {
    /// The shard that runs it.
    pub shard: usize,
    /// Its place on the shard, which later ones take again.
    pub slot: u32,
    /// Tells it from others that had or will have its place.
    pub serial: u32,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.shard, self.slot, self.serial)
    }
}

impl SessionId {
    /// Reads what `Display` writes; `None` if it is something else.
    pub fn parse(text: &str) -> Option<SessionId> {
        let mut numbers = text.splitn(3, '-');
        let id = SessionId {
            shard: numbers.next()?.parse().ok()?,
            slot: numbers.next()?.parse().ok()?,
            serial: numbers.next()?.parse().ok()?,
        };
        (id.to_string() == text).then_some(id)
    }
}

/// An accepted socket on its way to another shard.
#[derive(Debug)]
pub struct Handover {
    /// The connection.
    pub socket: OwnedFd,
    /// Its listener.
    pub listener: Arc<Listener>,
    /// The other end; `None` for UNIX sockets.
    pub peer: Option<SocketAddr>,
}

/// A session as the admin interface shows it.
#[derive(Debug, Clone, Serialize)]
pub struct SessionView {
    /// Its name, see [`SessionId`].
    pub id: String,
    /// The client's address.
    pub client: String,
    /// Name of the listener.
    pub listener: String,
    /// The key as text; bytes that are not UTF-8 are replaced.
    pub key: String,
    /// The key in hexadecimal, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_hex: Option<String>,
    /// Name of the pool, empty before placement.
    pub pool: String,
    /// Address of the backend, empty before placement.
    pub backend: String,
    /// Label of the [`crate::end::Placement`], empty before placement.
    pub placement: &'static str,
    /// `preface`, `lookup`, `wait`, `connect` or `relay`.
    pub state: &'static str,
    /// Shard that runs it.
    pub shard: usize,
    /// Version of the table it was placed by; 0 before placement.
    pub table: u64,
    /// When it was accepted, RFC 3339.
    pub since: String,
    /// Seconds since accept.
    pub age_seconds: f64,
    /// Seconds since the last byte, to the precision of the shard's tick.
    pub idle_seconds: f64,
    /// Bytes received from the client.
    pub bytes_in: u64,
    /// Bytes sent to the client.
    pub bytes_out: u64,
}

/// The sending side; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: SegQueue<Message>,
    wake: File,
}

impl ShardHandle {
    /// A mailbox whose owner waits on `eventfd` becoming readable.
    pub fn new(eventfd: OwnedFd) -> ShardHandle {
        ShardHandle { inner: Arc::new(Inner { queue: SegQueue::new(), wake: eventfd.into() }) }
    }

    /// Leaves a message and wakes the shard.
    ///
    /// # Errors
    /// Whatever writing to the eventfd says; the message is queued all the same.
    pub fn send(&self, message: Message) -> io::Result<()> {
        self.inner.queue.push(message);
        match (&self.inner.wake).write(&1u64.to_ne_bytes()) {
            Ok(_) => Ok(()),
            // The counter is at its maximum: the shard has been woken already.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next message; only the owning shard takes them.
    pub fn take(&self) -> Option<Message> {
        self.inner.queue.pop()
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.inner.queue.is_empty()
    }

    /// The eventfd.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.inner.wake.as_fd()
    }
}

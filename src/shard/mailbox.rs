//! What a shard can be told from outside: a lock-free queue, and an eventfd that wakes its ring.

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
use crate::table::{Listener, Table};

/// One message to a shard.
#[derive(Debug)]
pub enum Message {
    /// Place new sessions by this table from now on.
    Table(Arc<Table>),
    /// A reload: place by its table, and listen as it says.
    Listen(Listeners),
    /// Run this connection: another shard accepted it and is busier.
    Connection(Handover),
    /// Close a backend's sessions.
    Close(CloseOrder),
    /// Stop accepting, let sessions live for this long, then end them and return.
    Drain(Duration),
    /// Answer with up to `limit` sessions.
    Sessions {
        /// The most views wanted.
        limit: usize,
        /// Where the answer goes.
        reply: tokio::sync::oneshot::Sender<Vec<SessionView>>,
    },
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
    /// `preface`, `wait`, `connect` or `relay`.
    pub state: &'static str,
    /// Shard that runs it.
    pub shard: usize,
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

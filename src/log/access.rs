//! Access logs: a record per request, and the thread that makes lines of them.
//!
//! Lines of all listeners go through one thread, each to the target of its own log. Files are
//! opened when a line is for them, and the least recently used is closed when there are too many:
//! names of backends are in their names, and of those there may be any number.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use crossbeam_queue::ArrayQueue;

use super::LogCells;
use super::sink::Sink;
use super::writer::{BATCH_LEN, Order, Outlet, POLL, Progress, wait_for_end};
use crate::http::access::{AccessLog, AccessTarget, Captured, Outcome};

/// Files open at once.
pub const ACCESS_FILES_MAX: usize = 64;
/// Records taken from one shard before it is the next one's turn.
const TURN: usize = 64;

/// Everything a request's line says. Plain data: the writer's thread makes text of it.
#[derive(Debug)]
pub struct AccessRecord {
    /// Format and target.
    pub log: Arc<AccessLog>,
    /// What the format wanted of the request.
    pub captured: Captured,
    /// When it ended.
    pub ended: SystemTime,
    /// First byte of the request to the last one of the response.
    pub duration: Duration,
    /// As in [`Outcome`], and all that follows.
    pub status: u16,
    /// See [`Outcome`].
    pub reason: &'static str,
    /// See [`Outcome`].
    pub bytes_sent: u64,
    /// See [`Outcome`].
    pub body_bytes_sent: u64,
    /// See [`Outcome`].
    pub request_length: u64,
    /// See [`Outcome`].
    pub connection: u64,
    /// See [`Outcome`].
    pub connection_requests: u64,
    /// See [`Outcome`].
    pub backend: Option<Arc<str>>,
    /// See [`Outcome`].
    pub attempts: u32,
    /// See [`Outcome`].
    pub backend_status: Option<u16>,
    /// See [`Outcome`].
    pub backend_connect: Option<Duration>,
    /// See [`Outcome`].
    pub backend_head: Option<Duration>,
    /// See [`Outcome`].
    pub backend_response: Option<Duration>,
    /// See [`Outcome`].
    pub backend_bytes_sent: u64,
    /// See [`Outcome`].
    pub backend_bytes_received: u64,
}

impl AccessRecord {
    fn append(&self, batch: &mut Vec<u8>) {
        let outcome = Outcome {
            ended: Some(self.ended),
            duration: self.duration,
            status: self.status,
            reason: self.reason,
            bytes_sent: self.bytes_sent,
            body_bytes_sent: self.body_bytes_sent,
            request_length: self.request_length,
            connection: self.connection,
            connection_requests: self.connection_requests,
            backend: self.backend.as_deref(),
            attempts: self.attempts,
            backend_status: self.backend_status,
            backend_connect: self.backend_connect,
            backend_head: self.backend_head,
            backend_response: self.backend_response,
            backend_bytes_sent: self.backend_bytes_sent,
            backend_bytes_received: self.backend_bytes_received,
        };
        self.log.format.write(&self.captured, &outcome, batch);
    }

    fn place(&self) -> Place {
        match &self.log.target {
            AccessTarget::Stdout => Place::Stdout,
            AccessTarget::Stderr => Place::Stderr,
            target => match target.path(self.backend.as_deref()) {
                Some(path) => Place::File(path),
                None => Place::Stdout,
            },
        }
    }
}

type Queue = ArrayQueue<Box<AccessRecord>>;

/// A shard's end of the access logs.
#[derive(Debug, Clone)]
pub struct AccessLogSender {
    queue: Arc<Queue>,
}

impl AccessLogSender {
    /// Leaves a record for the writer. Never blocks. `false` when the queue was full: the record is
    /// dropped and the caller counts it.
    pub fn push(&self, record: Box<AccessRecord>) -> bool {
        self.queue.push(record).is_ok()
    }
}

/// The writing end: owns the thread, lives on the control plane.
#[derive(Debug)]
pub struct AccessLogWriter {
    orders: Sender<Order>,
    /// Disconnects when the thread has ended.
    ended: Receiver<()>,
    progress: Progress,
}

impl AccessLogWriter {
    /// Starts the thread; one sender per shard, in shard order, each with room for `capacity`
    /// records. A reload may bring access logs, so it runs whether there are any or not.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        shards: usize,
        capacity: usize,
        cells: Arc<LogCells>,
    ) -> io::Result<(AccessLogWriter, Vec<AccessLogSender>)> {
        let queues: Vec<_> = (0..shards).map(|_| Arc::new(Queue::new(capacity.max(1)))).collect();
        let senders = queues.iter().map(|queue| AccessLogSender { queue: queue.clone() }).collect();
        let (orders, inbox) = channel();
        let (alive, ended) = channel();
        let progress = Progress::default();
        let mut thread =
            Thread { queues, cells, open: Vec::new(), uses: 0, progress: progress.clone() };
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            thread.run(&inbox);
            drop(alive);
        })?;
        Ok((AccessLogWriter { orders, ended, progress }, senders))
    }

    /// Closes all files; each is opened again with its next line. Returns at once.
    pub fn reopen(&self) {
        // The thread ends only when it is told to, and nobody has.
        let _ = self.orders.send(Order::Reopen);
    }

    /// Writes what the shards left and stops. `false` if nothing could be written for a second.
    pub fn finish(self) -> bool {
        let _ = self.orders.send(Order::Finish);
        wait_for_end(&self.ended, &self.progress)
    }
}

/// Where a line goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Stdout,
    Stderr,
    File(PathBuf),
}

struct Open {
    place: Place,
    outlet: Outlet,
    used: u64,
}

struct Thread {
    queues: Vec<Arc<Queue>>,
    cells: Arc<LogCells>,
    open: Vec<Open>,
    /// Counts, so that the least recently used is known.
    uses: u64,
    progress: Progress,
}

impl Thread {
    fn run(&mut self, inbox: &Receiver<Order>) {
        let mut finishing = false;
        let mut wait = POLL;
        loop {
            if finishing {
                if wait == POLL && self.open.iter().all(|open| open.outlet.is_empty()) {
                    return;
                }
                std::thread::park_timeout(wait);
            } else {
                match inbox.recv_timeout(wait) {
                    Ok(Order::Reopen) => self.reopen(),
                    Ok(Order::Finish) | Err(RecvTimeoutError::Disconnected) => finishing = true,
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
            let taken = self.take();
            for open in &mut self.open {
                open.outlet.write();
            }
            // A target that takes nothing is tried again after a while.
            wait = if taken { Duration::ZERO } else { POLL };
        }
    }

    /// Takes a turn from each queue. Whether there was anything.
    fn take(&mut self) -> bool {
        let mut taken = false;
        for queue in self.queues.clone() {
            for record in std::iter::from_fn(|| queue.pop()).take(TURN) {
                self.write(&record);
                taken = true;
            }
        }
        taken
    }

    fn write(&mut self, record: &AccessRecord) {
        let place = record.place();
        match self.outlet(&place) {
            // What does not get rid of its lines loses further ones.
            Ok(open) if open.outlet.len() < 2 * BATCH_LEN => record.append(&mut open.outlet.batch),
            Ok(_) => {
                self.cells.lost.fetch_add(1, Relaxed);
            }
            Err(error) => {
                self.cells.lost.fetch_add(1, Relaxed);
                if self.cells.write_errors.fetch_add(1, Relaxed) == 0 {
                    let log = "access-log";
                    tracing::warn!(log, %error, "log cannot be written, lines are lost");
                }
            }
        }
    }

    fn outlet(&mut self, place: &Place) -> io::Result<&mut Open> {
        self.uses += 1;
        let used = self.uses;
        let index = match self.open.iter().position(|open| open.place == *place) {
            Some(index) => index,
            None => {
                if self.open.len() >= ACCESS_FILES_MAX {
                    self.close_one();
                }
                let sink = match place {
                    Place::Stdout => Sink::stdout()?,
                    Place::Stderr => Sink::stderr()?,
                    Place::File(path) => Sink::file(path.clone())?,
                };
                let (name, progress) = ("access-log".to_owned(), self.progress.clone());
                let outlet = Outlet::new(name, sink, self.cells.clone(), progress);
                self.open.push(Open { place: place.clone(), outlet, used });
                self.open.len() - 1
            }
        };
        let open = &mut self.open[index];
        open.used = used;
        Ok(open)
    }

    /// Closes the target that was used longest ago.
    fn close_one(&mut self) {
        let oldest = self.open.iter().enumerate().min_by_key(|(_, open)| open.used);
        if let Some((index, _)) = oldest {
            let mut open = self.open.swap_remove(index);
            if !open.outlet.write() {
                open.outlet.lose_rest();
            }
        }
    }

    fn reopen(&mut self) {
        for open in &mut self.open {
            open.outlet.write();
        }
        self.open.retain(|open| !matches!(open.place, Place::File(_)) || !open.outlet.is_empty());
        for open in &mut self.open {
            if let Place::File(_) = open.place {
                open.outlet.reopen();
            }
        }
        tracing::info!(log = "access-log", "log reopened");
    }
}

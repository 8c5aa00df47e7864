//! One record per ended session: how a shard hands it over, and who writes it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_queue::ArrayQueue;
use smallvec::SmallVec;

use super::LogCells;
use super::line::append_line;
use super::sink::Sink;
use super::writer::{Source, Writer};
use crate::config;
use crate::end::{End, Placement};

/// Everything a session's line says. Plain data: a shard copies numbers and clones `Arc`s, and the
/// writer's thread makes text of it.
#[derive(Debug, Clone)]
pub struct SessionRecord {
    /// When the session ended.
    pub ended: SystemTime,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// The client: from the PROXY header if there was one. `None` for a UNIX socket.
    pub client: Option<SocketAddr>,
    /// The connection's own peer when the client comes from a PROXY header.
    pub via: Option<SocketAddr>,
    /// The key, empty if none was found.
    pub key: SmallVec<[u8; 24]>,
    /// Name of the pool, once one was chosen.
    pub pool: Option<Arc<str>>,
    /// Address of the backend, once one was connected or failed last.
    pub backend: Option<Arc<str>>,
    /// How it came to that backend.
    pub placement: Option<Placement>,
    /// Why it ended.
    pub end: End,
    /// Attempts to connect to a backend.
    pub attempts: u32,
    /// Bytes received from the client.
    pub bytes_in: u64,
    /// Bytes sent to the client.
    pub bytes_out: u64,
    /// Accept to complete preface.
    pub preface: Option<Duration>,
    /// Time of the attempt to connect that succeeded.
    pub connect: Option<Duration>,
    /// Accept to end.
    pub duration: Duration,
    /// Version of the table it was placed by.
    pub table_version: u64,
    /// Shard that ran it.
    pub shard: usize,
}

type Queue = ArrayQueue<Box<SessionRecord>>;

/// A shard's end of the session log.
#[derive(Debug)]
pub struct SessionLogSender {
    queue: Option<Arc<Queue>>,
}

impl SessionLogSender {
    /// Whether records go anywhere: when not, they need not be built.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Leaves a record for the writer. Never blocks. `false` when the queue was full: the record
    /// is dropped and the caller counts it.
    pub fn push(&self, record: Box<SessionRecord>) -> bool {
        match &self.queue {
            Some(queue) => queue.push(record).is_ok(),
            None => true,
        }
    }
}

/// The writing end: owns the thread, lives on the control plane.
#[derive(Debug)]
pub struct SessionLogWriter {
    writer: Option<Writer>,
}

impl SessionLogWriter {
    /// Opens the target and starts the thread; one sender per shard, in shard order.
    ///
    /// # Errors
    /// The file cannot be opened for appending (the message names it), or the thread not started.
    pub fn start(
        shards: usize,
        config: &config::Log,
        cells: Arc<LogCells>,
    ) -> io::Result<(SessionLogWriter, Vec<SessionLogSender>)> {
        let sink = match &config.sessions {
            config::SessionLog::Off => {
                let senders = (0..shards).map(|_| SessionLogSender { queue: None }).collect();
                return Ok((SessionLogWriter { writer: None }, senders));
            }
            config::SessionLog::Stdout => Sink::stdout()?,
            config::SessionLog::Stderr => Sink::stderr()?,
            config::SessionLog::File(path) => Sink::file(path.clone())?,
        };
        let capacity = config.queue.max(1);
        let queues: Vec<_> = (0..shards).map(|_| Arc::new(Queue::new(capacity))).collect();
        let senders =
            queues.iter().map(|queue| SessionLogSender { queue: Some(queue.clone()) }).collect();
        let writer = Writer::start("session-log", sink, cells, Records { queues, first: 0 })?;
        Ok((SessionLogWriter { writer: Some(writer) }, senders))
    }

    /// Opens the file anew, after somebody renamed it. Returns at once; a file that cannot be
    /// opened is counted, reported in the operational log, and the old one stays in use.
    pub fn reopen(&self) {
        if let Some(writer) = &self.writer {
            writer.reopen();
        }
    }

    /// Writes what the shards left and stops. Gives up on a sink that takes nothing for a second,
    /// or is not done after many; `false` in that case.
    pub fn finish(self) -> bool {
        self.writer.is_none_or(Writer::finish)
    }
}

/// Takes records from all shards in turn.
struct Records {
    queues: Vec<Arc<Queue>>,
    /// Where the next batch begins, so that a batch filled by one shard does not starve the rest.
    first: usize,
}

/// Records taken from one shard before it is the next one's turn.
const TURN: usize = 32;

impl Source for Records {
    fn fill(&mut self, batch: &mut Vec<u8>, len_max: usize) {
        let mut idle = 0;
        while idle < self.queues.len() && batch.len() < len_max {
            let before = batch.len();
            let queue = &self.queues[self.first];
            for record in std::iter::from_fn(|| queue.pop()).take(TURN) {
                append_line(&record, batch);
            }
            idle = if batch.len() == before { idle + 1 } else { 0 };
            self.first = (self.first + 1) % self.queues.len();
        }
    }
}

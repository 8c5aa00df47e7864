//! Lines for people and machines: the operational log, and one line per ended session.
//!
//! Both are JSON lines, and both are written by threads of their own: whoever logs leaves its line
//! in a bounded queue and goes on. When a queue is full the line is dropped and counted, because a
//! stalled pipe or a full disk must never stop a shard.

mod access;
mod json;
mod line;
mod operational;
mod session;
mod sink;
mod writer;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use access::{ACCESS_FILES_MAX, AccessLogSender, AccessLogWriter, AccessRecord};
pub use json::append_json;
pub(crate) use json::is_hidden;
pub(crate) use line::hex;
pub use operational::{LogLevel, OperationalLog};
pub use session::{SessionLogSender, SessionLogWriter, SessionRecord};

/// What a writer counts. Shared by several threads; touched only when something goes wrong.
#[derive(Debug, Default)]
pub struct LogCells {
    /// Lines that found the queue full. Session lines count in `ShardCells::log_dropped` instead.
    pub dropped: AtomicU64,
    /// Lines taken from the queue that could not be written.
    pub lost: AtomicU64,
    /// Failed writes and failed attempts to reopen a file.
    pub write_errors: AtomicU64,
}

/// The counters of all logs, as the metrics page reads them.
#[derive(Debug, Clone, Default)]
pub struct Logs {
    /// Lines about the program.
    pub operational: Arc<LogCells>,
    /// Lines about sessions.
    pub sessions: Arc<LogCells>,
    /// Lines about requests.
    pub access: Arc<LogCells>,
}

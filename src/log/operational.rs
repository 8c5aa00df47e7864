//! Lines about the program itself: `tracing` events as JSON on standard error.
//!
//! Events are formatted where they happen and written by a thread, because standard error may be a
//! pipe whose reader hangs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_queue::ArrayQueue;
use tracing::Level;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;

use super::LogCells;
use super::sink::Sink;
use super::writer::{Source, Writer};

/// Events that may wait for the thread.
const QUEUE: usize = 4096;

/// The installed log.
#[derive(Debug)]
pub struct OperationalLog {
    writer: Writer,
    level: LogLevel,
}

/// The lowest level that is written, which may be changed at any time.
#[derive(Debug, Clone)]
pub struct LogLevel {
    filter: reload::Handle<LevelFilter, Registry>,
}

impl LogLevel {
    /// Writes events from `level` upwards from now on.
    ///
    /// # Errors
    /// The log is gone.
    pub fn set(&self, level: Level) -> Result<(), reload::Error> {
        self.filter.reload(LevelFilter::from_level(level))
    }

    /// The level now; `None` when the log is gone.
    pub fn get(&self) -> Option<Level> {
        self.filter.clone_current()?.into_level()
    }
}

impl OperationalLog {
    /// Takes over all `tracing` events of the process from `level` upwards.
    ///
    /// # Errors
    /// Standard error is closed, no thread can be had, or events are taken already
    /// (`AlreadyExists`).
    pub fn start(level: Level, cells: Arc<LogCells>) -> io::Result<OperationalLog> {
        let events = Events { queue: Arc::new(ArrayQueue::new(QUEUE)), cells: cells.clone() };
        let lines = Lines { queue: events.queue.clone() };
        let format = tracing_subscriber::fmt::layer().json().flatten_event(true);
        let (level, filter) = reload::Layer::new(LevelFilter::from_level(level));
        let subscriber = Registry::default()
            .with(level)
            .with(format.with_current_span(false).with_span_list(false).with_writer(events));
        tracing::subscriber::set_global_default(subscriber)
            .map_err(|error| io::Error::new(io::ErrorKind::AlreadyExists, error))?;
        let writer = Writer::start("operational-log", Sink::stderr()?, cells, lines)?;
        Ok(OperationalLog { writer, level: LogLevel { filter } })
    }

    /// Changes what is written.
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }

    /// Writes what waits and stops; `false` if standard error took nothing for a second. Events
    /// after this are dropped.
    pub fn finish(self) -> bool {
        self.writer.finish()
    }
}

/// Takes formatted events from `tracing`.
struct Events {
    queue: Arc<ArrayQueue<Box<[u8]>>>,
    cells: Arc<LogCells>,
}

impl<'a> MakeWriter<'a> for Events {
    type Writer = &'a Events;

    fn make_writer(&'a self) -> &'a Events {
        self
    }
}

impl io::Write for &Events {
    /// One call is one event: the formatting layer hands over whole lines.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.push(line.into()).is_err() {
            self.cells.dropped.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Lines {
    queue: Arc<ArrayQueue<Box<[u8]>>>,
}

impl Source for Lines {
    fn fill(&mut self, batch: &mut Vec<u8>, len_max: usize) {
        while batch.len() < len_max {
            match self.queue.pop() {
                Some(line) => batch.extend_from_slice(&line),
                None => return,
            }
        }
    }
}

//! The thread behind a log: takes lines from queues, writes them in batches.
//!
//! It looks at its queues every [`POLL`] instead of being woken, so that leaving a line costs a
//! shard no system call.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::LogCells;
use super::sink::Sink;

/// How long a line may lie in a queue before the thread looks.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// How often [`wait_for_end`] looks whether anything was written.
const FINISH_LOOK: Duration = Duration::from_millis(100);

/// Looks in a row without a byte written, after which a sink counts as stalled: a second. Looks are
/// counted instead of time, so that a machine that stands still for a second loses no lines.
const FINISH_LOOKS_STALLED: u32 = 10;

/// Looks altogether: a sink that takes a little now and then cannot hold up the process's end.
const FINISH_LOOKS_MAX: u32 = 200;

/// Bytes of text made before they are written.
pub(super) const BATCH_LEN: usize = 64 * 1024;

/// Where lines come from.
pub(super) trait Source: Send + 'static {
    /// Appends waiting lines, each ended by a line feed, until there are none or `batch` has
    /// reached `len_max` bytes; it may go over by a few lines.
    fn fill(&mut self, batch: &mut Vec<u8>, len_max: usize);
}

pub(super) enum Order {
    Reopen,
    Finish,
}

/// The thread as its owner sees it. Dropping it lets the thread write what waits and end, without
/// waiting for it.
#[derive(Debug)]
pub(super) struct Writer {
    orders: Sender<Order>,
    /// Disconnects when the thread has ended.
    ended: Receiver<()>,
    progress: Progress,
}

/// Bytes that a thread has written so far.
pub(super) type Progress = Arc<AtomicU64>;

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(
        name: &str,
        sink: Sink,
        cells: Arc<LogCells>,
        source: impl Source,
    ) -> io::Result<Writer> {
        let (orders, inbox) = channel();
        let (alive, ended) = channel();
        let progress = Progress::default();
        let outlet = Outlet::new(name.to_owned(), sink, cells, progress.clone());
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            run(outlet, source, &inbox);
            drop(alive);
        })?;
        Ok(Writer { orders, ended, progress })
    }

    /// Asks for the file to be opened anew.
    pub(super) fn reopen(&self) {
        // The thread ends only when it is told to, and nobody has.
        let _ = self.orders.send(Order::Reopen);
    }

    /// Writes what waits and ends the thread; `false` if it did not manage in time.
    pub(super) fn finish(self) -> bool {
        let _ = self.orders.send(Order::Finish);
        wait_for_end(&self.ended, &self.progress)
    }
}

/// Waits for the end of a thread that writes what waits, as long as bytes are written; `false` if
/// none were for a second, or if it takes far too long.
pub(super) fn wait_for_end(ended: &Receiver<()>, progress: &Progress) -> bool {
    let (mut written, mut idle) = (progress.load(Relaxed), 0);
    for _ in 0..FINISH_LOOKS_MAX {
        if ended.recv_timeout(FINISH_LOOK) == Err(RecvTimeoutError::Disconnected) {
            return true;
        }
        let now = progress.load(Relaxed);
        idle = if now == written { idle + 1 } else { 0 };
        if idle == FINISH_LOOKS_STALLED {
            return false;
        }
        written = now;
    }
    false
}

fn run(mut outlet: Outlet, mut source: impl Source, inbox: &Receiver<Order>) {
    let mut finishing = false;
    let mut wait = POLL;
    loop {
        if finishing {
            if wait == POLL && outlet.is_empty() {
                return;
            }
            std::thread::park_timeout(wait);
        } else {
            match inbox.recv_timeout(wait) {
                Ok(Order::Reopen) => outlet.reopen(),
                Ok(Order::Finish) | Err(RecvTimeoutError::Disconnected) => finishing = true,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        if outlet.is_empty() {
            source.fill(&mut outlet.batch, BATCH_LEN);
        }
        let more = !outlet.is_empty();
        let stalled = !outlet.write();
        // A stalled sink is tried again after a while; otherwise go on until nothing waits.
        wait = if more && !stalled { Duration::ZERO } else { POLL };
    }
}

/// A sink, and the batch on its way there.
pub(super) struct Outlet {
    name: String,
    sink: Sink,
    cells: Arc<LogCells>,
    pub(super) batch: Vec<u8>,
    /// Bytes of `batch` written already.
    written: usize,
    /// The last write failed, and was reported.
    failing: bool,
    progress: Progress,
}

impl Outlet {
    /// Nothing on its way yet.
    pub(super) fn new(
        name: String,
        sink: Sink,
        cells: Arc<LogCells>,
        progress: Progress,
    ) -> Outlet {
        Outlet { name, sink, cells, batch: Vec::new(), written: 0, failing: false, progress }
    }

    /// Bytes on their way.
    pub(super) fn len(&self) -> usize {
        self.batch.len() - self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Writes the batch, or drops it and counts its lines if the sink fails. `false` if the sink
    /// takes nothing now (a full FIFO) and the rest has to wait.
    pub(super) fn write(&mut self) -> bool {
        while self.written < self.batch.len() {
            match self.write_piece() {
                Ok(len) => {
                    self.written += len;
                    self.progress.fetch_add(len as u64, Relaxed);
                    self.failing = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    self.report(&error);
                    self.lose_rest();
                }
            }
        }
        self.batch.clear();
        self.written = 0;
        true
    }

    fn write_piece(&mut self) -> io::Result<usize> {
        if self.written == 0 {
            self.sink.end_torn_line()?;
        }
        self.sink.write(&self.batch[self.written..])
    }

    pub(super) fn lose_rest(&mut self) {
        let lines = count_lines(&self.batch[self.written..]);
        self.cells.lost.fetch_add(lines, Relaxed);
        self.written = self.batch.len();
    }

    pub(super) fn reopen(&mut self) {
        let mid_line = self.sink.is_mid_line();
        match self.sink.reopen() {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!(log = self.name, "log is a stream: nothing to reopen");
                return;
            }
            Err(error) => {
                self.report(&error);
                return;
            }
        }
        if mid_line && self.written > 0 {
            // Its beginning is in the old file: the new one starts with the next line.
            let rest = &self.batch[self.written..];
            self.written += rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1);
            self.cells.lost.fetch_add(1, Relaxed);
        }
        tracing::info!(log = self.name, "log reopened");
    }

    /// Counts a failure, and says so once until a write succeeds again.
    fn report(&mut self, error: &io::Error) {
        self.cells.write_errors.fetch_add(1, Relaxed);
        if !self.failing {
            self.failing = true;
            tracing::warn!(log = self.name, %error, "log cannot be written, lines are lost");
        }
    }
}

fn count_lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

//! One process: binds everything, starts the shards, runs the control plane, and ends in order.
//!
//! Whatever can fail at start fails before the first client is accepted.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use core_affinity::CoreId;
use tokio::sync::watch;

use crate::admin::AdminListener;
use crate::backend::{self, SourceError};
use crate::config::Config;
use crate::control::edits::Edits;
use crate::control::lookups::Lookups;
use crate::control::sources::Sources;
use crate::control::{self, Control, Ended, Plane};
use crate::health::watch::HealthWatch;
use crate::listen::{BindError, Bindings, Listeners};
use crate::log::{
    AccessLogSender, AccessLogWriter, LogLevel, Logs, OperationalLog, SessionLogSender,
    SessionLogWriter,
};
use crate::metrics::{Metrics, PerShard, ProcessCells};
use crate::shard::mailbox::ShardHandle;
use crate::shard::ring::{self, RingError};
use crate::shard::{self, Loads, Setup};
use crate::sys;
use crate::table::{Layout, Table};

/// Why the process could not run.
#[derive(Debug)]
pub enum RunError {
    /// A log cannot be written.
    Log(io::Error),
    /// The limit of open files is too low.
    Descriptors {
        /// What the configuration may need at once.
        needed: u64,
        /// What the process may have.
        allowed: u64,
    },
    /// A listener cannot listen.
    Bind(BindError),
    /// A pool cannot connect from one of its source addresses.
    Source(SourceError),
    /// The admin interface cannot listen.
    Admin(String, io::Error),
    /// The kernel gives us no ring.
    Ring(RingError),
    /// A shard cannot be pinned to its core.
    Pin(usize),
    /// A system call that must not fail failed.
    System(&'static str, io::Error),
    /// A shard ended on its own.
    ShardLost(usize, String),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Log(error) => write!(f, "cannot write the log: {error}"),
            RunError::Descriptors { needed, allowed } => write!(
                f,
                "this configuration may need {needed} file descriptors and the limit is {allowed}: \
                 raise it (`ulimit -n`, LimitNOFILE=) or lower max_connections"
            ),
            RunError::Bind(error) => error.fmt(f),
            RunError::Source(error) => error.fmt(f),
            RunError::Admin(address, error) => {
                write!(f, "the admin interface cannot listen on {address}: {error}")
            }
            RunError::Ring(error) => error.fmt(f),
            RunError::Pin(core) => write!(
                f,
                "cannot run on core {core}: it is outside this process's affinity mask; see \
                 `taskset -p` and [runtime] cores"
            ),
            RunError::System(what, error) => write!(f, "{what}: {error}"),
            RunError::ShardLost(shard, why) => write!(f, "shard {shard} ended: {why}"),
        }
    }
}

impl std::error::Error for RunError {}

/// What to run.
#[derive(Debug)]
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// Where it comes from, to be read again by a reload.
    pub file: Option<PathBuf>,
    /// Publish a new version of the table to every shard this often: for benchmarks. Times under a
    /// millisecond count as one.
    pub swap_every: Option<Duration>,
}

/// Runs until told to stop and drained.
///
/// # Errors
/// Why it could not start, or that it lost a shard.
pub fn run(start: Start) -> Result<(), RunError> {
    let logs = Logs::default();
    let level = start.config.log.level;
    let operational =
        OperationalLog::start(level, logs.operational.clone()).map_err(RunError::Log)?;
    let result = run_logged(start, logs, operational.level());
    operational.finish();
    result
}

/// The timer of the control plane is no finer.
const SWAP_MIN: Duration = Duration::from_millis(1);

fn run_logged(start: Start, logs: Logs, level: LogLevel) -> Result<(), RunError> {
    let Start { config, file, swap_every } = start;
    let config = Arc::new(config);
    let shards = config.runtime.cores.len();
    raise_descriptors(&config)?;
    backend::check_sources(&config).map_err(RunError::Source)?;
    let (session_log, senders) =
        SessionLogWriter::start(shards, &config.log, logs.sessions.clone())
            .map_err(RunError::Log)?;
    let (access_log, access) =
        AccessLogWriter::start(shards, config.log.queue, logs.access.clone())
            .map_err(RunError::Log)?;
    let admin = match &config.admin {
        None => None,
        Some(admin) => Some(
            AdminListener::bind(&admin.listen)
                .map_err(|error| RunError::Admin(admin.listen.to_string(), error))?,
        ),
    };
    // Signals are heard before the first client is: an early one must not kill the process.
    let plane = Plane::start()?;
    let sources = plane.first(first_sets(&config));
    let edits = Edits::load(config.runtime.state_dir.clone());
    let mut lookups = Lookups::new(shards);
    let prepared = lookups.prepare(&config.lookups, &[]);
    let layout = control::layout(&config, 1, &sources, edits.state());
    let layout = Layout { lookups: prepared, ..layout };
    let table = Arc::new(Table::first(&layout, shards));
    let metrics =
        Arc::new(Metrics { process: ProcessCells::default(), shards: PerShard::new(shards) });
    let mut bindings = Bindings::new(shards);
    let change = bindings.prepare(&config.listeners).map_err(RunError::Bind)?;
    let bound = bindings.take(change, &table);
    let (running, ended) = start_shards(&config, &metrics, bound, senders.into_iter().zip(access))?;
    plane.first(async { lookups.adopt(&table.lookups, &running.mailboxes) });
    let tables = watch::Sender::new(table);
    let health = plane.first(async { HealthWatch::start(tables.subscribe()) });
    let mut control = Control {
        config: config.clone(),
        file,
        metrics,
        logs,
        level,
        tables,
        source_views: watch::Sender::new(sources.views().into()),
        sources,
        lookups,
        configs: watch::Sender::new(config.clone()),
        audit: Arc::default(),
        edits,
        health,
        bindings,
        shards: running.mailboxes,
        phase: Arc::default(),
        session_log,
        access_log,
        swap_every: swap_every.map(|every| every.max(SWAP_MIN)),
    };
    let result = plane.run(&mut control, admin, ended);
    let Control { session_log, access_log, bindings, .. } = control;
    // Files of UNIX sockets go first: nobody answers there any more.
    drop(bindings);
    if matches!(result, Ok(Ended::Drained)) {
        for thread in running.threads {
            // A shard that failed has said so through `ended`.
            let _reported = thread.join();
        }
    }
    session_log.finish();
    access_log.finish();
    result.map(|_| ())
}

/// Waits for the sets of all sources: clients come only when it is known where they belong, or
/// when that takes too long.
async fn first_sets(config: &Config) -> Sources {
    let mut sources = Sources::new(config.runtime.state_dir.clone());
    for without in sources.prepare(&config.pools).await {
        tracing::error!(error = without, "a pool starts without backends of a source");
    }
    sources
}

fn raise_descriptors(config: &Config) -> Result<(), RunError> {
    let system = |error| RunError::System("cannot read or raise the limit of open files", error);
    let allowed = sys::raise_descriptors().map_err(system)?;
    let needed = config.runtime.descriptors_needed;
    if needed > allowed { Err(RunError::Descriptors { needed, allowed }) } else { Ok(()) }
}

struct Running {
    mailboxes: Vec<ShardHandle>,
    threads: Vec<JoinHandle<()>>,
}

/// A shard that returned: its index, and why if it should not have.
pub type ShardEnd = (usize, Result<(), String>);

/// The end of shards as the control plane sees it.
pub type ShardEnds = tokio::sync::mpsc::UnboundedReceiver<ShardEnd>;

/// Starts every shard. None accepts before all of them have a ring: a fault is an exit code, not a
/// cut session.
fn start_shards(
    config: &Arc<Config>,
    metrics: &Arc<Metrics>,
    bound: Vec<Listeners>,
    senders: impl Iterator<Item = (SessionLogSender, AccessLogSender)>,
) -> Result<(Running, ShardEnds), RunError> {
    let system = |error| RunError::System("cannot start a shard", error);
    let mut mailboxes = Vec::new();
    for _ in &bound {
        mailboxes.push(ShardHandle::new(sys::eventfd().map_err(system)?));
    }
    let loads = Arc::new(Loads::new(bound.len()));
    let (ended, ends) = tokio::sync::mpsc::unbounded_channel();
    let (started, starts) = mpsc::channel();
    let (mut threads, mut gates) = (Vec::new(), Vec::new());
    for (index, (listeners, (log, access))) in bound.into_iter().zip(senders).enumerate() {
        let setup = Setup {
            index,
            config: config.clone(),
            metrics: metrics.clone(),
            loads: loads.clone(),
            mailboxes: mailboxes.clone(),
            listeners,
            log,
            access,
        };
        let (go, may_go) = mpsc::channel();
        let thread = ShardThread { setup, started: started.clone(), may_go, ended: ended.clone() };
        gates.push(go);
        let name = format!("shard-{index}");
        let spawned = thread::Builder::new().name(name).spawn(move || thread.run());
        threads.push(spawned.map_err(system)?);
    }
    drop(started);
    for _ in &threads {
        // Every thread answers once; one that panicked before drops its sender.
        match starts.recv() {
            Ok(result) => result?,
            Err(_gone) => return Err(RunError::ShardLost(0, "it panicked at start".to_owned())),
        }
    }
    for go in gates {
        // A shard that is gone has said so through `ended`.
        let _gone = go.send(());
    }
    Ok((Running { mailboxes, threads }, ends))
}

struct ShardThread {
    setup: Setup,
    started: mpsc::Sender<Result<(), RunError>>,
    /// Closed without a message when another shard could not start.
    may_go: mpsc::Receiver<()>,
    ended: tokio::sync::mpsc::UnboundedSender<ShardEnd>,
}

impl ShardThread {
    /// The whole life of the thread. The rings are built where they are used: SINGLE_ISSUER binds
    /// them to the thread that made them.
    fn run(self) {
        let ShardThread { setup, started, may_go, ended } = self;
        let index = setup.index;
        let core = setup.config.runtime.cores[index];
        let entries = setup.config.runtime.ring_entries;
        if !core_affinity::set_for_current(CoreId { id: core }) {
            let _main_waits = started.send(Err(RunError::Pin(core)));
            return;
        }
        let rings = ring::build(entries).and_then(|mut runtime| {
            let exchange = runtime.block_on(async { ring::build_exchange() })?;
            Ok((runtime, exchange))
        });
        let (mut runtime, exchange) = match rings {
            Ok(rings) => rings,
            Err(error) => {
                let _main_waits = started.send(Err(RunError::Ring(error)));
                return;
            }
        };
        let _main_waits = started.send(Ok(()));
        if may_go.recv().is_err() {
            return;
        }
        let life = std::panic::AssertUnwindSafe(|| runtime.block_on(shard::run(setup, exchange)));
        let result = match std::panic::catch_unwind(life) {
            Ok(result) => result.map_err(|error| error.to_string()),
            // A session that panics takes its whole shard along: never go on as if nothing was.
            Err(panic) => Err(panic_text(panic.as_ref())),
        };
        // Nobody listens when the process ends at once.
        let _gone = ended.send((index, result));
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "no message".to_owned()))
}

//! The control plane: one thread, ordinary tokio libraries. Signals, the admin interface, reloads,
//! and the end of the process.

pub mod commands;
pub mod edits;
pub mod lookups;
pub mod reload;
pub mod sources;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};

use self::commands::Command;
use self::edits::Edits;
use self::lookups::Lookups;
use self::sources::Sources;
use crate::admin::audit::Audit;
use crate::admin::{self, AdminListener, AdminState, Phase, Stage};
use crate::config::{self, Config};
use crate::edits::state::State;
use crate::health::verdicts::Change;
use crate::health::watch::HealthWatch;
use crate::listen::Bindings;
use crate::log::{AccessLogWriter, LogLevel, Logs, SessionLogWriter};
use crate::metrics::Metrics;
use crate::run::{RunError, ShardEnds};
use crate::shard::mailbox::{Message, ShardHandle};
use crate::source::view::SourceView;
use crate::table::{Layout, Table};

/// What the control plane holds.
pub struct Control {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Where it comes from; without it there is nothing to reload.
    pub file: Option<PathBuf>,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// Counters of the logs.
    pub logs: Logs,
    /// Level of the operational log.
    pub level: LogLevel,
    /// The table in force, for the pages and for building the next one.
    pub tables: watch::Sender<Arc<Table>>,
    /// Where backends come from.
    pub sources: Sources,
    /// Who answers shards' questions.
    pub lookups: Lookups,
    /// Of sources, for the pages.
    pub source_views: watch::Sender<Arc<[SourceView]>>,
    /// The configuration in force, for the pages.
    pub configs: watch::Sender<Arc<Config>>,
    /// Who changed what.
    pub audit: Arc<Audit>,
    /// What operators have changed, and what waits to be.
    pub edits: Edits,
    /// What is known of every backend's health; every table is judged by it.
    pub health: HealthWatch,
    /// What is listened on.
    pub bindings: Bindings,
    /// Every shard's mailbox.
    pub shards: Vec<ShardHandle>,
    /// What `/readyz` says.
    pub phase: Arc<Phase>,
    /// Reopened on USR1.
    pub session_log: SessionLogWriter,
    /// The thread behind the access logs.
    pub access_log: AccessLogWriter,
    /// Publish a successor of the table this often: benchmarks only, more than 0.
    pub swap_every: Option<Duration>,
}

/// Commands that may wait; who sends more waits too.
const COMMANDS_MAX: usize = 16;

/// The same signal again within this time is the same request.
const ECHO: Duration = Duration::from_millis(300);

/// How often those that are no longer configured are looked for sessions.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user1: Signal,
    hangup: Signal,
}

enum Event {
    Stop(&'static str),
    Reopen,
    Reload,
    Command(Command),
    Source,
    Edited,
    Swap,
    Sweep,
    Health(Vec<Change>),
    ShardEnded(usize, Result<(), String>),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every shard has drained.
    Drained,
    /// A second signal came; shards still run.
    AtOnce,
}

/// The running control plane.
pub struct Plane {
    runtime: Runtime,
    signals: Signals,
}

impl Plane {
    /// Starts tokio and listens to signals.
    ///
    /// # Errors
    /// What the system says.
    pub fn start() -> Result<Plane, RunError> {
        let system = |error| RunError::System("cannot start the control plane", error);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().map_err(system)?;
        let signals = {
            let _context = runtime.enter();
            Signals::listen().map_err(system)?
        };
        Ok(Plane { runtime, signals })
    }

    /// Lets something run on the control plane before there is one.
    pub fn first<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Runs until every shard has drained, or a second signal asks to end at once.
    ///
    /// # Errors
    /// When a shard is lost.
    pub fn run(
        self,
        control: &mut Control,
        admin: Option<AdminListener>,
        ended: ShardEnds,
    ) -> Result<Ended, RunError> {
        let Plane { runtime, signals } = self;
        runtime.block_on(async {
            let (commands, asked) = mpsc::channel(COMMANDS_MAX);
            if let Some(listener) = admin {
                tracing::info!(address = %listener.address(), "admin interface listening");
                let state = AdminState {
                    metrics: control.metrics.clone(),
                    logs: control.logs.clone(),
                    table: control.tables.subscribe(),
                    shards: control.shards.clone(),
                    phase: control.phase.clone(),
                    sources: control.source_views.subscribe(),
                    commands: commands.clone(),
                    configs: control.configs.subscribe(),
                    audit: control.audit.clone(),
                    events: Arc::default(),
                };
                tokio::spawn(admin::serve(listener, state));
            }
            control.phase.advance(Stage::Ready);
            tracing::info!(
                version = env!("CARGO_PKG_VERSION"),
                cores = ?control.config.runtime.cores,
                max_connections = control.config.runtime.max_connections,
                "ready"
            );
            control.serve(signals, ended, asked).await
        })
    }
}

impl Control {
    async fn serve(
        &mut self,
        mut signals: Signals,
        mut ended: ShardEnds,
        mut asked: mpsc::Receiver<Command>,
    ) -> Result<Ended, RunError> {
        let mut swaps = self.swap_every.map(every);
        let mut sweeps = every(SWEEP_EVERY);
        // Held for one more version, by when the shards have let go of it: it is freed here.
        let mut previous = None;
        let mut left = self.shards.len();
        let mut stopping: Option<(&'static str, Instant)> = None;
        while left > 0 {
            let event = tokio::select! {
                event = signals.next() => event,
                Some((shard, result)) = ended.recv() => Event::ShardEnded(shard, result),
                Some(command) = asked.recv() => Event::Command(command),
                () = self.sources.step() => Event::Source,
                () = self.edits.written() => Event::Edited,
                () = due(&mut swaps), if stopping.is_none() => Event::Swap,
                _ = sweeps.tick() => Event::Sweep,
                changes = self.health.changed(), if stopping.is_none() => Event::Health(changes),
            };
            match event {
                Event::Stop(name) => match stopping {
                    None => {
                        stopping = Some((name, Instant::now()));
                        self.drain(name);
                    }
                    // timeout(1) and some supervisors signal the process and its group.
                    Some((first, at)) if first == name && at.elapsed() < ECHO => {}
                    Some(_) => {
                        tracing::warn!(signal = name, "second signal: ending at once");
                        return Ok(Ended::AtOnce);
                    }
                },
                Event::Reopen => {
                    self.session_log.reopen();
                    self.access_log.reopen();
                }
                Event::Reload => self.reload_on_signal().await,
                Event::Command(command) => self.obey(command).await,
                Event::Edited => self.edit_next(),
                Event::Source => {}
                Event::Swap => {
                    let next = self.table().successor(self.shards.len());
                    previous = Some(self.publish(next));
                }
                Event::Sweep => {
                    // The one before may be all that still holds what has left.
                    previous = None;
                    self.sweep();
                }
                Event::Health(changes) => {
                    if changes.iter().any(Change::is_in_table) {
                        previous = Some(self.publish(self.table().again()));
                    }
                }
                Event::ShardEnded(shard, Err(why)) => {
                    tracing::error!(shard, why, "a shard was lost; ending");
                    return Err(RunError::ShardLost(shard, why));
                }
                Event::ShardEnded(shard, Ok(())) => {
                    left -= 1;
                    tracing::info!(shard, "drained");
                }
            }
            if self.sources.have_changed() | self.edits.have_changed() {
                let next = self.table().next(&self.layout(&self.config), self.shards.len());
                previous = Some(self.publish(next));
            }
            self.show_sources();
        }
        drop(previous);
        Ok(Ended::Drained)
    }

    /// What a table of this configuration is made of now.
    fn layout(&self, config: &Config) -> Layout {
        let (generation, lookups) = {
            let table = self.tables.borrow();
            (table.generation, table.lookups.clone())
        };
        Layout { lookups, ..layout(config, generation, &self.sources, self.edits.state()) }
    }

    fn show_sources(&self) {
        self.source_views.send_replace(self.sources.views().into());
    }

    /// The table in force.
    fn table(&self) -> Arc<Table> {
        self.tables.borrow().clone()
    }

    /// Puts a table in force, for every shard and for the pages; gives back the one before.
    fn publish(&mut self, table: Table) -> Arc<Table> {
        let table = Arc::new(self.health.judge(table));
        tracing::debug!(version = table.version, "publishing a table");
        for shard in 0..self.shards.len() {
            self.tell(shard, Message::Table(table.clone()));
        }
        self.follow(table)
    }

    /// Lets the pages and the checkers have the table that shards were sent.
    fn follow(&mut self, table: Arc<Table>) -> Arc<Table> {
        let previous = self.tables.send_replace(table);
        self.health.follow();
        previous
    }

    fn tell(&self, shard: usize, message: Message) {
        if let Err(error) = self.shards[shard].send(message) {
            tracing::error!(shard, %error, "could not wake a shard");
        }
    }

    /// Lets go of what is no longer configured and has no sessions any more.
    fn sweep(&mut self) {
        let table = self.table();
        if table.has_left() {
            self.publish(table.swept(self.shards.len()));
        }
    }

    fn drain(&self, signal: &'static str) {
        let timeout = self.config.runtime.drain_timeout;
        let open = self.metrics.process.connections.load(Relaxed);
        tracing::info!(signal, connections = open, ?timeout, "draining");
        self.phase.advance(Stage::Draining);
        for shard in 0..self.shards.len() {
            self.tell(shard, Message::Drain(timeout));
        }
    }
}

/// What a table is made of: the configuration, with the backends that its sources have now, and
/// with what operators have changed of that; without lookups.
pub fn layout(config: &Config, generation: u64, sources: &Sources, edits: &State) -> Layout {
    let pool = |pool: &config::Pool| config::Pool {
        backends: sources.backends(pool, edits),
        ..pool.clone()
    };
    Layout {
        generation,
        listeners: config.listeners.clone(),
        pools: config.pools.iter().map(pool).collect(),
        lookups: Vec::new(),
        connections_max: config.runtime.max_connections,
    }
}

/// First after one period; a late turn delays the next ones instead of doubling them.
fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The next turn; never without an interval.
async fn due(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop("TERM"),
            _ = self.interrupt.recv() => Event::Stop("INT"),
            _ = self.quit.recv() => Event::Stop("QUIT"),
            _ = self.user1.recv() => Event::Reopen,
            _ = self.hangup.recv() => Event::Reload,
        }
    }
}

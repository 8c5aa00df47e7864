//! The control plane: one thread, ordinary tokio libraries. Signals, the admin interface, and the
//! end of the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use crate::admin::{self, AdminListener, AdminState, Phase, Stage};
use crate::config::Config;
use crate::health::verdicts::Change;
use crate::health::watch::HealthWatch;
use crate::log::{Logs, SessionLogWriter};
use crate::metrics::Metrics;
use crate::run::{RunError, ShardEnds};
use crate::shard::mailbox::{Message, ShardHandle};
use crate::table::Table;

/// What the control plane holds.
pub struct Control<'a> {
    /// The configuration.
    pub config: Arc<Config>,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// Counters of the logs.
    pub logs: Logs,
    /// The first table.
    pub table: Arc<Table>,
    /// Every shard's mailbox.
    pub shards: Vec<ShardHandle>,
    /// What `/readyz` says.
    pub phase: Arc<Phase>,
    /// Reopened on USR1.
    pub session_log: &'a SessionLogWriter,
    /// Publish a successor of the table this often: benchmarks only, more than 0.
    pub swap_every: Option<Duration>,
}

/// The same signal again within this time is the same request.
const ECHO: Duration = Duration::from_millis(300);

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
    Swap,
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

    /// Runs until every shard has drained, or a second signal asks to end at once.
    ///
    /// # Errors
    /// When a shard is lost.
    pub fn run(
        self,
        control: Control<'_>,
        admin: Option<AdminListener>,
        ended: ShardEnds,
    ) -> Result<Ended, RunError> {
        let Plane { runtime, signals } = self;
        runtime.block_on(async {
            // Kept for as long as pages are served: a watch keeps its value as long as its sender.
            let (tables, table) = watch::channel(control.table.clone());
            if let Some(listener) = admin {
                tracing::info!(address = %listener.address(), "admin interface listening");
                let state = AdminState {
                    metrics: control.metrics.clone(),
                    logs: control.logs.clone(),
                    table,
                    shards: control.shards.clone(),
                    phase: control.phase.clone(),
                    connections_max: control.config.runtime.max_connections,
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
            control.serve(signals, ended, &tables).await
        })
    }
}

impl Control<'_> {
    async fn serve(
        &self,
        mut signals: Signals,
        mut ended: ShardEnds,
        tables: &watch::Sender<Arc<Table>>,
    ) -> Result<Ended, RunError> {
        let mut swaps = self.swap_every.map(every);
        let mut health = HealthWatch::start(tables.subscribe());
        // Held for one more version, by when the shards have let go of it: it is freed here.
        let mut _previous = None;
        let mut left = self.shards.len();
        let mut stopping: Option<(&'static str, Instant)> = None;
        while left > 0 {
            let event = tokio::select! {
                event = signals.next() => event,
                Some((shard, result)) = ended.recv() => Event::ShardEnded(shard, result),
                () = due(&mut swaps), if stopping.is_none() => Event::Swap,
                changes = health.changed(), if stopping.is_none() => Event::Health(changes),
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
                Event::Reopen => self.session_log.reopen(),
                Event::Reload => tracing::warn!(
                    "this version cannot reload its configuration: restart it to apply changes"
                ),
                Event::Swap => {
                    let next = health.judge(tables.borrow().successor());
                    _previous = Some(self.publish(tables, Arc::new(next)));
                }
                Event::Health(changes) => {
                    if changes.iter().any(Change::is_in_table) {
                        let next = health.judge(tables.borrow().next());
                        _previous = Some(self.publish(tables, Arc::new(next)));
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
        }
        Ok(Ended::Drained)
    }

    /// Puts a table in force, for every shard and for the pages; gives back the one before.
    fn publish(&self, tables: &watch::Sender<Arc<Table>>, table: Arc<Table>) -> Arc<Table> {
        tracing::debug!(version = table.version, "publishing a table");
        for (shard, mailbox) in self.shards.iter().enumerate() {
            if let Err(error) = mailbox.send(Message::Table(table.clone())) {
                tracing::error!(shard, %error, "could not wake a shard");
            }
        }
        tables.send_replace(table)
    }

    fn drain(&self, signal: &'static str) {
        let timeout = self.config.runtime.drain_timeout;
        let open = self.metrics.process.connections.load(std::sync::atomic::Ordering::Relaxed);
        tracing::info!(signal, connections = open, ?timeout, "draining");
        self.phase.advance(Stage::Draining);
        for (shard, mailbox) in self.shards.iter().enumerate() {
            if let Err(error) = mailbox.send(Message::Drain(timeout)) {
                tracing::error!(shard, %error, "could not wake a shard");
            }
        }
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

//! Reading the configuration again: everything is checked, bound and built before anything is in
//! force, and then all of it is, or nothing.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Control, layout};
use crate::admin::Stage;
use crate::backend;
use crate::config::{self, BackendState, Config, Environment, Fault, LoadError, Loaded, OnRemove};
use crate::listen::{BindError, Bindings, Change};
use crate::movement::{Comparison, Standing, sample};
use crate::shard::mailbox::Message;
use crate::sys;
use crate::table::{Backend, Layout, Lookup, Pool, Table};

/// Keys that a dry run compares in each changed pool.
const KEYS_MAX: u64 = 100_000;
/// How long it compares keys, in all pools together; no reload is answered meanwhile.
const COMPARING_MAX: Duration = Duration::from_millis(250);
/// Keys that are compared in each pool, however long that takes: fewer would say nothing.
const KEYS_MIN: u64 = 1_000;

/// What a reload does, or in a dry run would do.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Reloaded {
    /// Version of the table that is in force.
    pub table: u64,
    /// Listeners by name.
    pub listeners: Changes,
    /// Addresses that are listened on from now on, and no longer.
    pub addresses: Changes,
    /// Pools by name; a pool whose backends differ has changed.
    pub pools: Changes,
    /// Lookups by name.
    pub lookups: Changes,
    /// Backends, as `POOL ADDRESS`.
    pub backends: Changes,
    /// Settings of the process that take effect, as `runtime.max_connections`.
    pub settings: Vec<&'static str>,
    /// Sessions that are closed: none, unless a pool says `on_remove = "close"`.
    pub sessions_closed: u64,
    /// Of a dry run: what becomes of keys in each changed pool that balances by key, before and
    /// after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_moved: Option<Vec<KeysMoved>>,
    /// Legal, but perhaps not meant.
    pub warnings: Vec<Fault>,
}

/// Names of what differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// New.
    pub added: Vec<String>,
    /// Gone.
    pub removed: Vec<String>,
    /// In both, with other settings.
    pub changed: Vec<String>,
}

/// Sampled keys of one pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeysMoved {
    /// The pool's name.
    pub pool: String,
    /// The share of keys that another backend takes, or none any more, 0 to 1.
    pub share: f64,
    /// How many keys were compared.
    pub keys: u64,
}

/// Why nothing was changed.
#[derive(Debug)]
pub enum Refused {
    /// The process runs without a file.
    NoFile,
    /// The process is ending.
    Draining,
    /// The file cannot be read or has faults.
    File(LoadError),
    /// Settings that only a restart can change, each as `KEY: from X to Y`.
    NeedsRestart(Vec<String>),
    /// The kernel would not let the new configuration work.
    System(String),
}

impl Refused {
    /// For the metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Refused::NoFile => "no_file",
            Refused::Draining => "draining",
            Refused::File(LoadError::Unreadable { .. }) => "unreadable",
            Refused::File(LoadError::Faults(_)) => "faults",
            Refused::NeedsRestart(_) => "needs_restart",
            Refused::System(_) => "system",
        }
    }

    /// The faults of the file, if that is why.
    pub fn faults(&self) -> &[Fault] {
        match self {
            Refused::File(LoadError::Faults(faults)) => &faults.faults,
            _ => &[],
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NoFile => f.write_str("this process was not started from a file"),
            Refused::Draining => f.write_str("this process is draining"),
            Refused::File(error) => error.fmt(f),
            Refused::NeedsRestart(settings) => {
                write!(f, "only a restart can change {}", settings.join(", "))
            }
            Refused::System(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refused {}

impl From<BindError> for Refused {
    fn from(error: BindError) -> Refused {
        Refused::System(error.to_string())
    }
}

/// A configuration that could be put in force.
struct Candidate {
    config: Config,
    layout: Layout,
    /// What it would do.
    reloaded: Reloaded,
}

impl Control {
    /// Reads the file again. What came of it is logged and counted.
    ///
    /// # Errors
    /// Why everything is as it was.
    pub async fn reload(&mut self, dry_run: bool) -> Result<Reloaded, Refused> {
        let result = self.try_reload(dry_run).await;
        let reloads = &self.metrics.process.reloads;
        match &result {
            Ok(_) if dry_run => {}
            Ok(reloaded) => {
                reloads.succeeded();
                let table = reloaded.table;
                tracing::info!(table, generation = self.generation(), "configuration reloaded");
            }
            Err(refused) => {
                if !dry_run {
                    reloads.refused();
                }
                for fault in refused.faults() {
                    tracing::error!(line = fault.line, column = fault.column, %fault, "fault");
                }
                let reason = refused.label();
                tracing::error!(reason, dry_run, error = %refused, "configuration not reloaded");
            }
        }
        result
    }

    fn generation(&self) -> u64 {
        self.tables.borrow().generation
    }

    async fn try_reload(&mut self, dry_run: bool) -> Result<Reloaded, Refused> {
        if self.phase.stage() != Stage::Ready {
            return Err(Refused::Draining);
        }
        let file = self.file.as_deref().ok_or(Refused::NoFile)?;
        let loaded = self.load(file)?;
        if !dry_run {
            self.edits.look_again();
        }
        let result = self.try_candidate(loaded, dry_run).await;
        // Of the sources that were begun for it, or those that it has no more.
        self.sources.adopt(&self.config.pools);
        result
    }

    async fn try_candidate(&mut self, loaded: Loaded, dry_run: bool) -> Result<Reloaded, Refused> {
        let without = self.sources.prepare(&loaded.config.pools).await;
        if !without.is_empty() {
            return Err(Refused::System(without.join("; ")));
        }
        let candidate = self.candidate(loaded);
        if dry_run {
            return self.with_keys_moved(candidate).await;
        }
        let change = self.bind(candidate.layout.clone()).await?;
        Ok(self.put_in_force(candidate, change))
    }

    /// Everything that can be checked without asking anybody.
    fn load(&self, file: &Path) -> Result<Loaded, Refused> {
        let environment = Environment::of_process();
        let environment = environment.map_err(|error| Refused::System(error.to_string()))?;
        let loaded = config::load(file, &environment).map_err(Refused::File)?;
        let config = &loaded.config;
        let fixed = fixed_settings(&self.config, config);
        if !fixed.is_empty() {
            return Err(Refused::NeedsRestart(fixed));
        }
        backend::check_sources(config).map_err(|error| Refused::System(error.to_string()))?;
        let allowed = sys::raise_descriptors();
        let allowed = allowed.map_err(|error| Refused::System(error.to_string()))?;
        let needed = config.runtime.descriptors_needed;
        if needed > allowed {
            let why = format!("it may need {needed} file descriptors and the limit is {allowed}");
            return Err(Refused::System(why));
        }
        Ok(loaded)
    }

    fn candidate(&mut self, loaded: Loaded) -> Candidate {
        let Loaded { config, warnings } = loaded;
        let lookups = self.lookups.prepare(&config.lookups, &self.table().leaving.lookups);
        let layout = layout(&config, self.generation() + 1, &self.sources, self.edits.state());
        let layout = Layout { lookups, ..layout };
        let mut reloaded = difference(&self.table(), &layout);
        reloaded.settings = changed_settings(&self.config, &config);
        reloaded.warnings = warnings;
        Candidate { config, layout, reloaded }
    }

    /// Compares keys, on a thread that may take its time: rings of thousands of backends are made.
    async fn with_keys_moved(&self, candidate: Candidate) -> Result<Reloaded, Refused> {
        let Candidate { layout, mut reloaded, .. } = candidate;
        let table = self.table();
        let compared = tokio::task::spawn_blocking(move || keys_moved(&table, &layout)).await;
        let compared = compared.map_err(|error| Refused::System(error.to_string()))?;
        reloaded.keys_moved = Some(compared);
        Ok(reloaded)
    }

    /// Binds what is new, on a thread that may wait: an address that this process has given up a
    /// moment ago is free only when every shard has closed it.
    async fn bind(&mut self, layout: Layout) -> Result<Change, Refused> {
        let shards = self.shards.len();
        let bindings = std::mem::replace(&mut self.bindings, Bindings::new(shards));
        let binding = tokio::task::spawn_blocking(move || {
            let change = bindings.prepare(&layout.listeners);
            (bindings, change)
        });
        match binding.await {
            Ok((bindings, change)) => {
                self.bindings = bindings;
                Ok(change?)
            }
            // Dropped with the task, and the files of UNIX sockets with them.
            Err(error) => Err(Refused::System(format!("binding was given up: {error}"))),
        }
    }

    fn put_in_force(&mut self, candidate: Candidate, change: Change) -> Reloaded {
        let Candidate { config, layout, mut reloaded } = candidate;
        let table = self.table().next(&layout, self.shards.len());
        let table = Arc::new(self.health.judge(table));
        reloaded.table = table.version;
        for (shard, listeners) in self.bindings.take(change, &table).into_iter().enumerate() {
            self.tell(shard, Message::Listen(listeners));
        }
        self.lookups.adopt(&table.lookups, &self.shards);
        self.follow(table);
        if let Err(error) = self.level.set(config.log.level) {
            tracing::error!(%error, "log level not changed");
        }
        self.config = Arc::new(config);
        self.configs.send_replace(self.config.clone());
        reloaded
    }
}

/// Settings that shards and threads were built with.
fn fixed_settings(old: &Config, new: &Config) -> Vec<String> {
    let mut fixed = Vec::new();
    let mut compare = |key: &str, old: String, new: String| {
        if old != new {
            fixed.push(format!("{key} (from {old} to {new})"));
        }
    };
    let (before, after) = (&old.runtime, &new.runtime);
    compare("runtime.cores", format!("{:?}", before.cores), format!("{:?}", after.cores));
    let text = |number: u64| number.to_string();
    compare(
        "runtime.ring_entries",
        text(before.ring_entries.into()),
        text(after.ring_entries.into()),
    );
    compare(
        "runtime.relay_buffer_max",
        text(before.relay_buffer_max as u64),
        text(after.relay_buffer_max as u64),
    );
    compare("runtime.spin", format!("{:?}", before.spin), format!("{:?}", after.spin));
    let state = |config: &Config| config.runtime.state_dir.display().to_string();
    compare("runtime.state_dir", state(old), state(new));
    let listen = |config: &Config| {
        config.admin.as_ref().map_or("none".to_owned(), |admin| admin.listen.to_string())
    };
    compare("admin.listen", listen(old), listen(new));
    let sessions = |config: &Config| format!("{:?}", config.log.sessions);
    compare("log.sessions", sessions(old), sessions(new));
    compare("log.queue", text(old.log.queue as u64), text(new.log.queue as u64));
    fixed
}

/// Settings of the process that a reload changes.
fn changed_settings(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut changed = Vec::new();
    if old.runtime.max_connections != new.runtime.max_connections {
        changed.push("runtime.max_connections");
    }
    if old.runtime.drain_timeout != new.runtime.drain_timeout {
        changed.push("runtime.drain_timeout");
    }
    if old.log.level != new.log.level {
        changed.push("log.level");
    }
    let trusted = |config: &Config| {
        config.admin.as_ref().map(|admin| (admin.token_file.clone(), admin.hosts.clone()))
    };
    if let (Some(old), Some(new)) = (trusted(old), trusted(new)) {
        if old.0 != new.0 {
            changed.push("admin.token_file");
        }
        if old.1 != new.1 {
            changed.push("admin.hosts");
        }
    }
    changed
}

/// What differs between the table in force and what is to come.
fn difference(table: &Table, layout: &Layout) -> Reloaded {
    let mut reloaded = Reloaded { table: table.version, ..Reloaded::default() };
    let old: Vec<_> =
        table.listeners.iter().map(|one| (&one.settings.name, &one.settings)).collect();
    let new: Vec<_> = layout.listeners.iter().map(|one| (&one.name, one)).collect();
    let name_of = |names: &[&str], index: Option<usize>| {
        index.and_then(|index| names.get(index)).map(|name| (*name).to_owned())
    };
    let old_pools: Vec<&str> = table.pools.iter().map(|pool| &*pool.settings.name).collect();
    let new_pools: Vec<&str> = layout.pools.iter().map(|pool| &*pool.name).collect();
    let old_lookups: Vec<&str> = table.lookups.iter().map(|lookup| &*lookup.label).collect();
    let new_lookups: Vec<&str> = layout.lookups.iter().map(|lookup| &*lookup.label).collect();
    reloaded.listeners = changes(&old, &new, |old, new| {
        // Pools and lookups are told apart by name: their places in the file say nothing.
        let (pool, lookup) = (new.pool, new.lookup);
        config::Listener { pool, lookup, ..(*old).clone() } == **new
            && name_of(&old_pools, old.pool) == name_of(&new_pools, pool)
            && name_of(&old_lookups, old.lookup) == name_of(&new_lookups, lookup)
    });
    let addresses = |listeners: &[(&String, &config::Listener)]| -> Vec<(String, ())> {
        let all = listeners.iter().flat_map(|(_, listener)| &listener.bind);
        all.map(|address| (address.to_string(), ())).collect()
    };
    reloaded.addresses = changes(&addresses(&old), &addresses(&new), |(), ()| true);
    let old: Vec<_> =
        table.pools.iter().map(|pool| (&pool.settings.name, &pool.settings)).collect();
    let new: Vec<_> = layout.pools.iter().map(|pool| (&pool.name, pool)).collect();
    reloaded.pools = changes(&old, &new, |old, new| old == new);
    let lookups = |lookups: &[Arc<Lookup>]| -> Vec<(Arc<str>, u64)> {
        lookups.iter().map(|lookup| (lookup.label.clone(), lookup.id)).collect()
    };
    reloaded.lookups =
        changes(&lookups(&table.lookups), &lookups(&layout.lookups), |old, new| old == new);
    let backends = |pools: &[(&String, &config::Pool)]| -> Vec<(String, config::Backend)> {
        let of = |(name, pool): &(&String, &config::Pool)| {
            let named = |backend: &config::Backend| {
                (format!("{name} {}", backend.address), backend.clone())
            };
            pool.backends.iter().map(named).collect::<Vec<_>>()
        };
        pools.iter().flat_map(of).collect()
    };
    reloaded.backends = changes(&backends(&old), &backends(&new), |old, new| old == new);
    reloaded.sessions_closed = table.pools.iter().map(|pool| sessions_closed(pool, layout)).sum();
    reloaded
}

/// Sessions of a pool that would be closed, as of now.
fn sessions_closed(pool: &Pool, layout: &Layout) -> u64 {
    let new = layout.pools.iter().find(|new| new.name == pool.settings.name);
    if new.unwrap_or(&pool.settings).on_remove == OnRemove::Keep {
        return 0;
    }
    let stays = |backend: &Backend| {
        let mut backends = new.into_iter().flat_map(|new| &new.backends);
        backends.any(|new| new.address == backend.address && new.state != BackendState::Drain)
    };
    let leaving = pool.backends.iter().filter(|backend| !stays(backend));
    leaving.map(|backend| u64::from(backend.shared.room.live())).sum()
}

/// Where keys go in the pools that are in both and differ, as declared states have it: a backend
/// that is unhealthy for the moment moves nobody for good. Of the time there is, each pool has an
/// equal share of what the ones before it left.
fn keys_moved(table: &Table, layout: &Layout) -> Vec<KeysMoved> {
    let pairs = layout.pools.iter().filter_map(|new| Some((table.pool(&new.name)?.1, new)));
    let changed: Vec<_> = pairs.filter(|(old, new)| old.settings != **new).collect();
    let mut left = COMPARING_MAX;
    let mut moved = Vec::new();
    for (index, (old, new)) in changed.iter().enumerate() {
        let (old, new) = (Standing::of_settings(&old.settings), Standing::of_settings(new));
        let pool = new.name.to_owned();
        let Some(comparison) = Comparison::new(old, new) else { continue };
        let share = left / u32::try_from(changed.len() - index).unwrap_or(u32::MAX);
        let began = Instant::now();
        let numbers = (0u64..).take_while(|at| *at < KEYS_MIN || began.elapsed() < share);
        let keys = sample(KEYS_MAX).zip(numbers).map(|(key, _)| key);
        let moves = comparison.moves(keys);
        left = left.saturating_sub(began.elapsed());
        moved.push(KeysMoved { pool, share: moves.share(), keys: moves.keys });
    }
    moved
}

fn changes<N, T>(old: &[(N, T)], new: &[(N, T)], same: impl Fn(&T, &T) -> bool) -> Changes
where
    N: Eq + std::hash::Hash + ToString,
{
    let before: std::collections::HashMap<&N, &T> =
        old.iter().map(|(name, one)| (name, one)).collect();
    let after: std::collections::HashSet<&N> = new.iter().map(|(name, _)| name).collect();
    let mut changes = Changes::default();
    for (name, one) in new {
        match before.get(name) {
            None => changes.added.push(name.to_string()),
            Some(old) if !same(old, one) => changes.changed.push(name.to_string()),
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|(name, _)| !after.contains(name));
    changes.removed = gone.map(|(name, _)| name.to_string()).collect();
    changes
}

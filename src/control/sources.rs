//! The sources of all pools: a watcher and a guard for each, and the sets they have in force.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{sleep_until, timeout_at};

use crate::config::{self, Address, SourceKind};
use crate::edits::overlay::{self, Owner};
use crate::edits::state::State;
use crate::source::guard::{Event, Guard, Rules};
use crate::source::saved::{self, Origin, RestoreError, Saved};
use crate::source::view::{Counts, SourceView};
use crate::source::{Desk, Member, Report, Timings, consul, dns, etcd, file, merge, redis};

/// Reports that may wait; a watcher that has more waits too.
const REPORTS_MAX: usize = 64;
/// Sets that may wait to be saved; the newest of a source is what counts, and it comes again.
const SAVES_MAX: usize = 64;
/// Beyond the deadline of a question, a source has this long to give its first set.
const FIRST_MARGIN: Duration = Duration::from_millis(500);

/// All of them.
#[derive(Debug)]
pub struct Sources {
    /// What guards count time from.
    began: Instant,
    running: Vec<Running>,
    next_id: usize,
    sender: mpsc::Sender<(usize, Report)>,
    reports: mpsc::Receiver<(usize, Report)>,
    saver: mpsc::Sender<Save>,
    folder: PathBuf,
    /// Pools whose sets changed and that nobody was told about.
    changed: bool,
}

/// One that is watched.
#[derive(Debug)]
struct Running {
    id: usize,
    pool: String,
    settings: config::Source,
    /// Kind and place, without secrets: a metric label.
    label: String,
    guard: Guard,
    refresh: Arc<Notify>,
    watcher: AbortHandle,
    counts: Counts,
}

struct Save {
    folder: PathBuf,
    pool: String,
    label: String,
    saved: Saved,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Sources {
    /// None yet; sets are saved in `folder`. To be called on the control plane's runtime.
    pub fn new(folder: PathBuf) -> Sources {
        let (sender, reports) = mpsc::channel(REPORTS_MAX);
        let (saver, saves) = mpsc::channel(SAVES_MAX);
        tokio::spawn(save_all(saves));
        Sources {
            began: Instant::now(),
            running: Vec::new(),
            next_id: 0,
            sender,
            reports,
            saver,
            folder,
            changed: false,
        }
    }

    /// Watches what these pools have beside what is watched already, and waits until all of it has
    /// a set: the store's, or the one that was saved last if the store does not answer in time.
    /// Gives back which sources have none.
    pub async fn prepare(&mut self, pools: &[config::Pool]) -> Vec<String> {
        let known = self.next_id;
        for pool in pools {
            for source in pool.sources.iter().filter(|source| is_watched(source)) {
                if self.find(&pool.name, source).is_none() {
                    self.start(&pool.name, source.clone());
                }
            }
        }
        let waiting = |running: &Running| running.id >= known && running.guard.members().is_none();
        let longest =
            self.running.iter().filter(|one| waiting(one)).map(|one| one.settings.timeout);
        let Some(longest) = longest.max() else { return Vec::new() };
        let deadline = tokio::time::Instant::now() + longest + FIRST_MARGIN;
        while self.running.iter().any(waiting) {
            if timeout_at(deadline, self.step()).await.is_err() {
                break;
            }
        }
        let mut without = Vec::new();
        for index in 0..self.running.len() {
            if waiting(&self.running[index]) && !self.restore(index) {
                without.push(self.running[index].why_empty());
            }
        }
        without
    }

    /// Stops watching what these pools do not have.
    pub fn adopt(&mut self, pools: &[config::Pool]) {
        self.running.retain(|running| {
            let pool = pools.iter().find(|pool| pool.name == running.pool);
            pool.is_some_and(|pool| pool.sources.contains(&running.settings))
        });
    }

    /// Whether a set in force has changed since this was asked last.
    pub fn have_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The backends of a pool: what the file pins, and what its sources say, in the order that
    /// every gateway has; with the edits of that.
    pub fn backends(&self, pool: &config::Pool, edits: &State) -> Vec<config::Backend> {
        let sets = self.sets(pool).map(|(_, set)| set);
        let mut backends = merge::merge(&overlay::pinned(pool, edits), sets);
        overlay::lay_over_sources(pool, edits, &mut backends, |address| self.owner(pool, address));
        backends
    }

    /// The source that decides about a backend which the file does not pin, and what it says.
    pub fn owner<'a>(&'a self, pool: &'a config::Pool, address: &Address) -> Owner<'a> {
        self.sets(pool).find_map(|(source, set)| {
            let member = set.iter().find(|member| member.address == *address);
            member.map(|member| (source, member))
        })
    }

    /// The sets in force of a pool's sources, in the order of these.
    fn sets<'a>(
        &'a self,
        pool: &'a config::Pool,
    ) -> impl Iterator<Item = (&'a config::Source, &'a [Member])> {
        pool.sources.iter().filter_map(|source| {
            let set = self.find(&pool.name, source)?.guard.members()?;
            Some((source, &**set))
        })
    }

    /// To be told that a source should be read again: something was written to its store.
    pub fn reader(&self, pool: &str, source: &config::Source) -> Option<Arc<Notify>> {
        self.find(pool, source).map(|running| running.refresh.clone())
    }

    /// Has every source of a pool read again now. Returns how many there are.
    pub fn refresh(&self, pool: &str) -> usize {
        let of_pool = self.running.iter().filter(|running| running.pool == pool);
        of_pool.map(|running| running.refresh.notify_one()).count()
    }

    /// Puts in force what the sources of a pool said last, whatever is held back.
    pub fn confirm(&mut self, pool: &str) -> usize {
        let now = self.began.elapsed();
        let mut confirmed = 0;
        for index in 0..self.running.len() {
            if self.running[index].pool == pool {
                let events = self.running[index].guard.confirm(now);
                self.take(index, events);
                confirmed += 1;
            }
        }
        confirmed
    }

    /// All of them, as they are now.
    pub fn views(&self) -> Vec<SourceView> {
        let now = self.began.elapsed();
        self.running.iter().map(|running| running.view(self.began, now)).collect()
    }

    fn find(&self, pool: &str, source: &config::Source) -> Option<&Running> {
        self.running.iter().find(|running| running.pool == pool && running.settings == *source)
    }

    fn start(&mut self, pool: &str, settings: config::Source) {
        let id = self.next_id;
        self.next_id += 1;
        let refresh = Arc::new(Notify::new());
        let desk = Desk { source: id, reports: self.sender.clone(), refresh: refresh.clone() };
        let watcher = watch(&settings, desk).abort_handle();
        let label = settings.kind.to_string();
        let mut guard = Guard::new(Rules::from(&settings));
        // Only how it is watched has changed: the set is as good as it was.
        let same = self.running.iter().find(|one| one.pool == pool && one.label == label);
        if let Some(members) = same.and_then(|running| running.guard.members()) {
            guard.restore(members.to_vec());
        }
        tracing::info!(pool, source = label, "watching a source");
        self.running.push(Running {
            id,
            pool: pool.to_owned(),
            settings,
            label,
            guard,
            refresh,
            watcher,
            counts: Counts::default(),
        });
    }

    /// Lets one thing happen: a report, or a moment that a guard waits for. Cancel-safe.
    pub async fn step(&mut self) {
        let due = self.running.iter().enumerate().filter_map(|(index, running)| {
            running.guard.deadline().map(|deadline| (deadline, index))
        });
        let due = due.min();
        let began = self.began;
        let timer = async {
            match due {
                Some((deadline, _)) => sleep_until((began + deadline).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            report = self.reports.recv() => {
                // The channel stays open: we hold a sender.
                let Some((id, report)) = report else { return };
                // Of one that is no longer wanted otherwise.
                if let Some(index) = self.running.iter().position(|one| one.id == id) {
                    self.hear(index, report);
                }
            }
            () = timer => {
                if let Some((_, index)) = due {
                    let now = self.began.elapsed();
                    let events = self.running[index].guard.tick(now);
                    self.take(index, events);
                }
            }
        }
    }

    fn hear(&mut self, index: usize, report: Report) {
        let now = self.began.elapsed();
        let running = &mut self.running[index];
        let (pool, source) = (&*running.pool, &*running.label);
        match &report {
            Report::Set(reading) => {
                running.counts.readings += 1;
                let (members, rejected) = (reading.members.len(), reading.rejected.len());
                tracing::debug!(pool, source, members, rejected, "source read");
                if reading.rejected != running.guard.rejected() {
                    for rejected in &reading.rejected {
                        let (entry, why) = (&rejected.entry, &rejected.why);
                        tracing::warn!(pool, source, entry, why, "an entry is no backend");
                    }
                }
            }
            Report::Unchanged => {}
            Report::Failed(failure) => {
                running.counts.failures[failure.cause as usize] += 1;
                // Once per spell, and again when another thing is wrong.
                let known = running.guard.failure().map(|known| known.cause);
                if known != Some(failure.cause) {
                    let (reason, error) = (failure.cause.name(), &failure.detail);
                    tracing::warn!(pool, source, reason, error, "source not read");
                }
            }
        }
        let events = running.guard.report(now, report);
        self.take(index, events);
    }

    /// Says what a guard says, and saves what it put in force.
    fn take(&mut self, index: usize, events: Vec<Event>) {
        let running = &mut self.running[index];
        let (pool, source) = (&*running.pool, &*running.label);
        for event in events {
            match event {
                Event::Published(change) => {
                    running.counts.publications += 1;
                    self.changed = true;
                    let (added, removed, changed) = (change.added, change.removed, change.changed);
                    let members = change.members;
                    tracing::info!(
                        pool,
                        source,
                        added,
                        removed,
                        changed,
                        members,
                        "source changed"
                    );
                    running.save(&self.saver, &self.folder);
                }
                Event::State { from, to } => {
                    let (from, to) = (from.name(), to.name());
                    tracing::info!(pool, source, from, to, "source state");
                }
                Event::EmptyKept(members) => tracing::error!(
                    pool,
                    source,
                    members,
                    "the source says that there are no backends: the last set stays in force"
                ),
                Event::RemovalHeld(held) => tracing::error!(
                    pool,
                    source,
                    gone = held.members,
                    of = held.of,
                    "more backends are gone at once than max_removal allows: held back"
                ),
                Event::RemovalOver => {
                    tracing::info!(pool, source, "no removal is held back any more");
                }
            }
        }
    }

    /// Puts the set in force that was saved last. `false`: there is none.
    fn restore(&mut self, index: usize) -> bool {
        let running = &mut self.running[index];
        let (pool, source) = (&*running.pool, &*running.label);
        match saved::load(&self.folder, Origin { pool, source }) {
            Ok(saved) => {
                let age = humantime::format_duration(Duration::from_secs(
                    saved.age(SystemTime::now()).as_secs(),
                ));
                let members = saved.members.len();
                let age = age.to_string();
                tracing::warn!(pool, source, members, age, "the source is away: using a saved set");
                running.guard.restore(saved.members);
                self.changed = true;
                true
            }
            Err(RestoreError::Absent) => false,
            Err(error) => {
                tracing::error!(pool, source, %error, "saved set not used");
                false
            }
        }
    }
}

impl Running {
    fn save(&self, saver: &mpsc::Sender<Save>, folder: &std::path::Path) {
        let Some(members) = self.guard.members() else { return };
        let saved = Saved {
            members: members.to_vec(),
            saved_at: SystemTime::now(),
            revision: self.guard.revision().map(str::to_owned),
        };
        let (pool, label) = (self.pool.clone(), self.label.clone());
        if saver.try_send(Save { folder: folder.to_path_buf(), pool, label, saved }).is_err() {
            tracing::warn!(pool = self.pool, source = self.label, "set not saved: too many wait");
        }
    }

    fn why_empty(&self) -> String {
        let why = match self.guard.failure() {
            Some(failure) => failure.to_string(),
            None => "no answer yet".to_owned(),
        };
        format!("pool {}: {} gave no set ({why}), and none was saved", self.pool, self.label)
    }

    fn view(&self, began: Instant, now: Duration) -> SourceView {
        let rejected = self.guard.rejected().iter();
        SourceView {
            pool: self.pool.clone(),
            label: self.label.clone(),
            state: self.guard.state(),
            heard: self.guard.age(now).map(|age| began + now.saturating_sub(age)),
            restored: self.guard.is_restored(),
            members: self.guard.members().map(|members| members.len()),
            rejected: rejected.map(|one| format!("{}: {}", one.entry, one.why)).collect(),
            revision: self.guard.revision().map(str::to_owned),
            failure: self.guard.failure().cloned(),
            held: self.guard.held().map_or(0, |held| held.members),
            empty_kept: self.guard.is_empty_kept(),
            counts: self.counts,
        }
    }
}

/// Whether it has to be watched: what the file itself says changes with the file.
fn is_watched(source: &config::Source) -> bool {
    !matches!(source.kind, SourceKind::Static(_))
}

fn watch(settings: &config::Source, desk: Desk) -> tokio::task::JoinHandle<()> {
    let timings = Timings::of(settings);
    match settings.kind.clone() {
        // Never started, see `is_watched`.
        SourceKind::Static(_) => tokio::spawn(async {}),
        SourceKind::File { path } => tokio::spawn(file::watch(path, timings, desk)),
        SourceKind::Redis(redis) => tokio::spawn(redis::watch(redis, timings, desk)),
        SourceKind::Etcd(etcd) => tokio::spawn(etcd::watch(etcd, timings, desk)),
        SourceKind::Consul(consul) => tokio::spawn(consul::watch(consul, timings, desk)),
        SourceKind::Dns(dns) => tokio::spawn(dns::watch(dns, timings, desk)),
    }
}

/// Writes sets one after the other, away from the control plane's thread: a disk may hang.
async fn save_all(mut saves: mpsc::Receiver<Save>) {
    while let Some(save) = saves.recv().await {
        let written = tokio::task::spawn_blocking(move || {
            let Save { folder, pool, label, saved } = save;
            if let Err(error) = saved::save(&folder, Origin { pool: &pool, source: &label }, &saved)
            {
                tracing::error!(pool, source = label, %error, "set not saved");
            }
        });
        if let Err(error) = written.await {
            tracing::error!(%error, "set not saved");
        }
    }
}

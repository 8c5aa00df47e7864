//! Carries out edits without holding up the control plane: stores are written by tasks of their
//! own, the state file on a thread that may wait for a disk, one edit after the other.

use std::collections::VecDeque;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until};

use super::Control;
use super::sources::Sources;
use crate::admin::Stage;
use crate::config::{self, Address};
use crate::edits::overlay::{self, Plan};
use crate::edits::state::{self, State};
pub use crate::edits::{Addition, Change, Edit, EditRefused, Edited};
use crate::source::saved::SaveError;
use crate::source::value::rewrite::{Wanted, fresh};
use crate::source::write::{self, Write, WriteError, Written};
use crate::source::{Failure, FailureCause};

/// Edits that may wait for the state file.
const WAITING_MAX: usize = 64;
/// Edits that may wait for stores.
const WRITING_MAX: usize = 64;
/// A disk that takes longer is not waited for, though it may still do it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where an answer goes.
type Reply = oneshot::Sender<Result<Edited, EditRefused>>;

/// What operators have changed, and what waits to be.
#[derive(Debug)]
pub struct Edits {
    folder: PathBuf,
    /// In force.
    state: Arc<State>,
    /// Why the file was not taken, if it was not; then it is not written either.
    broken: Option<String>,
    changed: bool,
    waiting: VecDeque<(Edit, Reply)>,
    writing: Option<Writing>,
    /// How many tasks are at a store.
    at_stores: Arc<AtomicUsize>,
}

/// The state file is being replaced.
#[derive(Debug)]
struct Writing {
    task: JoinHandle<Result<(), SaveError>>,
    next: Arc<State>,
    edit: Edit,
    over: Option<String>,
    /// `None` when nobody waits any more.
    reply: Option<Reply>,
    give_up: Instant,
}

impl Edits {
    /// Reads the state file of a folder. One that is broken is left alone, loudly, until a reload
    /// finds it whole.
    pub fn load(folder: PathBuf) -> Edits {
        let mut edits = Edits {
            folder,
            state: Arc::default(),
            broken: None,
            changed: false,
            waiting: VecDeque::new(),
            writing: None,
            at_stores: Arc::default(),
        };
        edits.read();
        // The first table has them.
        edits.changed = false;
        edits
    }

    /// What is in force.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether that has changed since this was asked last.
    pub fn have_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Looks again at a file that was broken. What was in force stays if it is broken still.
    pub fn look_again(&mut self) {
        if self.broken.is_some() && self.writing.is_none() {
            self.read();
        }
    }

    fn read(&mut self) {
        match State::load(&self.folder) {
            Ok(state) => {
                if !state.all().is_empty() {
                    tracing::info!(edits = state.all().len(), "edits of backends are in force");
                }
                self.state = Arc::new(state);
                self.broken = None;
                self.changed = true;
            }
            Err(error) => {
                tracing::error!(%error, "the state file is not used");
                self.broken = Some(error.to_string());
            }
        }
    }

    /// Returns when the state file was written, or not. Cancel-safe; never while none is written.
    pub async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return pending().await };
        let outcome = loop {
            tokio::select! {
                outcome = &mut writing.task => break outcome,
                () = sleep_until(writing.give_up), if writing.reply.is_some() => {
                    let path = state::path(&self.folder);
                    let detail = format!("{}: not written in {PATIENCE:?}", path.display());
                    let failure = Failure { cause: FailureCause::Timeout, detail };
                    let source = "state file".to_owned();
                    answer(&mut writing.reply, Err(EditRefused::Unknown { source, failure }));
                }
            }
        };
        if let Some(writing) = self.writing.take() {
            self.finish(writing, outcome);
        }
    }

    fn finish(&mut self, writing: Writing, outcome: Result<Result<(), SaveError>, JoinError>) {
        let Writing { next, edit, over, mut reply, .. } = writing;
        let why = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let result = match why {
            None => {
                self.state = next;
                self.changed = true;
                Ok(self.in_state(over, true))
            }
            Some(why) => Err(EditRefused::State(format!(
                "{why}; runtime.state_dir has to be a folder that this process may write to"
            ))),
        };
        log(&edit, &result);
        answer(&mut reply, result);
    }

    fn in_state(&self, over: Option<String>, written: bool) -> Edited {
        Edited::InState { file: state::path(&self.folder), over, written }
    }

    /// Replaces the state file, on a thread that may wait.
    fn replace(&mut self, (edit, reply): (Edit, Reply), next: State, over: Option<String>) {
        let next = Arc::new(next);
        let (folder, text) = (self.folder.clone(), next.clone());
        let task = tokio::task::spawn_blocking(move || text.save(&folder));
        let give_up = Instant::now() + PATIENCE;
        self.writing = Some(Writing { task, next, edit, over, reply: Some(reply), give_up });
    }
}

/// What an edit is planned on.
#[derive(Debug, Clone, Copy)]
struct Ground<'a> {
    config: &'a config::Config,
    sources: &'a Sources,
    /// Whether the process goes on.
    stays: bool,
}

impl Control {
    /// Takes an edit on. The answer comes when it is known, through `reply`.
    pub(super) fn edit(&mut self, edit: Edit, reply: Reply) {
        let stays = self.phase.stage() == Stage::Ready;
        let ground = Ground { config: &self.config, sources: &self.sources, stays };
        self.edits.take((edit, reply), ground);
    }

    /// Goes on with those that waited for the state file.
    pub(super) fn edit_next(&mut self) {
        let stays = self.phase.stage() == Stage::Ready;
        let ground = Ground { config: &self.config, sources: &self.sources, stays };
        self.edits.go_on(ground);
    }
}

impl Edits {
    fn take(&mut self, asked: (Edit, Reply), ground: Ground<'_>) {
        if self.waiting.len() >= WAITING_MAX {
            return refuse(asked, EditRefused::Busy);
        }
        self.waiting.push_back(asked);
        self.go_on(ground);
    }

    /// Begins what waits, unless the state file is being written: what an edit comes to depends
    /// on the edits before it.
    fn go_on(&mut self, ground: Ground<'_>) {
        while self.writing.is_none() {
            let Some((edit, reply)) = self.waiting.pop_front() else { return };
            match self.plan(&edit, ground) {
                Err(refused) => refuse((edit, reply), refused),
                Ok(Plan::Store(sources)) => {
                    self.write_store((edit, reply), sources, ground.sources);
                }
                Ok(Plan::State { state, over }) if state == *self.state => {
                    let result = Ok(self.in_state(over, false));
                    log(&edit, &result);
                    answer(&mut Some(reply), result);
                }
                Ok(Plan::State { state, over }) => match self.may_be_kept(&state) {
                    Ok(()) => self.replace((edit, reply), state, over),
                    Err(refused) => refuse((edit, reply), refused),
                },
            }
        }
    }

    fn plan(&self, edit: &Edit, ground: Ground<'_>) -> Result<Plan, EditRefused> {
        if !ground.stays {
            return Err(EditRefused::Draining);
        }
        let pool = ground.config.pools.iter().find(|pool| pool.name == edit.pool);
        let pool = pool.ok_or_else(|| EditRefused::PoolUnknown(edit.pool.clone()))?;
        let owner = ground.sources.owner(pool, &edit.address);
        overlay::plan(edit, pool, &self.state, (owner, SystemTime::now()))
    }

    fn may_be_kept(&self, next: &State) -> Result<(), EditRefused> {
        if let Some(why) = &self.broken {
            return Err(EditRefused::State(format!(
                "the state file is not written to while it is broken: {why}; mend it or move it \
                 away, and reload"
            )));
        }
        next.check_size().map_err(EditRefused::State)
    }

    /// Has a task write to the first of these that has the backend.
    fn write_store(
        &self,
        (edit, reply): (Edit, Reply),
        sources: Vec<config::Source>,
        watched: &Sources,
    ) {
        let at_stores = self.at_stores.clone();
        if at_stores.load(Relaxed) >= WRITING_MAX {
            return refuse((edit, reply), EditRefused::Busy);
        }
        at_stores.fetch_add(1, Relaxed);
        let readers = sources.iter().map(|source| watched.reader(&edit.pool, source)).collect();
        tokio::spawn(async move {
            let result = in_store(&edit, &sources, readers).await;
            log(&edit, &result);
            answer(&mut Some(reply), result);
            at_stores.fetch_sub(1, Relaxed);
        });
    }
}

async fn in_store(
    edit: &Edit,
    sources: &[config::Source],
    readers: Vec<Option<Arc<Notify>>>,
) -> Result<Edited, EditRefused> {
    let write = write_of(&edit.change);
    for (source, reader) in sources.iter().zip(readers) {
        let label = source.kind.to_string();
        match write::write(source, &edit.address, &write).await {
            Ok(written) => {
                // Told or not, it is read: whoever edits wants to see it.
                if let Some(reader) = reader {
                    reader.notify_one();
                }
                return Ok(Edited::InStore { source: label, written: written == Written::Done });
            }
            Err(WriteError::Absent) => {}
            Err(error) => return Err(refused(edit, label, error)),
        }
    }
    Err(unknown(&edit.pool, &edit.address))
}

fn write_of(change: &Change) -> Write {
    match change {
        Change::Add(Addition { weight, state, order, .. }) => {
            Write::Add(fresh(*weight, *state, *order))
        }
        Change::Remove => Write::Remove,
        change => Write::Set(Wanted { weight: change.weight(), state: change.state() }),
    }
}

fn refused(edit: &Edit, source: String, error: WriteError) -> EditRefused {
    match error {
        WriteError::Absent => unknown(&edit.pool, &edit.address),
        WriteError::Present => {
            let (pool, address) = (edit.pool.clone(), edit.address.clone());
            EditRefused::AlreadyThere { pool, address }
        }
        WriteError::Value(why) => EditRefused::NotEditable(format!("{source}: {why}")),
        WriteError::Contended => EditRefused::Contended(source),
        WriteError::Failed(failure) => EditRefused::Store { source, failure },
        WriteError::Unknown(failure) => EditRefused::Unknown { source, failure },
    }
}

fn unknown(pool: &str, address: &Address) -> EditRefused {
    EditRefused::BackendUnknown { pool: pool.to_owned(), address: address.clone() }
}

fn refuse((edit, reply): (Edit, Reply), refused: EditRefused) {
    let result = Err(refused);
    log(&edit, &result);
    answer(&mut Some(reply), result);
}

fn answer(reply: &mut Option<Reply>, result: Result<Edited, EditRefused>) {
    if let Some(reply) = reply.take() {
        // Whoever asked may have stopped waiting.
        let _gone = reply.send(result);
    }
}

fn log(edit: &Edit, result: &Result<Edited, EditRefused>) {
    let (pool, change) = (&*edit.pool, edit.change.name());
    let backend = &edit.address;
    match result {
        Ok(Edited::InStore { source, written }) => {
            tracing::info!(pool, %backend, change, source, written, "backend edited in its store");
        }
        Ok(Edited::InState { written, .. }) => {
            tracing::info!(pool, %backend, change, written, "backend edited in the state file");
        }
        Err(refused) => {
            let reason = refused.label();
            tracing::warn!(pool, %backend, change, reason, error = %refused, "backend not edited");
        }
    }
}

#[cfg(test)]
mod tests;

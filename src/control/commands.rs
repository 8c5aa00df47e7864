//! What others ask of the control plane, and what it does about it.

use tokio::sync::oneshot;
use tracing::Level;

use super::Control;
use super::reload::{Refused, Reloaded};
use crate::edits::{Edit, EditRefused, Edited};

/// What others ask of the control plane. Whoever asks may stop waiting for the answer.
#[derive(Debug)]
pub enum Command {
    /// Read the file again and put it in force, or with `dry_run` only say what that would do.
    Reload {
        /// Change nothing.
        dry_run: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Reloaded, Refused>>,
    },
    /// Have the sources of a pool read again now.
    Refresh {
        /// Its name.
        pool: String,
        /// How many are watched.
        reply: oneshot::Sender<usize>,
    },
    /// Believe what the sources of a pool said last, whatever is held back.
    Confirm {
        /// Its name.
        pool: String,
        /// How many are watched.
        reply: oneshot::Sender<usize>,
    },
    /// Change a backend.
    Edit {
        /// Which, and how.
        edit: Edit,
        /// Where the answer goes, when it is known; a store may take its time.
        reply: oneshot::Sender<Result<Edited, EditRefused>>,
    },
    /// Set the level of the operational log, if one is given, until the next reload.
    Level {
        /// The new one.
        level: Option<Level>,
        /// The level from now on; `None` when there is no such log.
        reply: oneshot::Sender<Option<Level>>,
    },
}

impl Control {
    /// Does what is asked.
    pub(super) async fn obey(&mut self, command: Command) {
        match command {
            Command::Reload { dry_run, reply } => {
                let answer = self.reload(dry_run).await;
                let _gone = reply.send(answer);
            }
            Command::Refresh { pool, reply } => {
                let _gone = reply.send(self.sources.refresh(&pool));
            }
            Command::Confirm { pool, reply } => {
                let _gone = reply.send(self.sources.confirm(&pool));
            }
            Command::Edit { edit, reply } => self.edit(edit, reply),
            Command::Level { level, reply } => {
                if let Some(level) = level
                    && let Err(error) = self.level.set(level)
                {
                    tracing::error!(%error, "log level not changed");
                }
                let _gone = reply.send(self.level.get());
            }
        }
    }

    /// Reloads because a signal says so.
    pub(super) async fn reload_on_signal(&mut self) {
        let result = self.reload(false).await;
        let done = result.is_ok();
        let detail = match result {
            Ok(reloaded) => format!("table {}", reloaded.table),
            Err(refused) => refused.to_string(),
        };
        let note = crate::admin::audit::Note {
            who: "signal HUP".to_owned(),
            what: "reload".to_owned(),
            done,
            detail: &detail,
        };
        self.audit.note(note);
    }
}

//! The state file: edits of what no store keeps.
//!
//! ```text
//! {
//!   "corelane_edits": 1,
//!   "edits": [
//!     {"pool": "c2s", "backend": "10.0.0.1:7000", "edit": "set", "state": "drain",
//!      "at": "2026-01-31T12:00:00Z"},
//!     {"pool": "c2s", "backend": "10.0.0.2:7000", "edit": "remove", "at": "…"},
//!     {"pool": "c2s", "backend": "10.0.0.9:7000", "edit": "add", "weight": 2, "state": "ready",
//!      "at": "…"}
//!   ]
//! }
//! ```
//!
//! It may be read and, while no gateway runs, changed by hand. It is replaced as a whole or not at
//! all, and taken as a whole or not at all: a part of what somebody asked for may be worse than
//! none.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::WEIGHT_MAX;
use crate::config::{Address, BackendState};
use crate::source::merge::compare_addresses;
use crate::source::saved::{self, SaveError};

/// The only version so far.
const VERSION: u32 = 1;
/// Longest file, bytes.
pub const FILE_LEN_MAX: usize = 4 << 20;
/// Most edits that are kept.
pub const EDITS_MAX: usize = 10_000;

/// Edits that are kept, no backend of a pool twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// By pool, then by address.
    edits: Vec<Kept>,
}

/// An edit that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The pool's name.
    pub pool: String,
    /// The backend.
    pub address: Address,
    /// What was asked for, all in all.
    pub what: What,
    /// When the last of it was, by this machine's clock; whole seconds.
    pub at: SystemTime,
}

/// What all edits of a backend come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The pool has it, though neither file nor source say so.
    Added {
        /// 1 to [`WEIGHT_MAX`].
        weight: u32,
        /// Whether it takes sessions.
        state: BackendState,
    },
    /// It is otherwise than its origin says, in one thing at least.
    Set {
        /// 1 to [`WEIGHT_MAX`].
        weight: Option<u32>,
        /// Whether it takes sessions.
        state: Option<BackendState>,
    },
    /// The pool has it not, though the file says so.
    Removed,
}

/// Why a state file is not taken.
#[derive(Debug)]
pub enum StateError {
    /// It could not be read, or is too long.
    Unreadable(PathBuf, io::Error),
    /// It is no state file, or not a whole one.
    Broken(PathBuf, String),
}

impl StateError {
    /// The file.
    pub fn file(&self) -> &Path {
        match self {
            StateError::Unreadable(file, _) | StateError::Broken(file, _) => file,
        }
    }

    /// Why, without the file's name.
    pub fn why(&self) -> String {
        match self {
            StateError::Unreadable(_, error) => format!("cannot be read: {error}"),
            StateError::Broken(_, why) => format!("no whole state file: {why}"),
        }
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file().display(), self.why())
    }
}

impl std::error::Error for StateError {}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    corelane_edits: u32,
    edits: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    pool: String,
    backend: String,
    edit: Word,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<StateWord>,
    at: String,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Word {
    Add,
    Set,
    Remove,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum StateWord {
    Ready,
    Drain,
    Down,
}

impl StateWord {
    fn of(state: BackendState) -> StateWord {
        match state {
            BackendState::Ready => StateWord::Ready,
            BackendState::Drain => StateWord::Drain,
            BackendState::Down => StateWord::Down,
        }
    }

    fn state(self) -> BackendState {
        match self {
            StateWord::Ready => BackendState::Ready,
            StateWord::Drain => BackendState::Drain,
            StateWord::Down => BackendState::Down,
        }
    }
}

/// The state file in a folder.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("edits.json")
}

impl State {
    /// Reads the state file of a folder. Without one there are no edits.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn load(folder: &Path) -> Result<State, StateError> {
        let path = path(folder);
        match saved::read(&path) {
            Ok(bytes) => State::parse(&bytes).map_err(|why| StateError::Broken(path, why)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(error) => Err(StateError::Unreadable(path, error)),
        }
    }

    /// Reads the text of a state file.
    ///
    /// # Errors
    /// The first thing that is wrong with it, for people.
    pub fn parse(bytes: &[u8]) -> Result<State, String> {
        if bytes.len() > FILE_LEN_MAX {
            return Err(format!("{} bytes, {FILE_LEN_MAX} at most", bytes.len()));
        }
        let page: Page = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if page.corelane_edits != VERSION {
            return Err(format!("version {}, not {VERSION}", page.corelane_edits));
        }
        if page.edits.len() > EDITS_MAX {
            return Err(format!("{} edits, {EDITS_MAX} at most", page.edits.len()));
        }
        let edits: Result<Vec<Kept>, String> = page.edits.iter().map(Entry::kept).collect();
        let mut edits = edits?;
        edits.sort_by(|a, b| order(a, &b.pool, &b.address));
        let twice = edits.windows(2).find_map(|pair| match pair {
            [a, b] if order(a, &b.pool, &b.address).is_eq() => Some(a),
            _ => None,
        });
        match twice {
            Some(kept) => Err(format!("pool {:?}: {} twice", kept.pool, kept.address)),
            None => Ok(State { edits }),
        }
    }

    /// Replaces the state file of a folder, making the folder if there is none.
    ///
    /// # Errors
    /// When it could not be made durable; what was there before is then still there.
    pub fn save(&self, folder: &Path) -> Result<(), SaveError> {
        saved::make_durable(folder, &path(folder), self.text().as_bytes())
    }

    /// Refuses what could not be read again.
    ///
    /// # Errors
    /// What there is too much of.
    pub fn check_size(&self) -> Result<(), String> {
        if self.edits.len() > EDITS_MAX {
            return Err(format!("{} edits, {EDITS_MAX} at most", self.edits.len()));
        }
        match self.text().len() {
            len if len > FILE_LEN_MAX => Err(format!("{len} bytes, {FILE_LEN_MAX} at most")),
            _ => Ok(()),
        }
    }

    /// As it is written.
    pub fn text(&self) -> String {
        let entries: Vec<String> = self.edits.iter().map(Entry::line).collect();
        let lines: String = entries.join(",\n    ");
        let between = if entries.is_empty() { "" } else { "\n    " };
        let behind = if entries.is_empty() { "" } else { "\n  " };
        format!(
            "{{\n  \"corelane_edits\": {VERSION},\n  \"edits\": [{between}{lines}{behind}]\n}}\n"
        )
    }

    /// All of them, by pool, then by address.
    pub fn all(&self) -> &[Kept] {
        &self.edits
    }

    /// Those of a pool, by address.
    pub fn of_pool(&self, pool: &str) -> &[Kept] {
        let first = self.edits.partition_point(|kept| kept.pool.as_str() < pool);
        let end = self.edits.partition_point(|kept| kept.pool.as_str() <= pool);
        self.edits.get(first..end).unwrap_or_default()
    }

    /// That of a backend.
    pub fn find(&self, pool: &str, address: &Address) -> Option<&Kept> {
        let of_pool = self.of_pool(pool);
        let found = of_pool.binary_search_by(|kept| compare_addresses(&kept.address, address));
        found.ok().and_then(|index| of_pool.get(index))
    }

    /// The same with this one in place of any other of its backend.
    pub fn with(&self, kept: Kept) -> State {
        let mut state = self.without(&kept.pool, &kept.address);
        let place =
            state.edits.partition_point(|other| order(other, &kept.pool, &kept.address).is_lt());
        state.edits.insert(place, kept);
        state
    }

    /// The same with none of this backend.
    pub fn without(&self, pool: &str, address: &Address) -> State {
        let stays = |kept: &&Kept| !order(kept, pool, address).is_eq();
        State { edits: self.edits.iter().filter(stays).cloned().collect() }
    }
}

fn order(kept: &Kept, pool: &str, address: &Address) -> std::cmp::Ordering {
    kept.pool.as_str().cmp(pool).then_with(|| compare_addresses(&kept.address, address))
}

impl Entry {
    fn kept(&self) -> Result<Kept, String> {
        let name = format!("pool {:?}: {:?}", self.pool, self.backend);
        let address: Address = match self.backend.parse() {
            Ok(Address::Tcp(tcp)) if tcp.port() == 0 => return Err(format!("{name}: port 0")),
            Ok(address) => address,
            Err(error) => return Err(format!("{name}: {error}")),
        };
        if let Some(weight) = self.weight
            && !(1..=WEIGHT_MAX).contains(&weight)
        {
            return Err(format!("{name}: weight {weight} is not from 1 to {WEIGHT_MAX}"));
        }
        let state = self.state.map(StateWord::state);
        let what = match (self.edit, self.weight, state) {
            (Word::Add, weight, state) => What::Added {
                weight: weight.unwrap_or(1),
                state: state.unwrap_or(BackendState::Ready),
            },
            (Word::Set, None, None) => return Err(format!("{name}: sets nothing")),
            (Word::Set, weight, state) => What::Set { weight, state },
            (Word::Remove, None, None) => What::Removed,
            (Word::Remove, ..) => return Err(format!("{name}: removed, and yet has settings")),
        };
        let at = humantime::parse_rfc3339(&self.at)
            .map_err(|error| format!("{name}: at {:?}: {error}", self.at))?;
        Ok(Kept { pool: self.pool.clone(), address, what, at })
    }

    /// A line of the file.
    fn line(kept: &Kept) -> String {
        let (edit, weight, state) = match kept.what {
            What::Added { weight, state } => (Word::Add, Some(weight), Some(state)),
            What::Set { weight, state } => (Word::Set, weight, state),
            What::Removed => (Word::Remove, None, None),
        };
        let entry = Entry {
            pool: kept.pool.clone(),
            backend: kept.address.to_string(),
            edit,
            weight,
            state: state.map(StateWord::of),
            at: humantime::format_rfc3339_seconds(kept.at).to_string(),
        };
        // Texts and numbers can always be put into JSON.
        serde_json::to_string(&entry).unwrap_or_default()
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |state: &BackendState| match state {
            BackendState::Ready => "ready",
            BackendState::Drain => "drain",
            BackendState::Down => "down",
        };
        match self {
            What::Added { weight, state } => {
                write!(f, "added, weight {weight}, {}", named(state))
            }
            What::Set { weight: Some(weight), state: Some(state) } => {
                write!(f, "weight {weight}, {}", named(state))
            }
            What::Set { weight: Some(weight), state: None } => write!(f, "weight {weight}"),
            What::Set { weight: None, state: Some(state) } => f.write_str(named(state)),
            What::Set { weight: None, state: None } => f.write_str("nothing"),
            What::Removed => f.write_str("removed"),
        }
    }
}

#[cfg(test)]
mod tests;

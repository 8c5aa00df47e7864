//! Changes of backends that an operator asks for while the gateway runs, and where they go: to
//! where the truth lives.
//!
//! A backend that a pool has from Redis or etcd is edited there, so that every gateway follows. One
//! that the configuration file pins is edited in a state file (`edits/state.rs`), which survives a
//! restart and is laid over the file. Sources that nobody writes to (Consul, DNS, a file) keep
//! their members; what is asked of one of those is laid over it in the state file as well.
//!
//! Here are the words for it and the pure decisions; `control/edits.rs` carries them out.

pub mod overlay;
pub mod state;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::{Address, BackendState};
use crate::source::{Failure, FailureCause};

/// Largest weight of a backend.
pub const WEIGHT_MAX: u32 = 65_535;

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Name of the pool.
    pub pool: String,
    /// The backend.
    pub address: Address,
    /// What is to become of it.
    pub change: Change,
}

/// A change of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The pool gets a backend that it does not have.
    Add(Addition),
    /// The pool loses it. Its sessions are treated as the pool's `on_remove` says.
    Remove,
    /// Another relative share, 1 to 65,535; its state stays.
    Weight(u32),
    /// Takes no new sessions, and its old ones are treated as the pool's `on_remove` says.
    Drain,
    /// Takes sessions again.
    Ready,
    /// Takes no sessions.
    Down,
}

/// A backend that is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addition {
    /// Relative share, 1 to 65,535.
    pub weight: u32,
    /// What it is to begin with.
    pub state: BackendState,
    /// Its place among the others; only a store keeps one.
    pub order: Option<i64>,
    /// Which source of the pool gets it, counted from 0 as in the configuration file. Without: the
    /// first in Redis or etcd, or the state file if there is none.
    pub source: Option<usize>,
}

impl Default for Addition {
    fn default() -> Addition {
        Addition { weight: 1, state: BackendState::Ready, order: None, source: None }
    }
}

impl Change {
    /// For log lines and the audit log.
    pub fn name(&self) -> &'static str {
        match self {
            Change::Add(_) => "add",
            Change::Remove => "remove",
            Change::Weight(_) => "weight",
            Change::Drain => "drain",
            Change::Ready => "ready",
            Change::Down => "down",
        }
    }

    /// The state that it asks for, if it is one that does.
    pub fn state(&self) -> Option<BackendState> {
        match self {
            Change::Drain => Some(BackendState::Drain),
            Change::Ready => Some(BackendState::Ready),
            Change::Down => Some(BackendState::Down),
            Change::Add(_) | Change::Remove | Change::Weight(_) => None,
        }
    }

    /// The weight that it asks for, if it asks for one.
    pub fn weight(&self) -> Option<u32> {
        match self {
            Change::Weight(weight) => Some(*weight),
            _ => None,
        }
    }
}

/// Where an edit went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "where")]
pub enum Edited {
    /// The store has it; this gateway's table follows as with any change of the store.
    InStore {
        /// The source: kind and place, without secrets.
        source: String,
        /// Whether the store was written to; `false`: it said so already.
        written: bool,
    },
    /// The state file has it, and the table is in force.
    InState {
        /// The file.
        file: PathBuf,
        /// The source whose member it is laid over, if it is not the configuration file's: other
        /// gateways do not follow.
        over: Option<String>,
        /// Whether anything is different; `false`: it was so already.
        written: bool,
    },
}

/// Why nothing was changed; of [`EditRefused::Unknown`], why it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditRefused {
    /// There is no pool of this name.
    PoolUnknown(String),
    /// The pool has no such backend.
    BackendUnknown {
        /// The pool's name.
        pool: String,
        /// The backend.
        address: Address,
    },
    /// The pool has this backend already.
    AlreadyThere {
        /// The pool's name.
        pool: String,
        /// The backend.
        address: Address,
    },
    /// What is asked for makes no sense, for the reason given.
    Invalid(String),
    /// Nobody writes where this backend comes from, for the reason given.
    NotEditable(String),
    /// The store did not take it.
    Store {
        /// The source: kind and place, without secrets.
        source: String,
        /// What went wrong.
        failure: Failure,
    },
    /// The store was told, and did not say whether it has done it.
    Unknown {
        /// The source: kind and place, without secrets.
        source: String,
        /// What went wrong.
        failure: Failure,
    },
    /// Others changed the same thing every time we tried.
    Contended(String),
    /// The state file cannot be written, or is broken, for the reason given.
    State(String),
    /// Too many edits wait.
    Busy,
    /// This process is ending.
    Draining,
}

impl EditRefused {
    /// For metrics, log lines and JSON.
    pub fn label(&self) -> &'static str {
        match self {
            EditRefused::PoolUnknown(_) => "pool_unknown",
            EditRefused::BackendUnknown { .. } => "backend_unknown",
            EditRefused::AlreadyThere { .. } => "already_there",
            EditRefused::Invalid(_) => "invalid",
            EditRefused::NotEditable(_) => "not_editable",
            EditRefused::Store { failure, .. } => match failure.cause {
                FailureCause::Timeout => "store_timeout",
                FailureCause::Denied => "store_denied",
                FailureCause::Unreachable => "store_unreachable",
                FailureCause::Unavailable => "store_unavailable",
                FailureCause::Missing | FailureCause::Malformed => "store_refused",
            },
            EditRefused::Unknown { .. } => "unknown",
            EditRefused::Contended(_) => "contended",
            EditRefused::State(_) => "state_file",
            EditRefused::Busy => "busy",
            EditRefused::Draining => "draining",
        }
    }

    /// The status of an HTTP answer that says so.
    pub fn http_status(&self) -> u16 {
        match self {
            EditRefused::PoolUnknown(_) | EditRefused::BackendUnknown { .. } => 404,
            EditRefused::AlreadyThere { .. }
            | EditRefused::NotEditable(_)
            | EditRefused::Contended(_) => 409,
            EditRefused::Invalid(_) => 422,
            EditRefused::Store { failure, .. } => match failure.cause {
                FailureCause::Timeout => 504,
                _ => 502,
            },
            EditRefused::Unknown { .. } => 504,
            EditRefused::State(_) => 500,
            EditRefused::Busy | EditRefused::Draining => 503,
        }
    }
}

impl fmt::Display for EditRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EditRefused::PoolUnknown(pool) => write!(f, "no pool is called {pool:?}"),
            EditRefused::BackendUnknown { pool, address } => {
                write!(f, "pool {pool} has no backend {address}")
            }
            EditRefused::AlreadyThere { pool, address } => {
                write!(f, "pool {pool} has the backend {address} already")
            }
            EditRefused::Invalid(why) | EditRefused::NotEditable(why) | EditRefused::State(why) => {
                f.write_str(why)
            }
            EditRefused::Store { source, failure } => write!(f, "{source}: {failure}"),
            EditRefused::Unknown { source, failure } => {
                write!(f, "{source}: not known whether it was done: {failure}")
            }
            EditRefused::Contended(source) => {
                write!(f, "{source}: others changed it every time; nothing was changed")
            }
            EditRefused::Busy => f.write_str("too many edits wait; try again"),
            EditRefused::Draining => f.write_str("this process is draining"),
        }
    }
}

impl std::error::Error for EditRefused {}

impl Edit {
    /// Refuses what makes no sense, whatever the pool is.
    ///
    /// # Errors
    /// [`EditRefused::Invalid`].
    pub fn check(&self) -> Result<(), EditRefused> {
        if matches!(&self.address, Address::Tcp(tcp) if tcp.port() == 0) {
            return Err(EditRefused::Invalid(format!("{}: port 0 is no backend's", self.address)));
        }
        let weight = match &self.change {
            Change::Add(addition) => Some(addition.weight),
            change => change.weight(),
        };
        match weight {
            Some(weight) if !(1..=WEIGHT_MAX).contains(&weight) => {
                Err(EditRefused::Invalid(format!("weight {weight} is not from 1 to {WEIGHT_MAX}")))
            }
            _ => Ok(()),
        }
    }
}

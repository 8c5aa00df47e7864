//! A source as the admin interface and the metrics page show it.

use std::time::Instant;

use super::guard::State;
use super::{Failure, FailureCause};

/// What is counted of a source.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Sets read.
    pub readings: u64,
    /// Failures, by [`FailureCause`].
    pub failures: [u64; FailureCause::ALL.len()],
    /// Sets put in force.
    pub publications: u64,
}

/// A source as the pages show it.
#[derive(Debug, Clone)]
pub struct SourceView {
    /// Name of its pool.
    pub pool: String,
    /// Kind and place, without secrets.
    pub label: String,
    /// How much its set is worth.
    pub state: State,
    /// When the store was heard last.
    pub heard: Option<Instant>,
    /// Whether the set in force was saved by an earlier run, and the store not heard since.
    pub restored: bool,
    /// In force; `None` before there is any set.
    pub members: Option<usize>,
    /// Entries of the last reading that are no members, as `ENTRY: why`.
    pub rejected: Vec<String>,
    /// What the store calls the state that was read last.
    pub revision: Option<String>,
    /// What went wrong, while it is.
    pub failure: Option<Failure>,
    /// Members that are gone from the store, but not believed to be.
    pub held: usize,
    /// Whether the store says that there are no members, and that is not believed.
    pub empty_kept: bool,
    /// Counters.
    pub counts: Counts,
}

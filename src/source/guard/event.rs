//! What a guard is told at first, and what it says.

use std::time::Duration;

use crate::config::{OnEmpty, Source};

/// The settings of a source that decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// What an empty answer means.
    pub on_empty: OnEmpty,
    /// Largest share that may vanish at once, in percent.
    pub max_removal_percent: u32,
    /// How long more than that has to be away.
    pub removal_delay: Duration,
    /// How long changes are gathered; zero damps nothing.
    pub settle: Duration,
    /// Without a reading for this long the source is stale, or failed.
    pub stale_after: Duration,
}

impl From<&Source> for Rules {
    fn from(source: &Source) -> Rules {
        Rules {
            on_empty: source.on_empty,
            max_removal_percent: source.max_removal_percent,
            removal_delay: source.removal_delay,
            settle: source.settle,
            stale_after: source.stale_after,
        }
    }
}

/// How much a source's set is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing was read, and nothing has gone wrong yet.
    Cold,
    /// The last word of the store was a reading, not longer ago than `stale_after`.
    Fresh,
    /// The store does not answer, or was silent for `stale_after`.
    Stale,
    /// The store does not answer, and there is no reading younger than `stale_after`.
    Failed,
}

impl State {
    /// Every state, in the order of decay.
    pub const ALL: [State; 4] = [State::Cold, State::Fresh, State::Stale, State::Failed];

    /// A metric label.
    pub fn name(self) -> &'static str {
        match self {
            State::Cold => "cold",
            State::Fresh => "fresh",
            State::Stale => "stale",
            State::Failed => "failed",
        }
    }
}

/// Something worth a log line or a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Another set is in force.
    Published(Change),
    /// The source is worth more, or less.
    State {
        /// Until now.
        from: State,
        /// From now on.
        to: State,
    },
    /// The store says that there are no members; so many stay in force. Once per such spell.
    EmptyKept(usize),
    /// More vanished than is believed. Once per such spell.
    RemovalHeld(Held),
    /// Nothing is held back any more: it came back, or it was believed.
    RemovalOver,
}

/// What a publication changed, in members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Not there before.
    pub added: usize,
    /// Not there any more.
    pub removed: usize,
    /// With another weight, state or order.
    pub changed: usize,
    /// In force now.
    pub members: usize,
}

/// What is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Members that the store does not have any more.
    pub members: usize,
    /// Of so many in force.
    pub of: usize,
}

//! Lookups: from a name that callers say to the addresses that DNS or a Redis has for it.
//!
//! ```text
//! session ── name ──► cache of the shard ── hit ──► address
//!                        │ miss: waits             ▲
//!                        ▼                         │ mailbox
//!                  control plane: one question for all shards, DNS or Redis
//! ```
//!
//! A shard answers what it remembers by itself; only a name that it does not know, or knows no
//! longer, costs a way to the control plane. What is remembered, and for how long, is decided in
//! [`cache`], which has neither clock nor sockets.

pub mod cache;
pub mod name;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use self::name::LookupName;
use crate::config::Address;
use crate::http::value::Unfit;
use crate::source::FailureCause;
use crate::table::Backend;

/// Most addresses of one name that are used; further ones are not looked at.
pub const ADDRESSES_MAX: usize = 32;

/// Most questions that a lookup's store is asked at the same time; further ones wait.
pub const QUESTIONS_AT_ONCE: usize = 256;

/// What a name stands for.
#[derive(Debug)]
pub struct Found {
    /// At least one, at most [`ADDRESSES_MAX`], no address twice. An address is the same backend
    /// for every name of a lookup and on every shard.
    pub backends: Box<[Arc<Backend>]>,
}

impl Found {
    /// The backend for an attempt: addresses in turn, from one that `turn` chooses.
    pub fn backend(&self, turn: usize, attempt: usize) -> Option<&Arc<Backend>> {
        let count = self.backends.len();
        self.backends.get(turn.wrapping_add(attempt).checked_rem(count)?)
    }

    /// The addresses.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.backends.iter().filter_map(|backend| match backend.address {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
        })
    }
}

/// What a store says about a name, or that it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<F> {
    /// There it is.
    Found {
        /// What was found.
        found: F,
        /// How long it is used without asking again.
        fresh_for: Duration,
    },
    /// The store says that there is nothing.
    Nothing {
        /// How long that is believed.
        fresh_for: Duration,
    },
    /// What the store says is not allowed, or no address.
    Refused {
        /// Why.
        unfit: Unfit,
        /// How long that is remembered.
        fresh_for: Duration,
    },
    /// There is no answer.
    Failed(Cause),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The store's fault, or its network's.
    Store(FailureCause),
    /// Too many other questions wait for an answer.
    Busy,
}

impl Cause {
    /// Every cause; `ALL[cause.index()] == cause`.
    pub const ALL: [Cause; 7] = [
        Cause::Store(FailureCause::Unreachable),
        Cause::Store(FailureCause::Timeout),
        Cause::Store(FailureCause::Denied),
        Cause::Store(FailureCause::Missing),
        Cause::Store(FailureCause::Malformed),
        Cause::Store(FailureCause::Unavailable),
        Cause::Busy,
    ];

    /// Its place in [`Cause::ALL`].
    pub fn index(self) -> usize {
        match self {
            Cause::Store(cause) => cause as usize,
            Cause::Busy => FailureCause::ALL.len(),
        }
    }

    /// The metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Store(cause) => cause.name(),
            Cause::Busy => "busy",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An answer on its way to a shard.
#[derive(Debug, Clone)]
pub struct Answered {
    /// [`crate::table::Lookup::id`] of the lookup.
    pub lookup: u64,
    /// What was asked.
    pub name: LookupName,
    /// What came of it.
    pub answer: Answer<Arc<Found>>,
}

/// What a shard should not believe any longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forget {
    /// Every name with this key, which has changed.
    Key(Arc<[u8]>),
    /// Everything: changes may have gone untold, or a store that failed is back.
    Everything,
}

/// A question of one shard on its way to the control plane.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What is asked.
    pub name: LookupName,
    /// Index of the shard that wants to know.
    pub shard: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_their_places() {
        for (index, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause.index(), index);
        }
    }
}

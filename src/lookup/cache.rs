//! What one shard remembers of one lookup. Pure: time and chance are arguments.
//!
//! An answer is used while it is fresh. In the last tenth or two of that time whoever uses it has
//! it asked for again, in the background. What is over is asked for, and whoever wants it waits;
//! if there is no answer, the old one goes on being used for as long as `stale` allows, and those
//! who come meanwhile do not wait (RFC 8767). That there is nothing is remembered too, and so is
//! for a second that there was no answer (RFC 9520).
//!
//! The number of names is bounded. Of more, those go that were not used since the hand of a clock
//! passed them last (CLOCK: Corbató, "A Paging Experiment with the Multics System", 1968): a flood
//! of names that are used once takes little from those that are used often.

use std::collections::HashMap;
use std::time::Duration;

use smallvec::SmallVec;

use super::{Answer, Cause, LookupName};
use crate::config::{Lookup, LookupKind};
use crate::http::value::Unfit;
use crate::shard::wheel::{Tick, ticks};

/// How long a failure to get an answer is remembered.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// Longest time between two questions about an answer that is used beyond its time (RFC 8767 has
/// 30 s).
const RECHECK_MAX: Duration = Duration::from_secs(30);
/// A question is asked again if nobody answered it for the lookup's `timeout` and this long: it
/// was lost, which cannot happen.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most who wait for one lookup on one shard.
const WAITING_MAX: usize = 65_536;

/// How a cache behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Names remembered, at least 1.
    pub entries_max: usize,
    /// How long an answer that is over is used while nobody gives another.
    pub stale: Duration,
    /// Of one question.
    pub timeout: Duration,
    /// Whether [`Cache::forget`] is to find names by their keys.
    pub by_key: bool,
}

impl Terms {
    /// Those of a configured lookup.
    pub fn of(lookup: &Lookup) -> Terms {
        Terms {
            entries_max: lookup.entries_max,
            stale: lookup.stale,
            timeout: lookup.timeout,
            by_key: matches!(lookup.kind, LookupKind::Redis(_)),
        }
    }
}

/// What is known of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known<F> {
    /// There it is.
    Found(F),
    /// There is nothing.
    Nothing,
    /// There is something that is not allowed.
    Refused(Unfit),
    /// Nobody could say.
    Failed(Cause),
}

/// What a cache says when it is asked for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got<F> {
    /// This.
    Hit {
        /// What is known.
        known: Known<F>,
        /// It is over, and nobody gave another.
        stale: bool,
        /// The store is to be asked: for the next caller.
        ask: bool,
    },
    /// The caller waits.
    Wait {
        /// The store is to be asked; otherwise it has been.
        ask: bool,
    },
    /// So many wait already that this one cannot.
    Full,
}

/// What those get who waited for a name.
#[derive(Debug)]
pub struct Resolved<F, W> {
    /// Who waited.
    pub waiters: Vec<W>,
    /// What is known.
    pub known: Known<F>,
    /// It is over, and nobody gave another.
    pub stale: bool,
}

/// What a cache did by itself.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Names that went for others.
    pub evicted: u64,
    /// Names that were told to be out of date.
    pub forgotten: u64,
}

#[derive(Debug)]
struct Entry<F, W> {
    name: LookupName,
    known: Option<Known<F>>,
    /// The first tick at which it is over.
    fresh_until: Tick,
    /// The first tick at which it should be asked for again.
    refresh_at: Tick,
    /// The first tick at which it is of no use any more.
    stale_until: Tick,
    answered_at: Tick,
    /// When the question was asked to which there is no answer yet.
    asked_at: Option<Tick>,
    /// Questions without an answer, in a row.
    failures: u32,
    /// After a failure: when the store is asked again.
    recheck_at: Tick,
    /// Since the hand passed.
    used: bool,
    /// Since the last answer.
    wanted: bool,
    waiters: Vec<W>,
}

/// Answers of one lookup on one shard; `F` is what is found, `W` who waits for it.
#[derive(Debug)]
pub struct Cache<F, W> {
    terms: Terms,
    entries: Vec<Entry<F, W>>,
    names: HashMap<LookupName, usize>,
    /// Names by key, if the terms want it.
    keys: HashMap<Box<[u8]>, SmallVec<[usize; 2]>>,
    hand: usize,
    waiting: usize,
    counts: Counts,
}

impl<F: Clone, W> Cache<F, W> {
    /// Knows nothing.
    pub fn new(terms: Terms) -> Cache<F, W> {
        Cache {
            terms,
            entries: Vec::new(),
            names: HashMap::new(),
            keys: HashMap::new(),
            hand: 0,
            waiting: 0,
            counts: Counts::default(),
        }
    }

    /// What is known of a name at tick `now`. Who has to wait does so as `waiter`.
    pub fn get(&mut self, name: &LookupName, now: Tick, waiter: impl FnOnce() -> W) -> Got<F> {
        let Some(&index) = self.names.get(name) else {
            return self.wait_for_new(name, now, waiter);
        };
        let Some(entry) = self.entries.get_mut(index) else { return Got::Full };
        entry.used = true;
        entry.wanted = true;
        let patience = ticks(self.terms.timeout).saturating_add(ticks(PATIENCE));
        let asked = entry.asked_at.is_some_and(|at| now < at.saturating_add(patience));
        if let Some(known) = &entry.known {
            let known = known.clone();
            let is_found = matches!(known, Known::Found(_));
            let hit = if now < entry.fresh_until {
                Some((false, is_found && now >= entry.refresh_at))
            } else if is_found && entry.failures > 0 && now < entry.stale_until {
                Some((true, now >= entry.recheck_at))
            } else {
                None
            };
            if let Some((stale, ask)) = hit {
                let ask = ask && !asked;
                if ask {
                    entry.asked_at = Some(now);
                }
                return Got::Hit { known, stale, ask };
            }
        }
        if self.waiting >= WAITING_MAX {
            return Got::Full;
        }
        self.waiting += 1;
        entry.waiters.push(waiter());
        if !asked {
            entry.asked_at = Some(now);
        }
        Got::Wait { ask: !asked }
    }

    fn wait_for_new(&mut self, name: &LookupName, now: Tick, waiter: impl FnOnce() -> W) -> Got<F> {
        if self.waiting >= WAITING_MAX {
            return Got::Full;
        }
        let entry = Entry {
            name: name.clone(),
            known: None,
            fresh_until: 0,
            refresh_at: 0,
            stale_until: 0,
            answered_at: 0,
            asked_at: Some(now),
            failures: 0,
            recheck_at: 0,
            used: false,
            wanted: true,
            waiters: vec![waiter()],
        };
        let index = if self.entries.len() < self.terms.entries_max {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let Some(index) = self.victim() else { return Got::Full };
            let Some(place) = self.entries.get_mut(index) else { return Got::Full };
            let gone = std::mem::replace(place, entry);
            self.unname(&gone.name, index);
            self.counts.evicted += 1;
            index
        };
        self.waiting += 1;
        self.names.insert(name.clone(), index);
        if self.terms.by_key {
            self.keys.entry(name.key().into()).or_default().push(index);
        }
        Got::Wait { ask: true }
    }

    /// The place of an entry that nobody waits for, and that was not used since the hand passed
    /// it; the hand goes round twice at most. `None`: somebody waits for each.
    fn victim(&mut self) -> Option<usize> {
        let count = self.entries.len();
        for _ in 0..count.saturating_mul(2) {
            let index = self.hand;
            self.hand = (self.hand + 1) % count;
            let entry = self.entries.get_mut(index)?;
            if entry.waiters.is_empty() && !std::mem::take(&mut entry.used) {
                return Some(index);
            }
        }
        None
    }

    fn unname(&mut self, name: &LookupName, index: usize) {
        self.names.remove(name);
        if let Some(indices) = self.keys.get_mut(name.key()) {
            indices.retain(|other| *other != index);
            if indices.is_empty() {
                self.keys.remove(name.key());
            }
        }
    }

    /// Takes an answer. `chance`, uniform in 0 to 1, spreads when it is asked for again. `None`:
    /// the name is not remembered any more, and nobody waited for it.
    pub fn answer(
        &mut self,
        name: &LookupName,
        answer: Answer<F>,
        (now, chance): (Tick, f64),
    ) -> Option<Resolved<F, W>> {
        let index = *self.names.get(name)?;
        let entry = self.entries.get_mut(index)?;
        entry.asked_at = None;
        entry.answered_at = now;
        let mut stale = false;
        let (known, fresh_for) = match answer {
            Answer::Found { found, fresh_for } => (Known::Found(found), fresh_for),
            Answer::Nothing { fresh_for } => (Known::Nothing, fresh_for),
            Answer::Refused { unfit, fresh_for } => (Known::Refused(unfit), fresh_for),
            Answer::Failed(cause) => match entry.known.take() {
                // Fresh still: it was asked for early.
                Some(Known::Found(found)) if now < entry.stale_until => {
                    let doubled = FAILED_FOR.saturating_mul(1 << entry.failures.min(8));
                    entry.recheck_at = now.saturating_add(ticks(doubled.min(RECHECK_MAX)));
                    entry.refresh_at = entry.recheck_at;
                    entry.failures = entry.failures.saturating_add(1);
                    stale = now >= entry.fresh_until;
                    (Known::Found(found), Duration::ZERO)
                }
                _ => (Known::Failed(cause), FAILED_FOR),
            },
        };
        if !fresh_for.is_zero() || !matches!(known, Known::Found(_)) {
            let life = ticks(fresh_for);
            entry.fresh_until = now.saturating_add(life);
            entry.refresh_at = now.saturating_add((f64::from(life) * (0.8 + 0.1 * chance)) as Tick);
            entry.stale_until = match self.terms.stale.is_zero() {
                true => entry.fresh_until,
                false => entry.fresh_until.saturating_add(ticks(self.terms.stale)),
            };
            entry.failures = 0;
        }
        entry.wanted = false;
        entry.known = Some(known.clone());
        let waiters = std::mem::take(&mut entry.waiters);
        self.waiting = self.waiting.saturating_sub(waiters.len());
        Some(Resolved { waiters, known, stale })
    }

    /// What is known of a name did not serve: the next who uses it has it asked for again, unless
    /// it was answered within the last second.
    pub fn doubt(&mut self, name: &LookupName, now: Tick) {
        let index = self.names.get(name);
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(*index)) {
            let earliest = entry.answered_at.saturating_add(ticks(FAILED_FOR)).max(now);
            entry.refresh_at = entry.refresh_at.min(earliest);
        }
    }

    /// Something with this key has changed. What of it was used since it was asked for last is to
    /// be asked for at once: the names.
    pub fn forget(&mut self, key: &[u8], now: Tick) -> Vec<LookupName> {
        let mut again = Vec::new();
        for index in self.keys.get(key).into_iter().flatten() {
            let Some(entry) = self.entries.get_mut(*index) else { continue };
            if entry.known.is_none() {
                continue;
            }
            self.counts.forgotten += 1;
            entry.expire(now);
            if entry.wanted && entry.asked_at.is_none() {
                entry.asked_at = Some(now);
                again.push(entry.name.clone());
            }
        }
        again
    }

    /// Nothing is fresh any more, and nobody is known not to answer.
    pub fn forget_everything(&mut self, now: Tick) {
        for entry in &mut self.entries {
            entry.expire(now);
        }
        self.counts.forgotten += self.entries.len() as u64;
    }

    /// Names that are remembered, asked for ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Callers that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// What happened since this was asked last.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Whether everything in here fits together.
    #[cfg(test)]
    fn check_invariants(&self) {
        assert!(self.entries.len() <= self.terms.entries_max);
        assert_eq!(self.names.len(), self.entries.len());
        let waiting: usize = self.entries.iter().map(|entry| entry.waiters.len()).sum();
        assert_eq!(self.waiting, waiting);
        let keyed: usize = self.keys.values().map(|indices| indices.len()).sum();
        assert_eq!(keyed, if self.terms.by_key { self.entries.len() } else { 0 });
        for (index, entry) in self.entries.iter().enumerate() {
            assert_eq!(self.names.get(&entry.name), Some(&index));
            assert!(entry.waiters.is_empty() || entry.asked_at.is_some(), "nobody asks for it");
            let keyed = self.keys.get(entry.name.key()).is_some_and(|all| all.contains(&index));
            assert_eq!(keyed, self.terms.by_key);
        }
    }
}

impl<F, W> Entry<F, W> {
    fn expire(&mut self, now: Tick) {
        self.fresh_until = self.fresh_until.min(now);
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests;

//! The audit log: every change that somebody asked for, who, when, and what came of it. The newest
//! are kept here; all of them are in the operational log.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

/// Entries kept; older ones are in the operational log only.
pub const ENTRIES_MAX: usize = 1_000;
/// Longest detail that is kept, bytes.
const DETAIL_LEN_MAX: usize = 1_000;

/// One change, or an attempt at it.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Rises by one with each; the first is 1.
    pub number: u64,
    /// When it was answered, RFC 3339.
    pub time: String,
    /// Who asked: a token's name, an address, a user, or a signal.
    pub who: String,
    /// What was asked for, as a request's method and path.
    pub what: String,
    /// `done` or `refused`.
    pub result: &'static str,
    /// Why it was refused, or what was done.
    pub detail: String,
}

/// The newest entries.
#[derive(Debug, Default)]
pub struct Audit {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    last: u64,
}

/// What is to be noted.
#[derive(Debug)]
pub struct Note<'a> {
    /// Who asked.
    pub who: String,
    /// For what.
    pub what: String,
    /// Whether it was done.
    pub done: bool,
    /// Why not, or what exactly.
    pub detail: &'a str,
}

impl Audit {
    /// Notes what was done or refused.
    pub fn note(&self, note: Note<'_>) {
        let Note { who, what, done, detail } = note;
        let result = if done { "done" } else { "refused" };
        tracing::info!(who, what, result, detail, "audit");
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let detail = shortened(detail, DETAIL_LEN_MAX).to_owned();
        let mut kept = self.kept();
        kept.last += 1;
        let number = kept.last;
        if kept.entries.len() == ENTRIES_MAX {
            kept.entries.pop_front();
        }
        kept.entries.push_back(Entry { number, time, who, what, result, detail });
    }

    /// The newest `limit`, newest first.
    pub fn newest(&self, limit: usize) -> Vec<Entry> {
        self.kept().entries.iter().rev().take(limit).cloned().collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nobody can panic while holding it; should that change, the entries are still whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The beginning of a text, as many bytes of it as end with a character.
pub(super) fn shortened(text: &str, len_max: usize) -> &str {
    let end = (0..=len_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entries_go_first_and_numbers_go_on() {
        let audit = Audit::default();
        let long = "ü".repeat(DETAIL_LEN_MAX);
        for index in 0..ENTRIES_MAX + 5 {
            let what = format!("change {index}");
            audit.note(Note { who: "me".to_owned(), what, done: index % 2 == 0, detail: &long });
        }
        let newest = audit.newest(2);
        assert_eq!(newest[0].number, ENTRIES_MAX as u64 + 5);
        assert_eq!((newest[0].what.as_str(), newest[0].result), ("change 1004", "done"));
        assert_eq!(newest[1].result, "refused");
        assert_eq!(newest[0].detail.len(), DETAIL_LEN_MAX);
        let all = audit.newest(usize::MAX);
        assert_eq!((all.len(), all[ENTRIES_MAX - 1].number), (ENTRIES_MAX, 6));
    }
}

//! Our copy of a prefix. Pure: what the store says goes in, sets come out.
//!
//! The copy is always that of one revision: etcd sends all events of a revision together, in
//! several pieces only if it says so, and pieces are kept until the last has come.

use std::collections::BTreeMap;

use super::wire::{DELETE, KeyValue, ResponseHeader, WatchResponse};
use crate::source::value::{self, ENTRIES_MAX, VALUE_LEN_MAX};
use crate::source::{Failure, FailureCause, Member, Reading, Rejected};

/// Longest sum of all names under the prefix, bytes. Values are not kept, names have to be: a
/// deletion says no more than the name.
const NAMES_LEN_MAX: usize = 32 << 20;
/// Most events of which one revision (or a few, when catching up) may consist. etcd's own limit of
/// operations in a transaction is 128 unless somebody raised it; a lease or a range deletion may
/// take away the whole prefix.
const EVENTS_MAX: usize = 4 * ENTRIES_MAX;

/// A copy of the keys under a prefix.
#[derive(Debug)]
pub struct Mirror {
    prefix: Vec<u8>,
    entries: BTreeMap<Vec<u8>, Result<Member, Rejected>>,
    names_len: usize,
    /// Everything up to here is in it.
    revision: i64,
    cluster: u64,
    /// Of a revision whose events have not all come.
    pieces: Vec<Piece>,
}

/// A change that has not been made yet.
#[derive(Debug)]
struct Piece {
    deletes: bool,
    kv: KeyValue,
}

/// What an answer of a watch means to the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The set is another.
    Changed,
    /// The set is as it was.
    Same,
    /// More of it has to come.
    Partial,
    /// The copy cannot be continued: read everything again.
    Restart(&'static str),
    /// The store has ended the watch, for this reason.
    Ended(String),
}

impl Mirror {
    /// An empty copy of no revision.
    pub fn new(prefix: &str) -> Mirror {
        Mirror {
            prefix: prefix.as_bytes().to_vec(),
            entries: BTreeMap::new(),
            names_len: 0,
            revision: 0,
            cluster: 0,
            pieces: Vec::new(),
        }
    }

    /// First revision that is not in the copy.
    pub fn next_revision(&self) -> i64 {
        self.revision.saturating_add(1)
    }

    /// Whether events after [`Mirror::next_revision`] are all that the copy lacks, going by an
    /// answer of the store that counted the keys.
    pub fn continues_at(&self, header: &ResponseHeader, count: i64) -> bool {
        let same_store = self.revision > 0 && self.cluster == header.cluster_id;
        let same_count = usize::try_from(count) == Ok(self.entries.len());
        // Behind us: a backup was restored, or another store is at this address.
        same_store
            && header.revision >= self.revision
            && (header.revision > self.revision || same_count)
    }

    /// Puts the whole prefix in, as of one revision.
    ///
    /// # Errors
    /// When there is more of it than anybody can mean.
    pub fn fill(&mut self, header: &ResponseHeader, kvs: Vec<KeyValue>) -> Result<Step, Failure> {
        let before = std::mem::take(&mut self.entries);
        self.names_len = 0;
        self.pieces.clear();
        for kv in &kvs {
            self.put(kv);
        }
        (self.revision, self.cluster) = (header.revision, header.cluster_id);
        self.check()?;
        Ok(if self.entries == before { Step::Same } else { Step::Changed })
    }

    /// Takes an answer of the watch.
    ///
    /// # Errors
    /// When there is more under the prefix than anybody can mean.
    pub fn take(&mut self, response: WatchResponse) -> Result<Step, Failure> {
        let header = response.header.unwrap_or_default();
        if response.compact_revision != 0 {
            return Ok(Step::Restart("the store has forgotten the revisions that are missing"));
        }
        if response.canceled {
            return Ok(Step::Ended(response.cancel_reason));
        }
        if response.created && header.revision < self.revision {
            return Ok(Step::Restart("the store has gone back to an older revision"));
        }
        let told = !response.events.is_empty();
        for event in response.events {
            let Some(mut kv) = event.kv else { continue };
            // After a whole reading, events that were on their way are in it already.
            if kv.mod_revision > self.revision {
                // Longer values are rejected, and need not be kept for that.
                kv.value.truncate(VALUE_LEN_MAX + 1);
                kv.value.shrink_to_fit();
                self.pieces.push(Piece { deletes: event.kind == DELETE, kv });
            }
        }
        if self.pieces.len() > EVENTS_MAX {
            return Err(too_much(format!("over {EVENTS_MAX} events in one revision")));
        }
        if response.fragment {
            return Ok(Step::Partial);
        }
        let pieces = std::mem::take(&mut self.pieces);
        if pieces.is_empty() {
            // Some versions of etcd answer a progress request (−1) ahead of events that are late,
            // so only what is said of this very watch moves us on.
            if !told && !response.created && response.watch_id >= 0 {
                self.revision = self.revision.max(header.revision);
            }
            return Ok(Step::Same);
        }
        let mut changed = false;
        for Piece { deletes, kv } in &pieces {
            self.revision = self.revision.max(kv.mod_revision);
            changed |= if *deletes { self.delete(kv) } else { self.put(kv) };
        }
        self.check()?;
        Ok(if changed { Step::Changed } else { Step::Same })
    }

    /// The set as it is now.
    ///
    /// # Errors
    /// When it has too many entries.
    pub fn reading(&self) -> Result<Reading, Failure> {
        Reading::gather(self.entries.values().cloned(), Some(self.revision.to_string()))
    }

    fn put(&mut self, kv: &KeyValue) -> bool {
        let Some(name) = kv.key.strip_prefix(self.prefix.as_slice()) else { return false };
        let entry = value::parse(name, &kv.value);
        if self.entries.get(name) == Some(&entry) {
            return false;
        }
        if self.entries.insert(name.to_vec(), entry).is_none() {
            self.names_len += name.len();
        }
        true
    }

    fn delete(&mut self, kv: &KeyValue) -> bool {
        let Some(name) = kv.key.strip_prefix(self.prefix.as_slice()) else { return false };
        let known = self.entries.remove(name).is_some();
        if known {
            self.names_len -= name.len();
        }
        known
    }

    fn check(&mut self) -> Result<(), Failure> {
        let (count, len) = (self.entries.len(), self.names_len);
        if count <= ENTRIES_MAX && len <= NAMES_LEN_MAX {
            return Ok(());
        }
        // Not kept: it has to be read anew in any case.
        *self = Mirror::new(&String::from_utf8_lossy(&self.prefix));
        Err(too_much(format!("{count} keys under the prefix, with {len} bytes of names")))
    }
}

/// Refuses a prefix that holds more than a pool can mean.
pub fn too_much(detail: String) -> Failure {
    let limits = format!("{ENTRIES_MAX} keys and {NAMES_LEN_MAX} bytes of names at most");
    Failure { cause: FailureCause::Malformed, detail: format!("{detail}; {limits}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::etcd::wire::Event;

    const PREFIX: &str = "/c2s/";

    fn kv(name: &str, value: &str, mod_revision: i64) -> KeyValue {
        let key = format!("{PREFIX}{name}").into_bytes();
        KeyValue { key, mod_revision, value: value.as_bytes().to_vec() }
    }

    fn header(revision: i64) -> ResponseHeader {
        ResponseHeader { cluster_id: 5, revision }
    }

    fn put(name: &str, value: &str, mod_revision: i64) -> Event {
        Event { kind: 0, kv: Some(kv(name, value, mod_revision)) }
    }

    fn delete(name: &str, mod_revision: i64) -> Event {
        Event { kind: DELETE, kv: Some(kv(name, "", mod_revision)) }
    }

    fn answer(revision: i64, events: Vec<Event>) -> WatchResponse {
        WatchResponse { header: Some(header(revision)), events, ..WatchResponse::default() }
    }

    fn filled() -> Mirror {
        let mut mirror = Mirror::new(PREFIX);
        let kvs = vec![kv("10.0.0.1:1", "1", 3), kv("10.0.0.2:1", "x", 4)];
        assert_eq!(mirror.fill(&header(10), kvs), Ok(Step::Changed));
        mirror
    }

    fn weights(mirror: &Mirror) -> Vec<(String, u32)> {
        let reading = mirror.reading().expect("a few");
        reading.members.iter().map(|m| (m.address.to_string(), m.weight)).collect()
    }

    #[test]
    fn a_revision_is_taken_whole() {
        let mut mirror = filled();
        assert_eq!(mirror.next_revision(), 11);
        let mut first = answer(12, vec![put("10.0.0.3:1", "3", 12)]);
        first.fragment = true;
        assert_eq!(mirror.take(first), Ok(Step::Partial));
        assert_eq!(weights(&mirror), [("10.0.0.1:1".to_string(), 1)]);
        assert_eq!(mirror.next_revision(), 11, "a break now must ask for all of it again");
        let last = answer(12, vec![delete("10.0.0.1:1", 12), delete("10.0.0.2:1", 12)]);
        assert_eq!(mirror.take(last), Ok(Step::Changed));
        assert_eq!(weights(&mirror), [("10.0.0.3:1".to_string(), 3)]);
        assert_eq!(mirror.reading().expect("a few").rejected, []);
        assert_eq!(mirror.next_revision(), 13);
    }

    #[test]
    fn pieces_of_a_broken_revision_are_forgotten_by_a_new_reading() {
        let mut mirror = filled();
        let mut first = answer(12, vec![put("10.0.0.3:1", "3", 12)]);
        first.fragment = true;
        assert_eq!(mirror.take(first), Ok(Step::Partial));
        assert_eq!(mirror.fill(&header(13), vec![]), Ok(Step::Changed));
        assert_eq!(mirror.take(answer(13, vec![])), Ok(Step::Same));
        assert_eq!(weights(&mirror), []);
    }

    #[test]
    fn events_that_a_reading_held_already_change_nothing() {
        let mut mirror = filled();
        let late = answer(10, vec![delete("10.0.0.1:1", 9), put("10.0.0.1:1", "7", 10)]);
        assert_eq!(mirror.take(late), Ok(Step::Same));
        assert_eq!(weights(&mirror), [("10.0.0.1:1".to_string(), 1)]);
        let rewritten = answer(11, vec![put("10.0.0.1:1", "1", 11)]);
        assert_eq!(mirror.take(rewritten), Ok(Step::Same));
        assert_eq!(mirror.next_revision(), 12);
    }

    #[test]
    fn progress_of_this_watch_moves_on_and_an_answer_to_a_request_does_not() {
        let mut mirror = filled();
        let mut asked = answer(40, vec![]);
        asked.watch_id = -1;
        assert_eq!(mirror.take(asked), Ok(Step::Same));
        assert_eq!(mirror.next_revision(), 11);
        let mut begun = answer(40, vec![]);
        begun.created = true;
        assert_eq!(mirror.take(begun), Ok(Step::Same));
        assert_eq!(mirror.next_revision(), 11);
        assert_eq!(mirror.take(answer(30, vec![])), Ok(Step::Same));
        assert_eq!(mirror.next_revision(), 31);
    }

    #[test]
    fn what_cannot_be_continued_is_read_again() {
        let mut mirror = filled();
        let mut compacted = answer(90, vec![]);
        (compacted.canceled, compacted.compact_revision) = (true, 80);
        assert!(matches!(mirror.take(compacted), Ok(Step::Restart(_))));
        let mut older = answer(9, vec![]);
        older.created = true;
        assert!(matches!(mirror.take(older), Ok(Step::Restart(_))));
        let mut ended = answer(12, vec![]);
        (ended.canceled, ended.cancel_reason) = (true, "permission denied".to_string());
        assert_eq!(mirror.take(ended), Ok(Step::Ended("permission denied".to_string())));
    }

    #[test]
    fn a_watch_is_taken_up_only_where_the_store_is_the_same_and_not_behind() {
        let mirror = filled();
        assert!(mirror.continues_at(&header(10), 2));
        assert!(mirror.continues_at(&header(11), 7));
        assert!(!mirror.continues_at(&header(10), 3), "the same revision, other keys");
        assert!(!mirror.continues_at(&header(9), 2), "gone back");
        assert!(!mirror.continues_at(&ResponseHeader { cluster_id: 6, revision: 11 }, 2));
        assert!(!Mirror::new(PREFIX).continues_at(&header(0), 0), "never read");
    }

    #[test]
    fn keys_elsewhere_and_answers_without_their_parts_are_ignored() {
        let mut mirror = filled();
        let elsewhere = KeyValue { key: b"/other/10.0.0.9:1".to_vec(), ..kv("", "", 12) };
        let events = vec![
            Event { kind: 0, kv: Some(elsewhere) },
            Event { kind: 0, kv: None },
            Event { kind: 77, kv: Some(kv("10.0.0.4:1", "4", 13)) },
        ];
        let response = WatchResponse { header: None, events, ..WatchResponse::default() };
        assert_eq!(mirror.take(response), Ok(Step::Changed));
        assert_eq!(weights(&mirror).len(), 2);
        let hostile = answer(i64::MAX, vec![put("10.0.0.1:1", "2", i64::MAX)]);
        assert_eq!(mirror.take(hostile), Ok(Step::Changed));
        assert_eq!(mirror.next_revision(), i64::MAX);
        assert_eq!(mirror.take(WatchResponse::default()), Ok(Step::Same));
    }

    #[test]
    fn a_prefix_without_end_is_refused_and_not_kept() {
        let mut mirror = filled();
        let name = "a".repeat(1_000);
        let kvs = (0..40_000).map(|n| kv(&format!("{name}{n}"), "", 11)).collect();
        let failure = mirror.fill(&header(11), kvs).expect_err("too long");
        assert_eq!(failure.cause, FailureCause::Malformed);
        assert!(mirror.entries.is_empty() && !mirror.continues_at(&header(11), 0));
        let many = (0..=ENTRIES_MAX).map(|n| kv(&n.to_string(), "", 11)).collect();
        assert!(filled().fill(&header(11), many).is_err());
    }
}

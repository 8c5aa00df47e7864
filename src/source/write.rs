//! Writing to the stores that may be written: one backend at a time, and so that of two who write
//! at once neither undoes what the other did.
//!
//! What is there is read first, the change is made to that, and the store is told to take it only
//! if what was read is there still. If not, all begins again.

use std::time::Duration;

use super::value::rewrite::{Wanted, rewritten};
use super::value::{address as address_of, parse};
use super::{Failure, FailureCause, Timings, etcd, redis};
use crate::config::{Address, Source, SourceKind};

/// How often a change is begun because others changed the same thing: of eight who write to one
/// hash at once, one in a million edits needs more.
pub(super) const ATTEMPTS_MAX: u32 = 100;

/// What is to be done to a backend's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Make one with this value.
    Add(Vec<u8>),
    /// Take it away.
    Remove,
    /// Change what its value says.
    Set(Wanted),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The store has taken it.
    Done,
    /// The store says so already, and was not told.
    Same,
}

/// Why the store is as it was; of [`WriteError::Unknown`], why it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteError {
    /// It has no such backend.
    Absent,
    /// It has this backend already.
    Present,
    /// Its entry cannot be changed, for the reason given.
    Value(String),
    /// Others changed the same thing every time.
    Contended,
    /// It could not be told.
    Failed(Failure),
    /// It was told, and did not answer.
    Unknown(Failure),
}

impl WriteError {
    /// What a failure means when the store was told already.
    pub(super) fn after(failure: Failure) -> WriteError {
        match failure.cause {
            FailureCause::Timeout | FailureCause::Unreachable | FailureCause::Unavailable => {
                WriteError::Unknown(failure)
            }
            FailureCause::Denied | FailureCause::Missing | FailureCause::Malformed => {
                WriteError::Failed(failure)
            }
        }
    }
}

impl From<Failure> for WriteError {
    fn from(failure: Failure) -> WriteError {
        WriteError::Failed(failure)
    }
}

/// Writes to a source's store. Every question has the source's timeout, and nothing is begun again
/// after three of it.
///
/// # Errors
/// Why it was not done, or may not have been.
pub async fn write(
    source: &Source,
    address: &Address,
    write: &Write,
) -> Result<Written, WriteError> {
    let timings = Timings::of(source);
    match &source.kind {
        SourceKind::Redis(settings) => redis::write(settings, timings, (address, write)).await,
        SourceKind::Etcd(settings) => etcd::write(settings, timings, (address, write)).await,
        SourceKind::Static(_)
        | SourceKind::File { .. }
        | SourceKind::Consul(_)
        | SourceKind::Dns(_) => {
            Err(WriteError::Value(format!("{} is not written to", source.kind)))
        }
    }
}

/// Before the next attempt: others need about as long to be done.
pub(super) async fn rest() {
    tokio::time::sleep(Duration::from_micros(rand::random_range(0..10_000))).await;
}

/// No change is begun again after this.
pub(super) fn patience(timings: Timings) -> Duration {
    timings.timeout.saturating_mul(3)
}

/// Entries to be written: all of them or none. An address can be spelt in several ways, and then
/// it has several entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    /// Name and new value.
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
    /// Names.
    pub deletes: Vec<Vec<u8>>,
    /// Names of all that was looked at to decide this, except one that is to be new.
    pub looked_at: Vec<Vec<u8>>,
}

impl Steps {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }
}

/// Decides about the entries of a store, which are names and values.
///
/// # Errors
/// [`WriteError::Absent`], [`WriteError::Present`] or [`WriteError::Value`].
pub(super) fn steps<'e>(
    entries: impl IntoIterator<Item = (&'e [u8], &'e [u8])>,
    (address, write): (&Address, &Write),
) -> Result<Steps, WriteError> {
    let is_ours = |entry: &[u8]| address_of(entry).is_ok_and(|one| one == *address);
    let ours: Vec<_> = entries.into_iter().filter(|(entry, _)| is_ours(entry)).collect();
    let looked_at = ours.iter().map(|(entry, _)| entry.to_vec()).collect();
    let mut steps = Steps { looked_at, ..Steps::default() };
    match write {
        Write::Add(_) if !ours.is_empty() => return Err(WriteError::Present),
        Write::Add(value) => {
            steps.puts.push((address.to_string().into_bytes(), value.clone()));
        }
        _ if ours.is_empty() => return Err(WriteError::Absent),
        Write::Remove => steps.deletes.clone_from(&steps.looked_at),
        Write::Set(wanted) => {
            // What is no member is another's business, as long as there is one.
            let is_member = |(entry, value): &&(&[u8], &[u8])| parse(entry, value).is_ok();
            let members: Vec<_> = match ours.iter().any(|one| is_member(&one)) {
                true => ours.iter().filter(is_member).collect(),
                false => ours.iter().collect(),
            };
            for (entry, value) in members {
                let new = rewritten(entry, value, *wanted).map_err(|why| {
                    let entry = String::from_utf8_lossy(entry);
                    WriteError::Value(format!("the entry {entry} is left as it is: {why}"))
                })?;
                if new != *value {
                    steps.puts.push((entry.to_vec(), new));
                }
            }
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendState;

    fn decided(entries: &[(&str, &str)], write: &Write) -> Result<Steps, WriteError> {
        let address = "[::1]:7000".parse().expect("an address");
        let entries = entries.iter().map(|(entry, value)| (entry.as_bytes(), value.as_bytes()));
        steps(entries, (&address, write))
    }

    #[test]
    fn every_spelling_of_an_address_is_its_entry() {
        let entries = [("[::1]:7000", "1"), ("[0::1]:7000", "2"), ("[::2]:7000", "3"), ("x", "")];
        let steps = decided(&entries, &Write::Remove).expect("steps");
        assert_eq!(steps.deletes, [b"[::1]:7000".to_vec(), b"[0::1]:7000".to_vec()]);
        let drain = Wanted { weight: None, state: Some(BackendState::Drain) };
        let steps = decided(&entries, &Write::Set(drain)).expect("steps");
        assert_eq!(steps.puts.len(), 2);
        assert_eq!(steps.puts[1].1, br#"{"weight":2,"state":"drain"}"#);
        assert_eq!(decided(&entries, &Write::Add(b"1".to_vec())), Err(WriteError::Present));
        let others = &entries[2..];
        assert_eq!(decided(others, &Write::Remove), Err(WriteError::Absent));
        assert_eq!(decided(others, &Write::Set(drain)), Err(WriteError::Absent));
        let steps = decided(others, &Write::Add(b"1".to_vec())).expect("steps");
        assert_eq!(steps.puts, [(b"[::1]:7000".to_vec(), b"1".to_vec())]);
        assert!(steps.looked_at.is_empty());
    }

    #[test]
    fn garbage_is_left_alone_beside_a_member_and_refused_without() {
        let weight = Write::Set(Wanted { weight: Some(5), state: None });
        let steps = decided(&[("[::1]:7000", "1"), ("[0::1]:7000", "?")], &weight).expect("steps");
        assert_eq!(steps.puts, [(b"[::1]:7000".to_vec(), b"5".to_vec())]);
        assert!(matches!(decided(&[("[::1]:7000", "?")], &weight), Err(WriteError::Value(_))));
        let same = Write::Set(Wanted { weight: Some(1), state: None });
        assert!(decided(&[("[::1]:7000", "1")], &same).expect("steps").is_empty());
    }
}

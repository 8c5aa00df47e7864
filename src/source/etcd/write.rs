//! Changes a key under the prefix, if nobody has changed that key meanwhile: a transaction that
//! compares revisions.

use tokio::time::Instant;

use super::client::Client;
use super::wire::{
    COMPARE_EQUAL, COMPARE_MOD, Compare, DeleteRangeRequest, KeyValue, PutRequest, RequestOp,
    TxnRequest,
};
use crate::config::{Address, EtcdSource};
use crate::source::write::{
    ATTEMPTS_MAX, Steps, Write, WriteError, Written, patience, rest, steps,
};
use crate::source::{Failure, FailureCause, Timings};

/// Writes under the prefix, by whichever member answers.
///
/// # Errors
/// Why it was not done, or may not have been.
pub async fn write(
    settings: &EtcdSource,
    timings: Timings,
    change: (&Address, &Write),
) -> Result<Written, WriteError> {
    let members = settings.endpoints.len();
    let first = rand::random_range(0..members.max(1));
    let nobody = Failure { cause: FailureCause::Unreachable, detail: "no member".to_owned() };
    let mut last = WriteError::Failed(nobody);
    for turn in 0..members {
        let Some(address) = settings.endpoints.get((first + turn) % members) else { continue };
        let written = match Client::connect(settings, address, timings.timeout).await {
            Ok(client) => Writer { client, settings, timings }.write(change).await,
            Err(failure) => Err(WriteError::Failed(failure)),
        };
        match written {
            // Another member may be better off; this one was not told.
            Err(WriteError::Failed(failure)) if failure.cause != FailureCause::Denied => {
                last = WriteError::Failed(failure);
            }
            written => return written,
        }
    }
    Err(last)
}

struct Writer<'a> {
    client: Client<'a>,
    settings: &'a EtcdSource,
    timings: Timings,
}

impl Writer<'_> {
    async fn write(&mut self, change: (&Address, &Write)) -> Result<Written, WriteError> {
        let began = Instant::now();
        let prefix = self.settings.prefix.as_bytes();
        for _ in 0..ATTEMPTS_MAX {
            let (_, kvs) = self.client.read().await?;
            let entries = kvs.iter().filter_map(|kv| {
                kv.key.strip_prefix(prefix).map(|entry| (entry, kv.value.as_slice()))
            });
            let steps = steps(entries, change)?;
            if steps.is_empty() {
                return Ok(Written::Same);
            }
            if self.client.transact(transaction(prefix, &steps, &kvs)).await? {
                return Ok(Written::Done);
            }
            if began.elapsed() >= patience(self.timings) {
                break;
            }
            rest().await;
        }
        Err(WriteError::Contended)
    }
}

/// All steps, if every key that was looked at is as it was read, and no new one is there.
fn transaction(prefix: &[u8], steps: &Steps, kvs: &[KeyValue]) -> TxnRequest {
    let key = |entry: &[u8]| [prefix, entry].concat();
    let read_at = |key: &[u8]| kvs.iter().find(|kv| kv.key == key).map(|kv| kv.mod_revision);
    let mut entries: Vec<&Vec<u8>> = steps.looked_at.iter().collect();
    entries.extend(steps.puts.iter().map(|(entry, _)| entry));
    entries.sort_unstable();
    entries.dedup();
    let compare = entries.into_iter().map(|entry| {
        let key = key(entry);
        // A key that is not there has revision 0.
        let mod_revision = Some(read_at(&key).unwrap_or(0));
        Compare { result: COMPARE_EQUAL, target: COMPARE_MOD, key, mod_revision }
    });
    let puts = steps.puts.iter().map(|(entry, value)| {
        let key = key(entry);
        // A backend that announces itself does so with a lease, which has to go on.
        let ignore_lease = read_at(&key).is_some();
        RequestOp::put(PutRequest { key, value: value.clone(), ignore_lease })
    });
    let deletes = steps.deletes.iter();
    let deletes = deletes.map(|entry| RequestOp::delete(DeleteRangeRequest { key: key(entry) }));
    TxnRequest { compare: compare.collect(), success: puts.chain(deletes).collect() }
}

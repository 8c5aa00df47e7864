//! Asks every shard for its sessions.

use std::time::Duration;

use serde::Serialize;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::AdminState;
use crate::shard::mailbox::{Message, SessionView};

/// Sessions shown unless the request says otherwise.
pub(super) const LIMIT_DEFAULT: usize = 100;

/// Most sessions shown.
pub(super) const LIMIT_MAX: usize = 10_000;

/// How long the shards have, all together.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);

/// What `/sessions` answers.
#[derive(Debug, Serialize)]
pub(super) struct Sessions {
    /// Client connections open on all shards, shown or not.
    open: u32,
    limit: usize,
    sessions: Vec<SessionView>,
}

/// A shard that gave no answer.
#[derive(Debug)]
pub(super) struct Silent {
    pub shard: usize,
    /// It is gone, rather than slow.
    pub ended: bool,
}

/// Up to `limit` sessions of all shards, which are asked at the same time.
///
/// # Errors
/// The first shard that has not answered when [`TIMEOUT`] is over.
pub(super) async fn ask(state: &AdminState, limit: usize) -> Result<Sessions, Silent> {
    let deadline = Instant::now() + TIMEOUT;
    let answers: Vec<_> = state
        .shards
        .iter()
        .zip(shares(limit, &open_per_shard(state)))
        .map(|(shard, limit)| {
            let (reply, answer) = oneshot::channel();
            if let Err(error) = shard.send(Message::Sessions { limit, reply }) {
                // The message lies in the mailbox: the shard finds it when something else wakes it.
                tracing::warn!(%error, "shard not woken");
            }
            answer
        })
        .collect();
    let mut sessions = Vec::new();
    for (shard, answer) in answers.into_iter().enumerate() {
        match timeout_at(deadline, answer).await {
            Ok(Ok(views)) => sessions.extend(views),
            Ok(Err(_dropped)) => return Err(Silent { shard, ended: true }),
            Err(_elapsed) => return Err(Silent { shard, ended: false }),
        }
    }
    sessions.truncate(limit);
    let open = state.metrics.process.connections.load(Relaxed);
    Ok(Sessions { open, limit, sessions })
}

fn open_per_shard(state: &AdminState) -> Vec<u64> {
    let table = state.table.borrow().clone();
    let open = |shard| table.all_listeners().map(|one| one.cells.of(shard).active.value()).sum();
    (0..state.shards.len()).map(open).collect()
}

/// How many sessions to ask of each shard, given how many it has: what one shard lacks, others
/// give, so that the answer is full and no shard writes views that are thrown away. Every shard is
/// asked for one at least, for it may have sessions by now.
fn shares(limit: usize, open: &[u64]) -> Vec<usize> {
    let mut by_open: Vec<usize> = (0..open.len()).collect();
    by_open.sort_by_key(|shard| open[*shard]);
    let mut shares = vec![0; open.len()];
    let mut left = limit;
    // From the emptiest to the fullest: each takes an equal part of what is left, or all it has.
    for (done, shard) in by_open.iter().enumerate() {
        let part = left.div_ceil(open.len() - done);
        let has = usize::try_from(open[*shard]).unwrap_or(usize::MAX);
        shares[*shard] = part.min(has).max(1).min(limit);
        left = left.saturating_sub(shares[*shard]);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn what_one_shard_lacks_others_give() {
        assert_eq!(shares(100, &[1000, 1000]), [50, 50]);
        assert_eq!(shares(100, &[10, 1000]), [10, 90]);
        assert_eq!(shares(100, &[1000, 0, 30]), [69, 1, 30]);
        assert_eq!(shares(10, &[3, 2]), [3, 2]);
    }

    #[test]
    fn every_shard_is_asked_for_one_and_none_for_more_than_the_limit() {
        assert_eq!(shares(1, &[5, 5, 5]), [1, 1, 1]);
        assert_eq!(shares(0, &[5, 5]), [0, 0]);
        assert_eq!(shares(7, &[u64::MAX]), [7]);
        assert_eq!(shares(7, &[]), [0; 0]);
    }
}

//! What a reload would do to keys: which share of them would have another backend.

use std::sync::Arc;

use serde::Serialize;

use crate::config;
use crate::movement::{Comparison, Moves, Standing, sample};
use crate::table::{Layout, Table};

/// Keys that are compared per pool: the share is exact to a third of a percent, and the answer
/// comes within a moment.
const SAMPLED: u64 = 100_000;

/// The keys of one pool, as their backends' declared states have them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KeysMoved {
    /// The pool's name.
    pub pool: String,
    /// How many sampled keys were compared.
    pub sampled: u64,
    /// How many of them another backend would take.
    pub moved: u64,
    /// The same as a share, 0 to 1.
    pub share: f64,
}

/// Compares every pool that is in both and differs, on a thread that may take its time. Pools that
/// do not look at keys before or after are left out.
pub(super) async fn keys_moved(table: Arc<Table>, layout: Layout) -> Vec<KeysMoved> {
    let compared = tokio::task::spawn_blocking(move || {
        let pairs = layout.pools.iter().filter_map(|new| {
            let (_, old) = table.pool(&new.name)?;
            (old.settings != *new).then(|| compare(&old.settings, new)).flatten()
        });
        pairs.collect()
    });
    compared.await.unwrap_or_else(|error| {
        tracing::error!(%error, "keys not compared");
        Vec::new()
    })
}

fn compare(old: &config::Pool, new: &config::Pool) -> Option<KeysMoved> {
    let comparison = Comparison::new(Standing::of_settings(old), Standing::of_settings(new))?;
    let moves: Moves = comparison.moves(sample(SAMPLED));
    let (sampled, moved, share) = (moves.keys, moves.moved, moves.share());
    Some(KeysMoved { pool: new.name.clone(), sampled, moved, share })
}

//! The control plane's hold on health: checkers and verdicts, and when to look.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::checker::{Checkers, Flip};
use super::verdicts::{Change, Verdicts};
use crate::table::Table;

/// What sessions met is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Flips that may wait to be taken in; a checker with more waits itself.
const FLIPS_MAX: usize = 1_024;

/// Checkers of all pools, and what is known.
#[derive(Debug)]
pub struct HealthWatch {
    verdicts: Verdicts,
    checkers: Checkers,
    flips: mpsc::Receiver<Flip>,
    looks: Interval,
}

impl HealthWatch {
    /// Begins with the table in force, which checkers follow from now on. To be called on a tokio
    /// runtime.
    pub fn start(tables: watch::Receiver<Arc<Table>>) -> HealthWatch {
        let (sender, flips) = mpsc::channel(FLIPS_MAX);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let table = tables.borrow().clone();
        let checkers = Checkers::new(tables, sender, seed());
        let mut watch =
            HealthWatch { verdicts: Verdicts::new(Instant::now()), checkers, flips, looks };
        // Nothing is known yet: it stays as it is.
        let _first = watch.judge(Table::clone(&table));
        watch.follow();
        watch
    }

    /// Waits until something is different. Those changes that are in a table want its next version,
    /// through [`HealthWatch::judge`]. Cancel-safe.
    pub async fn changed(&mut self) -> Vec<Change> {
        loop {
            let mut changes = tokio::select! {
                flip = self.flips.recv() => match flip {
                    Some(flip) => self.verdicts.flip(&flip, Instant::now()),
                    // Not while `checkers` lives.
                    None => Vec::new(),
                },
                _ = self.looks.tick() => self.verdicts.tick(Instant::now()),
            };
            // What comes together is one table.
            while let Ok(flip) = self.flips.try_recv() {
                changes.extend(self.verdicts.flip(&flip, Instant::now()));
            }
            if !changes.is_empty() {
                changes.iter().for_each(Change::log);
                return changes;
            }
        }
    }

    /// Puts what is known into a table before it is published, wherever it comes from.
    pub fn judge(&mut self, table: Table) -> Table {
        let (table, changes) = self.verdicts.judge(table, Instant::now());
        changes.iter().for_each(Change::log);
        table
    }

    /// Starts checkers for pools that are new or want checks since; to be called after a table is
    /// published that others than [`HealthWatch::changed`] asked for.
    pub fn follow(&mut self) {
        self.checkers.follow();
    }
}

/// Differs from process to process.
fn seed() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let nanos = u64::try_from(since.as_nanos()).unwrap_or_default();
    nanos ^ u64::from(std::process::id()) << 32
}

//! What is counted of requests.

use std::sync::Arc;

use super::{Counter, Durations, PerShard};
use crate::end::End;
use crate::http::body::BodyFault;
use crate::http::head::Refusal;

/// What one shard counts for one HTTP listener.
#[derive(Debug)]
pub struct HttpCells {
    /// Requests whose head was refused, by reason.
    pub refusals: [Counter; Refusal::ALL.len()],
    /// Requests whose body was refused, by reason.
    pub body_faults: [Counter; BodyFault::ALL.len()],
    /// Requests with a body over `max_body`.
    pub bodies_too_large: Counter,
    /// Requests that ended early or were answered by us because a side failed.
    pub failures: [Counter; End::COUNT],
    /// Connections that became a raw relay.
    pub upgrades: Counter,
    /// Requests for it that were answered otherwise.
    pub upgrades_refused: Counter,
    /// First byte of a request to the last one of its response.
    pub durations: Durations,
}

impl Default for HttpCells {
    fn default() -> Self {
        HttpCells {
            refusals: [const { Counter::new() }; Refusal::ALL.len()],
            body_faults: Default::default(),
            bodies_too_large: Counter::default(),
            failures: [const { Counter::new() }; End::COUNT],
            upgrades: Counter::default(),
            upgrades_refused: Counter::default(),
            durations: Durations::default(),
        }
    }
}

/// Labels of [`RuleCells::classes`].
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What one shard counts for one rule.
#[derive(Debug, Default)]
pub struct RuleCells {
    /// Requests by the class of their status, see [`CLASSES`].
    pub classes: [Counter; CLASSES.len()],
}

impl RuleCells {
    /// Counts a request that was answered so; 0: not at all.
    pub fn count(&self, status: u16) {
        let class = usize::from(status / 100);
        if let Some(counter) = self.classes.get(class).or_else(|| self.classes.last()) {
            counter.add(1);
        }
    }
}

/// Requests of a listener by rule. Counters belong to a rule's name, and outlive a configuration
/// with it.
#[derive(Debug)]
pub struct Requests {
    /// In file order, by name; the last stands for requests that no rule has.
    rules: Vec<(Arc<str>, Arc<PerShard<RuleCells>>)>,
}

/// The name under which requests are counted that no rule has.
pub const NO_RULE: &str = "-";

impl Requests {
    /// Cells for these rules; those that `old` has already are taken over.
    pub fn new<'n>(
        names: impl Iterator<Item = &'n str>,
        old: Option<&Requests>,
        shards: usize,
    ) -> Requests {
        let cells = |name: &str| {
            let known = old.and_then(|old| old.rules.iter().find(|(known, _)| **known == *name));
            match known {
                Some((name, cells)) => (name.clone(), cells.clone()),
                None => (Arc::from(name), Arc::new(PerShard::new(shards))),
            }
        };
        Requests { rules: names.chain([NO_RULE]).map(cells).collect() }
    }

    /// The cells of a rule by its index, on a shard.
    pub fn of_rule(&self, index: Option<usize>, shard: usize) -> &RuleCells {
        let last = self.rules.len() - 1;
        self.rules[index.map_or(last, |index| index.min(last))].1.of(shard)
    }

    /// Every rule's name and cells.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &PerShard<RuleCells>)> {
        self.rules.iter().map(|(name, cells)| (&**name, &**cells))
    }
}

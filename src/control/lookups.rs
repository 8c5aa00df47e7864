//! Lookups on the control plane: a task for each, which asks its store on behalf of all shards.

mod desk;
mod dns;
mod redis;

use std::sync::Arc;

use tokio::sync::mpsc;

use self::desk::Desk;
use crate::config::{self, LookupKind};
use crate::lookup::Asked;
use crate::shard::mailbox::ShardHandle;
use crate::table::{Lookup, LookupIdentity};

/// The lookups of the configuration in force, and those of one that may be put in force.
#[derive(Debug, Default)]
pub struct Lookups {
    in_force: Vec<Arc<Lookup>>,
    /// Nobody answers these yet.
    begun: Vec<(Arc<Lookup>, mpsc::Receiver<Asked>)>,
    shards: usize,
    last_id: u64,
}

impl Lookups {
    /// None yet.
    pub fn new(shards: usize) -> Lookups {
        Lookups { shards, ..Lookups::default() }
    }

    /// Those of a configuration, in its order, for a table that may be put in force: one that did
    /// not change is the same, one that did keeps its counters, and so does one that comes back
    /// while it has sessions: it is among those that are `leaving`.
    pub fn prepare(
        &mut self,
        settings: &[config::Lookup],
        leaving: &[Arc<LookupIdentity>],
    ) -> Vec<Arc<Lookup>> {
        self.begun.clear();
        settings.iter().map(|settings| self.prepare_one(settings, leaving)).collect()
    }

    fn prepare_one(
        &mut self,
        settings: &config::Lookup,
        leaving: &[Arc<LookupIdentity>],
    ) -> Arc<Lookup> {
        let old = self.in_force.iter().find(|old| old.settings.name == settings.name);
        let identity = match old {
            Some(old) if old.settings == *settings => return old.clone(),
            Some(old) => old.identity.clone(),
            None => {
                let back = leaving.iter().find(|one| *one.label == *settings.name);
                let new = || Arc::new(LookupIdentity::new(&settings.name, self.shards));
                back.cloned().unwrap_or_else(new)
            }
        };
        self.last_id += 1;
        let (lookup, asked) = Lookup::new(settings, self.last_id, identity);
        let lookup = Arc::new(lookup);
        self.begun.push((lookup.clone(), asked));
        lookup
    }

    /// The table that has these is in force. A task ends by itself when no table has its lookup any
    /// more. Has to be called within tokio.
    pub fn adopt(&mut self, lookups: &[Arc<Lookup>], shards: &[ShardHandle]) {
        for (lookup, asked) in self.begun.drain(..) {
            if lookups.iter().any(|adopted| adopted.id == lookup.id) {
                let desk = Desk::new(&lookup, shards);
                // The lookup itself is not kept: it holds the other end of `asked`.
                match lookup.settings.kind.clone() {
                    LookupKind::Dns(dns) => tokio::spawn(dns::serve(dns, desk, asked)),
                    LookupKind::Redis(redis) => tokio::spawn(redis::serve(redis, desk, asked)),
                };
            }
        }
        self.in_force = lookups.to_vec();
    }
}

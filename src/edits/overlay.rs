//! What an edit comes to: which store is to be written, or what the state file says from now on;
//! and what that makes of a pool.

use std::collections::HashSet;
use std::time::SystemTime;

use super::state::{Kept, State, What};
use super::{Addition, Change, Edit, EditRefused};
use crate::config::{Address, Backend, Config, Pool, Source, SourceKind};
use crate::source::Member;

/// What an edit comes to.
#[derive(Debug, PartialEq)]
pub enum Plan {
    /// The first of these that has the backend is written; with an addition there is only one.
    Store(Vec<Source>),
    /// The state file.
    State {
        /// From now on.
        state: State,
        /// Kind and place of the source that the backend is from, if it is from one.
        over: Option<String>,
    },
}

/// Who has a backend, besides the file: the source and what it says.
pub type Owner<'a> = Option<(&'a Source, &'a Member)>;

/// Whether edits go to this source itself.
pub fn is_writable(source: &Source) -> bool {
    matches!(source.kind, SourceKind::Redis(_) | SourceKind::Etcd(_))
}

/// Whether what it says is not the file's, and nobody writes there.
fn is_followed_only(source: &Source) -> bool {
    !is_writable(source) && !matches!(source.kind, SourceKind::Static(_))
}

/// Decides what an edit of a configured pool comes to. `owner` says which source decides about
/// the backend now, `now` is noted beside what is kept.
///
/// # Errors
/// Why it cannot be done.
pub fn plan(
    edit: &Edit,
    pool: &Pool,
    state: &State,
    (owner, now): (Owner<'_>, SystemTime),
) -> Result<Plan, EditRefused> {
    edit.check()?;
    let planner = Planner { edit, pool, state, now };
    let kept = state.find(&pool.name, &edit.address).map(|kept| kept.what);
    let pin = pool.backends.iter().find(|pin| pin.address == edit.address);
    match (pin, kept, owner) {
        (Some(pin), Some(What::Removed), _) if matches!(edit.change, Change::Add(_)) => {
            planner.removed(pin)
        }
        (Some(pin), None | Some(What::Set { .. } | What::Added { .. }), _) => {
            planner.pinned(pin, kept)
        }
        (None, Some(What::Added { weight, state }), _) => {
            let added = Backend { address: edit.address.clone(), weight, state };
            planner.added(&added)
        }
        (_, kept, Some((source, member))) => planner.of_source(source, member, kept),
        (_, _, None) => planner.of_nobody(),
    }
}

struct Planner<'a> {
    edit: &'a Edit,
    pool: &'a Pool,
    state: &'a State,
    now: SystemTime,
}

impl Planner<'_> {
    /// The file pins it.
    fn pinned(&self, pin: &Backend, kept: Option<What>) -> Result<Plan, EditRefused> {
        match &self.edit.change {
            Change::Add(_) => Err(self.already_there()),
            Change::Remove => Ok(self.keep(What::Removed, None)),
            _ => Ok(self.set(pin, kept, None)),
        }
    }

    /// The file pins it, but somebody has removed it and adds it again.
    fn removed(&self, pin: &Backend) -> Result<Plan, EditRefused> {
        match &self.edit.change {
            Change::Add(addition) if addition.source.is_none() => {
                self.without_order(addition)?;
                let weight = Some(addition.weight).filter(|weight| *weight != pin.weight);
                let state = Some(addition.state).filter(|state| *state != pin.state);
                Ok(self.keep_what_differs(weight, state, None))
            }
            _ => self.of_nobody(),
        }
    }

    /// Somebody has added it.
    fn added(&self, added: &Backend) -> Result<Plan, EditRefused> {
        match &self.edit.change {
            Change::Add(_) => Err(self.already_there()),
            Change::Remove => Ok(self.forget(None)),
            change => {
                let weight = change.weight().unwrap_or(added.weight);
                let state = change.state().unwrap_or(added.state);
                Ok(self.keep(What::Added { weight, state }, None))
            }
        }
    }

    fn of_source(
        &self,
        source: &Source,
        member: &Member,
        kept: Option<What>,
    ) -> Result<Plan, EditRefused> {
        let label = source.kind.to_string();
        match &self.edit.change {
            Change::Add(_) => Err(self.already_there()),
            _ if is_writable(source) => Ok(Plan::Store(vec![source.clone()])),
            Change::Remove => Err(EditRefused::NotEditable(format!(
                "pool {} has {} from {label}, which is not written: remove it there, or drain it \
                 or take it down here",
                self.pool.name, self.edit.address
            ))),
            _ if kept == Some(What::Removed) => Err(EditRefused::NotEditable(format!(
                "pool {} has {} from {label}, which is not written, since the file's was removed \
                 here: add that again first",
                self.pool.name, self.edit.address
            ))),
            _ => {
                let Member { weight, state, .. } = *member;
                let said = Backend { address: member.address.clone(), weight, state };
                Ok(self.set(&said, kept, Some(label)))
            }
        }
    }

    /// Neither the file nor a source has it, as far as is known.
    fn of_nobody(&self) -> Result<Plan, EditRefused> {
        let sources = || self.pool.sources.iter();
        match &self.edit.change {
            Change::Add(addition) => match addition.source {
                Some(index) => self.add_to(index, addition),
                None => match sources().find(|source| is_writable(source)) {
                    Some(source) => Ok(Plan::Store(vec![source.clone()])),
                    None => self.add(addition),
                },
            },
            _ => {
                // It may be there since a moment ago.
                let writable: Vec<_> = sources().filter(|one| is_writable(one)).cloned().collect();
                match writable.is_empty() {
                    true => Err(EditRefused::BackendUnknown {
                        pool: self.pool.name.clone(),
                        address: self.edit.address.clone(),
                    }),
                    false => Ok(Plan::Store(writable)),
                }
            }
        }
    }

    fn add_to(&self, index: usize, addition: &Addition) -> Result<Plan, EditRefused> {
        match self.pool.sources.get(index) {
            None => Err(EditRefused::Invalid(format!(
                "pool {} has no source {index}: there are {}, counted from 0",
                self.pool.name,
                self.pool.sources.len()
            ))),
            Some(source) if is_writable(source) => Ok(Plan::Store(vec![source.clone()])),
            Some(source) if is_followed_only(source) => Err(EditRefused::NotEditable(format!(
                "source {index} of pool {}, {}, is not written: add the backend there, or name no \
                 source",
                self.pool.name, source.kind
            ))),
            Some(_) => self.add(addition),
        }
    }

    fn add(&self, addition: &Addition) -> Result<Plan, EditRefused> {
        self.without_order(addition)?;
        let Addition { weight, state, .. } = *addition;
        Ok(self.keep(What::Added { weight, state }, None))
    }

    fn without_order(&self, addition: &Addition) -> Result<(), EditRefused> {
        match addition.order {
            None => Ok(()),
            Some(_) => Err(EditRefused::Invalid(
                "only a backend in Redis or etcd can have an order".to_owned(),
            )),
        }
    }

    /// Another weight or state than its origin says. What the origin says by itself is not kept.
    fn set(&self, said: &Backend, kept: Option<What>, over: Option<String>) -> Plan {
        let (weight, state) = match kept {
            Some(What::Set { weight, state }) => (weight, state),
            _ => (None, None),
        };
        let weight = self.edit.change.weight().or(weight).filter(|weight| *weight != said.weight);
        let state = self.edit.change.state().or(state).filter(|state| *state != said.state);
        self.keep_what_differs(weight, state, over)
    }

    fn keep_what_differs(
        &self,
        weight: Option<u32>,
        state: Option<crate::config::BackendState>,
        over: Option<String>,
    ) -> Plan {
        match (weight, state) {
            (None, None) => self.forget(over),
            (weight, state) => self.keep(What::Set { weight, state }, over),
        }
    }

    fn keep(&self, what: What, over: Option<String>) -> Plan {
        let (pool, address) = (self.pool.name.clone(), self.edit.address.clone());
        // The same again is not younger.
        let state = match self.state.find(&pool, &address) {
            Some(kept) if kept.what == what => self.state.clone(),
            _ => self.state.with(Kept { pool, address, what, at: self.now }),
        };
        Plan::State { state, over }
    }

    fn forget(&self, over: Option<String>) -> Plan {
        Plan::State { state: self.state.without(&self.pool.name, &self.edit.address), over }
    }

    fn already_there(&self) -> EditRefused {
        let (pool, address) = (self.pool.name.clone(), self.edit.address.clone());
        EditRefused::AlreadyThere { pool, address }
    }
}

/// What a pool's file pins, with the edits of that: in the file's order, then what was added, by
/// address.
pub fn pinned(pool: &Pool, state: &State) -> Vec<Backend> {
    let edits = state.of_pool(&pool.name);
    if edits.is_empty() {
        return pool.backends.clone();
    }
    let mut backends = Vec::with_capacity(pool.backends.len());
    for pin in &pool.backends {
        match state.find(&pool.name, &pin.address).map(|kept| kept.what) {
            Some(What::Removed) => {}
            Some(What::Set { weight, state }) => backends.push(laid_over(pin, weight, state)),
            // What the file says by now counts.
            Some(What::Added { .. }) | None => backends.push(pin.clone()),
        }
    }
    let pins: HashSet<&Address> = pool.backends.iter().map(|pin| &pin.address).collect();
    for kept in edits.iter().filter(|kept| !pins.contains(&kept.address)) {
        if let What::Added { weight, state } = kept.what {
            backends.push(Backend { address: kept.address.clone(), weight, state });
        }
    }
    backends
}

/// Lays the edits of a pool over what it has from sources that nobody writes to. `owner` says whose
/// a backend is.
pub fn lay_over_sources<'a>(
    pool: &Pool,
    state: &State,
    backends: &mut [Backend],
    owner: impl Fn(&Address) -> Owner<'a>,
) {
    for kept in state.of_pool(&pool.name) {
        let What::Set { weight, state } = kept.what else { continue };
        let is_pinned = pool.backends.iter().any(|pin| pin.address == kept.address);
        if is_pinned || !owner(&kept.address).is_some_and(|(source, _)| is_followed_only(source)) {
            continue;
        }
        if let Some(backend) = backends.iter_mut().find(|one| one.address == kept.address) {
            *backend = laid_over(backend, weight, state);
        }
    }
}

fn laid_over(
    backend: &Backend,
    weight: Option<u32>,
    state: Option<crate::config::BackendState>,
) -> Backend {
    Backend {
        address: backend.address.clone(),
        weight: weight.unwrap_or(backend.weight),
        state: state.unwrap_or(backend.state),
    }
}

/// What an edit that is kept does under a configuration, as far as that is known without asking
/// any store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is in force.
    InForce,
    /// It is if a source that nobody writes to has the backend, and the file does not pin it.
    IfSourceHasIt,
    /// It does nothing, for the reason given.
    Unused(&'static str),
}

/// Says of an edit what it does.
pub fn use_of(kept: &Kept, config: &Config) -> Use {
    let Some(pool) = config.pools.iter().find(|pool| pool.name == kept.pool) else {
        return Use::Unused("there is no such pool");
    };
    let is_pinned = pool.backends.iter().any(|pin| pin.address == kept.address);
    match (kept.what, is_pinned) {
        (What::Added { .. }, false) | (What::Set { .. } | What::Removed, true) => Use::InForce,
        (What::Added { .. }, true) => Use::Unused("the file has this backend by now"),
        (What::Set { .. }, false) if pool.sources.iter().any(is_followed_only) => {
            Use::IfSourceHasIt
        }
        (What::Set { .. } | What::Removed, false) => {
            Use::Unused("the file has no such backend any more")
        }
    }
}

/// The configuration with the edits of what it pins.
pub fn edited(config: Config, state: &State) -> Config {
    let pools = config.pools.iter();
    let pools = pools.map(|pool| Pool { backends: pinned(pool, state), ..pool.clone() }).collect();
    Config { pools, ..config }
}

#[cfg(test)]
mod tests;

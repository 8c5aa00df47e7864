//! What decides how far one source is believed: pure, time is an argument.
//!
//! A watcher reports whole sets, silence or failures. The guard keeps a set in force and lets the
//! store's truth into it by these rules:
//!
//! - A failure changes nothing, and while it lasts nothing is taken away.
//! - What differs has to differ for `settle`; differences are gathered, so that one publication
//!   holds what belongs together, and publications are `settle` apart at least. A member that left
//!   and came back has to stay longer each time (`guard/flaps.rs`).
//! - An empty answer follows `on_empty`, and nothing else.
//! - More than `max_removal` at once is held back (`guard/removal.rs`) until each member has been
//!   away for `removal_delay`, or an operator confirms. What else changed is not held up.
//! - An entry that turned bad keeps the member it was.
//! - Sets have no order: what is said again in another one is no change.
//!
//! Time is a [`Duration`] since any fixed moment; it must not go back.

mod event;
mod flaps;
mod removal;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use self::event::{Change, Event, Held, Rules, State};
use self::flaps::Flaps;
use self::removal::Removals;
use super::{Failure, Member, Reading, Rejected, Report, merge, value};
use crate::config::{Address, BackendState, OnEmpty};

/// How a member in force differs from the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The store has it.
    New,
    /// The store has it otherwise.
    Changed,
    /// The store does not have it.
    Missing,
}

#[derive(Debug, Clone, Copy)]
struct Difference {
    kind: Kind,
    /// Since when it has been one of this kind.
    since: Duration,
}

/// What the rules let through at a moment.
#[derive(Debug, Default)]
struct Plan {
    /// New or changed, as the store has them.
    updates: Vec<Address>,
    removals: Vec<Address>,
    /// Of `removals`: have not been away for `removal_delay`.
    young: usize,
    held: usize,
    /// When to look again, if nothing is reported until then.
    next: Option<Duration>,
}

/// The state of one source.
#[derive(Debug)]
pub struct Guard {
    rules: Rules,
    /// `None` until there is one, be it an empty one.
    in_force: Option<HashMap<Address, Member>>,
    /// The same, in the order of [`merge::compare`].
    published: Arc<[Member]>,
    /// What the store said last.
    truth: Option<HashMap<Address, Member>>,
    differences: HashMap<Address, Difference>,
    empty_since: Option<Duration>,
    last_reading: Option<Duration>,
    last_publication: Option<Duration>,
    /// Set while the last word was a failure.
    failure: Option<Failure>,
    rejected: Vec<Rejected>,
    revision: Option<String>,
    state: State,
    restored: bool,
    flaps: Flaps,
    removals: Removals,
    empty_told: bool,
    held: Option<Held>,
    next: Option<Duration>,
}

impl Guard {
    /// A source of which nothing is known.
    pub fn new(rules: Rules) -> Guard {
        Guard {
            rules,
            in_force: None,
            published: Arc::new([]),
            truth: None,
            differences: HashMap::new(),
            empty_since: None,
            last_reading: None,
            last_publication: None,
            failure: None,
            rejected: Vec::new(),
            revision: None,
            state: State::Cold,
            restored: false,
            flaps: Flaps::new(rules.settle),
            removals: Removals::new(rules.max_removal_percent, rules.removal_delay),
            empty_told: false,
            held: None,
            next: None,
        }
    }

    /// Puts a set in force that was saved earlier; nothing happens when there is one already. The
    /// store's first word is then a change like any other.
    pub fn restore(&mut self, members: Vec<Member>) -> Option<Event> {
        if self.in_force.is_some() {
            return None;
        }
        let added = members.len();
        let members = members.into_iter().map(|member| (member.address.clone(), member));
        self.put_in_force(members.collect());
        self.restored = true;
        Some(Event::Published(Change { added, members: added, ..Change::default() }))
    }

    /// Takes what a watcher says.
    pub fn report(&mut self, now: Duration, report: Report) -> Vec<Event> {
        match report {
            Report::Failed(failure) => self.failure = Some(failure),
            Report::Unchanged => {
                self.failure = None;
                if self.truth.is_some() {
                    self.last_reading = Some(now);
                }
            }
            Report::Set(reading) => {
                self.failure = None;
                self.last_reading = Some(now);
                self.restored = false;
                self.believe(now, reading);
            }
        }
        self.tick(now)
    }

    /// Lets time pass: puts in force what has waited long enough. To be called at
    /// [`Guard::deadline`]; more often does no harm.
    pub fn tick(&mut self, now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        self.next = None;
        if self.truth.is_some() {
            let plan = if self.in_force.is_none() { self.everything() } else { self.plan(now) };
            self.tell(&plan, &mut events);
            self.publish(now, &plan, &mut events);
        }
        let state = self.state_at(now);
        if state != self.state {
            events.push(Event::State { from: self.state, to: state });
            self.state = state;
        }
        self.next = earliest(self.next, self.state_changes_at(now));
        events
    }

    /// An operator says that the store is right: what it said last is put in force as it is.
    pub fn confirm(&mut self, now: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        if self.truth.is_some() {
            let plan = self.everything();
            self.tell(&plan, &mut events);
            self.publish(now, &plan, &mut events);
        }
        events.extend(self.tick(now));
        events
    }

    /// When [`Guard::tick`] has something to do, if nothing is reported before.
    pub fn deadline(&self) -> Option<Duration> {
        self.next
    }

    /// The set in force, in the order of [`merge::compare`]; `None` before there is any, which an
    /// empty set is not.
    pub fn members(&self) -> Option<&Arc<[Member]>> {
        self.in_force.as_ref().map(|_| &self.published)
    }

    /// How much the set is worth, as of the last call with a time.
    pub fn state(&self) -> State {
        self.state
    }

    /// How long ago the store was last heard; `None` if never.
    pub fn age(&self, now: Duration) -> Option<Duration> {
        self.last_reading.map(|at| now.saturating_sub(at))
    }

    /// Whether the set in force was saved earlier, and the store was not heard since.
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// What went wrong, while it is.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Entries of the last reading that are no members.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// What the store calls the state that was read last.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// What waits for `removal_delay` or a confirmation.
    pub fn held(&self) -> Option<Held> {
        self.held
    }

    /// Whether the store says that there are no members while some are in force.
    pub fn is_empty_kept(&self) -> bool {
        self.empty_told
    }

    fn believe(&mut self, now: Duration, reading: Reading) {
        let Reading { members, rejected, revision } = reading;
        let mut truth: HashMap<Address, Member> =
            members.into_iter().map(|member| (member.address.clone(), member)).collect();
        if let Some(in_force) = &self.in_force {
            for rejected in &rejected {
                let address = value::address(rejected.entry.as_bytes());
                let known = address.ok().and_then(|address| in_force.get(&address));
                if let Some(member) = known {
                    truth.entry(member.address.clone()).or_insert_with(|| member.clone());
                }
            }
        }
        self.empty_since = match truth.is_empty() {
            true => self.empty_since.or(Some(now)),
            false => None,
        };
        self.rejected = rejected;
        self.revision = revision;
        self.truth = Some(truth);
        self.compare(now);
    }

    /// Finds what differs. What differed before in the same way has done so since then.
    fn compare(&mut self, now: Duration) {
        let (Some(truth), Some(in_force)) = (&self.truth, &self.in_force) else { return };
        let before = std::mem::take(&mut self.differences);
        let mut differ = |address: &Address, kind| {
            let known = before.get(address).filter(|known| known.kind == kind);
            let since = known.map_or(now, |known| known.since);
            self.differences.insert(address.clone(), Difference { kind, since });
        };
        for (address, member) in truth {
            match in_force.get(address) {
                None => differ(address, Kind::New),
                Some(other) if other != member => differ(address, Kind::Changed),
                Some(_) => {}
            }
        }
        for address in in_force.keys().filter(|address| !truth.contains_key(*address)) {
            differ(address, Kind::Missing);
        }
        for address in before.keys().filter(|address| !self.differences.contains_key(*address)) {
            self.flaps.moved(address, now);
        }
    }

    /// The store's word as it is.
    fn everything(&self) -> Plan {
        let mut plan = Plan::default();
        let (Some(truth), in_force) = (&self.truth, &self.in_force) else { return plan };
        plan.updates = truth.keys().cloned().collect();
        let gone = in_force.iter().flat_map(HashMap::keys).filter(|a| !truth.contains_key(*a));
        plan.removals = gone.cloned().collect();
        plan
    }

    fn plan(&self, now: Duration) -> Plan {
        let empty = self.truth.as_ref().is_some_and(HashMap::is_empty);
        let members = self.in_force.as_ref().map_or(0, HashMap::len);
        match self.empty_since.filter(|_| empty && members > 0) {
            Some(since) => self.plan_empty(now, since),
            None => self.plan_differences(now, members),
        }
    }

    fn plan_empty(&self, now: Duration, since: Duration) -> Plan {
        let settle = self.rules.settle;
        let wait = match self.rules.on_empty {
            OnEmpty::Keep => return Plan::default(),
            OnEmpty::Drop => settle,
            OnEmpty::KeepFor(time) => time.max(settle),
        };
        let due = since.saturating_add(wait).max(self.publication_allowed_at());
        if self.failure.is_some() {
            return Plan::default();
        }
        match now >= due {
            true => self.everything(),
            false => Plan { next: Some(due), ..Plan::default() },
        }
    }

    fn plan_differences(&self, now: Duration, members: usize) -> Plan {
        let settle = self.rules.settle;
        let mut plan = Plan::default();
        // Of what is not damped: is any still young, and how long has the oldest waited?
        let mut unripe = false;
        let mut oldest: Option<Duration> = None;
        let mut added = 0;
        for (address, difference) in &self.differences {
            let Difference { kind, since } = *difference;
            if kind == Kind::Missing && self.failure.is_some() {
                continue;
            }
            let hold = if self.returns(address) { self.flaps.hold(address, now) } else { settle };
            let due = since.saturating_add(hold);
            if now < due {
                unripe |= hold <= settle;
                plan.next = earliest(plan.next, Some(due));
                continue;
            }
            oldest = earliest(oldest, Some(since));
            match kind {
                Kind::New => {
                    added += 1;
                    plan.updates.push(address.clone());
                }
                Kind::Changed => plan.updates.push(address.clone()),
                Kind::Missing => plan.removals.push(address.clone()),
            }
        }
        self.hold_back(now, &mut plan, (members, added));
        if plan.updates.is_empty() && plan.removals.is_empty() {
            return plan;
        }
        // Others are waited for, so that one publication holds what belongs together; not forever.
        let gathered = oldest.map(|since| since.saturating_add(settle * 2)).filter(|_| unripe);
        let due = gathered.unwrap_or(now).max(self.publication_allowed_at());
        if now < due {
            plan.next = earliest(plan.next, Some(due));
            plan.updates.clear();
            plan.removals.clear();
        }
        // Damping must not empty what the store does not.
        else if plan.removals.len() == members && plan.updates.is_empty() {
            plan.updates = self.truth.iter().flat_map(HashMap::keys).cloned().collect();
        }
        plan
    }

    /// Takes removals back out of a plan for `in_force` members and `added` new ones.
    fn hold_back(&self, now: Duration, plan: &mut Plan, (in_force, added): (usize, usize)) {
        let believed_at = |address: &Address| {
            let since = self.differences.get(address).map_or(now, |difference| difference.since);
            since.saturating_add(self.rules.removal_delay)
        };
        let young = |address: &Address| believed_at(address) > now;
        plan.young = plan.removals.iter().filter(|address| young(address)).count();
        let old = plan.removals.len() - plan.young;
        let in_force = in_force.saturating_sub(old);
        if self.removals.allows(now, removal::Step { in_force, removed: plan.young, added }) {
            return;
        }
        plan.held = plan.young;
        plan.young = 0;
        for address in plan.removals.iter().filter(|address| young(address)) {
            plan.next = earliest(plan.next, Some(believed_at(address)));
        }
        plan.removals.retain(|address| !young(address));
    }

    /// Whether a difference would bring new sessions to a backend that has none now.
    fn returns(&self, address: &Address) -> bool {
        let ready = |set: &Option<HashMap<Address, Member>>| {
            let member = set.as_ref().and_then(|set| set.get(address));
            member.is_some_and(|member| member.state == BackendState::Ready)
        };
        ready(&self.truth) && !ready(&self.in_force)
    }

    fn publication_allowed_at(&self) -> Duration {
        self.last_publication.map_or(Duration::ZERO, |at| at.saturating_add(self.rules.settle))
    }

    fn tell(&mut self, plan: &Plan, events: &mut Vec<Event>) {
        let members = self.in_force.as_ref().map_or(0, HashMap::len);
        let emptied = plan.removals.len() == members;
        let dropped = self.rules.on_empty == OnEmpty::Drop;
        let kept = self.empty_since.is_some() && members > 0 && !emptied && !dropped;
        if kept && !self.empty_told {
            events.push(Event::EmptyKept(members));
        }
        self.empty_told = kept;
        if self.failure.is_some() && plan.removals.is_empty() {
            // Nothing is taken away meanwhile: what was held back still is.
            return;
        }
        let held = Held { members: plan.held, of: members };
        match (self.held, plan.held) {
            (None, 0) => {}
            (Some(_), 0) => {
                self.held = None;
                events.push(Event::RemovalOver);
            }
            (before, _) => {
                self.held = Some(held);
                if before.is_none() {
                    events.push(Event::RemovalHeld(held));
                }
            }
        }
    }

    fn publish(&mut self, now: Duration, plan: &Plan, events: &mut Vec<Event>) {
        self.next = plan.next;
        let first = self.in_force.is_none();
        let mut set = self.in_force.take().unwrap_or_default();
        let mut change = Change::default();
        for address in &plan.removals {
            if let Some(member) = set.remove(address) {
                change.removed += 1;
                if member.state == BackendState::Ready {
                    self.flaps.left(address, now);
                }
            }
        }
        for address in &plan.updates {
            let Some(member) = self.truth.as_ref().and_then(|truth| truth.get(address)) else {
                continue;
            };
            let ready = member.state == BackendState::Ready;
            match set.insert(address.clone(), member.clone()) {
                None => change.added += 1,
                Some(before) if before == *member => {}
                Some(before) => {
                    change.changed += 1;
                    if before.state == BackendState::Ready && !ready {
                        self.flaps.left(address, now);
                    }
                }
            }
        }
        let nothing = change == Change::default();
        change.members = set.len();
        if nothing && !first {
            self.in_force = Some(set);
            return;
        }
        self.put_in_force(set);
        self.last_publication = Some(now);
        self.flaps.forget(now);
        self.removals.published(now, plan.young, change.added);
        self.compare(now);
        events.push(Event::Published(change));
    }

    fn put_in_force(&mut self, set: HashMap<Address, Member>) {
        let mut members: Vec<Member> = set.values().cloned().collect();
        members.sort_by(merge::compare);
        self.published = members.into();
        self.in_force = Some(set);
    }

    fn state_at(&self, now: Duration) -> State {
        let old = self.age(now).is_none_or(|age| age >= self.rules.stale_after);
        match (self.last_reading, &self.failure) {
            (None, None) => State::Cold,
            (_, Some(_)) if old => State::Failed,
            (_, Some(_)) => State::Stale,
            (Some(_), None) if old => State::Stale,
            (Some(_), None) => State::Fresh,
        }
    }

    fn state_changes_at(&self, now: Duration) -> Option<Duration> {
        let at = self.last_reading?.saturating_add(self.rules.stale_after);
        Some(at).filter(|at| *at > now)
    }
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

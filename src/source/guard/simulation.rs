//! All rules together in a seeded simulation, with an oracle that knows only sets and times.

use std::collections::{BTreeMap, BTreeSet};

use super::tests::{address, failed, ms, publications};
use super::*;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

type Members = BTreeMap<u16, (u32, u8)>;

/// What was published: when, how many before, how many of them had been away for long.
struct Publication {
    at: Duration,
    before: usize,
    old: usize,
}

/// The guard, a store, and what may be known about both from outside.
struct World {
    seed: u64,
    rules: Rules,
    random: Random,
    guard: Guard,
    now: Duration,
    store: Members,
    /// What the guard was told last, and whether the last word was a failure.
    told: Option<Members>,
    failing: bool,
    missing_since: BTreeMap<u16, Duration>,
    empty_since: Option<Duration>,
    in_force: Option<Members>,
    publications: Vec<Publication>,
    last_publication: Option<Duration>,
}

const STATES: [BackendState; 3] = [BackendState::Ready, BackendState::Drain, BackendState::Down];

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let on_empty = [OnEmpty::Keep, OnEmpty::Drop, OnEmpty::KeepFor(ms(7_000))];
        let rules = Rules {
            on_empty: random.one(&on_empty),
            max_removal_percent: random.one(&[0, 20, 50, 50, 100]),
            removal_delay: ms(random.one(&[1_000, 10_000, 60_000])),
            settle: ms(random.one(&[0, 100, 500, 2_000])),
            stale_after: ms(random.one(&[1_000, 600_000])),
        };
        World {
            seed,
            rules,
            random,
            guard: Guard::new(rules),
            now: Duration::ZERO,
            store: Members::new(),
            told: None,
            failing: false,
            missing_since: BTreeMap::new(),
            empty_since: None,
            in_force: None,
            publications: Vec::new(),
            last_publication: None,
        }
    }

    fn change_store(&mut self) {
        let id = self.random.below(24) as u16;
        match self.random.below(24) {
            0..8 => {
                let value = (1 + self.random.below(3) as u32, self.random.one(&[0, 0, 0, 1, 2]));
                self.store.insert(id, value);
            }
            8..16 => {
                self.store.remove(&id);
            }
            16 => self.store.clear(),
            17 => self.store.retain(|id, _| id % 3 == 0),
            18 | 19 => self.store = (0..12).map(|id| (id, (1, 0))).collect(),
            _ => {}
        }
    }

    fn tell(&mut self) -> Vec<Event> {
        let report = match self.random.below(12) {
            0 | 1 => failed(),
            2 | 3 => Report::Unchanged,
            _ => self.reading(),
        };
        self.hear(report)
    }

    /// The store as it is, in some order.
    fn reading(&mut self) -> Report {
        let member = |(id, (weight, state)): (&u16, &(u32, u8))| Member {
            address: address(*id),
            weight: *weight,
            state: STATES[usize::from(*state)],
            order: None,
        };
        let mut members: Vec<Member> = self.store.iter().map(member).collect();
        for index in (1..members.len()).rev() {
            members.swap(index, self.random.below(index as u64 + 1) as usize);
        }
        Report::Set(Reading { members, ..Reading::default() })
    }

    fn hear(&mut self, report: Report) -> Vec<Event> {
        self.failing = matches!(report, Report::Failed(_));
        if matches!(report, Report::Set(_)) {
            self.told = Some(self.store.clone());
            self.empty_since = self.store.is_empty().then(|| self.empty_since.unwrap_or(self.now));
            self.note_missing();
        }
        self.guard.report(self.now, report)
    }

    fn note_missing(&mut self) {
        let (Some(told), Some(in_force)) = (&self.told, &self.in_force) else { return };
        let gone: BTreeSet<u16> =
            in_force.keys().filter(|id| !told.contains_key(id)).copied().collect();
        self.missing_since.retain(|id, _| gone.contains(id));
        for id in gone {
            self.missing_since.entry(id).or_insert(self.now);
        }
    }

    fn read_guard(&self) -> Option<Members> {
        let state = |state| STATES.iter().position(|other| *other == state).unwrap_or(9) as u8;
        let members = self.guard.members()?.iter().map(|member| {
            let Address::Tcp(tcp) = &member.address else { panic!("all are TCP") };
            (tcp.port() - 1, (member.weight, state(member.state)))
        });
        Some(members.collect())
    }

    fn judge(&mut self, events: &[Event], confirmed: bool) {
        let why = format!("seed {} at {:?} with {:?}", self.seed, self.now, self.rules);
        let after = self.read_guard();
        let changed = after != self.in_force;
        assert_eq!(changed, publications(events) > 0, "{why}: {events:?}");
        assert!(publications(events) <= 1, "{why}: {events:?}");
        if !changed {
            return;
        }
        let after = after.expect("published");
        let before = self.in_force.take().unwrap_or_default();
        let told = self.told.clone().expect("published");
        for (id, value) in &after {
            // Nothing is made up: it is what the store says, or what was there.
            let known = told.get(id) == Some(value) || before.get(id) == Some(value);
            assert!(known, "{why}: {id}");
        }
        let first = self.last_publication.is_none();
        if !confirmed && !first {
            self.judge_removals(&before, &after, &why);
            let last = self.last_publication.expect("not the first");
            assert!(self.now - last >= self.rules.settle, "{why}: last at {last:?}");
        }
        if confirmed {
            assert_eq!(after, told, "{why}");
            self.publications.clear();
        }
        self.last_publication = Some(self.now);
        self.in_force = Some(after);
        self.note_missing();
    }

    fn judge_removals(&mut self, before: &Members, after: &Members, why: &str) {
        let gone: Vec<u16> = before.keys().filter(|id| !after.contains_key(id)).copied().collect();
        if gone.is_empty() {
            let step = Publication { at: self.now, before: before.len(), old: 0 };
            self.publications.push(step);
            return;
        }
        assert!(!self.failing, "{why}: taken away during a failure");
        if after.is_empty() {
            let since = self.empty_since.unwrap_or_else(|| panic!("{why}: emptied by itself"));
            let wait = match self.rules.on_empty {
                OnEmpty::Keep => panic!("{why}: emptied against on_empty"),
                OnEmpty::Drop => Duration::ZERO,
                OnEmpty::KeepFor(time) => time,
            };
            assert!(self.now - since >= wait, "{why}: empty since {since:?}");
            self.publications.clear();
            return;
        }
        let mut old = 0;
        for id in &gone {
            let since =
                self.missing_since.get(id).unwrap_or_else(|| panic!("{why}: {id} is there"));
            assert!(self.now - *since >= self.rules.settle, "{why}: {id} since {since:?}");
            old += usize::from(self.now - *since >= self.rules.removal_delay);
        }
        let share = self.rules.max_removal_percent as usize;
        let fits = |part: usize, whole: usize| {
            part == 0 || part * 100 <= whole * share || (part == 1 && share > 0)
        };
        let young = gone.len() - old;
        assert!(fits(young, before.len()), "{why}: {young} of {} at once", before.len());
        let step = Publication { at: self.now, before: before.len(), old };
        self.publications.push(step);
        if young > 0 {
            let mut late = 0;
            let mut most = 0;
            for step in self.publications.iter().rev() {
                if self.now - step.at >= self.rules.removal_delay && step.at != self.now {
                    break;
                }
                late += step.old;
                most = most.max(step.before.saturating_sub(late));
            }
            let shrunk = most.saturating_sub(after.len());
            assert!(fits(shrunk, most), "{why}: shrunk by {shrunk} of {most}");
        }
    }

    /// The store stays as it is and answers: how long until its truth is in force?
    fn quiet(&mut self) {
        let report = self.reading();
        let events = self.hear(report);
        self.judge(&events, false);
        let keep_for = match self.rules.on_empty {
            OnEmpty::KeepFor(time) => time,
            OnEmpty::Keep | OnEmpty::Drop => Duration::ZERO,
        };
        let longest = self.rules.settle * 68 + self.rules.removal_delay + keep_for;
        let end = self.now + longest;
        let mut ticks = 0;
        while let Some(at) = self.guard.deadline().filter(|at| *at <= end) {
            assert!(at > self.now, "seed {}: a deadline in the past", self.seed);
            self.now = at;
            let events = self.guard.tick(at);
            self.judge(&events, false);
            ticks += 1;
            assert!(ticks < 500, "seed {}: no quiet", self.seed);
        }
        self.now = end;
        let why = format!("seed {} at {:?} with {:?}", self.seed, self.now, self.rules);
        if self.store.is_empty() && self.rules.on_empty == OnEmpty::Keep {
            return;
        }
        assert_eq!(self.in_force.as_ref(), Some(&self.store), "{why}");
        assert_eq!(self.guard.held(), None, "{why}");
    }
}

#[test]
fn simulated_stores_of_every_temper() {
    const SEEDS: u64 = 300;
    const STEPS: u64 = 200;
    let mut published = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            let pace = if step < STEPS / 2 { 300 } else { 5_000 };
            let until = world.now + ms(world.random.below(pace));
            // A caller may look on time, or late.
            while let Some(at) = world.guard.deadline().filter(|at| *at <= until) {
                world.now = at + ms(world.random.one(&[0, 0, 0, 50]));
                let events = world.guard.tick(world.now);
                world.judge(&events, false);
            }
            world.now = world.now.max(until);
            world.change_store();
            let events = world.tell();
            world.judge(&events, false);
            if world.random.below(100) == 0 {
                let events = world.guard.confirm(world.now);
                world.judge(&events, true);
            }
            if world.random.below(40) == 0 {
                world.quiet();
            }
        }
        published += world.publications.len();
    }
    assert!(published > 1_000, "{published} publications: is anything tried?");
}

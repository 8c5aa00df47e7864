//! The rules one by one, and all together in a seeded simulation with an oracle that knows only
//! sets and times.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::source::FailureCause;

const RULES: Rules = Rules {
    on_empty: OnEmpty::Keep,
    max_removal_percent: 50,
    removal_delay: Duration::from_secs(60),
    settle: Duration::from_millis(500),
    stale_after: Duration::from_secs(600),
};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn address(id: u16) -> Address {
    Address::Tcp(([10, 0, 0, 1], 1 + id).into())
}

fn member(id: u16) -> Member {
    Member { address: address(id), weight: 1, state: BackendState::Ready, order: None }
}

fn set(ids: impl IntoIterator<Item = u16>) -> Report {
    let members = ids.into_iter().map(member).collect();
    Report::Set(Reading { members, ..Reading::default() })
}

fn failed() -> Report {
    Report::Failed(Failure { cause: FailureCause::Timeout, detail: "test".to_string() })
}

fn ids(guard: &Guard) -> Vec<u16> {
    let id = |member: &Member| match &member.address {
        Address::Tcp(tcp) => tcp.port() - 1,
        Address::Unix(_) => unreachable!("all are TCP"),
    };
    guard.members().map(|members| members.iter().map(id).collect()).unwrap_or_default()
}

fn publications(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Published(_))).count()
}

/// A guard with these members in force since 0.
fn started(rules: Rules, members: impl IntoIterator<Item = u16>) -> Guard {
    let mut guard = Guard::new(rules);
    assert_eq!(publications(&guard.report(Duration::ZERO, set(members))), 1);
    guard
}

/// Lets time pass up to `until`, as a caller would; gives how often a set was published.
fn run(guard: &mut Guard, until: Duration) -> usize {
    let mut published = 0;
    for _ in 0..10_000 {
        match guard.deadline() {
            Some(at) if at <= until => published += publications(&guard.tick(at)),
            _ => return published,
        }
    }
    panic!("a deadline that is never over");
}

#[test]
fn the_first_reading_counts_at_once() {
    let mut guard = Guard::new(RULES);
    assert!(guard.members().is_none());
    assert_eq!(guard.state(), State::Cold);
    let events = guard.report(ms(5), set([2, 1]));
    let change = Change { added: 2, members: 2, ..Change::default() };
    let fresh = Event::State { from: State::Cold, to: State::Fresh };
    assert_eq!(events, [Event::Published(change), fresh]);
    assert_eq!(ids(&guard), [1, 2]);
    let empty = started(RULES, []);
    assert_eq!(empty.members().map(|members| members.len()), Some(0));
}

#[test]
fn what_is_said_again_is_no_change_in_whatever_order() {
    let mut guard = started(RULES, [1, 2, 3]);
    assert!(guard.report(ms(10), set([3, 1, 2])).is_empty());
    assert!(guard.report(ms(20), Report::Unchanged).is_empty());
    assert_eq!(run(&mut guard, ms(100_000)), 0);
}

#[test]
fn changes_of_one_hand_are_one_publication() {
    let mut guard = started(RULES, [1, 2, 3, 4]);
    for (at, ids) in [(1_000, vec![1, 2, 3, 4, 5]), (1_100, vec![1, 2, 3, 4, 5, 6])] {
        assert!(guard.report(ms(at), set(ids)).is_empty());
    }
    assert!(guard.report(ms(1_200), set([2, 3, 4, 5, 6])).is_empty());
    assert_eq!(guard.deadline(), Some(ms(1_500)));
    assert!(guard.tick(ms(1_699)).is_empty());
    let change = Change { added: 2, removed: 1, changed: 0, members: 5 };
    assert_eq!(guard.tick(ms(1_700)), [Event::Published(change)]);
}

#[test]
fn changes_without_end_are_published_all_the_same() {
    let mut guard = started(RULES, []);
    let mut published = Vec::new();
    for step in 1..=60_u16 {
        let now = ms(u64::from(step) * 100);
        if publications(&guard.report(now, set(0..step))) > 0 {
            published.push(now);
        }
    }
    assert!((4..=12).contains(&published.len()), "{published:?}");
    assert!(published.windows(2).all(|pair| pair[1] - pair[0] >= RULES.settle));
}

#[test]
fn what_is_undone_within_settle_never_happened() {
    let mut guard = started(RULES, [1, 2, 3]);
    for step in 0..100 {
        let ids = if step % 2 == 0 { vec![1, 2] } else { vec![1, 2, 3, 4] };
        assert!(guard.report(ms(1_000 + step * 200), set(ids)).is_empty());
    }
    // The last word was that 4 came: it came and went, but never left while it counted.
    assert_eq!(run(&mut guard, ms(60_000)), 1);
    assert_eq!(ids(&guard), [1, 2, 3, 4]);
}

#[test]
fn a_flapping_member_moves_ever_more_rarely() {
    let mut guard = started(RULES, 0..10);
    let mut published = 0;
    let steps = 300;
    for step in 0..steps {
        let now = ms(1_000 + step * 2_000);
        published += run(&mut guard, now);
        let all = if step % 2 == 0 { 0..9 } else { 0..10 };
        published += publications(&guard.report(now, set(all)));
    }
    // Undamped there would be 300.
    assert!((4..=12).contains(&published), "{published} publications");
    let end = ms(1_000 + steps * 2_000);
    guard.report(end, set(0..10));
    run(&mut guard, end + ms(33_000));
    assert_eq!(ids(&guard).len(), 10, "once steady it is back");
}

#[test]
fn a_failure_changes_nothing_however_long_it_lasts() {
    let mut guard = started(RULES, [1, 2, 3, 4]);
    guard.report(ms(1_000), set([1, 2, 3]));
    let stale = Event::State { from: State::Fresh, to: State::Stale };
    assert_eq!(guard.report(ms(1_100), failed()), [stale]);
    assert_eq!(run(&mut guard, ms(500_000)), 0);
    let failed_at = ms(601_000);
    assert_eq!(guard.deadline(), Some(failed_at));
    let events = guard.tick(failed_at);
    assert_eq!(events, [Event::State { from: State::Stale, to: State::Failed }]);
    assert_eq!(guard.age(failed_at), Some(ms(600_000)));
    assert_eq!(run(&mut guard, ms(9_000_000)), 0);
    assert_eq!(ids(&guard), [1, 2, 3, 4]);
    // It said so before and says so still.
    let events = guard.report(ms(9_000_001), Report::Unchanged);
    assert_eq!(publications(&events), 1);
    assert_eq!((ids(&guard).len(), guard.state()), (3, State::Fresh));
}

#[test]
fn a_silent_store_becomes_stale_and_one_never_reached_failed() {
    let mut guard = started(RULES, [1]);
    assert_eq!(
        guard.tick(RULES.stale_after),
        [Event::State { from: State::Fresh, to: State::Stale }]
    );
    let mut guard = Guard::new(RULES);
    assert_eq!(guard.report(ms(1), Report::Unchanged), []);
    assert_eq!(
        guard.report(ms(1), failed()),
        [Event::State { from: State::Cold, to: State::Failed }]
    );
    assert_eq!(guard.failure().map(|failure| failure.cause), Some(FailureCause::Timeout));
    assert_eq!((guard.age(ms(9)), guard.members()), (None, None));
}

#[test]
fn an_empty_answer_follows_the_policy() {
    let empty_at = ms(1_000);
    let published = |on_empty, until| {
        let mut guard = started(Rules { on_empty, ..RULES }, [1, 2]);
        let events = guard.report(empty_at, set([]));
        let told = events.contains(&Event::EmptyKept(2));
        assert_eq!(told, on_empty != OnEmpty::Drop);
        assert_eq!(guard.is_empty_kept(), told);
        run(&mut guard, until);
        guard.members().map_or(9, |members| members.len())
    };
    assert_eq!(published(OnEmpty::Keep, ms(999_999_999)), 2);
    assert_eq!(published(OnEmpty::Drop, ms(1_499)), 2);
    assert_eq!(published(OnEmpty::Drop, ms(1_500)), 0);
    let keep_for = OnEmpty::KeepFor(ms(5_000));
    assert_eq!(published(keep_for, ms(5_999)), 2);
    assert_eq!(published(keep_for, ms(6_000)), 0);
    // While the store is away nobody knows whether it still means that.
    let mut guard = started(Rules { on_empty: keep_for, ..RULES }, [1, 2]);
    guard.report(empty_at, set([]));
    guard.report(ms(2_000), failed());
    assert_eq!(run(&mut guard, ms(60_000)), 0);
    assert_eq!(publications(&guard.report(ms(60_001), Report::Unchanged)), 1);
}

#[test]
fn a_large_removal_waits_and_nothing_else_does() {
    let mut guard = started(RULES, 0..10);
    guard.report(ms(1_000), set([0, 1, 2, 20]));
    let events = guard.tick(ms(1_500));
    let held = Held { members: 7, of: 10 };
    let change = Change { added: 1, members: 11, ..Change::default() };
    assert_eq!(events, [Event::RemovalHeld(held), Event::Published(change)]);
    assert_eq!(guard.held().map(|held| held.members), Some(7));
    assert_eq!(run(&mut guard, ms(60_999)), 0);
    let change = Change { removed: 7, members: 4, ..Change::default() };
    assert_eq!(guard.tick(ms(61_000)), [Event::RemovalOver, Event::Published(change)]);
    assert_eq!(ids(&guard), [0, 1, 2, 20]);
}

#[test]
fn what_comes_back_in_time_was_never_away() {
    let mut guard = started(RULES, 0..10);
    guard.report(ms(1_000), set([0]));
    run(&mut guard, ms(30_000));
    let events = guard.report(ms(30_000), set(0..10));
    assert_eq!(events, [Event::RemovalOver]);
    assert_eq!(run(&mut guard, ms(200_000)), 0);
}

#[test]
fn an_operator_may_confirm_anything() {
    let mut guard = started(RULES, 0..10);
    guard.report(ms(1_000), set([0]));
    run(&mut guard, ms(2_000));
    assert_eq!(publications(&guard.confirm(ms(2_000))), 1);
    assert_eq!((ids(&guard), guard.held()), (vec![0], None));
    guard.report(ms(3_000), set([]));
    run(&mut guard, ms(9_000));
    assert_eq!(publications(&guard.confirm(ms(9_000))), 1);
    assert!(ids(&guard).is_empty() && !guard.is_empty_kept());
    assert_eq!(publications(&guard.confirm(ms(9_001))), 0);
    assert_eq!(publications(&Guard::new(RULES).confirm(ms(0))), 0);
}

#[test]
fn a_single_backend_is_replaced_without_delay() {
    let mut guard = started(RULES, [1]);
    guard.report(ms(1_000), set([2]));
    assert_eq!(run(&mut guard, ms(1_500)), 1);
    assert_eq!(ids(&guard), [2]);
}

#[test]
fn a_saved_set_is_in_force_until_the_store_speaks() {
    let mut guard = Guard::new(RULES);
    let change = Change { added: 4, members: 4, ..Change::default() };
    assert_eq!(guard.restore((0..4).map(member).collect()), Some(Event::Published(change)));
    assert!(guard.restore(vec![member(9)]).is_none());
    assert_eq!((guard.is_restored(), guard.state()), (true, State::Cold));
    guard.report(ms(1), failed());
    assert_eq!((guard.is_restored(), guard.state()), (true, State::Failed));
    // A store that lost most of its data while we were away is not believed at once either.
    let events = guard.report(ms(1_000), set([0]));
    assert_eq!((publications(&events), guard.is_restored()), (0, false));
    run(&mut guard, ms(60_999));
    assert_eq!(ids(&guard).len(), 4);
    run(&mut guard, ms(61_000));
    assert_eq!(ids(&guard), [0]);
}

#[test]
fn an_entry_that_turned_bad_keeps_its_member() {
    let mut guard = started(RULES, [1, 2]);
    let bad = |id: u16| Rejected::new(address(id).to_string().as_bytes(), "garbage");
    let rejected = vec![bad(2), bad(3)];
    let reading = Reading { members: vec![member(1)], rejected, revision: Some("7".to_string()) };
    guard.report(ms(1_000), Report::Set(reading));
    assert_eq!(run(&mut guard, ms(200_000)), 0);
    assert_eq!((ids(&guard), guard.rejected().len(), guard.revision()), (vec![1, 2], 2, Some("7")));
    guard.report(ms(200_000), set([1]));
    assert_eq!(run(&mut guard, ms(201_000)), 1);
    assert_eq!(ids(&guard), [1]);
}

#[test]
fn damping_does_not_empty_what_the_store_does_not() {
    let rules = Rules { max_removal_percent: 100, ..RULES };
    let mut guard = started(rules, [1, 2]);
    let mut now = ms(1_000);
    for _ in 0..20 {
        for ids in [[1], [2]] {
            guard.report(now, set(ids));
            now += ms(1_000);
            run(&mut guard, now);
            assert!(!self::ids(&guard).is_empty());
        }
    }
}

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

//! The rules one by one; `simulation.rs` has them all together.

use super::*;
use crate::source::FailureCause;

const RULES: Rules = Rules {
    on_empty: OnEmpty::Keep,
    max_removal_percent: 50,
    removal_delay: Duration::from_secs(60),
    settle: Duration::from_millis(500),
    stale_after: Duration::from_secs(600),
};

pub(super) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(super) fn address(id: u16) -> Address {
    Address::Tcp(([10, 0, 0, 1], 1 + id).into())
}

fn member(id: u16) -> Member {
    Member { address: address(id), weight: 1, state: BackendState::Ready, order: None }
}

fn set(ids: impl IntoIterator<Item = u16>) -> Report {
    let members = ids.into_iter().map(member).collect();
    Report::Set(Reading { members, ..Reading::default() })
}

pub(super) fn failed() -> Report {
    Report::Failed(Failure { cause: FailureCause::Timeout, detail: "test".to_string() })
}

fn ids(guard: &Guard) -> Vec<u16> {
    let id = |member: &Member| match &member.address {
        Address::Tcp(tcp) => tcp.port() - 1,
        Address::Unix(_) => unreachable!("all are TCP"),
    };
    guard.members().map(|members| members.iter().map(id).collect()).unwrap_or_default()
}

pub(super) fn publications(events: &[Event]) -> usize {
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

//! Where an edit goes, by where the backend comes from.

use std::time::{Duration, SystemTime};

use super::*;
use crate::config::BackendState::{self, Down, Drain, Ready};
use crate::config::{OnEmpty, RedisSource, StoreTls};
use crate::table::Table;

const PIN: &str = "10.0.0.1:1";
const OTHER: &str = "10.0.0.7:1";

fn source(kind: SourceKind) -> Source {
    let second = Duration::from_secs(1);
    Source {
        kind,
        on_empty: OnEmpty::Keep,
        max_removal_percent: 100,
        removal_delay: second,
        settle: second,
        resync: second,
        timeout: second,
        stale_after: second,
    }
}

fn redis() -> Source {
    let tls = StoreTls::default();
    let (url, key) = ("redis://h".to_owned(), "k".to_owned());
    source(SourceKind::Redis(RedisSource { url, key, username: None, password: None, tls }))
}

fn file() -> Source {
    source(SourceKind::File { path: "/backends.toml".into() })
}

/// A pool with one pin, 10.0.0.1:1.
fn pool(sources: Vec<Source>) -> Pool {
    let table = Table::sample(&[PIN.parse().expect("an address")], |pool| pool.sources = sources);
    table.pools[0].settings.clone()
}

fn edit(address: &str, change: Change) -> Edit {
    Edit { pool: "p".to_owned(), address: address.parse().expect("an address"), change }
}

fn add() -> Change {
    Change::Add(Addition::default())
}

fn plan_of(pool: &Pool, state: &State, edit: &Edit, owner: Owner<'_>) -> Result<Plan, EditRefused> {
    plan(edit, pool, state, (owner, SystemTime::UNIX_EPOCH))
}

fn what(plan: Result<Plan, EditRefused>, address: &str) -> Option<What> {
    let Ok(Plan::State { state, .. }) = plan else { panic!("{plan:?}") };
    state.find("p", &address.parse().expect("an address")).map(|kept| kept.what)
}

fn state(address: &str, what: What) -> State {
    let address = address.parse().expect("an address");
    let at = SystemTime::UNIX_EPOCH;
    State::default().with(Kept { pool: "p".to_owned(), address, what, at })
}

fn member(address: &str, weight: u32) -> Member {
    let address = address.parse().expect("an address");
    Member { address, weight, state: Ready, order: None }
}

fn set(weight: Option<u32>, state: Option<BackendState>) -> What {
    What::Set { weight, state }
}

#[test]
fn members_of_a_store_are_edited_there() {
    let pool = pool(vec![file(), redis()]);
    let (redis, member) = (redis(), member(OTHER, 2));
    let nothing = State::default();
    let there = Ok(Plan::Store(vec![redis.clone()]));
    for change in [Change::Remove, Change::Weight(2), Change::Drain, Change::Ready, Change::Down] {
        let owner = Some((&redis, &member));
        assert_eq!(plan_of(&pool, &nothing, &edit(OTHER, change.clone()), owner), there);
        // Not seen yet: it may have come a moment ago.
        assert_eq!(plan_of(&pool, &nothing, &edit(OTHER, change), None), there);
    }
    assert_eq!(plan_of(&pool, &nothing, &edit(OTHER, add()), None), there);
    let twice = plan_of(&pool, &nothing, &edit(OTHER, add()), Some((&redis, &member)));
    assert!(matches!(twice, Err(EditRefused::AlreadyThere { .. })));
    let to = |index| Change::Add(Addition { source: Some(index), ..Addition::default() });
    assert_eq!(plan_of(&pool, &nothing, &edit(OTHER, to(1)), None), there);
    let refused = plan_of(&pool, &nothing, &edit(OTHER, to(0)), None);
    assert!(matches!(refused, Err(EditRefused::NotEditable(_))), "{refused:?}");
    let refused = plan_of(&pool, &nothing, &edit(OTHER, to(2)), None);
    assert!(matches!(refused, Err(EditRefused::Invalid(_))), "{refused:?}");
    // A pin is the file's, whatever the store says of it.
    let owner = Some((&redis, &member));
    let drained = plan_of(&pool, &nothing, &edit(PIN, Change::Drain), owner);
    assert_eq!(what(drained, PIN), Some(set(None, Some(Drain))));
}

#[test]
fn members_that_nobody_writes_are_laid_over() {
    let pool = pool(vec![file()]);
    let (file, member) = (file(), member(OTHER, 2));
    let owner = Some((&file, &member));
    let nothing = State::default();
    let drained = plan_of(&pool, &nothing, &edit(OTHER, Change::Drain), owner);
    let Ok(Plan::State { state: drained, over }) = drained else { panic!("{drained:?}") };
    assert_eq!(over.as_deref(), Some("file /backends.toml"));
    let mut backends = vec![pool.backends[0].clone()];
    backends.push(Backend { address: member.address.clone(), weight: 2, state: Ready });
    lay_over_sources(&pool, &drained, &mut backends, |_| owner);
    assert_eq!((backends[1].weight, backends[1].state), (2, Drain));
    // The same address of a store is that store's.
    let redis = redis();
    backends[1].state = Ready;
    lay_over_sources(&pool, &drained, &mut backends, |_| Some((&redis, &member)));
    assert_eq!(backends[1].state, Ready);
    let both = plan_of(&pool, &drained, &edit(OTHER, Change::Weight(5)), owner);
    assert_eq!(what(both, OTHER), Some(set(Some(5), Some(Drain))));
    let back = plan_of(&pool, &drained, &edit(OTHER, Change::Ready), owner);
    assert_eq!(what(back, OTHER), None, "what the source says by itself is not kept");
    let refused = plan_of(&pool, &nothing, &edit(OTHER, Change::Remove), owner);
    assert!(matches!(refused, Err(EditRefused::NotEditable(_))), "{refused:?}");
    let unknown = plan_of(&pool, &nothing, &edit(OTHER, Change::Down), None);
    assert!(matches!(unknown, Err(EditRefused::BackendUnknown { .. })), "{unknown:?}");
    // What is added where nobody writes is a pin of the state file.
    let added = plan_of(&pool, &nothing, &edit("10.0.0.8:1", add()), None);
    assert_eq!(what(added, "10.0.0.8:1"), Some(What::Added { weight: 1, state: Ready }));
}

#[test]
fn a_pin_that_was_removed_is_nobodys_until_it_is_added_again() {
    let pool = pool(vec![file()]);
    let removed = state(PIN, What::Removed);
    assert!(pinned(&pool, &removed).is_empty());
    let unknown = plan_of(&pool, &removed, &edit(PIN, Change::Drain), None);
    assert!(matches!(unknown, Err(EditRefused::BackendUnknown { .. })), "{unknown:?}");
    let (file, member) = (file(), member(PIN, 2));
    let owner = Some((&file, &member));
    let refused = plan_of(&pool, &removed, &edit(PIN, Change::Drain), owner);
    assert!(matches!(refused, Err(EditRefused::NotEditable(_))), "{refused:?}");
    let heavier = Change::Add(Addition { weight: 9, ..Addition::default() });
    for owner in [None, owner] {
        assert_eq!(what(plan_of(&pool, &removed, &edit(PIN, add()), owner), PIN), None);
        let again = plan_of(&pool, &removed, &edit(PIN, heavier.clone()), owner);
        assert_eq!(what(again, PIN), Some(set(Some(9), None)));
    }
}

#[test]
fn the_same_again_keeps_its_time() {
    let pool = pool(Vec::new());
    let drained = state(PIN, set(None, Some(Drain)));
    let later = (None, SystemTime::UNIX_EPOCH + Duration::from_secs(9));
    let again = plan(&edit(PIN, Change::Drain), &pool, &drained, later);
    assert_eq!(again, Ok(Plan::State { state: drained.clone(), over: None }));
    let down = plan(&edit(PIN, Change::Down), &pool, &drained, later);
    let Ok(Plan::State { state: down, .. }) = down else { panic!("{down:?}") };
    assert_eq!(down.all()[0].at, SystemTime::UNIX_EPOCH + Duration::from_secs(9));
    assert_eq!(pinned(&pool, &down)[0].state, Down);
}

//! Cases by hand, and a seeded simulation against a store that changes, falls silent and comes
//! back.

use std::collections::HashMap;

use super::*;
use crate::source::FailureCause;

const TERMS: Terms = Terms {
    entries_max: 4,
    stale: Duration::from_secs(60),
    timeout: Duration::from_secs(1),
    by_key: true,
};
const FAILED: Answer<u32> = Answer::Failed(Cause::Store(FailureCause::Timeout));

fn name(field: &str) -> LookupName {
    LookupName::new(b"key", field.as_bytes()).expect("short")
}

fn found(found: u32) -> Answer<u32> {
    Answer::Found { found, fresh_for: Duration::from_secs(10) }
}

fn get(cache: &mut Cache<u32, u32>, field: &str, now: Tick) -> Got<u32> {
    let got = cache.get(&name(field), now, || 7);
    cache.check_invariants();
    got
}

fn answer(
    cache: &mut Cache<u32, u32>,
    field: &str,
    answer: Answer<u32>,
    now: Tick,
) -> (usize, bool) {
    let resolved = cache.answer(&name(field), answer, (now, 0.5)).expect("remembered");
    cache.check_invariants();
    (resolved.waiters.len(), resolved.stale)
}

const fn hit(known: u32, stale: bool, ask: bool) -> Got<u32> {
    Got::Hit { known: Known::Found(known), stale, ask }
}

#[test]
fn one_asks_and_the_others_wait_with_it() {
    let mut cache = Cache::new(TERMS);
    assert_eq!(get(&mut cache, "a", 0), Got::Wait { ask: true });
    for _ in 0..999 {
        assert_eq!(get(&mut cache, "a", 1), Got::Wait { ask: false });
    }
    assert_eq!(answer(&mut cache, "a", found(1), 2), (1_000, false));
    assert_eq!(get(&mut cache, "a", 3), hit(1, false, false));
    assert_eq!(cache.waiting(), 0);
}

#[test]
fn an_answer_is_asked_for_again_before_its_end_by_one() {
    let mut cache = Cache::new(TERMS);
    let _ = get(&mut cache, "a", 0);
    answer(&mut cache, "a", found(1), 0);
    // 85 of 100 ticks.
    assert_eq!(get(&mut cache, "a", 84), hit(1, false, false));
    assert_eq!(get(&mut cache, "a", 85), hit(1, false, true));
    assert_eq!(get(&mut cache, "a", 86), hit(1, false, false));
    answer(&mut cache, "a", found(2), 87);
    assert_eq!(get(&mut cache, "a", 99), hit(2, false, false));
    assert_eq!(get(&mut cache, "a", 187), Got::Wait { ask: true }, "nobody used it meanwhile");
}

#[test]
fn what_is_over_is_used_only_when_there_is_no_other() {
    let mut cache = Cache::new(TERMS);
    let _ = get(&mut cache, "a", 0);
    answer(&mut cache, "a", found(1), 0);
    assert_eq!(get(&mut cache, "a", 100), Got::Wait { ask: true });
    assert_eq!(answer(&mut cache, "a", FAILED, 110), (1, true));
    assert_eq!(get(&mut cache, "a", 111), hit(1, true, false), "nobody waits for it now");
    assert_eq!(get(&mut cache, "a", 120), hit(1, true, true), "a second later it is asked again");
    assert_eq!(get(&mut cache, "a", 121), hit(1, true, false));
    answer(&mut cache, "a", FAILED, 130);
    assert_eq!(get(&mut cache, "a", 149), hit(1, true, false));
    assert_eq!(get(&mut cache, "a", 150), hit(1, true, true), "then after two seconds");
    answer(&mut cache, "a", found(2), 151);
    assert_eq!(get(&mut cache, "a", 152), hit(2, false, false));
    // Its time and a minute later nothing is left of it.
    assert_eq!(get(&mut cache, "a", 152 + 700), Got::Wait { ask: true });
    assert_eq!(answer(&mut cache, "a", FAILED, 152 + 701), (1, false));
    let failed = Known::Failed(Cause::Store(FailureCause::Timeout));
    let got = get(&mut cache, "a", 152 + 702);
    assert_eq!(got, Got::Hit { known: failed, stale: false, ask: false });
    assert_eq!(get(&mut cache, "a", 152 + 711), Got::Wait { ask: true });
}

#[test]
fn without_stale_what_is_over_is_gone() {
    let mut cache = Cache::new(Terms { stale: Duration::ZERO, ..TERMS });
    let _ = get(&mut cache, "a", 0);
    answer(&mut cache, "a", found(1), 0);
    assert_eq!(get(&mut cache, "a", 90), hit(1, false, true));
    answer(&mut cache, "a", FAILED, 95);
    assert_eq!(get(&mut cache, "a", 99), hit(1, false, false), "it is not over yet");
    assert_eq!(get(&mut cache, "a", 100), Got::Wait { ask: true });
    assert_eq!(answer(&mut cache, "a", FAILED, 101), (1, false));
}

#[test]
fn that_there_is_nothing_is_news_too() {
    let mut cache = Cache::new(TERMS);
    let _ = get(&mut cache, "a", 0);
    answer(&mut cache, "a", found(1), 0);
    let _ = get(&mut cache, "a", 100);
    let nothing = Answer::Nothing { fresh_for: Duration::from_secs(1) };
    answer(&mut cache, "a", nothing.clone(), 100);
    let got = Got::Hit { known: Known::Nothing, stale: false, ask: false };
    assert_eq!(get(&mut cache, "a", 109), got);
    assert_eq!(get(&mut cache, "a", 110), Got::Wait { ask: true });
    let refused =
        Answer::Refused { unfit: Unfit::PortNotAllowed, fresh_for: Duration::from_secs(1) };
    answer(&mut cache, "a", refused, 110);
    let known = Known::Refused(Unfit::PortNotAllowed);
    assert_eq!(get(&mut cache, "a", 119), Got::Hit { known, stale: false, ask: false });
}

#[test]
fn a_change_is_asked_for_at_once_if_somebody_uses_it() {
    let mut cache = Cache::new(TERMS);
    for field in ["a", "b", "c"] {
        let _ = get(&mut cache, field, 0);
        answer(&mut cache, field, found(1), 0);
    }
    let _ = get(&mut cache, "a", 1);
    assert_eq!(cache.forget(b"other", 2), []);
    assert_eq!(cache.forget(b"key", 2), [name("a")]);
    assert_eq!(cache.take_counts().forgotten, 3);
    assert_eq!(get(&mut cache, "a", 3), Got::Wait { ask: false }, "on its way");
    assert_eq!(get(&mut cache, "b", 3), Got::Wait { ask: true });
    assert_eq!(answer(&mut cache, "a", found(2), 4), (1, false));
    // The store is gone: what was said before the change is better than nothing.
    assert_eq!(answer(&mut cache, "b", FAILED, 4), (1, true));
    cache.forget_everything(5);
    assert_eq!(get(&mut cache, "a", 5), Got::Wait { ask: true });
    assert_eq!(get(&mut cache, "b", 5), Got::Wait { ask: true }, "the store may be back");
}

#[test]
fn a_lost_question_is_asked_again() {
    let mut cache = Cache::new(TERMS);
    assert_eq!(get(&mut cache, "a", 0), Got::Wait { ask: true });
    assert_eq!(get(&mut cache, "a", 59), Got::Wait { ask: false });
    assert_eq!(get(&mut cache, "a", 60), Got::Wait { ask: true });
}

#[test]
fn an_address_that_does_not_serve_is_asked_for_again_but_not_all_the_time() {
    let mut cache = Cache::new(TERMS);
    let _ = get(&mut cache, "a", 0);
    answer(&mut cache, "a", found(1), 0);
    cache.doubt(&name("a"), 2);
    assert_eq!(get(&mut cache, "a", 9), hit(1, false, false));
    assert_eq!(get(&mut cache, "a", 10), hit(1, false, true));
}

#[test]
fn a_flood_of_names_takes_no_more_room_and_spares_what_is_used() {
    let mut cache = Cache::new(Terms { entries_max: 100, ..TERMS });
    for field in ["hot", "warm"] {
        let _ = get(&mut cache, field, 0);
        answer(&mut cache, field, found(1), 0);
    }
    for n in 0..10_000 {
        let field = n.to_string();
        assert_eq!(get(&mut cache, &field, 0), Got::Wait { ask: true });
        answer(&mut cache, &field, found(n), 0);
        assert_eq!(get(&mut cache, "hot", 0), hit(1, false, false), "{n}");
    }
    assert_eq!(cache.len(), 100);
    assert_eq!(cache.take_counts().evicted, 10_002 - 100);
    // Those who wait are never sent away for others.
    let mut cache = Cache::new(TERMS);
    for field in ["a", "b", "c", "d"] {
        assert_eq!(get(&mut cache, field, 0), Got::Wait { ask: true });
    }
    assert_eq!(get(&mut cache, "e", 0), Got::Full);
    answer(&mut cache, "b", found(1), 0);
    assert_eq!(get(&mut cache, "e", 0), Got::Wait { ask: true });
    assert!(cache.answer(&name("b"), found(2), (1, 0.5)).is_none(), "nobody remembers it");
}

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A store with values that change, told at once; questions take some ticks; it is down at times.
struct Store {
    values: HashMap<LookupName, u32>,
    /// Due, name, and what it said when it was asked.
    under_way: Vec<(Tick, LookupName)>,
    down: bool,
    last: u32,
}

/// What a caller may be told: never a value that has been replaced for longer than a question
/// takes, while the store is up and tells its changes; nobody waits for longer than one question.
#[test]
fn nobody_is_told_what_is_not_so_any_more() {
    for seed in 0..30 {
        simulate(seed);
    }
}

const DELAY_MAX: u64 = 4;

fn simulate(seed: u64) {
    let mut random = Random(seed);
    let entries_max = 1 + random.below(12) as usize;
    let mut cache: Cache<u32, Tick> = Cache::new(Terms { entries_max, ..TERMS });
    let mut store = Store { values: HashMap::new(), under_way: Vec::new(), down: false, last: 0 };
    for now in 1..3_000 {
        let mut due = Vec::new();
        store.under_way.retain(|(at, name)| {
            let is_due = *at <= now;
            if is_due {
                due.push(name.clone());
            }
            !is_due
        });
        for name in due {
            let said = match (store.down, store.values.get(&name)) {
                (true, _) => FAILED,
                (false, Some(value)) => found(*value),
                (false, None) => Answer::Nothing { fresh_for: Duration::from_secs(1) },
            };
            let chance = random.below(1_000) as f64 / 1_000.0;
            if let Some(resolved) = cache.answer(&name, said, (now, chance)) {
                for since in resolved.waiters {
                    let waited = u64::from(now - since);
                    assert!(waited <= DELAY_MAX, "seed {seed}: waited {waited} ticks");
                }
            }
        }
        if random.below(200) == 0 {
            store.down = !store.down;
            cache.forget_everything(now);
        }
        if random.below(10) == 0 && !store.down {
            let name = name(&random.below(20).to_string());
            store.last += 1;
            store.values.insert(name, store.last);
            for name in cache.forget(b"key", now) {
                store.under_way.push((now + 1 + random.below(DELAY_MAX) as Tick, name));
            }
        }
        for _ in 0..random.below(6) {
            let name = name(&random.below(20).to_string());
            let got = cache.get(&name, now, || now);
            let ask = match &got {
                Got::Hit { known: Known::Found(value), stale, ask } => {
                    let so = store.values.get(&name) == Some(value);
                    assert!(so || *stale || store.down, "seed {seed} tick {now}: {value} is old");
                    *ask
                }
                Got::Hit { ask, .. } | Got::Wait { ask } => *ask,
                Got::Full => {
                    assert!(cache.waiting() >= entries_max, "seed {seed} tick {now}: full");
                    false
                }
            };
            if ask {
                store.under_way.push((now + 1 + random.below(DELAY_MAX) as Tick, name));
            }
        }
        cache.check_invariants();
    }
}

//! From what sessions met to a verdict: ejection for a growing time, within a cap. Pure.
//!
//! A backend is ejected when connecting to it failed too often in a row, or when it ended too many
//! sessions early. It is out for `base_time`, twice that the next time, and so on up to `max_time`;
//! it returns by itself, and a single further failure ejects it again. Never more of a pool is out
//! than `max_ejected`: what would be over that is counted and stays in.

use std::time::Duration;

use crate::config::Ejection as Rule;

/// Parts of the window that early ends are counted in.
const SLOTS: usize = 10;

/// What sessions have met of one backend, counted since it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Met {
    /// Attempts to connect that failed since the last that succeeded.
    pub failures_in_row: u32,
    /// Sessions it was given.
    pub sessions: u64,
    /// Sessions it ended early.
    pub early: u64,
}

/// Why a backend is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Connecting failed.
    Connecting,
    /// Sessions ended early.
    EarlyEnds,
}

impl Cause {
    /// Every cause; `ALL[cause as usize] == cause`.
    pub const ALL: [Cause; 2] = [Cause::Connecting, Cause::EarlyEnds];

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Cause::Connecting => "connect_failures",
            Cause::EarlyEnds => "early_ends",
        }
    }
}

/// What a look at a backend leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Out, for this long.
    Ejected(Cause, Duration),
    /// It should be out, but the cap is reached. Said once for each time it comes to that.
    Withheld(Cause),
    /// In again.
    Returned,
}

/// What is known of one backend.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Out until then.
    out_until: Option<Duration>,
    /// Ejections that count for the next one's length.
    times: u32,
    /// In since then, after the last ejection.
    returned: Duration,
    /// The last ejection's length.
    last: Duration,
    withheld: bool,
    met: Met,
    /// Failures in a row up to here are forgiven.
    failures_forgiven: u32,
    /// Sessions and early ends per slot of the window.
    slots: [(u32, u32); SLOTS],
    slot: u64,
}

impl Record {
    /// A backend that has `met` this much before it is looked at first.
    pub fn new(met: Met) -> Record {
        Record { met, failures_forgiven: met.failures_in_row, ..Record::default() }
    }

    /// Whether it is out.
    pub fn is_out(&self) -> bool {
        self.out_until.is_some()
    }

    /// Takes in what was `met` until `now`; `may_eject`: the cap leaves room for one more.
    pub fn look(
        &mut self,
        rule: &Rule,
        (now, met): (Duration, Met),
        may_eject: bool,
    ) -> Option<Step> {
        self.count(rule, now, met);
        if let Some(until) = self.out_until {
            if now < until {
                return None;
            }
            self.out_until = None;
            self.returned = now;
            // What it did before is paid for; one more failure is not.
            self.failures_forgiven = met.failures_in_row;
            self.slots = Default::default();
            return Some(Step::Returned);
        }
        if self.times > 0 && now.saturating_sub(self.returned) >= rule.max_time {
            self.times = 0;
        }
        let Some(cause) = self.cause(rule) else {
            self.withheld = false;
            return None;
        };
        if !may_eject {
            let known = std::mem::replace(&mut self.withheld, true);
            return (!known).then_some(Step::Withheld(cause));
        }
        self.withheld = false;
        let doubled =
            rule.base_time.saturating_mul(1u32.checked_shl(self.times).unwrap_or(u32::MAX));
        self.last = doubled.min(rule.max_time);
        self.times = self.times.saturating_add(1);
        self.out_until = Some(now + self.last);
        Some(Step::Ejected(cause, self.last))
    }

    fn cause(&self, rule: &Rule) -> Option<Cause> {
        let in_row = self.met.failures_in_row;
        if in_row >= rule.failures && in_row > self.failures_forgiven {
            return Some(Cause::Connecting);
        }
        let sum = |sums: (u64, u64), slot: &(u32, u32)| {
            (sums.0 + u64::from(slot.0), sums.1 + u64::from(slot.1))
        };
        let (sessions, early) = self.slots.iter().fold((0, 0), sum);
        // Sessions that ended may have been given before the window.
        let of = sessions.max(early);
        let many = early >= u64::from(rule.early_count)
            && early * 100 >= of * u64::from(rule.early_percent);
        (many && !rule.early.is_zero()).then_some(Cause::EarlyEnds)
    }

    /// Puts what is new into the slot of `now`, and empties the slots that have left the window.
    fn count(&mut self, rule: &Rule, now: Duration, met: Met) {
        let slot_len = (rule.window / SLOTS as u32).max(Duration::from_millis(1));
        let slot = u64::try_from(now.as_nanos() / slot_len.as_nanos()).unwrap_or(u64::MAX);
        let passed = slot.saturating_sub(self.slot).min(SLOTS as u64);
        for step in 0..passed {
            self.slots[((slot - step) % SLOTS as u64) as usize] = (0, 0);
        }
        self.slot = self.slot.max(slot);
        let new = |total: u64, before: u64| {
            u32::try_from(total.saturating_sub(before)).unwrap_or(u32::MAX)
        };
        let counts = &mut self.slots[(self.slot % SLOTS as u64) as usize];
        counts.0 = counts.0.saturating_add(new(met.sessions, self.met.sessions));
        counts.1 = counts.1.saturating_add(new(met.early, self.met.early));
        if met.failures_in_row < self.failures_forgiven {
            self.failures_forgiven = 0;
        }
        self.met = met;
    }
}

/// How many backends of a pool of this size may be out at once.
pub fn ejected_max(rule: &Rule, backends: usize) -> usize {
    backends.saturating_mul(rule.max_ejected_percent as usize) / 100
}

/// Whether so many are out of service that verdicts are not to be believed.
pub fn panics(percent: u32, out: usize, backends: usize) -> bool {
    percent < 100 && out.saturating_mul(100) > backends.saturating_mul(percent as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::random;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rule() -> Rule {
        Rule {
            failures: 5,
            early: seconds(5),
            early_count: 4,
            early_percent: 50,
            window: seconds(30),
            base_time: seconds(30),
            max_time: seconds(200),
            max_ejected_percent: 50,
        }
    }

    fn failed(failures_in_row: u32) -> Met {
        Met { failures_in_row, ..Met::default() }
    }

    #[test]
    fn failures_in_a_row_eject_for_a_growing_time() {
        let (rule, mut record) = (rule(), Record::default());
        let mut now = seconds(10);
        assert_eq!(record.look(&rule, (now, failed(4)), true), None);
        for (failures, time) in (5..).zip([30, 60, 120, 200, 200]) {
            let ejected = Some(Step::Ejected(Cause::Connecting, seconds(time)));
            assert_eq!(record.look(&rule, (now, failed(failures)), true), ejected);
            assert!(record.is_out());
            now += seconds(time) - Duration::from_millis(1);
            assert_eq!(record.look(&rule, (now, failed(failures)), true), None);
            now += Duration::from_millis(1);
            let returned = record.look(&rule, (now, failed(failures)), true);
            assert_eq!(returned, Some(Step::Returned));
            // It is given another chance, and has one only.
            assert_eq!(record.look(&rule, (now, failed(failures)), true), None);
        }
        // In service for as long as the longest ejection: forgotten.
        now += seconds(200);
        assert_eq!(record.look(&rule, (now, failed(0)), true), None);
        let first = Some(Step::Ejected(Cause::Connecting, seconds(30)));
        assert_eq!(record.look(&rule, (now, failed(4)), true), None);
        assert_eq!(record.look(&rule, (now, failed(5)), true), first);
    }

    #[test]
    fn a_success_between_failures_forgives_them() {
        let (rule, mut record) = (rule(), Record::new(failed(40)));
        assert_eq!(record.look(&rule, (seconds(1), failed(40)), true), None, "of an earlier life");
        assert_eq!(record.look(&rule, (seconds(2), failed(0)), true), None);
        assert_eq!(record.look(&rule, (seconds(3), failed(4)), true), None);
        assert!(record.look(&rule, (seconds(4), failed(5)), true).is_some());
    }

    #[test]
    fn early_ends_eject_when_they_are_many_and_a_large_share() {
        let rule = rule();
        let looked = |steps: &[(u64, u64, u64)]| {
            let mut record = Record::default();
            let met = |(at, sessions, early): &(u64, u64, u64)| {
                let met = Met { sessions: *sessions, early: *early, failures_in_row: 0 };
                record.look(&rule, (seconds(*at), met), true)
            };
            steps.iter().map(met).collect::<Vec<_>>()
        };
        let ejected = Some(Step::Ejected(Cause::EarlyEnds, seconds(30)));
        assert_eq!(looked(&[(1, 4, 3)]), [None], "three are not enough");
        assert_eq!(looked(&[(1, 8, 4)]), [ejected]);
        assert_eq!(looked(&[(1, 9, 4)]), [None], "nor is a share below half");
        assert_eq!(looked(&[(1, 4, 2), (28, 8, 4)]), [None, ejected], "within the window");
        assert_eq!(looked(&[(1, 4, 2), (40, 8, 4)]), [None, None], "not within the window");
        // More ends than new sessions: they were given before.
        assert_eq!(looked(&[(1, 20, 0), (35, 20, 4)]), [None, ejected]);
        let off = Rule { early: Duration::ZERO, ..rule };
        let met = Met { sessions: 9, early: 9, failures_in_row: 0 };
        assert_eq!(Record::default().look(&off, (seconds(1), met), true), None);
    }

    #[test]
    fn over_the_cap_it_is_withheld_and_said_once() {
        let (rule, mut record) = (rule(), Record::default());
        let withheld = Some(Step::Withheld(Cause::Connecting));
        assert_eq!(record.look(&rule, (seconds(1), failed(5)), false), withheld);
        assert_eq!(record.look(&rule, (seconds(2), failed(6)), false), None);
        assert!(record.look(&rule, (seconds(3), failed(6)), true).is_some(), "there is room now");
        assert_eq!([1, 2, 3, 10].map(|backends| ejected_max(&rule, backends)), [0, 1, 1, 5]);
    }

    #[test]
    fn panic_begins_over_the_threshold_only() {
        assert_eq!(
            [0, 1, 2, 3, 4].map(|out| panics(50, out, 4)),
            [false, false, false, true, true]
        );
        assert!(panics(99, 1, 1) && !panics(100, 1, 1) && !panics(50, 0, 0));
    }

    /// A pool under every kind of weather: the cap holds at every step, nobody is out for longer
    /// than `max_time`, everybody returns, and a backend that behaves is never ejected.
    #[test]
    fn a_simulated_pool_keeps_its_invariants() {
        for seed in 0..60u64 {
            let mut state = seed;
            let mut dice = |to: u64| random(&mut state) % to;
            let count = 1 + dice(12) as usize;
            let rule = Rule { max_ejected_percent: dice(101) as u32, ..rule() };
            let mut records = vec![Record::default(); count];
            let mut met = vec![Met::default(); count];
            let mut out_since = vec![None; count];
            let mut ejections = 0;
            for step in 0..3_000u64 {
                let now = Duration::from_millis(100 * step);
                for index in 0..count {
                    // Backend 0 behaves; the others fail, flap and hang up in phases of a minute.
                    let bad = index > 0 && (step / 600 + index as u64).is_multiple_of(2);
                    let met = &mut met[index];
                    match dice(4) {
                        0 if bad => met.failures_in_row += 1,
                        1 if bad => (met.sessions, met.early) = (met.sessions + 1, met.early + 1),
                        2 => {
                            met.sessions += 1;
                            met.failures_in_row = 0;
                        }
                        _ => {}
                    }
                    let out = records.iter().filter(|record| record.is_out()).count();
                    let may_eject = out < ejected_max(&rule, count);
                    match records[index].look(&rule, (now, *met), may_eject) {
                        Some(Step::Ejected(_, time)) => {
                            assert!(may_eject && index > 0, "seed {seed} step {step}");
                            assert!(time >= rule.base_time && time <= rule.max_time);
                            assert_eq!(out_since[index].replace(now), None);
                            ejections += 1;
                        }
                        Some(Step::Returned) => {
                            assert!(out_since[index].take().is_some(), "seed {seed} step {step}");
                        }
                        Some(Step::Withheld(_)) => assert!(!may_eject),
                        None => {}
                    }
                    let for_long =
                        out_since[index].is_some_and(|since| now - since > rule.max_time);
                    assert!(!for_long, "seed {seed} step {step}: out for longer than the longest");
                }
                let out = records.iter().filter(|record| record.is_out()).count();
                assert!(out <= ejected_max(&rule, count), "seed {seed} step {step}");
            }
            assert!(ejections > 0 || ejected_max(&rule, count) == 0 || count == 1, "seed {seed}");
        }
    }
}

//! From checks to a verdict: rise and fall, when the next check is due, and flapping. Pure.
//!
//! A backend begins in service: it takes `fall` failed checks in a row to take it out, and `rise`
//! good ones to put it back. One that falls again soon has to rise twice as long each time, up to
//! [`STRICTNESS_MAX`] times: a backend that flaps at the pace of its checks comes to rest outside
//! instead of moving its clients back and forth. [`FORGIVEN_AFTER`] times `rise` good checks in a
//! row halve that again.

use std::time::Duration;

use super::random;

/// Most times `rise` that a backend has to be good to return.
pub const STRICTNESS_MAX: u32 = 8;

/// Times `rise` that a backend in service has to be good for its next return to be easier: well
/// over what any return takes, or one that flaps slowly would be forgiven between its falls.
pub const FORGIVEN_AFTER: u32 = 4 * STRICTNESS_MAX;

/// What one backend is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Time between two checks, before jitter.
    pub interval: Duration,
    /// Good checks in a row that put it back.
    pub rise: u32,
    /// Failed checks in a row that take it out.
    pub fall: u32,
}

/// What is known of one backend.
#[derive(Debug, Clone)]
pub struct Check {
    up: bool,
    /// Results in a row of the kind that was last.
    streak: u32,
    good: bool,
    /// 1, 2, 4 … [`STRICTNESS_MAX`].
    strictness: u32,
    due: Duration,
    seed: u64,
}

impl Check {
    /// Nothing is known. The first check is due at a random moment of the first interval after
    /// `now`, so that a pool is not checked all at once.
    pub fn new(rule: &Rule, now: Duration, mut seed: u64) -> Check {
        let due = now + rule.interval.mul_f64(share(random(&mut seed)));
        Check { up: true, streak: 0, good: true, strictness: 1, due, seed }
    }

    /// Whether it is in service.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// When the next check is due.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// A check begins. The next one is due an interval later, a tenth more or less.
    pub fn begin(&mut self, rule: &Rule, now: Duration) {
        let jitter = 0.9 + 0.2 * share(random(&mut self.seed));
        // After a stall nothing is made up for.
        self.due = self.due.max(now.saturating_sub(rule.interval)) + rule.interval.mul_f64(jitter);
    }

    /// A check came to its result. `Some` when the verdict changes: whether it is in service now.
    pub fn result(&mut self, rule: &Rule, good: bool) -> Option<bool> {
        self.streak = if good == self.good { self.streak.saturating_add(1) } else { 1 };
        self.good = good;
        match (self.up, good) {
            (true, false) if self.streak >= rule.fall => {
                self.up = false;
                Some(false)
            }
            (false, true) if self.streak >= self.rise(rule) => {
                self.up = true;
                self.streak = 0;
                self.strictness = (self.strictness * 2).min(STRICTNESS_MAX);
                Some(true)
            }
            (true, true) if self.strictness > 1 => {
                if self.streak >= rule.rise.saturating_mul(FORGIVEN_AFTER) {
                    self.strictness /= 2;
                    self.streak = 0;
                }
                None
            }
            _ => None,
        }
    }

    /// Good checks in a row that would put it back now.
    pub fn rise(&self, rule: &Rule) -> u32 {
        rule.rise.saturating_mul(self.strictness)
    }
}

/// A random word as a number from 0 to 1, 1 excluded.
fn share(word: u64) -> f64 {
    // 53 bits are what an f64 holds exactly.
    (word >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { interval: Duration::from_secs(5), rise: 2, fall: 3 };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn results(check: &mut Check, rule: &Rule, results: &str) -> Vec<Option<bool>> {
        results.chars().map(|result| check.result(rule, result == '+')).collect()
    }

    #[test]
    fn it_falls_and_rises_after_as_many_in_a_row() {
        let mut check = Check::new(&RULE, seconds(0), 1);
        assert_eq!(results(&mut check, &RULE, "--+--"), [None; 5]);
        assert_eq!(results(&mut check, &RULE, "-"), [Some(false)]);
        assert_eq!(results(&mut check, &RULE, "-+-+"), [None; 4]);
        assert_eq!(results(&mut check, &RULE, "+"), [Some(true)]);
        assert!(check.is_up());
    }

    #[test]
    fn the_first_bad_checks_count_from_the_beginning() {
        let mut check = Check::new(&RULE, seconds(0), 1);
        assert_eq!(results(&mut check, &RULE, "---"), [None, None, Some(false)]);
    }

    #[test]
    fn one_that_falls_again_rises_later_and_is_forgiven_in_the_end() {
        let mut check = Check::new(&RULE, seconds(0), 1);
        let mut needed = Vec::new();
        for _ in 0..5 {
            assert_eq!(results(&mut check, &RULE, "---")[2], Some(false));
            needed.push(check.rise(&RULE));
            while check.result(&RULE, true).is_none() {}
        }
        assert_eq!(needed, [2, 4, 8, 16, 16]);
        for _ in 0..1_000 {
            assert_eq!(check.result(&RULE, true), None);
        }
        assert_eq!(check.rise(&RULE), 2);
    }

    /// A pool's checks are spread over the interval and stay so; each backend's own are an interval
    /// apart within a tenth.
    #[test]
    fn checks_are_spread_and_jittered() {
        let mut checks: Vec<Check> =
            (0..3_000).map(|seed| Check::new(&RULE, seconds(100), seed)).collect();
        let per_second = |checks: &[Check], from: u64| {
            let within = |second: u64| seconds(from + second)..seconds(from + second + 1);
            let count = |s| checks.iter().filter(|check| within(s).contains(&check.due())).count();
            (0..5).map(count).collect::<Vec<_>>()
        };
        let spread = per_second(&checks, 100);
        assert!(spread.iter().all(|count| (500..=700).contains(count)), "{spread:?}");
        for check in &mut checks {
            for _ in 0..100 {
                let before = check.due();
                check.begin(&RULE, before);
                let apart = check.due() - before;
                assert!((seconds(5).mul_f64(0.9)..=seconds(5).mul_f64(1.1)).contains(&apart));
            }
        }
        // A hundred intervals later: 600 s ± the jitters' sum.
        let late = checks.iter().filter(|c| c.due() < seconds(590) || c.due() > seconds(616));
        assert_eq!(late.count(), 0);
    }

    #[test]
    fn a_stall_is_not_made_up_for() {
        let mut check = Check::new(&RULE, seconds(0), 7);
        check.begin(&RULE, seconds(3_600));
        assert!(check.due() >= seconds(3_599) && check.due() < seconds(3_606));
    }

    /// Flapping at any pace around the check interval: in the long run a backend moves at most
    /// twice per [`STRICTNESS_MAX`] × rise + fall checks, and the first few times.
    #[test]
    fn flapping_gives_bounded_moves() {
        let mut still = 0;
        for seed in 0..400u64 {
            let mut state = seed;
            let mut dice = |from: u64, to: u64| from + random(&mut state) % (to - from + 1);
            let rule =
                Rule { interval: seconds(1), rise: dice(1, 3) as u32, fall: dice(1, 3) as u32 };
            // Runs of good and of bad checks, each up to `longest`.
            let longest = dice(1, 12);
            let mut check = Check::new(&rule, seconds(0), seed);
            let (mut moves, mut checks) = (0, 0u32);
            let mut was_up = true;
            while checks < 5_000 {
                for (good, run) in [(true, dice(1, longest)), (false, dice(1, longest))] {
                    for _ in 0..run {
                        checks += 1;
                        let flip = check.result(&rule, good);
                        if let Some(up) = flip {
                            moves += 1;
                            assert_ne!(up, was_up, "seed {seed}: a flip that is none");
                            was_up = up;
                        }
                        assert_eq!(check.is_up(), was_up, "seed {seed}");
                    }
                }
            }
            let bound = 8 + 2 * checks / (rule.rise * STRICTNESS_MAX + rule.fall);
            assert!(moves <= bound, "seed {seed}: {moves} moves, {bound} allowed, {rule:?}");
            if u64::from(rule.rise * STRICTNESS_MAX) > longest {
                assert!(moves <= 8, "seed {seed}: {moves} moves of one that never rests");
                still += 1;
            }
        }
        assert!(still > 50, "{still} of them were to come to rest");
    }
}

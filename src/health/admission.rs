//! The pace at which a backend is given sessions, and the line of those that wait for it. Pure.
//!
//! The pace is a token bucket, kept as one number so that shards can share it: the moment up to
//! which tokens are spent (the generic cell rate algorithm, ITU-T I.371). What is counted of a
//! backend belongs to the backend, not to a shard: clients are spread unevenly over shards, and a
//! hundredth of a backend's pace per shard would be too little here and too much there. It costs an
//! atomic operation per session, for backends that have a limit.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Limits;

/// What may come at once after a pause, in time: two ticks of a shard, so that none is lost between
/// the turns at which those who wait are let in.
const BURST: Duration = Duration::from_millis(200);

/// New sessions per second at the end of a slow start where no pace is set.
pub const SLOW_START_RATE_PER_S: u32 = 1_000;

/// Share of the full pace that a slow start begins with: one in this many.
const SLOW_START_FIRST: f64 = 0.1;

/// The pace of a backend at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds between two sessions, at least 1.
    interval_ns: u64,
}

impl Pace {
    /// The pace of a backend that returned this long ago, `None` if it never left; `None` is any.
    pub fn of(limits: Limits, slow_start: Duration, back_for: Option<Duration>) -> Option<Pace> {
        let full = limits.rate_per_s;
        let rate = match back_for {
            Some(back_for) if back_for < slow_start => {
                let risen = back_for.as_secs_f64() / slow_start.as_secs_f64();
                f64::from(full.unwrap_or(SLOW_START_RATE_PER_S)) * risen.max(SLOW_START_FIRST)
            }
            _ => f64::from(full?),
        };
        Some(Pace { interval_ns: ((1e9 / rate) as u64).max(1) })
    }

    fn burst_ns(self) -> u64 {
        self.interval_ns.max(BURST.as_nanos() as u64)
    }

    /// Sessions that may be let in at `now_ns` when tokens are spent up to `spent_ns`.
    pub fn available(self, spent_ns: u64, now_ns: u64) -> u32 {
        let ahead = spent_ns.saturating_sub(now_ns);
        let tokens = self.burst_ns().saturating_sub(ahead) / self.interval_ns;
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// Lets one in: up to when tokens are spent then. `None`: it is too early.
    pub fn take(self, spent_ns: u64, now_ns: u64) -> Option<u64> {
        (self.available(spent_ns, now_ns) > 0)
            .then(|| spent_ns.max(now_ns).saturating_add(self.interval_ns))
    }
}

/// The part that one shard may let in now, of what a backend has room for: as large as its part of
/// all who wait, rounded up, so that a shard whose tick comes first does not take it all.
pub fn fair_part(available: u32, own: usize, all: u32) -> u32 {
    let all = u64::from(all).max(own as u64).max(1);
    let part = (u64::from(available) * own as u64).div_ceil(all);
    u32::try_from(part).unwrap_or(u32::MAX)
}

/// Those who wait on one shard for one backend, first come first.
#[derive(Debug)]
pub struct Line<T> {
    waiting: VecDeque<T>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Line { waiting: VecDeque::new() }
    }
}

impl<T> Line<T> {
    /// The last one in line.
    pub fn join(&mut self, waiter: T) {
        self.waiting.push_back(waiter);
    }

    /// Forgets those who left.
    pub fn keep(&mut self, stays: impl FnMut(&T) -> bool) {
        self.waiting.retain(stays);
        if self.waiting.capacity() > 64 && self.waiting.len() < self.waiting.capacity() / 4 {
            self.waiting.shrink_to(self.waiting.len() * 2);
        }
    }

    /// Lets in the first ones, `most` of them at most, as long as `enter` says yes.
    pub fn release(&mut self, most: u32, mut enter: impl FnMut() -> bool) -> Vec<T> {
        let mut released = Vec::new();
        while (released.len() as u64) < u64::from(most) && !self.waiting.is_empty() && enter() {
            released.extend(self.waiting.pop_front());
        }
        released
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn limits(rate: Option<u32>) -> Limits {
        Limits { connections_max: None, rate_per_s: rate }
    }

    fn pace(rate: u32) -> Pace {
        Pace::of(limits(Some(rate)), Duration::ZERO, None).expect("a pace")
    }

    /// Sessions let in at every millisecond from `from_ns` on, for a second.
    fn in_a_second(pace: Pace, spent_ns: &mut u64, from_ns: u64) -> u32 {
        let mut entered = 0;
        for ms in 0..1_000 {
            while let Some(spent) = pace.take(*spent_ns, from_ns + ms * 1_000_000) {
                *spent_ns = spent;
                entered += 1;
            }
        }
        entered
    }

    #[test]
    fn a_pace_is_kept_second_by_second_and_bursts_are_short() {
        for (rate, burst) in [(1, 1), (4, 1), (100, 20), (10_000, 2_000)] {
            let (pace, mut spent) = (pace(rate), 0);
            assert_eq!(pace.available(0, 5 * SECOND_NS), burst, "{rate}/s");
            let first = in_a_second(pace, &mut spent, 5 * SECOND_NS);
            assert!(first <= rate + burst && first >= rate, "{rate}/s: {first} at first");
            for second in 6..20 {
                let entered = in_a_second(pace, &mut spent, second * SECOND_NS);
                assert!(entered.abs_diff(rate) <= 1, "{rate}/s: {entered} in second {second}");
            }
        }
    }

    #[test]
    fn a_slow_start_rises_from_a_tenth_to_the_full_pace() {
        let minute = Duration::from_secs(60);
        let per_second = |rate: Option<u32>, seconds: u64| {
            let back_for = Some(Duration::from_secs(seconds));
            Pace::of(limits(rate), minute, back_for).map(|pace| SECOND_NS / pace.interval_ns)
        };
        let seconds = [0, 6, 30, 59, 60, 600];
        let full = seconds.map(|s| per_second(Some(200), s));
        assert_eq!(full, [Some(20), Some(20), Some(100), Some(196), Some(200), Some(200)]);
        let unlimited = seconds.map(|s| per_second(None, s));
        assert_eq!(unlimited[..4], [Some(100), Some(100), Some(500), Some(983)]);
        assert_eq!(unlimited[4..], [None, None], "then as many as come");
        assert_eq!(Pace::of(limits(None), minute, None), None, "it never left");
        assert_eq!(Pace::of(limits(None), Duration::ZERO, Some(Duration::ZERO)), None);
    }

    #[test]
    fn parts_are_fair_and_add_up() {
        assert_eq!(fair_part(10, 30, 40), 8);
        assert_eq!(fair_part(10, 10, 40), 3);
        assert_eq!(fair_part(1, 1, 1_000), 1, "nobody is left with nothing for ever");
        assert_eq!([fair_part(0, 5, 5), fair_part(5, 0, 5), fair_part(5, 5, 0)], [0, 0, 5]);
    }

    #[test]
    fn the_line_lets_in_the_first_first() {
        let mut line = Line::default();
        (0..10).for_each(|waiter| line.join(waiter));
        line.keep(|waiter| waiter % 3 != 1);
        assert_eq!(line.release(2, || true), [0, 2]);
        let mut room = 1;
        let enter = || std::mem::replace(&mut room, 0) > 0;
        assert_eq!(line.release(5, enter), [3]);
        assert_eq!((line.len(), line.release(9, || true)), (4, vec![5, 6, 8, 9]));
        assert!(line.is_empty());
    }
}

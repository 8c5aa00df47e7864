//! How many members may vanish at once. "At once" is two things: one publication may not take more
//! than the share of what is in force, even if others take their places; and within `removal_delay`
//! the set may not shrink by more than the share, however small the steps are. So a rolling
//! replacement passes, and a store that loses its entries one by one does not empty a pool.

use std::collections::VecDeque;
use std::time::Duration;

/// Most publications that are remembered: at 500 ms and 24 h it would be more.
const STEPS_MAX: usize = 4_096;

/// What a publication would do, in members.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Before it.
    pub in_force: usize,
    /// By it, not counting those that were away for `removal_delay`.
    pub removed: usize,
    /// By it.
    pub added: usize,
}

#[derive(Debug)]
pub struct Removals {
    percent: usize,
    window: Duration,
    /// When, how many removed, how many added.
    steps: VecDeque<(Duration, usize, usize)>,
}

impl Removals {
    /// At most `percent` of the set within `window`.
    pub fn new(percent: u32, window: Duration) -> Removals {
        let percent = usize::try_from(percent).unwrap_or(100);
        Removals { percent, window, steps: VecDeque::new() }
    }

    /// Whether a step takes no more than it may. One member may always be replaced by others,
    /// unless nothing may vanish at all.
    pub fn allows(&self, now: Duration, step: Step) -> bool {
        let Step { in_force, removed, added } = step;
        if removed == 0 {
            return true;
        }
        let within = |part: usize, whole: usize| {
            part.saturating_mul(100) <= whole.saturating_mul(self.percent)
                || (part <= 1 && self.percent > 0)
        };
        let lost = self.lost(now);
        let shrunk = lost.saturating_add(removed).saturating_sub(added);
        within(removed, in_force) && within(shrunk, in_force.saturating_add(lost))
    }

    /// Notes a publication.
    pub fn published(&mut self, now: Duration, removed: usize, added: usize) {
        while self.steps.front().is_some_and(|(at, ..)| self.is_over(*at, now)) {
            self.steps.pop_front();
        }
        if removed == 0 && added == 0 {
            return;
        }
        if self.steps.len() >= STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back((now, removed, added));
    }

    /// By how many the set shrank within the window. What was added before does not count for it.
    fn lost(&self, now: Duration) -> usize {
        let steps = self.steps.iter().filter(|(at, ..)| !self.is_over(*at, now));
        steps.fold(0, |lost: usize, (_, removed, added)| {
            lost.saturating_add(*removed).saturating_sub(*added)
        })
    }

    fn is_over(&self, at: Duration, now: Duration) -> bool {
        now.saturating_sub(at) >= self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn step(in_force: usize, removed: usize, added: usize) -> Step {
        Step { in_force, removed, added }
    }

    #[test]
    fn one_publication_takes_no_more_than_the_share() {
        let removals = Removals::new(50, WINDOW);
        assert!(removals.allows(at(0), step(10, 5, 0)));
        assert!(!removals.allows(at(0), step(10, 6, 0)));
        assert!(!removals.allows(at(0), step(10, 10, 10)), "not even if others come");
        assert!(removals.allows(at(0), step(1, 1, 1)), "one may be replaced");
        assert!(removals.allows(at(0), step(10, 0, 0)));
        assert!(Removals::new(100, WINDOW).allows(at(0), step(10, 9, 0)));
        assert!(!Removals::new(0, WINDOW).allows(at(0), step(10, 1, 1)));
        assert!(Removals::new(20, WINDOW).allows(at(0), step(3, 1, 0)));
    }

    #[test]
    fn small_steps_take_no_more_either_until_time_has_passed() {
        let mut removals = Removals::new(50, WINDOW);
        removals.published(at(0), 4, 0);
        assert!(removals.allows(at(1), step(6, 1, 0)));
        assert!(!removals.allows(at(1), step(6, 2, 0)));
        assert!(!removals.allows(at(59), step(6, 2, 0)));
        assert!(removals.allows(at(60), step(6, 2, 0)));
    }

    #[test]
    fn a_rolling_replacement_passes() {
        let mut removals = Removals::new(50, WINDOW);
        for second in 0..100 {
            assert!(removals.allows(at(second), step(10, 1, 1)), "{second}");
            removals.published(at(second), 1, 1);
        }
        assert!(removals.steps.len() <= 61);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut removals = Removals::new(50, Duration::MAX);
        for second in 0..10_000 {
            removals.published(at(second), 1, 1);
        }
        assert_eq!(removals.steps.len(), STEPS_MAX);
    }
}

//! When the next operation of an open loop is due: evenly spaced, whatever became of earlier ones.

use std::time::{Duration, Instant};

/// A fixed rate from a fixed start.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start: Instant,
    per_second: f64,
    next: u64,
}

impl Schedule {
    /// The first one is due at `start`.
    pub fn new(start: Instant, per_second: f64) -> Schedule {
        Schedule { start, per_second, next: 0 }
    }

    /// When the next one is due.
    pub fn due(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.next as f64 / self.per_second)
    }

    /// Takes the next one if it is due: its number and its intended time.
    pub fn take(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let due = self.due();
        if due > now {
            return None;
        }
        self.next += 1;
        Some((self.next - 1, due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missed_is_made_up_for_with_the_times_that_were_intended() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 1000.0);
        assert_eq!(schedule.take(start), Some((0, start)));
        assert_eq!(schedule.take(start), None);
        let late = start + Duration::from_millis(3);
        let taken: Vec<_> = std::iter::from_fn(|| schedule.take(late)).collect();
        assert_eq!(taken.len(), 3);
        assert_eq!(taken[0].1, start + Duration::from_millis(1));
        assert!(schedule.due() > late);
    }
}

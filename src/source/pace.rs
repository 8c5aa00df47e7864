//! When a watcher may ask again: a token bucket for answers that come too fast, and a growing
//! pause after failures. Pure: time and chance are arguments.

use std::time::{Duration, Instant};

/// A token bucket, kept as the time at which the next token is due (the generic cell rate
/// algorithm of ITU-T I.371): no counter that must be refilled.
#[derive(Debug)]
pub struct Bucket {
    refill: Duration,
    burst: u32,
    due: Option<Instant>,
}

impl Bucket {
    /// A full bucket of `burst` tokens, at least 1; a new one comes every `refill`.
    pub fn new(burst: u32, refill: Duration) -> Bucket {
        Bucket { refill, burst: burst.max(1), due: None }
    }

    /// Takes a token, and says how long to wait until it is there.
    pub fn take(&mut self, now: Instant) -> Duration {
        let due = self.due.map_or(now, |due| due.max(now));
        self.due = Some(due + self.refill);
        let ahead = self.refill * (self.burst - 1);
        due.saturating_duration_since(now).saturating_sub(ahead)
    }
}

/// Pauses after failures in a row: `base` times the square of their number, capped, and with full
/// jitter, so that a fleet of gateways does not come back to a store as one.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    pub fn new(base: Duration, cap: Duration) -> Backoff {
        Backoff { base, cap, failures: 0 }
    }

    /// One more failure: how long to pause. `chance` is uniform in 0 to 1.
    pub fn fail(&mut self, chance: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let squared = self.failures.saturating_mul(self.failures);
        self.base.saturating_mul(squared).min(self.cap).mul_f64(chance.clamp(0.0, 1.0))
    }

    /// The store answered.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2, SECOND);
        let waits: Vec<Duration> = (0..5).map(|_| bucket.take(start)).collect();
        assert_eq!(waits, [0, 0, 1, 2, 3].map(Duration::from_secs));
        // Whoever comes slower than the rate never waits, and saves no more than the burst.
        let later = start + Duration::from_secs(100);
        let waits: Vec<Duration> = (0..3).map(|_| bucket.take(later)).collect();
        assert_eq!(waits, [0, 0, 1].map(Duration::from_secs));
        assert_eq!(Bucket::new(0, SECOND).take(start), Duration::ZERO);
    }

    #[test]
    fn pauses_grow_with_the_square_to_the_cap_and_begin_anew() {
        let mut backoff = Backoff::new(SECOND, 20 * SECOND);
        let pauses: Vec<Duration> = (0..6).map(|_| backoff.fail(1.0)).collect();
        assert_eq!(pauses, [1, 4, 9, 16, 20, 20].map(Duration::from_secs));
        assert_eq!(backoff.fail(0.0), Duration::ZERO);
        assert_eq!(backoff.fail(0.5), 10 * SECOND);
        assert_eq!(backoff.fail(f64::INFINITY), 20 * SECOND);
        backoff.succeed();
        assert_eq!(backoff.fail(1.0), SECOND);
        let mut long = Backoff { failures: u32::MAX, ..Backoff::new(SECOND, 20 * SECOND) };
        assert_eq!(long.fail(1.0), 20 * SECOND);
    }
}

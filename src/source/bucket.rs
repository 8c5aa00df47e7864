//! When a watcher may ask again if answers come too fast. Pure: time is an argument.

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
}

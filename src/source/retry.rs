//! When a store is asked again. Everything is spread at random, so that a fleet of gateways does
//! not ask in step.

use std::time::Duration;

use super::Desk;

/// Longest pause after the first failure.
const PAUSE_FIRST_MAX: Duration = Duration::from_millis(200);
/// Longest pause after any number of failures; a conversation that lasted this long makes them
/// forgotten.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Changes of a set are told at most once in this time. The first after a quiet while is told at
/// once; a store that changes all the time costs no more than this.
pub const GAP: Duration = Duration::from_millis(50);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub struct Retry {
    failures: u32,
}

impl Retry {
    /// All is well again.
    pub fn forget(&mut self) {
        self.failures = 0;
    }

    /// How long to stay away after one more failure: anything up to a limit that doubles each
    /// time ("full jitter": Brooker, "Exponential Backoff and Jitter", 2015).
    pub fn pause(&mut self) -> Duration {
        let limit = limit(self.failures);
        self.failures = self.failures.saturating_add(1);
        rand::random_range(Duration::ZERO..=limit)
    }

    /// Stays away; a request to read now ends it early.
    pub async fn rest(&mut self, desk: &Desk) {
        tokio::select! {
            () = tokio::time::sleep(self.pause()) => {}
            () = desk.refresh.notified() => {}
        }
    }
}

fn limit(failures: u32) -> Duration {
    PAUSE_FIRST_MAX.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX)
}

/// Somewhere in the last quarter of a period.
pub fn jittered(period: Duration) -> Duration {
    rand::random_range(period.mul_f64(0.75)..=period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_spread() {
        let limits: Vec<u128> = (0..8).map(|failures| limit(failures).as_millis()).collect();
        assert_eq!(limits, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!(limit(u32::MAX), PAUSE_MAX);
        let mut retry = Retry { failures: 10 };
        let pauses: Vec<Duration> = (0..200).map(|_| retry.pause()).collect();
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX));
        // Fails once in 2^200.
        assert!(pauses.iter().any(|pause| *pause < PAUSE_MAX / 2));
        assert!(pauses.iter().any(|pause| *pause > PAUSE_MAX / 2));
        retry.forget();
        assert!(retry.pause() <= PAUSE_FIRST_MAX);
    }

    #[test]
    fn a_period_is_never_exceeded() {
        let period = Duration::from_secs(60);
        for _ in 0..200 {
            let due = jittered(period);
            assert!(due <= period && due >= Duration::from_secs(45), "{due:?}");
        }
    }
}

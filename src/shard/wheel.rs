//! Deadlines of a shard, counted in its coarse ticks: a hashed wheel. Pure.
//!
//! A session is in the wheel once or a few times; an entry that comes due is shown to the session,
//! which says whether it has ended or when to look again. So moving a deadline back, which every
//! byte of traffic does to an idle timeout, costs nothing.

use std::time::Duration;

/// Length of a tick. Deadlines are met within one tick after their time.
pub const TICK: Duration = Duration::from_millis(100);

/// A moment of a shard: ticks since its start. Wraps after 13 years.
pub type Tick = u32;

const BUCKETS: usize = 1024;

/// Ticks in `duration`, rounded up, at least one.
pub fn ticks(duration: Duration) -> Tick {
    let ticks = duration.as_millis().div_ceil(TICK.as_millis()).max(1);
    Tick::try_from(ticks).unwrap_or(Tick::MAX / 2)
}

/// Who is to be looked at, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Key of the session in the shard's slab.
    pub slot: u32,
    /// Serial number of the session: a slot is used again.
    pub serial: u32,
    /// When.
    pub due: Tick,
}

/// All entries, by due time modulo the size of the wheel.
#[derive(Debug)]
pub struct Wheel {
    buckets: Vec<Vec<Entry>>,
    now: Tick,
}

impl Default for Wheel {
    fn default() -> Self {
        Wheel { buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), now: 0 }
    }
}

impl Wheel {
    /// Adds an entry; one that is due already is shown at the next tick.
    pub fn insert(&mut self, entry: Entry) {
        let due = entry.due.max(self.now + 1);
        self.buckets[due as usize % BUCKETS].push(Entry { due, ..entry });
    }

    /// Moves on to `now` and appends every entry that came due to `expired`.
    pub fn advance(&mut self, now: Tick, expired: &mut Vec<Entry>) {
        // After a long stall (a suspended machine) one round over all buckets is enough.
        let first = (self.now + 1).max(now.saturating_sub(BUCKETS as Tick - 1));
        for tick in first..=now {
            let bucket = &mut self.buckets[tick as usize % BUCKETS];
            bucket.retain(|entry| {
                let due = entry.due <= now;
                if due {
                    expired.push(*entry);
                }
                !due
            });
            // Ten thousand connections that arrive together share a bucket once; do not keep
            // that memory.
            if bucket.capacity() > 64 && bucket.len() < bucket.capacity() / 4 {
                bucket.shrink_to(bucket.len() * 2);
            }
        }
        self.now = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_of(wheel: &mut Wheel, now: Tick) -> Vec<u32> {
        let mut expired = Vec::new();
        wheel.advance(now, &mut expired);
        let mut slots: Vec<u32> = expired.iter().map(|entry| entry.slot).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn entries_come_due_once_and_in_time_at_any_distance() {
        let mut wheel = Wheel::default();
        let dues = [1, 2, 5, 1023, 1024, 1025, 2048, 6000];
        for (slot, due) in dues.iter().enumerate() {
            wheel.insert(Entry { slot: slot as u32, serial: 0, due: *due });
        }
        let mut seen = Vec::new();
        for now in 1..=7000 {
            for slot in due_of(&mut wheel, now) {
                seen.push((dues[slot as usize], now));
            }
        }
        assert_eq!(seen, dues.iter().map(|due| (*due, *due)).collect::<Vec<_>>());
    }

    #[test]
    fn a_stall_shows_everything_that_came_due_meanwhile() {
        let mut wheel = Wheel::default();
        for slot in 0..3000 {
            wheel.insert(Entry { slot, serial: 0, due: slot + 1 });
        }
        assert_eq!(due_of(&mut wheel, 2500), (0..2500).collect::<Vec<_>>());
        assert_eq!(due_of(&mut wheel, 3000), (2500..3000).collect::<Vec<_>>());
    }

    #[test]
    fn an_entry_in_the_past_is_shown_at_the_next_tick() {
        let mut wheel = Wheel::default();
        assert!(due_of(&mut wheel, 50).is_empty());
        wheel.insert(Entry { slot: 7, serial: 0, due: 10 });
        assert_eq!(due_of(&mut wheel, 51), vec![7]);
    }

    #[test]
    fn durations_round_up_to_ticks() {
        assert_eq!(ticks(Duration::ZERO), 1);
        assert_eq!(ticks(Duration::from_millis(100)), 1);
        assert_eq!(ticks(Duration::from_millis(101)), 2);
        assert_eq!(ticks(Duration::from_secs(600)), 6000);
    }
}

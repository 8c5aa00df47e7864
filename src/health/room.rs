//! What one backend has room for now, shared by all shards: a few atomics of its identity, touched
//! when a session begins to look for room and when it ends, never per message.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use super::admission::Pace;
use crate::config::Limits;

/// Room of a backend.
#[derive(Debug)]
pub struct Room {
    /// Sessions open now on all shards: what `least_conn` compares.
    live: AtomicU32,
    /// Sessions that wait.
    waiting: AtomicU32,
    /// Up to when tokens are spent, nanoseconds after `born`.
    spent_ns: AtomicU64,
    born: Instant,
}

/// What a backend bears at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Limits from the configuration.
    pub limits: Limits,
    /// How long its pace rises after it returned.
    pub slow_start: Duration,
    /// When it returned, or joined.
    pub returned: Option<Instant>,
}

impl Terms {
    /// Whether anything is limited at `now`.
    fn pace(&self, now: Instant) -> Option<Pace> {
        let back_for = self.returned.map(|returned| now.saturating_duration_since(returned));
        Pace::of(self.limits, self.slow_start, back_for)
    }
}

impl Default for Room {
    fn default() -> Room {
        Room {
            live: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            spent_ns: AtomicU64::new(0),
            born: Instant::now(),
        }
    }
}

impl Room {
    /// Sessions open now.
    pub fn live(&self) -> u32 {
        self.live.load(Relaxed)
    }

    /// Sessions that wait now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// Lets a session in if there is room for it; [`Room::leave`] is its end. Who waits is not
    /// asked: see [`Room::is_open`].
    pub fn enter(&self, terms: &Terms, now: Instant) -> bool {
        let most = terms.limits.connections_max.unwrap_or(u32::MAX);
        if self.live.fetch_add(1, Relaxed) >= most {
            self.live.fetch_sub(1, Relaxed);
            return false;
        }
        let Some(pace) = terms.pace(now) else { return true };
        let now_ns = self.now_ns(now);
        let taken = self.spent_ns.fetch_update(Relaxed, Relaxed, |spent| pace.take(spent, now_ns));
        if taken.is_err() {
            self.live.fetch_sub(1, Relaxed);
        }
        taken.is_ok()
    }

    /// A session that was let in has ended.
    pub fn leave(&self) {
        self.live.fetch_sub(1, Relaxed);
    }

    /// Whether a session that comes now would be let in at once.
    pub fn is_open(&self, terms: &Terms, now: Instant) -> bool {
        self.waiting() == 0 && self.available(terms, now) > 0
    }

    /// How many could be let in now.
    pub fn available(&self, terms: &Terms, now: Instant) -> u32 {
        let most = terms.limits.connections_max.unwrap_or(u32::MAX);
        let left = most.saturating_sub(self.live());
        terms.pace(now).map_or(left, |pace| {
            left.min(pace.available(self.spent_ns.load(Relaxed), self.now_ns(now)))
        })
    }

    /// One more waits, unless `most` do; [`Room::stop_waiting`] is the end of it.
    pub fn wait(&self, most: u32) -> bool {
        let before = self.waiting.fetch_add(1, Relaxed);
        if before >= most {
            self.waiting.fetch_sub(1, Relaxed);
        }
        before < most
    }

    /// One that waited was let in, or has left.
    pub fn stop_waiting(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    fn now_ns(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.born).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::admission::{Line, fair_part};
    use crate::health::random;

    const TICK: Duration = Duration::from_millis(100);

    /// A session of the simulation: when it gives up, and its number.
    type Waiter = (u64, u64);

    /// A herd on three shards, one of them with most of it, against one backend: what is open and
    /// what waits stays within bounds at every step, nobody waits past the deadline, those of one
    /// shard enter in their order, the pace is kept over every second, and all who are neither
    /// refused nor late get in.
    #[test]
    fn a_simulated_herd_arrives_at_the_pace_of_its_backend() {
        for seed in 0..40u64 {
            let mut state = seed;
            let mut dice = |from: u64, to: u64| from + random(&mut state) % (to - from + 1);
            let limits = Limits {
                connections_max: Some(dice(20, 400) as u32),
                rate_per_s: Some(dice(5, 300) as u32),
            };
            let (queue_max, patience) = (dice(10, 300) as u32, dice(5, 100));
            let room = Room::default();
            let slow_start = Duration::from_secs(dice(0, 20));
            let terms = Terms { limits, slow_start, returned: Some(room.born) };
            let mut lines: [Line<Waiter>; 3] = Default::default();
            let mut last_entered = [0; 3];
            let mut entered_at: Vec<u64> = Vec::new();
            let (mut open, mut arrived, mut refused, mut late) = (0u64, 0u64, 0u64, 0u64);
            for tick in 0..1_500u64 {
                let now = room.born + TICK * u32::try_from(tick).unwrap();
                for _ in 0..if tick < 600 { dice(0, 60) } else { 0 } {
                    // Most of the herd hashes to one shard.
                    let shard = if dice(0, 9) < 7 { 0 } else { dice(1, 2) as usize };
                    arrived += 1;
                    if room.waiting() == 0 && room.enter(&terms, now) {
                        open += 1;
                        entered_at.push(tick);
                    } else if room.wait(queue_max) {
                        lines[shard].join((tick + patience, arrived));
                    } else {
                        refused += 1;
                    }
                }
                for (shard, line) in lines.iter_mut().enumerate() {
                    line.keep(|(deadline, _)| {
                        if *deadline <= tick {
                            room.stop_waiting();
                            late += 1;
                        }
                        *deadline > tick
                    });
                    let available = room.available(&terms, now);
                    let most = fair_part(available, line.len(), room.waiting());
                    for (deadline, number) in line.release(most, || room.enter(&terms, now)) {
                        room.stop_waiting();
                        assert!(deadline > tick && number > last_entered[shard], "seed {seed}");
                        last_entered[shard] = number;
                        open += 1;
                        entered_at.push(tick);
                    }
                }
                for _ in 0..dice(0, 20).min(open) {
                    room.leave();
                    open -= 1;
                }
                let waiting: usize = lines.iter().map(Line::len).sum();
                assert_eq!(u64::from(room.live()), open, "seed {seed}");
                assert_eq!(room.waiting() as usize, waiting, "seed {seed}");
                let connections_max = limits.connections_max.unwrap_or(u32::MAX);
                assert!(room.live() <= connections_max && room.waiting() <= queue_max);
            }
            let waiting: u64 = lines.iter().map(|line| line.len() as u64).sum();
            assert_eq!(waiting, 0, "seed {seed}: someone waits for ever");
            assert_eq!(arrived, entered_at.len() as u64 + refused + late, "seed {seed}");
            let rate = u64::from(limits.rate_per_s.unwrap_or(0));
            for second in 0..150u64 {
                let within = second * 10..(second + 1) * 10;
                let entered = entered_at.iter().filter(|tick| within.contains(tick)).count() as u64;
                let rising = (second + 1) as f64 / slow_start.as_secs_f64().max(1e-9);
                let pace = rate as f64 * rising.clamp(0.1, 1.0);
                let bound = (pace * 1.2).ceil() as u64 + 2;
                assert!(entered <= bound, "seed {seed}: {entered} in second {second}, not {bound}");
            }
        }
    }

    #[test]
    fn nobody_is_let_past_those_who_wait() {
        let room = Room::default();
        let terms = Terms { limits: Limits::default(), slow_start: Duration::ZERO, returned: None };
        let now = room.born;
        assert!(room.is_open(&terms, now));
        assert!(room.wait(1) && !room.wait(1));
        assert!(!room.is_open(&terms, now), "one waits");
        room.stop_waiting();
        assert!(room.is_open(&terms, now) && room.enter(&terms, now));
        assert_eq!((room.live(), room.waiting()), (1, 0));
    }

    #[test]
    fn a_full_backend_is_left_alone_and_costs_no_token() {
        let limits = Limits { connections_max: Some(1), rate_per_s: Some(1) };
        let room = Room::default();
        let terms = Terms { limits, slow_start: Duration::ZERO, returned: None };
        let at = |seconds| room.born + Duration::from_secs(seconds);
        assert!(room.enter(&terms, at(0)) && !room.enter(&terms, at(5)));
        room.leave();
        assert!(room.enter(&terms, at(5)), "the refused one spent nothing");
        room.leave();
        assert!(!room.enter(&terms, at(5)), "the pace forbids it");
        assert_eq!(room.live(), 0, "a refused one is not counted");
    }
}

//! Members that come and go: each return within a while has to last longer before it counts, as
//! routers damp routes. One return in a minute is damped no more than any change.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::Address;

/// The wait doubles up to 64 times `settle`.
const DOUBLINGS_MAX: u32 = 6;
/// A member that has not left for this long is like any other.
const MEMORY: Duration = Duration::from_secs(60);
/// Or for this many times what it last had to wait, if that is longer.
const MEMORY_HOLDS: u32 = 4;
/// Most members that are remembered: a store that names ever new ones fills no memory.
const REMEMBERED_MAX: usize = 65_536;

#[derive(Debug)]
pub struct Flaps {
    settle: Duration,
    left: HashMap<Address, Left>,
}

#[derive(Debug, Clone, Copy)]
struct Left {
    at: Duration,
    /// Times in a row.
    count: u32,
}

impl Flaps {
    /// Nothing left yet; `settle` is what the first return has to last.
    pub fn new(settle: Duration) -> Flaps {
        Flaps { settle, left: HashMap::new() }
    }

    /// Notes that a member takes no new sessions any more.
    pub fn left(&mut self, address: &Address, now: Duration) {
        let known = self.left.get(address).filter(|left| self.remembered(left, now));
        let count = known.map_or(0, |left| left.count).saturating_add(1);
        if self.left.len() < REMEMBERED_MAX || self.left.contains_key(address) {
            self.left.insert(address.clone(), Left { at: now, count });
        }
    }

    /// Notes that a member moved again, without having counted or because it does now: a wait that
    /// it outlasts by flapping would be none.
    pub fn moved(&mut self, address: &Address, now: Duration) {
        let known = self.left.get(address).filter(|left| self.remembered(left, now)).copied();
        if let Some(left) = known {
            self.left.insert(address.clone(), Left { at: now, ..left });
        }
    }

    /// How long a member has to be there before it counts.
    pub fn hold(&self, address: &Address, now: Duration) -> Duration {
        let left = self.left.get(address).filter(|left| self.remembered(left, now));
        left.map_or(self.settle, |left| self.hold_after(left.count))
    }

    /// Forgets who has been steady, or away, for long.
    pub fn forget(&mut self, now: Duration) {
        let mut left = std::mem::take(&mut self.left);
        left.retain(|_, left| self.remembered(left, now));
        self.left = left;
    }

    fn hold_after(&self, count: u32) -> Duration {
        self.settle.saturating_mul(1 << count.saturating_sub(1).min(DOUBLINGS_MAX))
    }

    fn remembered(&self, left: &Left, now: Duration) -> bool {
        let memory = self.hold_after(left.count).saturating_mul(MEMORY_HOLDS).max(MEMORY);
        now.saturating_sub(left.at) < memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_millis(500);

    fn address(port: u16) -> Address {
        Address::Tcp(([10, 0, 0, 1], port).into())
    }

    #[test]
    fn each_return_waits_longer_and_steadiness_is_rewarded() {
        let mut flaps = Flaps::new(SETTLE);
        let mut now = Duration::ZERO;
        assert_eq!(flaps.hold(&address(1), now), SETTLE);
        let mut waits = Vec::new();
        for _ in 0..9 {
            flaps.left(&address(1), now);
            let hold = flaps.hold(&address(1), now);
            waits.push(hold.as_millis() / 500);
            now += hold + Duration::from_secs(1);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(flaps.hold(&address(2), now), SETTLE, "others have nothing to do with it");
        now += Duration::from_secs(64 * 4);
        assert_eq!(flaps.hold(&address(1), now), SETTLE);
        flaps.forget(now);
        assert!(flaps.left.is_empty());
        let mut none = Flaps::new(Duration::ZERO);
        for _ in 0..9 {
            none.left(&address(1), now);
        }
        assert_eq!(none.hold(&address(1), now), Duration::ZERO);
    }

    #[test]
    fn who_keeps_moving_is_not_forgotten() {
        let mut flaps = Flaps::new(SETTLE);
        flaps.left(&address(1), Duration::ZERO);
        flaps.left(&address(1), Duration::from_secs(50));
        flaps.moved(&address(1), Duration::from_secs(100));
        flaps.moved(&address(2), Duration::from_secs(100));
        flaps.forget(Duration::from_secs(159));
        assert_eq!(flaps.hold(&address(1), Duration::from_secs(159)), SETTLE * 2);
        assert_eq!(flaps.hold(&address(1), Duration::from_secs(160)), SETTLE);
        assert_eq!(flaps.left.len(), 1);
    }

    #[test]
    fn ever_new_members_fill_no_memory() {
        let mut flaps = Flaps::new(SETTLE);
        for index in 0..REMEMBERED_MAX + 9 {
            let path = format!("/{index}");
            flaps.left(&Address::Unix(path.into()), Duration::ZERO);
        }
        assert_eq!(flaps.left.len(), REMEMBERED_MAX);
    }
}

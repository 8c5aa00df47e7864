//! `bounded_load`: how many live sessions a backend may have before keys pass it over.
//!
//! As HAProxy's `hash-balance-factor` counts (`chash_server_is_eligible` in `src/lb_chash.c`): the
//! sessions there are and the one to be placed, times the factor, rounded up, are slots that are
//! shared out by weight, and no backend has fewer than one. So while nobody fails, some backend
//! always has a free slot.

use super::shares::Shares;

/// `bounded_load`, in hundredths: 125 for 1.25. Over 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factor(pub u32);

/// The factor with the shares of the backends that take sessions.
#[derive(Debug)]
pub struct Bound {
    factor: Factor,
    ready: Shares,
}

impl Bound {
    /// Prepares the shares: `weights` of all backends in declared order, 0 for those that take no
    /// sessions.
    pub fn new(factor: Factor, weights: impl Iterator<Item = u32>) -> Bound {
        Bound { factor, ready: Shares::new(weights) }
    }

    /// Whether a backend with `live` sessions may have one more, out of `total` in the pool.
    pub fn allows(&self, index: usize, live: u32, total: u32) -> bool {
        u64::from(live) < self.slots(index, total)
    }

    fn slots(&self, index: usize, total: u32) -> u64 {
        let slots = (u64::from(total) + 1) * u64::from(self.factor.0);
        let slots = u128::from(slots.div_ceil(100));
        let (before, after) = self.ready.around(index);
        let weight = u128::from(self.ready.total().max(1));
        let share = |sum: u64| u128::from(sum) * slots / weight;
        // At most `slots`, which fits.
        u64::try_from(share(after) - share(before)).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formula as HAProxy computes it, with its weights in sixteenths.
    fn of_haproxy(weights: &[u64], index: usize, served: u64, factor: u64) -> u64 {
        let scaled: Vec<u64> = weights.iter().map(|weight| weight * 16).collect();
        let total_weight: u64 = scaled.iter().sum();
        let cumulative: u64 = scaled[..index].iter().sum();
        let all = ((served + 1) * factor).div_ceil(100);
        let (each, remainder) = (all / total_weight, all % total_weight);
        let rest = (cumulative + scaled[index]) * remainder / total_weight
            - cumulative * remainder / total_weight;
        (scaled[index] * each + rest).max(1)
    }

    #[test]
    fn slots_equal_haproxys() {
        let weights = [3_u32, 1, 7, 256, 2];
        let wide = weights.map(u64::from);
        for factor in [101, 125, 200, 1_000] {
            let bound = Bound::new(Factor(factor), weights.into_iter());
            for total in 0..3_000 {
                for index in 0..weights.len() {
                    let expected = of_haproxy(&wide, index, u64::from(total), u64::from(factor));
                    assert_eq!(bound.slots(index, total), expected, "{factor} {total} {index}");
                }
            }
        }
    }

    #[test]
    fn somebody_always_has_room_and_nothing_overflows() {
        let weights = [1_u32, 5, 2, 9];
        let bound = Bound::new(Factor(101), weights.into_iter());
        let mut live = [0_u32; 4];
        for total in 0..5_000 {
            let free = (0..4).find(|index| bound.allows(*index, live[*index], total));
            live[free.expect("room")] += 1;
        }
        let most = Bound::new(Factor(10_000), [u32::MAX; 3].into_iter());
        assert!(most.allows(2, u32::MAX, u32::MAX));
        assert!(Bound::new(Factor(125), [].into_iter()).allows(7, 0, 0));
    }
}

//! Names of `balance =`, and what weights each algorithm can use.

use super::haproxy_map::{self, common_divisor};
use super::{Entry, haproxy_consistent, ketama};

/// Names of `balance =`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `crc32(key) % N` over every declared backend.
    Crc32Mod,
    /// nginx's `hash KEY`.
    NginxHash,
    /// nginx's `hash KEY consistent`.
    Ketama,
    /// lua-resty-balancer's `resty.chash`.
    RestyChash,
    /// HAProxy's `hash-type map-based crc32`.
    HaproxyMap,
    /// HAProxy's `hash-type consistent`, sdbm with avalanche.
    HaproxyConsistent,
    /// Envoy's Maglev.
    Maglev,
    /// Highest random weight.
    Rendezvous,
    /// Smooth weighted round robin, in nginx's order.
    RoundRobin,
    /// lua-resty-balancer's `resty.roundrobin`.
    RestyRoundrobin,
    /// lua-resty-balancer's `resty.swrr`.
    RestySwrr,
    /// Fewest live sessions per weight, ties by smooth weighted round robin.
    LeastConn,
    /// Weighted random.
    Random,
    /// The better of two random backends, by live sessions per weight.
    P2c,
}

/// Weights that make more of a structure than is worth its memory and the time to build it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// What the structure consists of.
    pub what: &'static str,
    /// How many there would be; or the largest weight, where that is too large.
    pub found: u64,
    /// How many there may be.
    pub most: u64,
}

/// Points of a ring: 32 MiB.
const POINTS_MAX: u64 = 1 << 22;

impl Algorithm {
    /// Every algorithm with its name in the configuration.
    pub const NAMES: &'static [(&'static str, Algorithm)] = &[
        ("crc32_mod", Algorithm::Crc32Mod),
        ("nginx_hash", Algorithm::NginxHash),
        ("ketama", Algorithm::Ketama),
        ("resty_chash", Algorithm::RestyChash),
        ("haproxy_map", Algorithm::HaproxyMap),
        ("haproxy_consistent", Algorithm::HaproxyConsistent),
        ("maglev", Algorithm::Maglev),
        ("rendezvous", Algorithm::Rendezvous),
        ("round_robin", Algorithm::RoundRobin),
        ("resty_roundrobin", Algorithm::RestyRoundrobin),
        ("resty_swrr", Algorithm::RestySwrr),
        ("least_conn", Algorithm::LeastConn),
        ("random", Algorithm::Random),
        ("p2c", Algorithm::P2c),
    ];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, a)| *a == self).map_or("", |(name, _)| name)
    }

    /// Whether the choice depends on the key.
    pub fn is_keyed(self) -> bool {
        match self {
            Algorithm::Crc32Mod
            | Algorithm::NginxHash
            | Algorithm::Ketama
            | Algorithm::RestyChash
            | Algorithm::HaproxyMap
            | Algorithm::HaproxyConsistent
            | Algorithm::Maglev
            | Algorithm::Rendezvous => true,
            Algorithm::RoundRobin
            | Algorithm::RestyRoundrobin
            | Algorithm::RestySwrr
            | Algorithm::LeastConn
            | Algorithm::Random
            | Algorithm::P2c => false,
        }
    }

    /// Whether sessions with an empty key take turns instead of sharing one home.
    pub fn spreads_keyless(self) -> bool {
        !self.is_keyed() || matches!(self, Algorithm::NginxHash | Algorithm::Ketama)
    }

    /// Whether weights change nothing.
    pub fn ignores_weights(self) -> bool {
        self == Algorithm::Crc32Mod
    }

    /// What of these weights is too much for this algorithm; `None` if nothing is.
    ///
    /// `ketama` and `resty_chash` make 160 points of each unit of weight, `haproxy_consistent` 16,
    /// of at most 256 units a backend; together 4,194,304. `haproxy_map` has a slot per unit, the
    /// common divisor taken out, 1,048,576 in all.
    pub fn excess(self, weights: &[u32]) -> Option<Excess> {
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let excess = |what, found, most| (found > most).then_some(Excess { what, found, most });
        match self {
            Algorithm::Ketama | Algorithm::RestyChash => {
                excess("points of the ring", sum * ketama::POINTS_PER_WEIGHT, POINTS_MAX)
            }
            Algorithm::HaproxyConsistent => {
                let most = u64::from(weights.iter().copied().max().unwrap_or(0));
                let each = u64::from(haproxy_consistent::POINTS_PER_WEIGHT);
                excess("the largest weight", most, haproxy_consistent::WEIGHT_MAX.into())
                    .or_else(|| excess("points of the ring", sum * each, POINTS_MAX))
            }
            Algorithm::HaproxyMap => {
                let divisor = u64::from(common_divisor(weights));
                excess("slots of the table", sum / divisor, haproxy_map::SLOTS_MAX)
            }
            _ => None,
        }
    }

    /// Weights that are not too much, and whether they had to be lowered for it: halved as often as
    /// it takes, but never below 1.
    pub(super) fn fitted(self, entries: &[Entry<'_>]) -> (Vec<u32>, bool) {
        let mut weights: Vec<u32> = entries.iter().map(|entry| entry.weight).collect();
        let mut lowered = false;
        while self.excess(&weights).is_some() && weights.iter().any(|weight| *weight > 1) {
            weights.iter_mut().for_each(|weight| *weight = (*weight / 2).max(1));
            lowered = true;
        }
        (weights, lowered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_lowered_until_it_fits() {
        let entries = |weights: &[u32]| -> Vec<Entry<'static>> {
            weights.iter().map(|weight| Entry { id: "x", weight: *weight, ready: true }).collect()
        };
        let fitted = |algorithm: Algorithm, weights: &[u32]| algorithm.fitted(&entries(weights));
        assert_eq!(fitted(Algorithm::Ketama, &[65_535, 1]), (vec![16_383, 1], true));
        assert_eq!(fitted(Algorithm::Ketama, &[26_000, 214]), (vec![26_000, 214], false));
        assert_eq!(fitted(Algorithm::HaproxyConsistent, &[257, 2, 1]), (vec![128, 1, 1], true));
        assert_eq!(fitted(Algorithm::HaproxyConsistent, &[256, 9]), (vec![256, 9], false));
        let many = vec![65_535; 3_000];
        assert_eq!(fitted(Algorithm::HaproxyMap, &many), (many.clone(), false), "all are alike");
        assert_eq!(fitted(Algorithm::Maglev, &[65_535, 1]), (vec![65_535, 1], false));
        let (weights, lowered) = fitted(Algorithm::RestyChash, &many);
        assert!(lowered && Algorithm::RestyChash.excess(&weights).is_none());
        // More backends than points: nothing is left to lower.
        assert_eq!(fitted(Algorithm::Ketama, &vec![1; 30_000]), (vec![1; 30_000], false));
    }
}

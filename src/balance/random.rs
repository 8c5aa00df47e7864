//! Weighted random. The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
//! number generators", 2014): one word of state, and any seed is a good one.

use super::Candidates;

/// Chooses a usable backend with a probability in proportion to its weight.
pub(super) fn pick(state: &mut u64, among: &impl Candidates) -> Option<usize> {
    pick_of(state, among, |index| among.usable(index))
}

/// Chooses one of those that `fits`.
pub(super) fn pick_of(
    state: &mut u64,
    among: &impl Candidates,
    fits: impl Fn(usize) -> bool,
) -> Option<usize> {
    let fitting = || (0..among.count()).filter(|index| fits(*index));
    let sum: u64 = fitting().map(|index| u64::from(among.weight(index))).sum();
    let mut ticket = below(next(state), sum);
    fitting().find(|index| {
        let weight = u64::from(among.weight(*index));
        let is_chosen = ticket < weight;
        ticket = ticket.saturating_sub(weight);
        is_chosen
    })
}

/// Scales a random word to `0..limit`: its high bits count most, and for totals far below 2^64 no
/// value is noticeably likelier.
pub(super) fn below(random: u64, limit: u64) -> u64 {
    let scaled = (u128::from(random) * u128::from(limit)) >> 64;
    // Below `limit`, so it fits.
    scaled as u64
}

/// The next word of SplitMix64.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed(*state)
}

/// SplitMix64's output function: every bit of the input changes half of the output's.
pub(super) fn mixed(word: u64) -> u64 {
    let mut mixed = word;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generator's published reference output for seed 1234567.
    #[test]
    fn splitmix64_matches_its_reference() {
        let mut state = 1_234_567;
        let words: Vec<u64> = (0..5).map(|_| next(&mut state)).collect();
        assert_eq!(
            words,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821,
            ]
        );
    }

    #[test]
    fn scaling_stays_below_its_limit() {
        for limit in [1, 2, 3, 1_000, u64::MAX] {
            assert_eq!(below(0, limit), 0);
            assert_eq!(below(u64::MAX, limit), limit - 1);
        }
        assert_eq!(below(u64::MAX, 0), 0);
    }
}

//! The better of two random backends (Mitzenmacher, "The Power of Two Choices in Randomized Load
//! Balancing", 2001), as nginx's `random two least_conn` has it: both drawn by weight, and the one
//! with fewer live sessions per weight wins, the first if they are level.

use super::least_conn::Load;
use super::shares::Shares;
use super::{Candidates, random};

/// Draws that may hit an unusable backend before everybody is looked at.
const DRAWS_MAX: u32 = 20;

/// `shares` of the backends that take sessions.
pub(super) fn pick(state: &mut u64, shares: &Shares, among: &impl Candidates) -> Option<usize> {
    let first = draw(state, shares, among, None)?;
    let Some(second) = draw(state, shares, among, Some(first)) else { return Some(first) };
    let is_better = Load::of(among, second).is_below(Load::of(among, first));
    Some(if is_better { second } else { first })
}

/// A usable backend by weight, but not this one.
fn draw(
    state: &mut u64,
    shares: &Shares,
    among: &impl Candidates,
    not: Option<usize>,
) -> Option<usize> {
    let fits = |index: usize| Some(index) != not && among.usable(index);
    for _ in 0..DRAWS_MAX {
        let drawn = shares.at(random::below(random::next(state), shares.total()));
        if let Some(index) = drawn.filter(|index| fits(*index)) {
            return Some(index);
        }
    }
    random::pick_of(state, among, fits)
}

//! Smooth weighted round robin in nginx's order: {5, 1, 1} gives a a b a c a a.

use super::Candidates;

/// Every usable backend gains its weight, the first of the richest is chosen and pays the sum.
/// Backends that are not usable neither gain nor pay: they resume where they were.
pub(super) fn pick(current: &mut [i64], among: &impl Candidates) -> Option<usize> {
    turn(current, among, |_| true)
}

/// One turn among the usable backends that `takes_part` names.
pub(super) fn turn(
    current: &mut [i64],
    among: &impl Candidates,
    takes_part: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for (index, current) in current.iter_mut().enumerate() {
        if !takes_part(index) || !among.usable(index) {
            continue;
        }
        let weight = i64::from(among.weight(index));
        *current += weight;
        total += weight;
        if best.is_none_or(|(_, richest)| *current > richest) {
            best = Some((index, *current));
        }
    }
    let (index, _) = best?;
    current[index] -= total;
    Some(index)
}

//! Medians, spreads, and ratios of numbers that belong to the same round.

use std::collections::BTreeMap;

use serde::Serialize;

/// Values of one number over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Middle value; the mean of the two middle ones of an even number.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
    /// `(max - min) / median`
    pub spread: f64,
    /// Median distance from the median, over the median: one bad round does not move it.
    pub deviation: f64,
    /// How many.
    pub rounds: usize,
}

/// The middle value; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    match sorted.len() % 2 {
        1 => Some(upper),
        _ => Some((sorted[middle - 1] + upper) / 2.0),
    }
}

/// `None` of nothing.
pub fn summary(values: &[f64]) -> Option<Summary> {
    let median_value = median(values)?;
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let distances: Vec<f64> = values.iter().map(|value| (value - median_value).abs()).collect();
    let relative = |value: f64| if median_value == 0.0 { 0.0 } else { value / median_value.abs() };
    Some(Summary {
        median: median_value,
        min,
        max,
        spread: relative(max - min),
        deviation: relative(median(&distances)?),
        rounds: values.len(),
    })
}

/// The ratio of two numbers, taken in each round that has both, so that a drift of the machine
/// between rounds does not enter. `None` without such a round.
pub fn ratio(of: &BTreeMap<u32, f64>, to: &BTreeMap<u32, f64>) -> Option<Summary> {
    let pairs = of.iter().filter_map(|(round, value)| Some((value, to.get(round)?)));
    let ratios: Vec<f64> = pairs.filter(|(_, to)| **to > 0.0).map(|(of, to)| of / to).collect();
    summary(&ratios)
}

/// A curve's value at `x`, between its points in a straight line; beyond its ends, the end.
pub fn at(curve: &[(f64, f64)], x: f64) -> Option<f64> {
    let first = curve.first()?;
    let after = curve.iter().position(|point| point.0 >= x);
    let Some(after) = after else { return curve.last().map(|point| point.1) };
    if after == 0 {
        return Some(first.1);
    }
    let ((x0, y0), (x1, y1)) = (curve[after - 1], curve[after]);
    let share = if x1 > x0 { (x - x0) / (x1 - x0) } else { 1.0 };
    Some(y0 + (y1 - y0) * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn one_bad_round_widens_the_spread_and_not_the_deviation() {
        let calm = summary(&[10.0, 10.1, 9.9, 10.2, 9.8]).unwrap();
        let bad = summary(&[10.0, 10.1, 9.9, 30.0, 9.8]).unwrap();
        assert!(calm.spread < 0.05 && bad.spread > 2.0, "{calm:?} {bad:?}");
        assert!(bad.deviation < 0.02, "{bad:?}");
        assert_eq!((bad.min, bad.max, bad.rounds), (9.8, 30.0, 5));
        assert_eq!(summary(&[0.0, 0.0]).unwrap().spread, 0.0);
    }

    #[test]
    fn ratios_are_within_rounds() {
        // The machine is twice as slow in round 1; nobody is better for it.
        let slow: BTreeMap<u32, f64> = [(0, 5.0), (1, 10.0), (2, 5.0), (4, 1.0)].into();
        let peer: BTreeMap<u32, f64> = [(0, 10.0), (1, 20.0), (2, 10.0), (3, 1.0)].into();
        let ratio = ratio(&slow, &peer).unwrap();
        assert_eq!((ratio.median, ratio.spread, ratio.rounds), (0.5, 0.0, 3));
        assert_eq!(super::ratio(&slow, &BTreeMap::new()), None);
        assert_eq!(super::ratio(&slow, &[(0, 0.0)].into()), None);
    }

    #[test]
    fn curves_are_straight_between_points() {
        let curve = [(0.0, 10.0), (50.0, 20.0), (100.0, 40.0)];
        let seen = [-1.0, 25.0, 50.0, 75.0, 101.0].map(|x| at(&curve, x).unwrap());
        assert_eq!(seen, [10.0, 15.0, 20.0, 30.0, 40.0]);
        assert_eq!(at(&[], 1.0), None);
    }
}

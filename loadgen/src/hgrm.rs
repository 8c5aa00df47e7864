//! Percentile files of the HdrHistogram family (`.hgrm`), in nanoseconds.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

/// Lines for each halving of the distance to 100 %.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// The file's text: what HdrHistogram's `outputPercentileDistribution` writes.
pub fn text(histogram: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>14} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut below = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        below += step.count_since_last_iteration();
        let value = step.value_iterated_to();
        let quantile = step.quantile_iterated_to();
        let _ = write!(text, "{value:>14} {quantile:>14.12} {below:>10}");
        let _ = match quantile < 1.0 {
            true => writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)),
            // As the other implementations do: the last line has no fourth column.
            false => writeln!(text),
        };
    }
    let (mean, deviation) = (histogram.mean(), histogram.stdev());
    let (max, count) = (histogram.max(), histogram.len());
    let _ = writeln!(text, "#[Mean    = {mean:>14.3}, StdDeviation   = {deviation:>14.3}]");
    let _ = writeln!(text, "#[Max     = {max:>14}, Total count    = {count:>14}]");
    let buckets = histogram.buckets();
    let sub_buckets = 2 * 10_u32.pow(histogram.sigfig().into()).next_power_of_two();
    let _ = writeln!(text, "#[Buckets = {buckets:>14}, SubBuckets     = {sub_buckets:>14}]");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_ascend_and_end_with_everything() {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000_000, 3).unwrap();
        for value in 1..=100_000_u64 {
            histogram.record(value).unwrap();
        }
        let text = text(&histogram);
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|cell| cell.parse().unwrap()).collect())
            .collect();
        assert!(rows.len() > 50, "{}", rows.len());
        for pair in rows.windows(2) {
            assert!(pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]);
        }
        for row in &rows {
            let exact = row[1] * 100_000.0;
            assert!((row[0] - exact).abs() <= exact / 500.0 + 1.0, "{row:?}");
        }
        let last = rows.last().unwrap();
        assert_eq!((last[1], last[2], last.len()), (1.0, 100_000.0, 3));
        assert!(text.contains("Total count    =         100000]"), "{text}");
    }
}

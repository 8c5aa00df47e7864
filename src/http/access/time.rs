//! Times as nginx writes them, in UTC: a gateway's lines should mean the same wherever it runs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds and milliseconds since 1970; a clock before that counts as 1970.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Year, month from 1, day from 1 of a day since 1970-01-01 in the Gregorian calendar (Howard
/// Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`).
fn date(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day_of_month)
}

/// "21/Nov/2026:11:30:14 +0000"
pub(super) fn local(time: SystemTime) -> String {
    let seconds = since_epoch(time).as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let index = usize::try_from(month.saturating_sub(1)).unwrap_or_default();
    let month = MONTHS.get(index).copied().unwrap_or_default();
    let (hour, minute, second) = clock(seconds);
    format!("{day:02}/{month}/{year}:{hour:02}:{minute:02}:{second:02} +0000")
}

/// "2026-11-21T11:30:14+00:00"
pub(super) fn iso8601(time: SystemTime) -> String {
    let seconds = since_epoch(time).as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = clock(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+00:00")
}

/// "1795260614.123"
pub(super) fn seconds_of(time: SystemTime) -> String {
    seconds(since_epoch(time))
}

/// "0.123"
pub(super) fn seconds(duration: Duration) -> String {
    format!("{}.{:03}", duration.as_secs(), duration.subsec_millis())
}

fn clock(seconds: u64) -> (u64, u64, u64) {
    (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        // `date -u -d @SECONDS`
        let cases = [
            (0, "01/Jan/1970:00:00:00 +0000", "1970-01-01T00:00:00+00:00"),
            (951_782_399, "28/Feb/2000:23:59:59 +0000", "2000-02-28T23:59:59+00:00"),
            (951_782_400, "29/Feb/2000:00:00:00 +0000", "2000-02-29T00:00:00+00:00"),
            (1_582_934_400, "29/Feb/2020:00:00:00 +0000", "2020-02-29T00:00:00+00:00"),
            (1_798_761_599, "31/Dec/2026:23:59:59 +0000", "2026-12-31T23:59:59+00:00"),
            (4_107_542_400, "01/Mar/2100:00:00:00 +0000", "2100-03-01T00:00:00+00:00"),
        ];
        for (at, local_text, iso) in cases {
            let time = UNIX_EPOCH + Duration::from_secs(at);
            assert_eq!((local(time).as_str(), iso8601(time).as_str()), (local_text, iso), "{at}");
        }
        // The library that writes session lines agrees on every day of four centuries.
        for day in (0..146_097).map(|day| day * 86_400) {
            let time = UNIX_EPOCH + Duration::from_secs(day);
            let other = humantime::format_rfc3339_seconds(time).to_string();
            assert_eq!(iso8601(time), other.replace('Z', "+00:00"));
        }
        let time = UNIX_EPOCH + Duration::from_millis(1_234_056);
        assert_eq!(seconds_of(time), "1234.056");
        assert_eq!(seconds(Duration::from_millis(7)), "0.007");
    }
}

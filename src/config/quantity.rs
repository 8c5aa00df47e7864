//! Counts, durations and sizes: units in the text, and a rule of default and range for each key.

use std::time::Duration;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::fault::Problem;
use super::shape::{Scalar, Shape};

/// Something with a default and a range.
pub trait Quantity: Shape + Copy + PartialOrd {
    /// As it is written in a file.
    fn written(self) -> String;

    /// As it is written in JSON.
    fn json(self) -> serde_json::Value {
        self.written().into()
    }
}

/// What a key may be and what it is when it is not written.
#[derive(Debug, Clone, Copy)]
pub struct Rule<T> {
    /// When the key is absent; `None` if that depends on other things.
    pub default: Option<T>,
    /// Smallest valid value.
    pub least: T,
    /// Largest valid value.
    pub most: T,
}

impl<T: Quantity> Rule<T> {
    /// Whether `value` is in the range.
    pub fn check(&self, value: T) -> Result<(), Problem> {
        if value >= self.least && value <= self.most {
            return Ok(());
        }
        Err(Problem::new("out of range", self.range()))
    }

    /// Writes default and range into a schema.
    pub fn describe(self) -> impl FnMut(&mut Schema) {
        move |schema| {
            if let Some(default) = self.default {
                schema.insert("default".to_string(), default.json());
            }
            if schema.get("type").is_some_and(|kind| kind == "integer" || kind == "number") {
                schema.insert("minimum".to_string(), self.least.json());
                schema.insert("maximum".to_string(), self.most.json());
            }
            let described = schema.get("description").and_then(|text| text.as_str()).unwrap_or("");
            let described = format!("{described} From {}.", self.range());
            schema.insert("description".to_string(), described.trim_start().into());
        }
    }

    fn range(&self) -> String {
        format!("{} to {}", self.least.written(), self.most.written())
    }
}

/// A number without a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(pub i64);

impl Shape for Count {
    const EXPECTED: &'static str = "an integer";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        match scalar {
            Scalar::Integer(integer) => Ok(Count(integer)),
            Scalar::Text(text) => {
                let integer = text.trim().replace('_', "").parse::<i64>().ok();
                Err(Problem::wrong_type("an integer without quotes")
                    .near(integer.map(|integer| integer.to_string())))
            }
            Scalar::Float(_) | Scalar::Other => Err(Problem::wrong_type(Self::EXPECTED)),
        }
    }
}

impl Quantity for Count {
    fn written(self) -> String {
        self.0.to_string()
    }

    fn json(self) -> serde_json::Value {
        self.0.into()
    }
}

/// A number with up to two decimals, in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(pub u32);

impl Shape for Ratio {
    const EXPECTED: &'static str = "a number such as 1.25, with up to two decimals";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "multipleOf": 0.01 })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let number = match scalar {
            Scalar::Float(number) if !number.is_nan() => number,
            // Far beyond any range where a float is not exact.
            Scalar::Integer(integer) => integer as f64,
            Scalar::Text(text) => {
                let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
                return Err(Problem::wrong_type("a number without quotes")
                    .near(number.map(|number| number.to_string())));
            }
            Scalar::Float(_) | Scalar::Other => {
                return Err(Problem::wrong_type(Self::EXPECTED));
            }
        };
        let hundredths = (number * 100.0).round();
        // The conversion saturates: what is negative becomes 0.
        if (number * 100.0 - hundredths).abs() < 1e-6 || number.is_infinite() {
            return Ok(Ratio(hundredths as u32));
        }
        Err(Problem::new("more than two decimals", Self::EXPECTED)
            .near(Some(Ratio(hundredths as u32).written())))
    }
}

impl Quantity for Ratio {
    fn written(self) -> String {
        (f64::from(self.0) / 100.0).to_string()
    }

    fn json(self) -> serde_json::Value {
        (f64::from(self.0) / 100.0).into()
    }
}

/// Units of a duration: the valid ones first, then what people write instead.
const DURATION_UNITS: &[(&str, &str, u64)] = &[
    ("ms", "ms", 1),
    ("s", "s", 1_000),
    ("m", "m", 60_000),
    ("h", "h", 3_600_000),
    ("", "s", 1_000),
    ("msec", "ms", 1),
    ("millis", "ms", 1),
    ("milliseconds", "ms", 1),
    ("sec", "s", 1_000),
    ("secs", "s", 1_000),
    ("second", "s", 1_000),
    ("seconds", "s", 1_000),
    ("min", "m", 60_000),
    ("mins", "m", 60_000),
    ("minute", "m", 60_000),
    ("minutes", "m", 60_000),
    ("hr", "h", 3_600_000),
    ("hour", "h", 3_600_000),
    ("hours", "h", 3_600_000),
];

impl Shape for Duration {
    const EXPECTED: &'static str =
        "a whole number and its unit, ms, s, m or h: \"250ms\", \"5s\", \"10m\", \"1h\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let milliseconds = with_unit(scalar, DURATION_UNITS)
            .map_err(|miss| miss.problem("duration", Self::EXPECTED))?;
        Ok(Duration::from_millis(milliseconds))
    }
}

impl Quantity for Duration {
    fn written(self) -> String {
        let milliseconds = self.as_millis();
        match milliseconds {
            0 => "0s".to_string(),
            _ if milliseconds.is_multiple_of(3_600_000) => format!("{}h", milliseconds / 3_600_000),
            _ if milliseconds.is_multiple_of(60_000) => format!("{}m", milliseconds / 60_000),
            _ if milliseconds.is_multiple_of(1_000) => format!("{}s", milliseconds / 1_000),
            _ => format!("{milliseconds}ms"),
        }
    }
}

/// A duration of microseconds to milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShortDuration(pub Duration);

/// Units of a short duration.
const SHORT_UNITS: &[(&str, &str, u64)] =
    &[("us", "us", 1), ("ms", "ms", 1_000), ("", "us", 1), ("usec", "us", 1), ("µs", "us", 1)];

impl Shape for ShortDuration {
    const EXPECTED: &'static str = "a whole number and its unit, us or ms: \"50us\", \"1ms\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(us|ms)$" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        with_unit(scalar, SHORT_UNITS)
            .map(|microseconds| ShortDuration(Duration::from_micros(microseconds)))
            .map_err(|miss| miss.problem("duration", Self::EXPECTED))
    }
}

impl Quantity for ShortDuration {
    fn written(self) -> String {
        let microseconds = self.0.as_micros();
        match microseconds {
            0 => "0us".to_string(),
            _ if microseconds.is_multiple_of(1_000) => format!("{}ms", microseconds / 1_000),
            _ => format!("{microseconds}us"),
        }
    }
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

/// Units of a size: the valid ones first, then what people write instead.
const SIZE_UNITS: &[(&str, &str, u64)] = &[
    ("B", "B", 1),
    ("KiB", "KiB", 1 << 10),
    ("MiB", "MiB", 1 << 20),
    ("", "B", 1),
    ("b", "B", 1),
    ("bytes", "B", 1),
    ("k", "KiB", 1 << 10),
    ("kb", "KiB", 1 << 10),
    ("kib", "KiB", 1 << 10),
    ("m", "MiB", 1 << 20),
    ("mb", "MiB", 1 << 20),
    ("mib", "MiB", 1 << 20),
];

impl Shape for ByteCount {
    const EXPECTED: &'static str =
        "a whole number and its unit, B, KiB or MiB: \"512B\", \"8KiB\", \"1MiB\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB)$" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        with_unit(scalar, SIZE_UNITS)
            .map(ByteCount)
            .map_err(|miss| miss.problem("size", Self::EXPECTED))
    }
}

impl Quantity for ByteCount {
    fn written(self) -> String {
        match self.0 {
            0 => "0B".to_string(),
            bytes if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
            bytes if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
            bytes => format!("{bytes}B"),
        }
    }
}

/// Why a text is not a number with a unit.
enum Miss {
    /// No unit at all; how it would be written with the usual one.
    NoUnit(String),
    /// Not understood; how it would be written, if that can be told.
    Unclear(Option<String>),
    /// Not a text and not a number.
    Type,
}

impl Miss {
    fn problem(self, what: &str, valid: &str) -> Problem {
        match self {
            Miss::NoUnit(near) => Problem::new(format!("a {what} needs a unit"), valid)
                .near(Some(format!("{near:?}"))),
            Miss::Unclear(near) => Problem::new(format!("not a {what}"), valid)
                .near(near.map(|near| format!("{near:?}"))),
            Miss::Type => Problem::wrong_type(valid),
        }
    }
}

/// A number times its unit; only the exact spelling of a valid unit is accepted.
fn with_unit(scalar: Scalar<'_>, units: &[(&str, &str, u64)]) -> Result<u64, Miss> {
    let text = match scalar {
        Scalar::Text(text) => text.to_string(),
        Scalar::Integer(integer) => integer.to_string(),
        Scalar::Float(_) | Scalar::Other => return Err(Miss::Type),
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let exact = units.iter().find(|(name, valid, _)| *name == unit && name == valid);
    if let Some((_, _, factor)) = exact
        && let Some(value) = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor))
    {
        return Ok(value);
    }
    let wanted = unit.trim().to_ascii_lowercase();
    let close = units.iter().find(|(name, _, _)| name.to_ascii_lowercase() == wanted);
    let near = close
        .filter(|_| !number.is_empty() && exact.is_none())
        .map(|(_, valid, _)| format!("{number}{valid}"));
    match near {
        Some(near) if unit.is_empty() => Err(Miss::NoUnit(near)),
        near => Err(Miss::Unclear(near)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for (text, milliseconds) in [("250ms", 250), ("5s", 5_000), ("10m", 600_000), ("0s", 0)] {
            let duration = Duration::from_scalar(Scalar::Text(text)).expect(text);
            assert_eq!(duration, Duration::from_millis(milliseconds));
            assert_eq!(duration.written(), text);
        }
        for (text, microseconds) in [("0us", 0), ("50us", 50), ("2ms", 2_000)] {
            let short = ShortDuration::from_scalar(Scalar::Text(text)).expect(text);
            assert_eq!(short, ShortDuration(Duration::from_micros(microseconds)));
            assert_eq!(short.written(), text);
        }
        let problem = ShortDuration::from_scalar(Scalar::Text("1s")).expect_err("not short");
        assert_eq!(problem.near, None);
        for (text, bytes) in [("512B", 512), ("8KiB", 8_192), ("1MiB", 1 << 20)] {
            let size = ByteCount::from_scalar(Scalar::Text(text)).expect(text);
            assert_eq!(size, ByteCount(bytes));
            assert_eq!(size.written(), text);
        }
    }

    #[test]
    fn other_spellings_are_refused_with_the_right_one() {
        let durations = [
            (Scalar::Integer(5), Some("\"5s\"")),
            (Scalar::Text("5"), Some("\"5s\"")),
            (Scalar::Text("5 s"), Some("\"5s\"")),
            (Scalar::Text("5sec"), Some("\"5s\"")),
            (Scalar::Text("2MIN"), Some("\"2m\"")),
            (Scalar::Text("-5s"), None),
            (Scalar::Text("1.5s"), None),
            (Scalar::Text("s"), None),
            (Scalar::Text("99999999999999999999h"), None),
            (Scalar::Text("18446744073709551615h"), None),
            (Scalar::Other, None),
        ];
        for (scalar, near) in durations {
            let problem = Duration::from_scalar(scalar).expect_err("not a duration");
            assert_eq!(problem.near.as_deref(), near, "{scalar:?}");
        }
        let size = ByteCount::from_scalar(Scalar::Text("8kb")).expect_err("not a size");
        assert_eq!(size.near.as_deref(), Some("\"8KiB\""));
        let size = ByteCount::from_scalar(Scalar::Integer(8192)).expect_err("not a size");
        assert_eq!(size.near.as_deref(), Some("\"8192B\""));
    }
}

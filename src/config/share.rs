//! Shares in percent and rates per second.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::fault::Problem;
use super::quantity::Quantity;
use super::shape::{Scalar, Shape};

/// A share of a whole, `"50%"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u32);

impl Shape for Percent {
    const EXPECTED: &'static str = "a whole number and a percent sign: \"50%\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+%$" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let text = written_text(scalar, Self::EXPECTED)?;
        number_before(&text, "%").map(Percent).ok_or_else(|| {
            let number = text.trim().trim_end_matches('%').trim().parse::<f64>().ok();
            let near = number.filter(|number| *number >= 0.0 && *number <= 1e6).map(|number| {
                // "0.5" is how other programs write a half.
                let share =
                    if number.fract() > 0.0 && number < 1.0 { number * 100.0 } else { number };
                format!("\"{}%\"", share.round())
            });
            Problem::new("not a share", Self::EXPECTED).near(near)
        })
    }
}

impl Quantity for Percent {
    fn written(self) -> String {
        format!("{}%", self.0)
    }
}

/// How often something may happen, `"100/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PerSecond(pub u32);

impl Shape for PerSecond {
    const EXPECTED: &'static str = "a whole number per second: \"100/s\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+/s$" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let text = written_text(scalar, Self::EXPECTED)?;
        number_before(&text, "/s").map(PerSecond).ok_or_else(|| {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            let rest = text[digits.len()..].trim().trim_start_matches('/');
            let known = ["", "s", "sec", "second"].contains(&rest) && !digits.is_empty();
            let near = known.then(|| format!("\"{digits}/s\""));
            Problem::new("not a rate", Self::EXPECTED).near(near)
        })
    }
}

impl Quantity for PerSecond {
    fn written(self) -> String {
        format!("{}/s", self.0)
    }
}

fn written_text(scalar: Scalar<'_>, expected: &str) -> Result<String, Problem> {
    match scalar {
        Scalar::Text(text) => Ok(text.to_string()),
        Scalar::Integer(integer) => Ok(integer.to_string()),
        Scalar::Other => Err(Problem::wrong_type(expected)),
    }
}

/// The number in front of exactly this unit.
fn number_before(text: &str, unit: &str) -> Option<u32> {
    let digits = text.strip_suffix(unit)?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for (text, share) in [("0%", 0), ("50%", 50), ("100%", 100)] {
            let read = Percent::from_scalar(Scalar::Text(text)).expect(text);
            assert_eq!((read, read.written().as_str()), (Percent(share), text));
        }
        for (text, rate) in [("1/s", 1), ("100/s", 100)] {
            let read = PerSecond::from_scalar(Scalar::Text(text)).expect(text);
            assert_eq!((read, read.written().as_str()), (PerSecond(rate), text));
        }
    }

    #[test]
    fn other_spellings_are_refused_with_the_right_one() {
        let shares = [
            (Scalar::Integer(50), Some("\"50%\"")),
            (Scalar::Text("50"), Some("\"50%\"")),
            (Scalar::Text("0.5"), Some("\"50%\"")),
            (Scalar::Text("50 %"), Some("\"50%\"")),
            (Scalar::Text("-5%"), None),
            (Scalar::Text("half"), None),
            (Scalar::Text("99999999999%"), None),
            (Scalar::Other, None),
        ];
        for (scalar, near) in shares {
            let problem = Percent::from_scalar(scalar).expect_err("not a share");
            assert_eq!(problem.near.as_deref(), near, "{scalar:?}");
        }
        let rates = [
            (Scalar::Integer(100), Some("\"100/s\"")),
            (Scalar::Text("100"), Some("\"100/s\"")),
            (Scalar::Text("100 / sec"), None),
            (Scalar::Text("100/sec"), Some("\"100/s\"")),
            (Scalar::Text("100/m"), None),
            (Scalar::Text("é/s"), None),
            (Scalar::Text(""), None),
            (Scalar::Other, None),
        ];
        for (scalar, near) in rates {
            let problem = PerSecond::from_scalar(scalar).expect_err("not a rate");
            assert_eq!(problem.near.as_deref(), near, "{scalar:?}");
        }
    }
}

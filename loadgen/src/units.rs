//! Values of the command line that have a notation of their own.

use std::str::FromStr;
use std::time::Duration;

/// Parses `5s`, `250ms`, `1.5m`, `20us`, `2h`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" | "" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err(format!("unknown unit {unit:?}; valid are us, ms, s, m, h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Parses `500`, `500/s`, `20k/s`: events per second, more than zero.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, unit) = split_unit(text.strip_suffix("/s").unwrap_or(text))?;
    let per_second = match unit {
        "" => number,
        "k" => number * 1e3,
        _ => return Err(format!("unknown unit {unit:?}; write 500/s or 20k/s")),
    };
    if !(per_second > 0.0 && per_second <= 1e8) {
        return Err("a rate is more than 0 and at most 100,000,000 per second".into());
    }
    Ok(per_second)
}

/// Parses `128`, `64KiB`, `1MiB`.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: usize = digits.parse().map_err(|error| format!("{digits:?}: {error}"))?;
    let factor = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        unit => return Err(format!("unknown unit {unit:?}; valid are B, KiB, MiB")),
    };
    number.checked_mul(factor).ok_or_else(|| "too large".into())
}

fn split_unit(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|c: char| c.is_ascii_alphabetic() || c == '%').unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|error| format!("{text:?}: {error}"))?;
    Ok((number, &text[end..]))
}

/// How a device's frames are cut into writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Splits {
    /// One write per frame or more.
    None,
    /// Random pieces, short ones often.
    Random,
    /// One byte per write.
    Bytewise,
    /// This many bytes per write.
    Every(usize),
}

impl FromStr for Splits {
    type Err = String;

    fn from_str(text: &str) -> Result<Splits, String> {
        match text {
            "none" => Ok(Splits::None),
            "random" => Ok(Splits::Random),
            "bytewise" => Ok(Splits::Bytewise),
            _ => match parse_size(text) {
                Ok(0) | Err(_) => {
                    Err("valid are none, random, bytewise, or a number of bytes".into())
                }
                Ok(bytes) => Ok(Splits::Every(bytes)),
            },
        }
    }
}

/// A share of the connections and when to reset them, from the start of the measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kill {
    /// 0 to 1.
    pub share: f64,
    /// When.
    pub at: Duration,
}

impl FromStr for Kill {
    type Err = String;

    fn from_str(text: &str) -> Result<Kill, String> {
        let (share, at) = text.split_once('@').ok_or("write SHARE@TIME, such as 50%@10s")?;
        let (number, unit) = split_unit(share)?;
        let share = match unit {
            "%" => number / 100.0,
            "" => number,
            _ => return Err(format!("{share:?} is neither a percentage nor a fraction")),
        };
        if !(0.0..=1.0).contains(&share) {
            return Err(format!("{share} is not a share: 0 to 1, or 0% to 100%"));
        }
        Ok(Kill { share, at: parse_duration(at)? })
    }
}

/// What a backend does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Bound, but not listening: connections are refused.
    Refuse,
    /// Listening, never accepting.
    NoAccept,
    /// Accepting, never reading.
    Stall,
    /// Reading, never answering.
    Silent,
    /// Resetting upon the first bytes.
    Reset,
    /// Answering this much later.
    Slow(Duration),
    /// Closing after this many answered frames.
    CloseAfter(u64),
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        match (name, value) {
            ("refuse", None) => Ok(Fault::Refuse),
            ("noaccept", None) => Ok(Fault::NoAccept),
            ("stall", None) => Ok(Fault::Stall),
            ("silent", None) => Ok(Fault::Silent),
            ("reset", None) => Ok(Fault::Reset),
            ("slow", None) => Ok(Fault::Slow(Duration::from_millis(100))),
            ("slow", Some(value)) => Ok(Fault::Slow(parse_duration(value)?)),
            ("close-after", Some(value)) => match value.parse() {
                Ok(frames) if frames > 0 => Ok(Fault::CloseAfter(frames)),
                _ => Err("close-after takes a number of frames, at least 1".into()),
            },
            _ => Err("valid are refuse, noaccept, stall, silent, reset, slow[=TIME] and \
                      close-after=FRAMES"
                .into()),
        }
    }
}

/// A fault and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultAt {
    /// Index of the server; `None` is every server.
    pub server: Option<usize>,
    /// What it does.
    pub fault: Fault,
}

impl FromStr for FaultAt {
    type Err = String;

    fn from_str(text: &str) -> Result<FaultAt, String> {
        match text.split_once(':') {
            None => Ok(FaultAt { server: None, fault: text.parse()? }),
            Some(("all", fault)) => Ok(FaultAt { server: None, fault: fault.parse()? }),
            Some((server, fault)) => {
                let server = server.parse().map_err(|error| format!("{server:?}: {error}"))?;
                Ok(FaultAt { server: Some(server), fault: fault.parse()? })
            }
        }
    }
}

/// Text with one place for a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdTemplate {
    before: String,
    width: usize,
    after: String,
}

/// Longest text a template may have: an id's length is one byte in a data frame.
const TEMPLATE_LEN_MAX: usize = 200;
/// Widest zero padding.
const WIDTH_MAX: usize = 32;

impl IdTemplate {
    /// The id of a device.
    pub fn id(&self, number: u64) -> String {
        format!("{}{number:0width$}{}", self.before, self.after, width = self.width)
    }
}

impl FromStr for IdTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<IdTemplate, String> {
        let usage = "write text with {} or {:08} for the number";
        if text.len() > TEMPLATE_LEN_MAX {
            return Err(format!("at most {TEMPLATE_LEN_MAX} bytes"));
        }
        let (before, rest) = text.split_once('{').ok_or(usage)?;
        let (format, after) = rest.split_once('}').ok_or(usage)?;
        let width = match format.strip_prefix(":0") {
            None if format.is_empty() => 0,
            None => return Err(usage.into()),
            Some(width) => width.parse().map_err(|error| format!("{width:?}: {error}"))?,
        };
        if width > WIDTH_MAX || after.contains('{') {
            return Err(usage.into());
        }
        Ok(IdTemplate { before: before.into(), width, after: after.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("20us"), Ok(Duration::from_micros(20)));
        for wrong in ["", "s", "5x", "-1s", "1e30h", "5 s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn rates_and_sizes() {
        assert_eq!(parse_rate("20k/s"), Ok(20_000.0));
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        assert!(parse_rate("0/s").is_err() && parse_rate("nan").is_err());
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert!(parse_size("64KB").is_err() && parse_size("x").is_err());
    }

    #[test]
    fn storms() {
        let at = Duration::from_secs(10);
        assert_eq!("50%@10s".parse(), Ok(Kill { share: 0.5, at }));
        assert_eq!("1@10s".parse(), Ok(Kill { share: 1.0, at }));
        for wrong in ["50%", "150%@1s", "x@1s", "1@"] {
            assert!(wrong.parse::<Kill>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn splits_and_faults() {
        assert_eq!("7".parse(), Ok(Splits::Every(7)));
        assert!("0".parse::<Splits>().is_err());
        assert_eq!("all:refuse".parse(), Ok(FaultAt { server: None, fault: Fault::Refuse }));
        let slow = Fault::Slow(Duration::from_millis(100));
        assert_eq!("2:slow".parse(), Ok(FaultAt { server: Some(2), fault: slow }));
        assert_eq!("close-after=3".parse(), Ok(Fault::CloseAfter(3)));
        for wrong in ["", "close-after", "close-after=0", "refuse=1", "x:reset", "slow=x"] {
            assert!(wrong.parse::<FaultAt>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn id_templates() {
        let template: IdTemplate = "8681202{:08}".parse().unwrap();
        assert_eq!(template.id(42), "868120200000042");
        assert_eq!("a{}b".parse::<IdTemplate>().unwrap().id(7), "a7b");
        for wrong in ["none", "{", "{:8}", "{:0x}", "{}{}", "{:099}"] {
            assert!(wrong.parse::<IdTemplate>().is_err(), "{wrong:?}");
        }
    }
}

//! What stores hold: an entry's name is a backend's address, its value a weight or an object.
//!
//! ```text
//! 10.0.0.1:7000        2
//! [fd00::1]:7000       {"weight": 2, "state": "drain", "order": 3}
//! unix:/run/a.sock     (nothing: weight 1)
//! ```
//!
//! Weight 0 stands for "drain", as operators of other balancers write it. Keys of an object that
//! this version does not know are ignored, so that a fleet can be upgraded one gateway at a time.
//! Whoever may write to a store may write anything: every byte string gives a member or a reason.

pub mod rewrite;

use std::collections::HashMap;

use serde::Deserialize;

use super::{Failure, FailureCause, Member, Reading, Rejected};
use crate::config::{Address, BackendState};

/// Longest value that is looked into, bytes.
pub const VALUE_LEN_MAX: usize = 4_096;
/// Most entries that a set may have, good or not. More is no set, but an accident.
pub const ENTRIES_MAX: usize = 50_000;
/// Most rejected entries that are kept with their reasons.
pub const REJECTED_MAX: usize = 100;
/// Longest name of a rejected entry that is kept, bytes.
const ENTRY_LEN_MAX: usize = 200;
/// Largest weight.
const WEIGHT_MAX: i64 = 65_535;

/// A member from an entry's name and value.
///
/// # Errors
/// What is wrong with the entry.
pub fn parse(entry: &[u8], value: &[u8]) -> Result<Member, Rejected> {
    let checked = address(entry).and_then(|address| {
        let Settings { weight, state, order } = settings(value)?;
        Ok(Member { address, weight, state, order })
    });
    checked.map_err(|why| Rejected::new(entry, why))
}

/// The address that an entry is called by. Port 0 is no backend's.
///
/// # Errors
/// What is wrong with it, for people.
pub fn address(entry: &[u8]) -> Result<Address, String> {
    let text = std::str::from_utf8(entry).map_err(|error| format!("not UTF-8: {error}"))?;
    match text.parse::<Address>() {
        Ok(Address::Tcp(tcp)) if tcp.port() == 0 => Err("port 0".to_string()),
        Ok(address) => Ok(address),
        Err(error) => Err(error.to_string()),
    }
}

/// What a number in a store means: 1 to 65,535 is a weight, 0 is a backend that drains.
///
/// # Errors
/// What is wrong with it, for people.
pub fn weight(number: i64) -> Result<(u32, BackendState), String> {
    match u32::try_from(number) {
        Ok(0) => Ok((1, BackendState::Drain)),
        Ok(weight) if number <= WEIGHT_MAX => Ok((weight, BackendState::Ready)),
        _ => Err(format!("weight {number} is not from 0 to {WEIGHT_MAX}")),
    }
}

/// What a value says.
struct Settings {
    weight: u32,
    state: BackendState,
    order: Option<i64>,
}

/// A value that is an object. `null` is as good as absent; a key twice is a fault.
#[derive(Deserialize)]
struct Object {
    weight: Option<i64>,
    state: Option<State>,
    order: Option<i64>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum State {
    Ready,
    Drain,
    Down,
}

fn settings(value: &[u8]) -> Result<Settings, String> {
    if value.len() > VALUE_LEN_MAX {
        return Err(format!("value of {} bytes, {VALUE_LEN_MAX} at most", value.len()));
    }
    let value = value.trim_ascii();
    if value.is_empty() {
        return Ok(Settings { weight: 1, state: BackendState::Ready, order: None });
    }
    if !value.starts_with(b"{") {
        let text = std::str::from_utf8(value).map_err(|error| format!("not UTF-8: {error}"))?;
        let number = text
            .parse::<i64>()
            .map_err(|error| format!("value is neither a weight ({error}) nor a JSON object"))?;
        let (weight, state) = weight(number)?;
        return Ok(Settings { weight, state, order: None });
    }
    let object: Object =
        serde_json::from_slice(value).map_err(|error| format!("value is no such JSON: {error}"))?;
    let (weight, by_weight) = weight(object.weight.unwrap_or(1))?;
    let state = match object.state {
        Some(State::Down) => BackendState::Down,
        Some(State::Drain) => BackendState::Drain,
        Some(State::Ready) | None => by_weight,
    };
    Ok(Settings { weight, state, order: object.order })
}

impl Rejected {
    /// Takes an entry's name as the store has it.
    pub fn new(entry: &[u8], why: impl Into<String>) -> Rejected {
        let mut shown = String::new();
        for character in String::from_utf8_lossy(entry).chars().take(ENTRY_LEN_MAX) {
            let escaped: String = match character.is_control() {
                true => character.escape_default().collect(),
                false => character.into(),
            };
            if shown.len() + escaped.len() > ENTRY_LEN_MAX {
                break;
            }
            shown.push_str(&escaped);
        }
        Rejected { entry: shown, why: why.into() }
    }
}

impl Reading {
    /// Puts a set together from what [`parse`] said about its entries, in whatever order they come.
    ///
    /// Of two members with one address (an address can be spelt in several ways) every gateway
    /// keeps the same one: the lower `order`, then the smaller weight, then the readier state.
    ///
    /// # Errors
    /// When there are over [`ENTRIES_MAX`] entries.
    pub fn gather(
        entries: impl IntoIterator<Item = Result<Member, Rejected>>,
        revision: Option<String>,
    ) -> Result<Reading, Failure> {
        let mut reading = Reading { revision, ..Reading::default() };
        let mut places: HashMap<Address, usize> = HashMap::new();
        for (count, entry) in entries.into_iter().enumerate() {
            if count >= ENTRIES_MAX {
                let detail = format!("over {ENTRIES_MAX} entries");
                return Err(Failure { cause: FailureCause::Malformed, detail });
            }
            let rejected = match entry {
                Err(rejected) => rejected,
                Ok(member) => match places.get(&member.address) {
                    None => {
                        places.insert(member.address.clone(), reading.members.len());
                        reading.members.push(member);
                        continue;
                    }
                    Some(place) => {
                        let name = member.address.to_string();
                        if let Some(kept) = reading.members.get_mut(*place)
                            && precedence(&member) < precedence(kept)
                        {
                            *kept = member;
                        }
                        Rejected::new(name.as_bytes(), "the same address as another entry")
                    }
                },
            };
            if reading.rejected.len() < REJECTED_MAX {
                reading.rejected.push(rejected);
            }
        }
        Ok(reading)
    }
}

fn precedence(member: &Member) -> (bool, Option<i64>, u32, u8) {
    let state = match member.state {
        BackendState::Ready => 0,
        BackendState::Drain => 1,
        BackendState::Down => 2,
    };
    (member.order.is_none(), member.order, member.weight, state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(entry: &str, value: &str) -> Member {
        parse(entry.as_bytes(), value.as_bytes())
            .unwrap_or_else(|r| panic!("{entry} {value}: {r:?}"))
    }

    fn why(entry: &[u8], value: &[u8]) -> String {
        parse(entry, value).expect_err("rejected").why
    }

    #[test]
    fn values_are_weights_or_objects() {
        use BackendState::{Down, Drain, Ready};
        let cases = [
            ("", 1, Ready, None),
            (" \n", 1, Ready, None),
            ("1", 1, Ready, None),
            ("65535", 65_535, Ready, None),
            (" 7\n", 7, Ready, None),
            ("0", 1, Drain, None),
            ("{}", 1, Ready, None),
            (r#"{"weight":3}"#, 3, Ready, None),
            (r#"{"weight":0}"#, 1, Drain, None),
            (r#"{"weight":0,"state":"ready"}"#, 1, Drain, None),
            (r#"{"weight":0,"state":"down"}"#, 1, Down, None),
            (r#"{"weight":2,"state":"drain","order":-3}"#, 2, Drain, Some(-3)),
            (r#"{"weight":null,"state":null,"order":null}"#, 1, Ready, None),
            (r#"{"zone":{"a":[1]},"order":9,"Weight":5}"#, 1, Ready, Some(9)),
        ];
        for (value, weight, state, order) in cases {
            let member = good("10.0.0.1:7000", value);
            assert_eq!(
                (member.weight, member.state, member.order),
                (weight, state, order),
                "{value}"
            );
        }
    }

    #[test]
    fn entries_are_addresses() {
        for entry in ["10.0.0.1:7000", "[fd00::1]:7000", "unix:/run/a.sock"] {
            assert_eq!(good(entry, "1").address.to_string(), entry);
        }
        let long = format!("unix:/{}", "a".repeat(107));
        for entry in ["", "10.0.0.1", "10.0.0.1:0", "host:1", "unix:", "unix:a", "fd00::1:7", &long]
        {
            assert!(parse(entry.as_bytes(), b"1").is_err(), "{entry}");
        }
        assert_eq!(why(b"10.0.0.1:0", b"1"), "port 0");
        assert!(why(b"\xff:1", b"1").contains("not UTF-8"));
    }

    #[test]
    fn what_is_no_value_says_why() {
        let cases: [(&[u8], &str); 12] = [
            (b"-1", "weight -1"),
            (b"65536", "weight 65536"),
            (b"99999999999999999999", "neither a weight"),
            (b"1.5", "neither a weight"),
            (b"ready", "neither a weight"),
            (b"[1]", "neither a weight"),
            (b"\xff", "not UTF-8"),
            (b"{", "no such JSON"),
            (br#"{"weight":"1"}"#, "no such JSON"),
            (br#"{"weight":1,"weight":2}"#, "duplicate field"),
            (br#"{"state":"up"}"#, "unknown variant `up`"),
            (br#"{"weight":-1}"#, "weight -1"),
        ];
        for (value, said) in cases {
            let why = why(b"10.0.0.1:1", value);
            assert!(why.contains(said), "{value:?}: {why}");
        }
        assert!(why(b"10.0.0.1:1", &[b'1'; 5_000]).contains("5000 bytes"));
        let nested = format!("{{\"a\":{}", "[".repeat(4_000));
        assert!(why(b"10.0.0.1:1", nested.as_bytes()).contains("no such JSON"));
    }

    #[test]
    fn names_of_rejected_entries_are_short_and_printable() {
        assert_eq!(Rejected::new(b"a\nb\x1b[1m", "x").entry, "a\\nb\\u{1b}[1m");
        let hostile: [Vec<u8>; 3] = [vec![b'a'; 9_999], vec![0xff; 9_999], vec![0; 9_999]];
        for entry in hostile {
            let shown = Rejected::new(&entry, "x").entry;
            assert!((150..=ENTRY_LEN_MAX).contains(&shown.len()), "{}", shown.len());
        }
    }

    #[test]
    fn an_address_is_a_member_once_whichever_comes_first() {
        let entries = [("[::1]:7", "5"), ("[0:0::1]:7", r#"{"order":1}"#), ("[::1]:8", "x")];
        let mut backwards = entries;
        backwards.reverse();
        let gather = |entries: [(&str, &str); 3]| {
            let parsed = entries.map(|(entry, value)| parse(entry.as_bytes(), value.as_bytes()));
            Reading::gather(parsed, Some("9".to_string())).expect("a few")
        };
        let reading = gather(entries);
        assert_eq!(reading.members, [good("[::1]:7", r#"{"order":1}"#)]);
        assert_eq!(reading.rejected.len(), 2);
        assert_eq!(reading.revision.as_deref(), Some("9"));
        assert_eq!(gather(backwards).members, reading.members);
    }

    #[test]
    fn a_set_without_end_is_refused_and_reasons_are_few() {
        let bad = || parse(b"x", b"");
        let entries = std::iter::repeat_with(bad).take(ENTRIES_MAX);
        assert_eq!(Reading::gather(entries, None).expect("just fits").rejected.len(), REJECTED_MAX);
        let failure = Reading::gather(std::iter::repeat_with(bad), None).expect_err("endless");
        assert_eq!(failure.cause, FailureCause::Malformed);
    }

    /// SplitMix64.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    #[test]
    fn hostile_bytes_give_a_member_within_its_ranges_or_a_reason() {
        const SEED: u64 = 0x5EED_0001;
        const SCRAPS: [&[u8]; 14] = [
            b"{",
            b"}",
            b"\"weight\":",
            b"\"state\":",
            b"\"order\":",
            b",",
            b"0",
            b"-",
            b"9999999",
            b"\"ready\"",
            b"\"down\"",
            b"\xff",
            b"\\u0000",
            b"[[",
        ];
        let mut random = SEED;
        let mut members = 0;
        for round in 0..50_000 {
            let mut entry = b"10.0.0.1:7000".to_vec();
            let mut value = br#"{"weight":2,"state":"drain","order":3}"#.to_vec();
            for bytes in [&mut entry, &mut value] {
                for _ in 0..next(&mut random) % 4 {
                    let at = next(&mut random) as usize % (bytes.len() + 1);
                    let end = (at + next(&mut random) as usize % 8).min(bytes.len());
                    let scrap = SCRAPS[next(&mut random) as usize % SCRAPS.len()].to_vec();
                    bytes.splice(at..end, scrap);
                }
            }
            match parse(&entry, &value) {
                Ok(member) => {
                    members += 1;
                    let seed = format!("seed {SEED:#x} round {round}");
                    assert!((1..=65_535).contains(&member.weight), "{seed}");
                    assert!(!matches!(member.address, Address::Tcp(a) if a.port() == 0), "{seed}");
                }
                Err(rejected) => assert!(!rejected.why.is_empty() && rejected.entry.len() <= 200),
            }
        }
        assert!(members > 1_000, "{members} members: is anything tried?");
    }
}

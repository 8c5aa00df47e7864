//! Changing one thing of a stored value, and nothing else of it.
//!
//! An object keeps its other members as they are written, in their order, also those that this
//! version does not know: they are another program's, or a newer gateway's.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{VALUE_LEN_MAX, parse};
use crate::config::BackendState;
use crate::source::Member;

/// What a value should say from now on; `None` is as before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// 1 to 65,535.
    pub weight: Option<u32>,
    /// Whether it takes new sessions.
    pub state: Option<BackendState>,
}

/// The value of a backend that a store does not have yet: a weight if that says it all.
pub fn fresh(weight: u32, state: BackendState, order: Option<i64>) -> Vec<u8> {
    let text = match (state, order) {
        (BackendState::Ready, None) => weight.to_string(),
        (state, None) => format!(r#"{{"weight":{weight},"state":"{}"}}"#, name(state)),
        (state, Some(order)) => {
            format!(r#"{{"weight":{weight},"state":"{}","order":{order}}}"#, name(state))
        }
    };
    text.into_bytes()
}

/// The value in which `wanted` is said and all else is as in `value`. The same bytes if that says
/// so already.
///
/// # Errors
/// Why there is none: the value is none that we understand, or would get too long.
pub fn rewritten(entry: &[u8], value: &[u8], wanted: Wanted) -> Result<Vec<u8>, String> {
    let before = parse(entry, value).map_err(|rejected| rejected.why)?;
    let weight = wanted.weight.unwrap_or(before.weight);
    let state = wanted.state.unwrap_or(before.state);
    if (weight, state) == (before.weight, before.state) {
        return Ok(value.to_vec());
    }
    let trimmed = value.trim_ascii();
    let text = match trimmed.starts_with(b"{") {
        false => fresh(weight, state, before.order),
        true => with_members(trimmed, &before, (weight, state))?.into_bytes(),
    };
    if text.len() > VALUE_LEN_MAX {
        return Err(format!("value of {} bytes, {VALUE_LEN_MAX} at most", text.len()));
    }
    Ok(text)
}

fn with_members(
    value: &[u8],
    before: &Member,
    (weight, state): (u32, BackendState),
) -> Result<String, String> {
    let Members(mut members) =
        serde_json::from_slice(value).map_err(|error| format!("value is no such JSON: {error}"))?;
    let mut set = |name: &str, text: String| match members.iter_mut().find(|one| one.0 == name) {
        Some(member) => member.1 = text,
        None => members.push((name.to_owned(), text)),
    };
    // A weight of 0 says "drain", whatever the state says.
    set("weight", weight.to_string());
    if state != before.state || state != BackendState::Ready {
        set("state", format!("\"{}\"", name(state)));
    }
    let members: Result<Vec<String>, _> = members
        .iter()
        .map(|(name, text)| serde_json::to_string(name).map(|name| format!("{name}:{text}")))
        .collect();
    let members = members.map_err(|error| error.to_string())?;
    Ok(format!("{{{}}}", members.join(",")))
}

fn name(state: BackendState) -> &'static str {
    match state {
        BackendState::Ready => "ready",
        BackendState::Drain => "drain",
        BackendState::Down => "down",
    }
}

/// An object's members as they are written.
struct Members(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    members.push((name, value.get().to_owned()));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackendState::{Down, Drain, Ready};

    fn changed(value: &str, weight: Option<u32>, state: Option<BackendState>) -> String {
        let entry = b"10.0.0.1:7000";
        let wanted = Wanted { weight, state };
        let before = parse(entry, value.as_bytes()).expect(value);
        let text = rewritten(entry, value.as_bytes(), wanted).expect(value);
        let after = parse(entry, &text).expect("readable");
        assert_eq!(after.weight, weight.unwrap_or(before.weight), "{value}");
        assert_eq!(after.state, state.unwrap_or(before.state), "{value}");
        assert_eq!(after.order, before.order, "{value}");
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn one_thing_changes_and_the_rest_stays() {
        let cases = [
            ("", Some(3), None, "3"),
            ("2", Some(3), None, "3"),
            ("2", None, Some(Drain), r#"{"weight":2,"state":"drain"}"#),
            ("2", None, Some(Ready), "2"),
            (" 2\n", Some(2), None, " 2\n"),
            ("0", None, Some(Ready), "1"),
            ("0", Some(5), None, r#"{"weight":5,"state":"drain"}"#),
            ("{}", Some(4), None, r#"{"weight":4}"#),
            ("{}", None, Some(Down), r#"{"weight":1,"state":"down"}"#),
            (r#"{"weight":0}"#, None, Some(Ready), r#"{"weight":1,"state":"ready"}"#),
            (r#"{"weight":0}"#, Some(7), None, r#"{"weight":7,"state":"drain"}"#),
            (
                r#"{ "zone": {"a" :[1.50, 1e400]}, "order":9, "weight":5, "Weight":1, "zone":2 }"#,
                None,
                Some(Drain),
                r#"{"zone":{"a" :[1.50, 1e400]},"order":9,"weight":5,"Weight":1,"zone":2,"state":"drain"}"#,
            ),
            (
                r#"{"state":"drain","weight":3,"é\"":"\u0007"}"#,
                Some(6),
                Some(Ready),
                r#"{"state":"ready","weight":6,"é\"":"\u0007"}"#,
            ),
            (r#"{"state":"down","weight":null}"#, Some(2), None, r#"{"state":"down","weight":2}"#),
        ];
        for (value, weight, state, expected) in cases {
            assert_eq!(changed(value, weight, state), expected, "{value}");
        }
    }

    #[test]
    fn what_is_not_understood_is_not_touched() {
        let entry = b"10.0.0.1:7000";
        let wanted = Wanted { weight: Some(2), state: None };
        for value in ["x", "-1", "{", r#"{"weight":"1"}"#, r#"{"weight":1,"weight":1}"#, "[1]"] {
            assert!(rewritten(entry, value.as_bytes(), wanted).is_err(), "{value}");
        }
        let long = format!(r#"{{"weight":1,"note":"{}"}}"#, "a".repeat(VALUE_LEN_MAX - 22));
        assert_eq!(long.len(), VALUE_LEN_MAX);
        let why = rewritten(entry, long.as_bytes(), Wanted { weight: Some(10), state: None });
        assert!(why.expect_err("too long").contains("4097 bytes"));
    }

    #[test]
    fn what_is_fresh_says_what_was_asked_for() {
        for (weight, state, order) in
            [(1, Ready, None), (65_535, Drain, None), (2, Down, Some(-3)), (7, Ready, Some(0))]
        {
            let value = fresh(weight, state, order);
            let member = parse(b"[::1]:7", &value).expect("a member");
            assert_eq!((member.weight, member.state, member.order), (weight, state, order));
        }
        assert_eq!(fresh(3, Ready, None), b"3");
    }
}

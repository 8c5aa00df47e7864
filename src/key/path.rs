//! JSON paths: `a.b[0].c`, `["quoted name"]`.

use std::fmt::{self, Write};

use super::{JSON_DEPTH_MAX, KeyExpressionError, fault};

/// Where a value is within a JSON document: at least one step from the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath {
    pub(super) steps: Vec<Step>,
}

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The first member of this name of an object.
    Member(String),
    /// The element at this index of an array, counted from 0.
    Element(usize),
}

const VALID: &str = "a path is names joined by dots, \"[n]\" for an array element and \
                     \"[\\\"name\\\"]\" for a name with other characters, as in device.ids[0].imei";

impl JsonPath {
    /// Reads a path. Bare names may hold anything but `. [ ] "`, spaces and control characters.
    pub fn parse(text: &str) -> Result<JsonPath, KeyExpressionError> {
        if text == "$" || text.starts_with("$.") || text.starts_with("$[") {
            return fault(format!("\"json:{text}\": a path begins below the root, without \"$\""));
        }
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() || steps.is_empty() {
            let (step, after) = if let Some(inside) = rest.strip_prefix('[') {
                bracket(text, inside)?
            } else {
                let name = if steps.is_empty() { Some(rest) } else { rest.strip_prefix('.') };
                let Some(name) = name else {
                    return fault(format!(
                        "\"json:{text}\": ']' is followed by '.', '[' or the end"
                    ));
                };
                bare_name(text, name)?
            };
            steps.push(step);
            rest = after;
        }
        if steps.len() > JSON_DEPTH_MAX {
            return fault(format!(
                "\"json:{text}\" has {} steps; at most {JSON_DEPTH_MAX} are valid",
                steps.len()
            ));
        }
        Ok(JsonPath { steps })
    }
}

/// A name up to the next `.` or `[`, and what follows it.
fn bare_name<'t>(path: &str, text: &'t str) -> Result<(Step, &'t str), KeyExpressionError> {
    let end = text.find(['.', '[']).unwrap_or(text.len());
    let (name, after) = text.split_at(end);
    if name.is_empty() {
        return fault(format!("\"json:{path}\" has an empty name; {VALID}"));
    }
    let odd = |c: char| matches!(c, ']' | '"') || c.is_whitespace() || c.is_control();
    if let Some(odd) = name.chars().find(|c| odd(*c)) {
        return fault(format!(
            "\"json:{path}\": '{}' is not valid in a bare name; {VALID}",
            odd.escape_debug()
        ));
    }
    Ok((Step::Member(name.to_owned()), after))
}

/// What stands in brackets, after the opening one: an index or a JSON string.
fn bracket<'t>(path: &str, inside: &'t str) -> Result<(Step, &'t str), KeyExpressionError> {
    if inside.starts_with('"') {
        let mut strings = serde_json::Deserializer::from_str(inside).into_iter::<String>();
        let Some(Ok(name)) = strings.next() else {
            return fault(format!("\"json:{path}\": the quoted name is no JSON string; {VALID}"));
        };
        let Some(after) = inside[strings.byte_offset()..].strip_prefix(']') else {
            return fault(format!("\"json:{path}\": ']' is missing after a quoted name; {VALID}"));
        };
        return Ok((Step::Member(name), after));
    }
    let Some((digits, after)) = inside.split_once(']') else {
        return fault(format!("\"json:{path}\": ']' is missing; {VALID}"));
    };
    let index = match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => digits.parse::<u32>().ok().and_then(|index| usize::try_from(index).ok()),
        false => None,
    };
    match index {
        Some(index) => Ok((Step::Element(index), after)),
        None => fault(format!("\"json:{path}\": \"[{digits}]\" is no array index; {VALID}")),
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            match step {
                Step::Element(element) => write!(f, "[{element}]")?,
                Step::Member(name) if bare_name("", name) == Ok((step.clone(), "")) => {
                    if index > 0 {
                        f.write_char('.')?;
                    }
                    f.write_str(name)?;
                }
                Step::Member(name) => write!(f, "[{}]", serde_json::Value::from(name.as_str()))?,
            }
        }
        Ok(())
    }
}

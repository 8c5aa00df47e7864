//! `${NAME}` and `${NAME:-default}` in the strings of a file.

use std::borrow::Cow;

use toml::de::{DeTable, DeValue};

use super::document::Path;
use super::environment::Variable;
use super::fault::Problem;

/// Replaces every reference in every string of `tree`; gives the strings that could not be.
///
/// Keys are left alone, and what a variable contains is not looked into again. A string with a
/// problem keeps its text.
pub fn substitute(tree: &mut DeTable<'_>, variable: &Variable<'_>) -> Vec<(Path, Problem)> {
    let mut problems = Vec::new();
    table(tree, &Path::default(), &mut |text, path| match expand(text, variable) {
        Ok(expanded) => expanded,
        Err(problem) => {
            problems.push((path.clone(), problem));
            None
        }
    });
    problems
}

/// What a string becomes; `None` leaves it.
type Change<'c> = dyn FnMut(&str, &Path) -> Option<String> + 'c;

fn table(table: &mut DeTable<'_>, path: &Path, change: &mut Change<'_>) {
    let keys: Vec<String> = table.keys().map(|key| key.get_ref().to_string()).collect();
    for key in keys {
        if let Some(entry) = table.get_mut(key.as_str()) {
            value(entry.get_mut(), &path.key(&key), change);
        }
    }
}

fn value(value: &mut DeValue<'_>, path: &Path, change: &mut Change<'_>) {
    match value {
        DeValue::String(text) => {
            if let Some(changed) = change(text, path) {
                *text = Cow::Owned(changed);
            }
        }
        DeValue::Array(list) => {
            for (index, entry) in list.iter_mut().enumerate() {
                self::value(entry.get_mut(), &path.index(index), change);
            }
        }
        DeValue::Table(inner) => table(inner, path, change),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

/// One string with its references replaced; `None` if it has none.
fn expand(text: &str, variable: &Variable<'_>) -> Result<Option<String>, Problem> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = (&rest[..at], &rest[at + 2..]);
        if let Some(literal) = before.strip_suffix('$') {
            expanded.push_str(literal);
            expanded.push_str("${");
            rest = reference;
            continue;
        }
        expanded.push_str(before);
        let Some(end) = reference.find('}') else {
            return Err(Problem::new("\"${\" without \"}\"", FORMS));
        };
        expanded.push_str(&resolve(&reference[..end], variable)?);
        rest = &reference[end + 1..];
    }
    expanded.push_str(rest);
    Ok(Some(expanded))
}

const FORMS: &str = "${NAME}, ${NAME:-default}, or $${ for a plain ${";

/// What stands between the braces: `NAME` or `NAME:-default`.
fn resolve(reference: &str, variable: &Variable<'_>) -> Result<String, Problem> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(Problem::new(format!("{name:?} is not a variable's name"), FORMS));
    }
    match (variable(name), default) {
        // As in a shell, `:-` also replaces an empty value.
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_string()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_string()),
        (None, None) => Err(Problem::new(
            format!("environment variable {name} is not set"),
            format!("set it, or give a default: ${{{name}:-default}}"),
        )),
    }
}

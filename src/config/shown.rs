//! A file as it took effect: defaults filled in, secrets left out.

use std::sync::OnceLock;

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::document::without_secret;

/// What stands where a secret is.
const MASK: &str = "(secret)";

/// A file as the admin interface shows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shown(pub Value);

/// The tree of a file without faults, references replaced.
pub fn shown(tree: &DeTable<'_>) -> Shown {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    let mut value = table(tree);
    fill(&mut value, SCHEMA.get_or_init(super::load::schema));
    Shown(value)
}

fn table(table: &DeTable<'_>) -> Value {
    let entry = |(key, inner): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let key: &std::borrow::Cow<'_, str> = key.get_ref();
        (key.to_string(), value(key, inner.get_ref()))
    };
    Value::Object(table.iter().map(entry).collect::<Map<_, _>>())
}

fn value(key: &str, found: &DeValue<'_>) -> Value {
    match found {
        DeValue::String(_) if key == "password" => MASK.into(),
        DeValue::String(text) => without_secret(text).into_owned().into(),
        DeValue::Integer(integer) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix());
            number.map_or_else(|_too_large| integer.to_string().into(), Value::from)
        }
        DeValue::Float(float) => {
            let number = float.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            number.map_or_else(|| float.to_string().into(), Value::Number)
        }
        DeValue::Boolean(boolean) => (*boolean).into(),
        DeValue::Datetime(datetime) => datetime.to_string().into(),
        DeValue::Array(list) => list.iter().map(|inner| value(key, inner.get_ref())).collect(),
        DeValue::Table(inner) => table(inner),
    }
}

/// Puts in every default that the schema knows and the file does not say.
fn fill(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(found) => {
            let variants = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
            let is_table = |one: &&Value| {
                one.get("properties").is_some() || one.get("additionalProperties").is_some()
            };
            let schema = variants.chain([schema]).find(is_table).unwrap_or(schema);
            let properties = schema.get("properties").and_then(Value::as_object);
            for (key, inner) in properties.into_iter().flatten() {
                let default = inner.get("default");
                // Tables of which everything has a default count as written.
                let table = ["runtime", "log"].contains(&key.as_str())
                    && schema.pointer("/properties/listener").is_some();
                let default = default.cloned().or_else(|| table.then(|| Map::new().into()));
                if let (false, Some(default)) = (found.contains_key(key), default) {
                    found.insert(key.clone(), default);
                }
                if let Some(below) = found.get_mut(key) {
                    fill(below, inner);
                }
            }
            let others = schema.get("additionalProperties").filter(|others| others.is_object());
            if let Some(others) = others {
                found.values_mut().for_each(|below| fill(below, others));
            }
        }
        Value::Array(list) => {
            let variants = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
            let items = variants.chain([schema]).find_map(|one| one.get("items"));
            let Some(items) = items else { return };
            list.iter_mut().for_each(|below| fill(below, items));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

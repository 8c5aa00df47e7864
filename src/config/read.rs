//! From tree to raw structures, and the keys that nothing read.

use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeFloat, DeTable, DeValue};

use super::document::{Document, Path, Step};
use super::fault::{Problem, nearest};
use super::raw;

/// Reads every key that is known and gives those that are not.
///
/// # Errors
/// Should not happen, as every key accepts every value; what the TOML library says then.
pub fn read(document: &Document<'_>) -> Result<Read<raw::File>, toml::de::Error> {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| raw::schema().to_value());
    read_as(document, &SCHEMA)
}

/// Reads a file of backends in the same way.
///
/// # Errors
/// As [`read`].
pub fn read_backends(document: &Document<'_>) -> Result<Read<raw::BackendsFile>, toml::de::Error> {
    static SCHEMA: LazyLock<Value> =
        LazyLock::new(|| raw::schema_of::<raw::BackendsFile>().to_value());
    read_as(document, &SCHEMA)
}

/// What was read, and the keys that nothing read.
type Read<T> = (T, Vec<(Path, Problem)>);

/// `schema` is that of `T`; it takes longer to make than most files take to read.
fn read_as<T: DeserializeOwned>(
    document: &Document<'_>,
    schema: &LazyLock<Value>,
) -> Result<Read<T>, toml::de::Error> {
    let mut tree = document.tree.get_ref().clone();
    blunt_table(&mut tree);
    let mut unknown = Vec::new();
    let spanned = Spanned::new(document.tree.span(), tree);
    let file = serde_ignored::deserialize(toml::Deserializer::from(spanned), |path| {
        unknown.push(path_of(&path));
    })?;
    if unknown.is_empty() {
        return Ok((file, Vec::new()));
    }
    let unknown = unknown.into_iter().map(|path| {
        let problem = unknown_key(&path, schema);
        (path, problem)
    });
    Ok((file, unknown.collect()))
}

/// Replaces values that the TOML library cannot hand over, or hands over in disguise (dates come as
/// tables), by what is no number: no key takes that, so each still gets its fault.
fn blunt(value: &mut DeValue<'_>) {
    match value {
        DeValue::Integer(integer) => {
            if i64::from_str_radix(integer.as_str(), integer.radix()).is_err() {
                *value = not_a_number();
            }
        }
        DeValue::Float(float) => {
            if float.as_str().parse::<f64>().is_err() {
                *value = not_a_number();
            }
        }
        DeValue::Datetime(_) => *value = not_a_number(),
        DeValue::Array(list) => list.iter_mut().for_each(|entry| blunt(entry.get_mut())),
        DeValue::Table(table) => blunt_table(table),
        DeValue::String(_) | DeValue::Boolean(_) => {}
    }
}

fn not_a_number() -> DeValue<'static> {
    // The library has no other way to make one; this text is one.
    let parsed = DeValue::parse("nan").map(Spanned::into_inner);
    parsed.unwrap_or(DeValue::Float(DeFloat::default()))
}

fn blunt_table(table: &mut DeTable<'_>) {
    let keys: Vec<String> = table.keys().map(|key| key.get_ref().to_string()).collect();
    for key in keys {
        if let Some(entry) = table.get_mut(key.as_str()) {
            blunt(entry.get_mut());
        }
    }
}

fn path_of(path: &serde_ignored::Path<'_>) -> Path {
    use serde_ignored::Path as Ignored;
    match path {
        Ignored::Root => Path::default(),
        Ignored::Seq { parent, index } => path_of(parent).index(*index),
        Ignored::Map { parent, key } => path_of(parent).key(key),
        Ignored::Some { parent }
        | Ignored::NewtypeStruct { parent }
        | Ignored::NewtypeVariant { parent } => path_of(parent),
    }
}

fn unknown_key(path: &Path, schema: &Value) -> Problem {
    let known = keys_at(schema, &path.parent().0);
    let near = match path.0.last() {
        Some(Step::Key(key)) => nearest(key, known.iter().map(String::as_str)),
        Some(Step::Index(_)) | None => None,
    };
    Problem::new("unknown key", known.join(", ")).near(near.map(str::to_string))
}

/// The keys that the schema allows in the table at `steps`, in alphabetical order.
fn keys_at(schema: &Value, steps: &[Step]) -> Vec<String> {
    let Some((step, rest)) = steps.split_first() else {
        let own = schema.get("properties").and_then(Value::as_object);
        let mut keys: Vec<String> = own.into_iter().flat_map(|keys| keys.keys().cloned()).collect();
        for variant in variants(schema) {
            keys.extend(keys_at(variant, steps));
        }
        keys.sort();
        return keys;
    };
    let next = match step {
        Step::Index(_) => schema.get("items"),
        Step::Key(key) => schema
            .get("properties")
            .and_then(|keys| keys.get(key))
            .or_else(|| schema.get("additionalProperties")),
    };
    let mut keys = next.map_or_else(Vec::new, |next| keys_at(next, rest));
    for variant in variants(schema) {
        keys.extend(keys_at(variant, steps));
    }
    keys
}

fn variants(schema: &Value) -> impl Iterator<Item = &Value> {
    schema.get("anyOf").and_then(Value::as_array).into_iter().flatten()
}

//! Reading a value without failing: a wrong value is kept as a problem, so that it does not hide
//! the faults behind it.

use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::fault::Problem;

/// A value as written: absent, as it should be, or wrong. Its `Deserialize` accepts every type.
#[derive(Debug, Default)]
pub enum Slot<T> {
    /// The key is not in the file.
    #[default]
    Absent,
    /// Well-formed; ranges and relations are not checked yet.
    Present(T),
    /// Of a wrong type or form.
    Wrong(Problem),
}

/// A value that is neither list nor table.
#[derive(Debug, Clone, Copy)]
pub enum Scalar<'a> {
    /// A string, references replaced.
    Text(&'a str),
    /// An integer.
    Integer(i64),
    /// A number with a point.
    Float(f64),
    /// A date, or a boolean where none is taken.
    Other,
}

/// What a value should look like, and how it is read from each of TOML's kinds.
pub trait Shape: Sized {
    /// What is valid, for the fault about another kind of value.
    const EXPECTED: &'static str;

    /// [`Shape::EXPECTED`], where that has to be put together.
    fn expected() -> String {
        Self::EXPECTED.to_string()
    }

    /// Its JSON Schema.
    fn schema(generator: &mut SchemaGenerator) -> Schema;

    /// Reads a string or number.
    fn from_scalar(_scalar: Scalar<'_>) -> Result<Self, Problem> {
        Err(Problem::wrong_type(Self::expected()))
    }

    /// Reads a boolean.
    fn from_boolean(_boolean: bool) -> Result<Self, Problem> {
        Self::from_scalar(Scalar::Other)
    }

    /// Reads a list.
    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Result<Self, Problem>, A::Error> {
        while list.next_element::<Skip>()?.is_some() {}
        Ok(Err(Problem::wrong_type(Self::expected())))
    }

    /// Reads a table.
    fn from_table<'de, A: MapAccess<'de>>(mut table: A) -> Result<Result<Self, Problem>, A::Error> {
        while table.next_entry::<String, Skip>()?.is_some() {}
        Ok(Err(Problem::wrong_type(Self::expected())))
    }
}

impl<'de, T: Shape> Deserialize<'de> for Slot<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = deserializer.deserialize_any(ShapeVisitor(PhantomData))?;
        Ok(match read {
            Ok(value) => Slot::Present(value),
            Err(problem) => Slot::Wrong(problem),
        })
    }
}

impl<T: Shape> JsonSchema for Slot<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        // Not the bare name of `T`: the generator would take the two for one recursive type.
        format!("Slot<{}>", std::any::type_name::<T>()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::schema(generator)
    }
}

struct ShapeVisitor<T>(PhantomData<T>);

impl<'de, T: Shape> Visitor<'de> for ShapeVisitor<T> {
    type Value = Result<T, Problem>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(T::from_scalar(Scalar::Text(text)))
    }

    fn visit_i64<E>(self, integer: i64) -> Result<Self::Value, E> {
        Ok(T::from_scalar(Scalar::Integer(integer)))
    }

    /// JSON's numbers come without a sign if they need none.
    fn visit_u64<E>(self, integer: u64) -> Result<Self::Value, E> {
        let scalar = i64::try_from(integer).map_or(Scalar::Other, Scalar::Integer);
        Ok(T::from_scalar(scalar))
    }

    /// JSON's `null`.
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(T::from_scalar(Scalar::Other))
    }

    fn visit_bool<E>(self, boolean: bool) -> Result<Self::Value, E> {
        Ok(T::from_boolean(boolean))
    }

    fn visit_f64<E>(self, float: f64) -> Result<Self::Value, E> {
        Ok(T::from_scalar(Scalar::Float(float)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        T::from_list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
        T::from_table(table)
    }
}

/// A value that is read and thrown away. Unlike `serde::de::IgnoredAny` it does not make the keys
/// inside it count as unknown.
pub struct Skip;

impl<'de> Deserialize<'de> for Skip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SkipVisitor)
    }
}

struct SkipVisitor;

impl<'de> Visitor<'de> for SkipVisitor {
    type Value = Skip;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(self, _text: &str) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_i64<E>(self, _integer: i64) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_u64<E>(self, _integer: u64) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_unit<E>(self) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_bool<E>(self, _boolean: bool) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_f64<E>(self, _float: f64) -> Result<Skip, E> {
        Ok(Skip)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Skip, A::Error> {
        while list.next_element::<Skip>()?.is_some() {}
        Ok(Skip)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Skip, A::Error> {
        while table.next_entry::<String, Skip>()?.is_some() {}
        Ok(Skip)
    }
}

/// A list of anything that has a shape.
impl<T: Shape> Shape for Vec<Slot<T>> {
    const EXPECTED: &'static str = "a list";

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let items = T::schema(generator);
        schemars::json_schema!({ "type": "array", "items": items })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let near = match scalar {
            Scalar::Text(text) => Some(format!("[{text:?}]")),
            Scalar::Integer(integer) => Some(format!("[{integer}]")),
            Scalar::Float(_) | Scalar::Other => None,
        };
        Err(Problem::wrong_type(Self::EXPECTED).near(near))
    }

    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Result<Self, Problem>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            entries.push(entry);
        }
        Ok(Ok(entries))
    }
}

/// One table, or a list of them: `[a.b]` or `[[a.b]]`.
#[derive(Debug)]
pub enum OneOrMany<T> {
    /// One table.
    One(Box<T>),
    /// A list.
    Many(Vec<Slot<T>>),
}

impl<T: Shape> Shape for OneOrMany<T> {
    const EXPECTED: &'static str = "a table, or a list of tables";

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let table = T::schema(generator);
        let list = Vec::<Slot<T>>::schema(generator);
        schemars::json_schema!({ "anyOf": [table, list] })
    }

    fn from_list<'de, A: SeqAccess<'de>>(list: A) -> Result<Result<Self, Problem>, A::Error> {
        Ok(Vec::from_list(list)?.map(OneOrMany::Many))
    }

    fn from_table<'de, A: MapAccess<'de>>(table: A) -> Result<Result<Self, Problem>, A::Error> {
        Ok(T::from_table(table)?.map(|one| OneOrMany::One(Box::new(one))))
    }
}

/// A table whose keys the user chooses.
#[derive(Debug)]
pub struct Entries<T>(pub Vec<(String, Slot<T>)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Entries(Vec::new())
    }
}

impl<T: Shape> Shape for Entries<T> {
    const EXPECTED: &'static str = "a table";

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let entry = T::schema(generator);
        schemars::json_schema!({ "type": "object", "additionalProperties": entry })
    }

    fn from_table<'de, A: MapAccess<'de>>(mut table: A) -> Result<Result<Self, Problem>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = table.next_entry()? {
            entries.push(entry);
        }
        Ok(Ok(Entries(entries)))
    }
}

/// Makes a structure with `Deserialize` and `JsonSchema` readable from a table.
macro_rules! table_shapes {
    ($($name:ty),* $(,)?) => {
        $(impl Shape for $name {
            const EXPECTED: &'static str = "a table";

            fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                generator.subschema_for::<$name>()
            }

            fn from_table<'de, A: serde::de::MapAccess<'de>>(
                table: A,
            ) -> Result<Result<Self, Problem>, A::Error> {
                let table = serde::de::value::MapAccessDeserializer::new(table);
                serde::Deserialize::deserialize(table).map(Ok)
            }
        })*
    };
}
pub(super) use table_shapes;

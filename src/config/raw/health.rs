//! `[pool.NAME.health]` and `[pool.NAME.ejection]` as they are written.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::MapAccess;

use crate::config::fault::Problem;
use crate::config::limits;
use crate::config::quantity::Count;
use crate::config::shape::{Entries, Scalar, Shape, Slot, table_shapes};
use crate::config::share::Percent;
use crate::config::value::{Expected, Named, OneOf};

table_shapes!(Health, Ejection);

/// Backends are asked how they are; without this table nobody asks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["kind"]))]
pub struct Health {
    /// "tcp": it accepts connections; "bytes": it answers bytes with bytes; "http": it answers a
    /// GET request.
    pub kind: Slot<OneOf<CheckName>>,
    /// Time between two checks of one backend; each is up to a tenth earlier or later.
    #[schemars(transform = limits::CHECK_INTERVAL.describe())]
    pub interval: Slot<Duration>,
    /// Deadline of one check, at most the interval.
    #[schemars(transform = limits::CHECK_TIMEOUT.describe())]
    pub timeout: Slot<Duration>,
    /// Good checks in a row that put a backend back in service.
    #[schemars(transform = limits::RISE.describe())]
    pub rise: Slot<Count>,
    /// Failed checks in a row that take a backend out of service.
    #[schemars(transform = limits::FALL.describe())]
    pub fall: Slot<Count>,
    /// Asked instead of the port that sessions go to.
    #[schemars(transform = limits::PORT.describe())]
    pub port: Slot<Count>,
    /// For "bytes": the frame listener whose header send and expect are written in.
    pub listener: Slot<String>,
    /// For "bytes": a text, "hex:" and hexadecimal digits, or a frame as a table of header fields
    /// and body. Its length field is computed.
    pub send: Slot<Message>,
    /// For "bytes": what the answer begins with, as for send; fields of a frame may be ranges.
    pub expect: Slot<Message>,
    /// For "http": the path that is asked for.
    #[schemars(extend("default" = "/"))]
    pub path: Slot<String>,
    /// For "http": the Host header; the backend's address if there is none.
    pub host: Slot<String>,
    /// For "http": the status of a good answer, an integer or an inclusive range.
    #[schemars(extend("default" = "200..=299"))]
    pub status: Slot<Expected>,
}

/// Sessions show how backends are; without this table nobody is ejected.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct Ejection {
    /// Failed attempts to connect in a row that eject a backend.
    #[schemars(transform = limits::EJECTION_FAILURES.describe())]
    pub failures: Slot<Count>,
    /// A session that its backend ends before it is this old ended early; "0s": none does.
    #[schemars(transform = limits::EARLY.describe())]
    pub early: Slot<Duration>,
    /// Fewer early ends within the window eject no backend.
    #[schemars(transform = limits::EARLY_COUNT.describe())]
    pub early_count: Slot<Count>,
    /// Nor does a smaller share of the sessions that the backend was given within the window.
    #[schemars(transform = limits::EARLY_SHARE.describe())]
    pub early_share: Slot<Percent>,
    /// Time in which early ends are counted.
    #[schemars(transform = limits::EJECTION_WINDOW.describe())]
    pub window: Slot<Duration>,
    /// How long a backend is out the first time; doubled each further time.
    #[schemars(transform = limits::BASE_TIME.describe())]
    pub base_time: Slot<Duration>,
    /// The longest time; a backend that stays in service as long begins anew.
    #[schemars(transform = limits::MAX_TIME.describe())]
    pub max_time: Slot<Duration>,
    /// Largest share of the pool that may be out at once.
    #[schemars(transform = limits::MAX_EJECTED.describe())]
    pub max_ejected: Slot<Percent>,
}

/// `kind`, by name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckName {
    /// Connecting.
    Tcp,
    /// Sending and expecting bytes.
    Bytes,
    /// A request.
    Http,
}

impl Named for CheckName {
    const WHAT: &'static str = "kind of check";
    const NAMES: &'static [(&'static str, Self)] =
        &[("tcp", CheckName::Tcp), ("bytes", CheckName::Bytes), ("http", CheckName::Http)];
}

/// Bytes of a check.
#[derive(Debug)]
pub enum Message {
    /// As text, or in hexadecimal.
    Text(String),
    /// Header fields and `body`.
    Frame(Entries<FieldValue>),
}

impl Shape for Message {
    const EXPECTED: &'static str =
        "a text, \"hex:\" and digits, or a frame: { type = 1, …, body = \"…\" }";

    fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let text = String::schema(generator);
        let frame = Entries::<FieldValue>::schema(generator);
        schemars::json_schema!({ "anyOf": [text, frame] })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        match scalar {
            Scalar::Text(text) => Ok(Message::Text(text.to_string())),
            Scalar::Integer(_) | Scalar::Float(_) | Scalar::Other => {
                Err(Problem::wrong_type(Self::EXPECTED))
            }
        }
    }

    fn from_table<'de, A: MapAccess<'de>>(table: A) -> Result<Result<Self, Problem>, A::Error> {
        Ok(Entries::from_table(table)?.map(Message::Frame))
    }
}

/// A field of a frame.
#[derive(Debug)]
pub enum FieldValue {
    /// A header field's.
    Integer(i64),
    /// A body, or the range of a header field.
    Text(String),
}

impl Shape for FieldValue {
    const EXPECTED: &'static str = "an integer, an inclusive range, or the text of the body";

    fn schema(_generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["integer", "string"] })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        match scalar {
            Scalar::Integer(integer) => Ok(FieldValue::Integer(integer)),
            Scalar::Text(text) => Ok(FieldValue::Text(text.to_string())),
            Scalar::Float(_) | Scalar::Other => Err(Problem::wrong_type(Self::EXPECTED)),
        }
    }
}

//! A session record as one JSON line.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use super::json::append_json;
use super::session::SessionRecord;
use crate::end::Side;

/// The line's fields in their order. A field that does not apply is left out.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    event: &'static str,
    listener: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    placement: Option<&'static str>,
    end: &'static str,
    side: &'static str,
    attempts: u32,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    preface_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    duration_ms: f64,
    table: u64,
    shard: usize,
}

/// Appends a record and a line feed. A line never contains another line feed.
pub(super) fn append_line(record: &SessionRecord, text: &mut Vec<u8>) {
    let (key, key_hex) = match std::str::from_utf8(&record.key) {
        Ok("") => (None, None),
        Ok(key) => (Some(key), None),
        // Not text: hexadecimal loses nothing and cannot be mistaken for another key.
        Err(_) => (None, Some(hex(&record.key))),
    };
    let line = Line {
        time: record.ended,
        event: "session",
        listener: &record.listener,
        client: record.client,
        via: record.via,
        key,
        key_hex,
        pool: record.pool.as_deref(),
        backend: record.backend.as_deref(),
        placement: record.placement.map(|placement| placement.label()),
        end: record.end.label(),
        side: side_label(record.end.side()),
        attempts: record.attempts,
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        preface_ms: record.preface.map(milliseconds),
        connect_ms: record.connect.map(milliseconds),
        duration_ms: milliseconds(record.duration),
        table: record.table_version,
        shard: record.shard,
    };
    // Strings and numbers only: there is nothing in it that could fail to serialize.
    if append_json(&line, text).is_ok() {
        text.push(b'\n');
    }
}

fn side_label(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Backend => "backend",
        Side::Us => "us",
    }
}

/// Milliseconds to the precision of a microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Two lower-case digits per byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// 9999-12-31T23:59:59Z, the last moment RFC 3339 can write, in seconds since 1970.
const RFC3339_LAST_S: u64 = 253_402_300_799;

/// Times outside RFC 3339 (a clock that was never set) are moved to its ends.
fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let time = (*time).clamp(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(RFC3339_LAST_S));
    serializer.collect_str(&humantime::format_rfc3339_millis(time))
}

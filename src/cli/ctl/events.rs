//! `corelane ctl events`: server-sent events, one line each.

use std::process::ExitCode;

use corelane::explain::Escaped;
use serde_json::{Value, json};

use super::client::{Client, Followed};
use super::show;
use crate::cli::{Failure, write_result};

/// Prints events as they come, up to `count` of them; the one that begins a stream does not count.
pub(super) fn follow(
    client: &mut Client,
    count: Option<u64>,
    json: bool,
) -> Result<ExitCode, Failure> {
    let mut lines = Lines::default();
    let mut left = count.unwrap_or(u64::MAX);
    let followed = client.follow("/events", |piece| {
        for event in lines.take(piece) {
            let counts = event.kind != "start";
            write_result(&event.line(json))?;
            left -= u64::from(counts);
            if left == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    match followed {
        Followed::Enough => Ok(ExitCode::SUCCESS),
        Followed::Refused(reply) => super::print(&reply, json, show::anything),
    }
}

/// Puts pieces together to lines, and lines to events.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    event: Event,
}

#[derive(Default)]
struct Event {
    id: String,
    kind: String,
    data: String,
}

impl Lines {
    fn take(&mut self, piece: &[u8]) -> Vec<Event> {
        self.rest.extend_from_slice(piece);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim_end_matches(['\r', '\n']).split_once(": ") {
                Some(("id", id)) => self.event.id = id.to_owned(),
                Some(("event", kind)) => self.event.kind = kind.to_owned(),
                Some(("data", data)) => self.event.data += data,
                Some(_) => {}
                None if line.trim().is_empty() && !self.event.kind.is_empty() => {
                    events.push(std::mem::take(&mut self.event));
                }
                None => {}
            }
        }
        events
    }
}

impl Event {
    fn line(&self, as_json: bool) -> String {
        let data: Value = serde_json::from_str(&self.data).unwrap_or_default();
        if as_json {
            return format!("{}\n", json!({ "id": self.id, "event": self.kind, "data": data }));
        }
        let mut text = format!("{:<8}", self.kind);
        for (key, value) in data.as_object().into_iter().flatten() {
            let value = match value {
                Value::String(text) => Escaped(text.as_bytes()).to_string(),
                other => other.to_string(),
            };
            text += &format!(" {key}={value}");
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_wherever_pieces_end() {
        let stream = "retry: 1\nid: 7\nevent: table\ndata: {\"a\":\"b\\u001b\"}\n\n: nothing\n\n";
        for cut in 0..stream.len() {
            let mut lines = Lines::default();
            let (first, second) = stream.as_bytes().split_at(cut);
            let mut events = lines.take(first);
            events.extend(lines.take(second));
            assert_eq!(events.len(), 1, "cut at {cut}");
            assert_eq!(events[0].line(false), "table    a=b\\u{1b}\n");
            let line: Value = serde_json::from_str(&events[0].line(true)).unwrap();
            assert_eq!(line["id"], "7");
        }
    }
}

//! Lines of the access log, in nginx's `log_format` or as JSON.
//!
//! A format is read once. What it wants of a request is taken when the request arrives, for its
//! head does not outlive its forwarding; the rest is filled in when the exchange is over.

mod escape;
mod time;
mod variable;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use smallvec::SmallVec;

use super::client::Request;
use super::value;

pub use escape::Escape;
use variable::Variable;

/// `[listener.http.access_log]`
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Where lines go.
    pub target: AccessTarget,
    /// What is in them.
    pub format: Format,
}

/// Where the lines of an access log go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessTarget {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to, reopened on USR1.
    File(PathBuf),
    /// A file for each backend: a path with the backend's address between two texts.
    PerBackend {
        /// Before the address; holds every folder.
        before: String,
        /// Behind it.
        after: String,
    },
}

/// What stands for the backend in the name of a file when there was none, or its name cannot be
/// part of a file's.
const NO_BACKEND: &str = "none";

impl AccessTarget {
    /// The file that a line goes to; `None` for a stream.
    pub fn path(&self, backend: Option<&str>) -> Option<PathBuf> {
        match self {
            AccessTarget::Stdout | AccessTarget::Stderr => None,
            AccessTarget::File(path) => Some(path.clone()),
            AccessTarget::PerBackend { before, after } => {
                let usable = |name: &&str| value::file_name(name.as_bytes()).is_ok();
                let name = backend.filter(usable).unwrap_or(NO_BACKEND);
                Some(PathBuf::from([before.as_str(), name, after].concat()))
            }
        }
    }
}

/// A format that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Format {
    text: String,
    escape: Escape,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Literal(String),
    /// Known when the head is.
    Request(Variable),
    /// Known at the end.
    Outcome(Variable),
}

/// nginx's "combined", which has neither backend nor time taken.
pub const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status \
                            $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";

/// What format "json" stands for.
const JSON: &str = "{\"time\":\"$time_iso8601\",\"event\":\"request\",\"listener\":\"$listener\",\
                    \"rule\":\"$rule\",\"client\":\"$remote_addr\",\"client_port\":\"$remote_port\",\
                    \"request_id\":\"$request_id\",\"method\":\"$request_method\",\
                    \"target\":\"$request_uri\",\"protocol\":\"$server_protocol\",\
                    \"host\":\"$host\",\"status\":$status,\"reason\":\"$reason\",\
                    \"backend\":\"$backend\",\"attempts\":$attempts,\
                    \"bytes_in\":$request_length,\"bytes_out\":$bytes_sent,\
                    \"duration_s\":$request_time,\"backend_s\":\"$backend_response_time\",\
                    \"connect_s\":\"$backend_connect_time\",\"connection\":$connection,\
                    \"user_agent\":\"$http_user_agent\"}";

/// Why a text is no format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatError {
    /// The variable, without "$".
    pub name: String,
    /// One with a similar name.
    pub near: Option<&'static str>,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => f.write_str("a \"$\" without a name behind it"),
            name => write!(f, "no variable is called \"${name}\""),
        }
    }
}

impl std::error::Error for FormatError {}

/// What is known of an exchange when it is over.
#[derive(Debug, Clone, Default)]
pub struct Outcome<'o> {
    /// When it ended.
    pub ended: Option<SystemTime>,
    /// From the first byte of the request to the last one of the response.
    pub duration: Duration,
    /// What the client was answered; 0 if it left before.
    pub status: u16,
    /// Why we answered ourselves, or why it ended early; empty otherwise.
    pub reason: &'o str,
    /// Bytes to the client, the head included.
    pub bytes_sent: u64,
    /// Bytes to the client behind the head.
    pub body_bytes_sent: u64,
    /// Bytes from the client, head and body.
    pub request_length: u64,
    /// Number of the client's connection.
    pub connection: u64,
    /// Number of the request on it, from 1.
    pub connection_requests: u64,
    /// The backend that was asked last.
    pub backend: Option<&'o str>,
    /// How many were asked.
    pub attempts: u32,
    /// What it answered.
    pub backend_status: Option<u16>,
    /// How long connecting took.
    pub backend_connect: Option<Duration>,
    /// Until its head was there.
    pub backend_head: Option<Duration>,
    /// Until its answer was complete.
    pub backend_response: Option<Duration>,
    /// Bytes that it got.
    pub backend_bytes_sent: u64,
    /// Bytes that it sent.
    pub backend_bytes_received: u64,
}

/// Names that do not come from a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Names<'n> {
    /// Of the listener.
    pub listener: &'n str,
    /// Of the rule; empty if none matched.
    pub rule: &'n str,
    /// What X-Request-ID says.
    pub request_id: &'n str,
    /// The address that the client connected to.
    pub local: Option<SocketAddr>,
}

/// What a format wants of a request, escaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    bytes: Vec<u8>,
    ends: SmallVec<[u32; 16]>,
}

impl Captured {
    fn part(&self, index: usize) -> &[u8] {
        let end = |index: usize| self.ends.get(index).map_or(0, |end| *end as usize);
        let start = index.checked_sub(1).map_or(0, end);
        self.bytes.get(start..end(index)).unwrap_or_default()
    }
}

/// Most bytes that one variable has in a line; what is longer is cut.
const VALUE_LEN_MAX: usize = 8 << 10;

impl Format {
    /// Reads a format: "json", "combined", or a text with "$name" or "${name}" in it.
    ///
    /// # Errors
    /// When a variable has no known name.
    pub fn parse(text: &str, escape: Escape) -> Result<Format, FormatError> {
        let (pattern, escape) = match text {
            "json" => (JSON, Escape::Json),
            "combined" => (COMBINED, escape),
            text => (text, escape),
        };
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let Some((literal, behind)) = rest.split_once('$') {
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_string()));
            }
            let (name, behind) = variable_name(behind);
            parts.push(match Variable::parse(name)? {
                variable if variable.is_of_request() => Part::Request(variable),
                variable => Part::Outcome(variable),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_string()));
        }
        Ok(Format { text: text.to_string(), escape, parts })
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes what the format wants of a request. `None` for one whose head was refused: its
    /// variables are empty then.
    pub fn capture(&self, request: Option<&Request<'_>>, names: &Names<'_>) -> Captured {
        let mut captured = Captured::default();
        for part in &self.parts {
            let Part::Request(variable) = part else { continue };
            let value = variable.of_request(request, names);
            self.append(value.as_deref(), &mut captured.bytes);
            captured.ends.push(u32::try_from(captured.bytes.len()).unwrap_or(u32::MAX));
        }
        captured
    }

    /// Appends one line, whatever was sent: it contains exactly one line feed, at its end.
    pub fn write(&self, captured: &Captured, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
        let mut index = 0;
        for part in &self.parts {
            match part {
                // A line feed in a format would make two lines of one.
                Part::Literal(text) => out.extend(text.bytes().filter(|byte| *byte != b'\n')),
                Part::Request(_) => {
                    out.extend_from_slice(captured.part(index));
                    index += 1;
                }
                Part::Outcome(variable) => {
                    let value = variable.of_outcome(outcome);
                    self.append(value.as_deref().map(str::as_bytes), out);
                }
            }
        }
        out.push(b'\n');
    }

    fn append(&self, value: Option<&[u8]>, out: &mut Vec<u8>) {
        match value {
            None => out.extend_from_slice(self.escape.nothing()),
            Some(value) => {
                self.escape.append(value.get(..VALUE_LEN_MAX).unwrap_or(value), out);
            }
        }
    }
}

/// The name behind a "$", and what is behind that.
fn variable_name(text: &str) -> (&str, &str) {
    if let Some((name, behind)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return (name, behind);
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

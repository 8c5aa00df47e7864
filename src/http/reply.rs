//! What we answer ourselves: fixed replies of rules, and refusals.

use http::StatusCode;

use super::rule::FixedReply;
use super::value::{self, Purpose};

/// Registered methods that a rule may serve: CONNECT and TRACE never are.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// How a reply is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sending {
    /// The request was HEAD: the body stays here, its length is told.
    pub head_only: bool,
    /// Whether the client's connection stays open behind it.
    pub keep: bool,
    /// The client is HTTP/1.0, and has to be told when its connection stays open.
    pub http10: bool,
}

impl FixedReply {
    /// A reply that says its status in words.
    pub fn of_status(status: u16) -> FixedReply {
        // Without it 405 is none (RFC 9110, 15.5.6).
        let allow = (status == 405).then(|| ("Allow".to_string(), METHODS.to_string()));
        FixedReply {
            status,
            body: format!("{status} {}\n", reason(status)),
            content_type: "text/plain".to_string(),
            headers: allow.into_iter().collect(),
        }
    }

    /// Appends the whole message.
    pub fn write(&self, sending: Sending, out: &mut Vec<u8>) {
        let status = self.status;
        out.extend_from_slice(format!("HTTP/1.1 {status} {}\r\n", reason(status)).as_bytes());
        if self.may_have_body() {
            let len = self.body.len();
            out.extend_from_slice(format!("Content-Length: {len}\r\n").as_bytes());
            if len > 0 {
                line(out, "Content-Type", &self.content_type);
            }
        }
        match sending {
            Sending { keep: false, .. } => line(out, "Connection", "close"),
            Sending { http10: true, .. } => line(out, "Connection", "keep-alive"),
            Sending { .. } => {}
        }
        for (name, value) in &self.headers {
            line(out, name, value);
        }
        out.extend_from_slice(b"\r\n");
        if self.may_have_body() && !sending.head_only {
            out.extend_from_slice(self.body.as_bytes());
        }
    }

    fn may_have_body(&self) -> bool {
        !matches!(self.status, 204 | 304)
    }
}

/// A field whose value was checked with the configuration, and is once more.
fn line(out: &mut Vec<u8>, name: &str, value: &str) {
    if value::check(value.as_bytes(), Purpose::FieldValue).is_ok() {
        out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
}

/// A status in words; "Unknown" for one that nobody registered.
pub fn reason(status: u16) -> &'static str {
    let known = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    known.unwrap_or("Unknown")
}

/// The interim response that lets a client send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

//! Variables of a format, under nginx's names where nginx has them.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use super::{FormatError, Names, Outcome, time};
use crate::http::client::Request;
use crate::http::target;

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Variable {
    /// By its place in [`NAMED`].
    Named(Name),
    /// `$arg_NAME`
    Argument(String),
    /// `$http_NAME`: fields of this name, "_" standing for "-".
    Header(String),
    /// `$cookie_NAME`
    Cookie(String),
}

macro_rules! names {
    ($($variant:ident => $side:ident, $($name:literal),+;)*) => {
        /// Variables without a name of the client's in theirs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Name { $($variant),* }

        /// Every name.
        pub(super) const NAMED: &[(&str, Name)] = &[$($(($name, Name::$variant)),+),*];

        impl Name {
            fn side(self) -> Side {
                match self { $(Name::$variant => Side::$side),* }
            }
        }
    };
}

/// When a variable is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Outcome,
}

names! {
    RemoteAddress => Request, "remote_addr";
    RemotePort => Request, "remote_port";
    RemoteUser => Request, "remote_user";
    ServerAddress => Request, "server_addr";
    ServerPort => Request, "server_port";
    Line => Request, "request";
    Method => Request, "request_method";
    Target => Request, "request_uri";
    Path => Request, "uri", "document_uri";
    Query => Request, "args", "query_string";
    IsQuery => Request, "is_args";
    Host => Request, "host";
    Scheme => Request, "scheme";
    Protocol => Request, "server_protocol";
    ContentLength => Request, "content_length";
    ContentType => Request, "content_type";
    Listener => Request, "listener", "server_name";
    Rule => Request, "rule";
    RequestId => Request, "request_id";
    Status => Outcome, "status";
    Reason => Outcome, "reason";
    BytesSent => Outcome, "bytes_sent";
    BodyBytesSent => Outcome, "body_bytes_sent";
    RequestLength => Outcome, "request_length";
    RequestTime => Outcome, "request_time";
    TimeLocal => Outcome, "time_local";
    TimeIso => Outcome, "time_iso8601";
    TimeSeconds => Outcome, "msec";
    Connection => Outcome, "connection";
    ConnectionRequests => Outcome, "connection_requests";
    Attempts => Outcome, "attempts";
    Backend => Outcome, "backend", "backend_addr";
    BackendStatus => Outcome, "backend_status";
    BackendConnectTime => Outcome, "backend_connect_time";
    BackendHeadTime => Outcome, "backend_header_time";
    BackendResponseTime => Outcome, "backend_response_time";
    BackendBytesSent => Outcome, "backend_bytes_sent";
    BackendBytesReceived => Outcome, "backend_bytes_received";
}

/// Makes a variable of the rest of its name.
type Make = fn(String) -> Variable;

/// What nginx calls a backend in its variables.
const NGINX_BACKEND: &str = "upstream_";

impl Variable {
    /// Reads a name, without "$".
    pub(super) fn parse(name: &str) -> Result<Variable, FormatError> {
        let alias = name.strip_prefix(NGINX_BACKEND).map(|rest| format!("backend_{rest}"));
        let ours = alias.as_deref().unwrap_or(name);
        if let Some((_, named)) = NAMED.iter().find(|(other, _)| *other == ours) {
            return Ok(Variable::Named(*named));
        }
        let prefixes: [(&str, Make); 3] = [
            ("arg_", Variable::Argument),
            ("http_", |name| Variable::Header(name.replace('_', "-"))),
            ("cookie_", Variable::Cookie),
        ];
        for (prefix, make) in prefixes {
            if let Some(rest) = name.strip_prefix(prefix).filter(|rest| !rest.is_empty()) {
                return Ok(make(rest.to_string()));
            }
        }
        let names = NAMED.iter().map(|(name, _)| *name);
        let near = crate::config::nearest(name, names);
        Err(FormatError { name: name.to_string(), near })
    }

    /// Whether it is known with the head.
    pub(super) fn is_of_request(&self) -> bool {
        match self {
            Variable::Named(name) => name.side() == Side::Request,
            Variable::Argument(_) | Variable::Header(_) | Variable::Cookie(_) => true,
        }
    }

    /// Its value; `None` where nginx says "-".
    pub(super) fn of_request<'r>(
        &self,
        request: Option<&'r Request<'r>>,
        names: &Names<'r>,
    ) -> Option<Cow<'r, [u8]>> {
        let borrowed = |text: &'r str| Some(Cow::Borrowed(text.as_bytes()));
        match self {
            Variable::Named(Name::Listener) => return borrowed(names.listener),
            Variable::Named(Name::Rule) => return borrowed(names.rule).filter(|r| !r.is_empty()),
            Variable::Named(Name::RequestId) => {
                return borrowed(names.request_id).filter(|id| !id.is_empty());
            }
            Variable::Named(Name::ServerAddress) => return ip(names.local),
            Variable::Named(Name::ServerPort) => return port(names.local),
            _ => {}
        }
        let request = request?;
        match self {
            Variable::Named(name) => name.of_head(request),
            Variable::Argument(name) => {
                target::argument_raw(request.query(), name).map(Cow::Borrowed)
            }
            Variable::Header(name) => joined(request, name),
            Variable::Cookie(name) => {
                target::cookie(request.values("cookie"), name).map(Cow::Borrowed)
            }
        }
    }

    /// Its value; `None` where nginx says "-".
    pub(super) fn of_outcome(&self, outcome: &Outcome<'_>) -> Option<String> {
        let Variable::Named(name) = self else { return None };
        let at = outcome.ended.unwrap_or(std::time::UNIX_EPOCH);
        let asked = outcome.backend.is_some();
        let seconds = |duration: Option<Duration>| duration.map(time::seconds);
        match name {
            Name::Status => Some(format!("{:03}", outcome.status)),
            Name::Reason => Some(outcome.reason.to_string()).filter(|reason| !reason.is_empty()),
            Name::BytesSent => Some(outcome.bytes_sent.to_string()),
            Name::BodyBytesSent => Some(outcome.body_bytes_sent.to_string()),
            Name::RequestLength => Some(outcome.request_length.to_string()),
            Name::RequestTime => Some(time::seconds(outcome.duration)),
            Name::TimeLocal => Some(time::local(at)),
            Name::TimeIso => Some(time::iso8601(at)),
            Name::TimeSeconds => Some(time::seconds_of(at)),
            Name::Connection => Some(outcome.connection.to_string()),
            Name::ConnectionRequests => Some(outcome.connection_requests.to_string()),
            Name::Attempts => Some(outcome.attempts.to_string()),
            Name::Backend => outcome.backend.map(str::to_string),
            Name::BackendStatus => outcome.backend_status.map(|status| format!("{status:03}")),
            Name::BackendConnectTime => seconds(outcome.backend_connect),
            Name::BackendHeadTime => seconds(outcome.backend_head),
            Name::BackendResponseTime => seconds(outcome.backend_response),
            Name::BackendBytesSent => asked.then(|| outcome.backend_bytes_sent.to_string()),
            Name::BackendBytesReceived => asked.then(|| outcome.backend_bytes_received.to_string()),
            _ => None,
        }
    }
}

impl Name {
    fn of_head<'r>(self, request: &'r Request<'r>) -> Option<Cow<'r, [u8]>> {
        let (head, bytes) = (request.head, request.bytes);
        let query = head.query.map(|query| query.of(bytes));
        match self {
            Name::RemoteAddress => ip(request.client.address),
            Name::RemotePort => port(request.client.address),
            // Nobody's credentials are checked here.
            Name::RemoteUser => None,
            Name::Line => {
                let version = head.version.text().as_bytes();
                let words = [request.method(), head.target.of(bytes), version];
                Some(Cow::Owned(words.join(&b' ')))
            }
            Name::Method => Some(Cow::Borrowed(request.method())),
            Name::Target => Some(Cow::Borrowed(head.target.of(bytes))),
            Name::Path => Some(Cow::Borrowed(&*request.path)),
            Name::Query => query.map(Cow::Borrowed),
            Name::IsQuery => {
                let some = query.is_some_and(|query| !query.is_empty());
                Some(Cow::Borrowed(if some { b"?" } else { b"" }))
            }
            Name::Host => head.authority.map(|_| Cow::Owned(head.host(bytes))),
            Name::Scheme => Some(Cow::Borrowed(request.scheme().as_bytes())),
            Name::Protocol => Some(Cow::Borrowed(head.version.text().as_bytes())),
            Name::ContentLength => joined(request, "content-length"),
            Name::ContentType => joined(request, "content-type"),
            _ => None,
        }
    }
}

/// The values of a field, one behind the other as nginx shows them.
fn joined<'r>(request: &'r Request<'r>, name: &str) -> Option<Cow<'r, [u8]>> {
    let mut values = request.values(name);
    let first = values.next()?;
    let rest: Vec<&[u8]> = values.collect();
    if rest.is_empty() {
        return Some(Cow::Borrowed(first));
    }
    let between: &[u8] = if name.eq_ignore_ascii_case("cookie") { b"; " } else { b", " };
    let all: Vec<&[u8]> = std::iter::once(first).chain(rest).collect();
    Some(Cow::Owned(all.join(between)))
}

fn ip<'r>(address: Option<SocketAddr>) -> Option<Cow<'r, [u8]>> {
    address.map(|address| Cow::Owned(address.ip().to_canonical().to_string().into_bytes()))
}

fn port<'r>(address: Option<SocketAddr>) -> Option<Cow<'r, [u8]>> {
    address.map(|address| Cow::Owned(address.port().to_string().into_bytes()))
}

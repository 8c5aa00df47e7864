//! Who may ask for what: the Host, the token, and for changes where a browser says they come from.
//! Every change that gets past is put into the audit log with what came of it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::watch;

use super::answer::{Detail, Unchanged, problem};
use super::audit::{Audit, Note, shortened};
use super::life::Life;
use super::who::{Peer, Who};
use crate::config::{Config, Tokens, TokensError};

/// What decides.
#[derive(Debug)]
pub(super) struct Gate {
    pub configs: watch::Receiver<Arc<Config>>,
    pub audit: Arc<Audit>,
    /// Over TCP a browser could be made to ask us; nobody can make one open a UNIX socket.
    pub check_host: bool,
}

/// Asked by probes, which know no token; they tell nothing but whether we run.
const OPEN_PATHS: &[&str] = &["/livez", "/healthz", "/readyz"];

/// Longest path that is noted, bytes.
const WHAT_LEN_MAX: usize = 512;

/// Lets a request through, or says why not.
pub(super) async fn admit(
    State(gate): State<Arc<Gate>>,
    mut request: Request,
    next: Next,
) -> Response {
    let (hosts, token_file) = gate.settings();
    if gate.check_host && !is_called_by_us(&request, &hosts) {
        let detail = "this interface is called by IP address, as localhost, or by a name in hosts";
        return problem(StatusCode::MISDIRECTED_REQUEST, detail);
    }
    let peer = request.extensions().get().copied().unwrap_or(Peer::Unknown);
    let is_open = request.method().is_safe() && OPEN_PATHS.contains(&request.uri().path());
    let token = match token_file {
        Some(file) if !is_open => match holder(file, request.headers()).await {
            Ok(name) => Some(name),
            Err(denied) => {
                let (path, reason) = (request.uri().path(), denied.reason());
                tracing::warn!(%peer, path, reason, "admin request without a good token");
                return denied.answer();
            }
        },
        _ => None,
    };
    if request.method().is_safe() {
        return next.run(request).await;
    }
    if !is_same_origin(request.headers(), request.uri()) {
        tracing::warn!(%peer, path = request.uri().path(), "admin request of another origin");
        let detail = "changes are not taken from pages of another origin";
        return problem(StatusCode::FORBIDDEN, detail);
    }
    if let Some(life) = request.extensions().get::<Life>() {
        // A reload or an edit waits for stores.
        life.works();
    }
    let who = Who { token, peer };
    let what = what(&request);
    request.extensions_mut().insert(who.clone());
    let answer = next.run(request).await;
    if answer.extensions().get::<Unchanged>().is_none() {
        let detail = answer.extensions().get::<Detail>().map_or("", |detail| &detail.0);
        let done = answer.status().is_success();
        gate.audit.note(Note { who: who.to_string(), what, done, detail });
    }
    answer
}

impl Gate {
    fn settings(&self) -> (Vec<String>, Option<PathBuf>) {
        match &self.configs.borrow().admin {
            Some(admin) => (admin.hosts.clone(), admin.token_file.clone()),
            // Only a restart takes the interface away.
            None => (Vec::new(), None),
        }
    }
}

/// Method and path, as the audit log has them.
fn what(request: &Request) -> String {
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    format!("{} {}", request.method(), shortened(path, WHAT_LEN_MAX))
}

/// Why a request is not taken for its sender's.
enum Denied {
    /// No token, several, or another scheme.
    Missing,
    /// One that is not in the file.
    Unknown,
    /// There is nothing to compare it with.
    NoTokens,
}

impl Denied {
    fn reason(&self) -> &'static str {
        match self {
            Denied::Missing => "missing",
            Denied::Unknown => "unknown",
            Denied::NoTokens => "unreadable",
        }
    }

    fn answer(&self) -> Response {
        let (status, detail, challenge) = match self {
            Denied::Missing => (
                StatusCode::UNAUTHORIZED,
                "a bearer token is needed: Authorization: Bearer TOKEN",
                "Bearer realm=\"corelane\"",
            ),
            Denied::Unknown => (
                StatusCode::UNAUTHORIZED,
                "this bearer token is not known",
                "Bearer realm=\"corelane\", error=\"invalid_token\"",
            ),
            Denied::NoTokens => {
                let detail = "the file of tokens cannot be used; the operational log says why";
                return problem(StatusCode::SERVICE_UNAVAILABLE, detail);
            }
        };
        let mut answer = problem(status, detail);
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        answer
    }
}

/// The name of the token that a request brings.
async fn holder(file: PathBuf, headers: &HeaderMap) -> Result<String, Denied> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return Err(Denied::Missing) };
    let (scheme, token) = match value.as_bytes().iter().position(|byte| *byte == b' ') {
        Some(space) => value.as_bytes().split_at(space),
        None => return Err(Denied::Missing),
    };
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(Denied::Missing);
    }
    // A disk may hang, and this thread may not.
    let shown = file.display().to_string();
    let read = tokio::task::spawn_blocking(move || Tokens::read(&file)).await;
    let read = read.unwrap_or_else(|error| {
        Err(TokensError::Unreadable(std::io::Error::other(error.to_string())))
    });
    match read {
        Ok(tokens) => match tokens.holder(token.trim_ascii()) {
            Some(name) => Ok(name.to_owned()),
            None => Err(Denied::Unknown),
        },
        Err(error) => {
            tracing::error!(file = shown, %error, "tokens of the admin interface cannot be used");
            Err(Denied::NoTokens)
        }
    }
}

/// Whether a request calls us by something that is ours. A web page can make a visitor's browser
/// ask us by pointing a name of its own at our address (DNS rebinding), but the browser then sends
/// that name. Without a Host there is no browser: old probes speak HTTP/1.0.
fn is_called_by_us(request: &Request, hosts: &[String]) -> bool {
    let by_header = request.headers().get_all(HOST).iter();
    let by_header = by_header.map(|host| host.to_str().unwrap_or_default());
    let by_target = request.uri().authority().map(|authority| authority.as_str());
    by_header.chain(by_target).all(|host| is_ours(host, hosts))
}

/// Whether a Host value is an IP address, `localhost`, or one of `hosts`, with or without a port.
fn is_ours(host: &str, hosts: &[String]) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            name.eq_ignore_ascii_case("localhost")
                || name.parse::<Ipv4Addr>().is_ok()
                || hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
        }
    }
}

/// Whether a change comes from no browser, or from a page that we served ourselves. A browser says
/// with every change where the page comes from that wants it.
fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    if let Some(site) = headers.get("sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return false;
    }
    let host = match (uri.authority(), headers.get(HOST).map(HeaderValue::to_str)) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(Ok(host))) => host,
        (None, _) => "",
    };
    let same = |origin: &HeaderValue| {
        let text = origin.to_str().unwrap_or_default();
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        rest.is_some_and(|rest| {
            rest.parse::<Authority>().is_ok() && rest.eq_ignore_ascii_case(host)
        })
    };
    headers.get_all(ORIGIN).iter().all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_given_names_are_ours_and_other_names_are_not() {
        let hosts = ["gateway.example".to_owned()];
        let ours = |host: &str| is_ours(host, &hosts);
        for host in ["127.0.0.1", "127.0.0.1:9901", "[::1]", "[::1]:9901", "LOCALHOST:1"] {
            assert!(ours(host), "{host}");
        }
        assert!(ours("Gateway.Example:9901") && ours("gateway.example"));
        let names = [
            "",
            "example.com",
            "example.com:9901",
            "a.gateway.example",
            "127.0.0.1.example.com",
            "::1",
            "localhost.example.com",
            "localhost:80:80",
            "[::1",
            "127.0.0.1:x",
            "user@127.0.0.1",
        ];
        for host in names {
            assert!(!ours(host), "{host}");
        }
    }

    #[test]
    fn only_our_own_pages_may_change_anything() {
        let asked = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            is_same_origin(&headers, &Uri::from_static("/reload"))
        };
        let host = ("host", "127.0.0.1:9901");
        assert!(asked(&[host]), "no browser");
        assert!(asked(&[host, ("origin", "http://127.0.0.1:9901")]));
        assert!(asked(&[host, ("origin", "https://127.0.0.1:9901")]), "behind a proxy with TLS");
        assert!(asked(&[host, ("sec-fetch-site", "same-origin")]));
        for origin in ["null", "http://127.0.0.1", "http://evil.example", "", "127.0.0.1:9901"] {
            assert!(!asked(&[host, ("origin", origin)]), "{origin}");
        }
        let ours = ("origin", "http://127.0.0.1:9901");
        assert!(!asked(&[host, ours, ("origin", "http://evil.example")]));
        assert!(!asked(&[host, ours, ("sec-fetch-site", "cross-site")]));
        assert!(!asked(&[host, ("sec-fetch-site", "same-site")]));
        assert!(!asked(&[("origin", "http://a")]), "no Host to compare with");
    }
}

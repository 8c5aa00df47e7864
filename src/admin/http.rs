//! Paths, answers, and who may ask: the HTTP side of the admin interface.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

use super::body::counted;
use super::sessions::{self, LIMIT_DEFAULT, LIMIT_MAX, Silent};
use super::{AdminState, Stage, pools};
use crate::config::Fault;
use crate::control::Command;
use crate::control::reload::Refused;
use crate::log::append_json;
use crate::metrics::page::{self, Observed, Page};
use crate::source::guard::State as SourceState;
use crate::source::view::SourceView;

/// Every method and path with what it does, as `/` lists them.
const ENDPOINTS: &[(&str, &str, &str)] = &[
    ("GET", "/livez", "200 while the process runs"),
    ("GET", "/healthz", "the same as /livez"),
    ("GET", "/readyz", "200 while clients are accepted, else 503 with the reason"),
    ("GET", "/metrics", "counters as OpenMetrics text"),
    ("GET", "/sessions", "open client connections; ?limit=N, 100 unless told, at most 10000"),
    ("GET", "/pools", "pools and backends of the table in force"),
    ("GET", "/version", "what runs"),
    ("POST", "/reload", "reads the configuration again; ?dry_run=true only says what would change"),
];

/// Answers to `/sessions` made or sent at once. Each makes every shard stop and write, and takes up
/// to some megabytes until it is sent.
const SESSIONS_AT_ONCE: usize = 4;

struct Shared {
    state: AdminState,
    page: Page,
    /// Held from the question to the shards until the answer is sent.
    sessions: Arc<Semaphore>,
}

type Asked = State<Arc<Shared>>;

/// The whole interface. `check_host` refuses requests that name another host, see [`only_us`].
pub(super) fn router(state: AdminState, check_host: bool) -> Router {
    let page = Page::new(Observed {
        metrics: state.metrics.clone(),
        logs: state.logs.clone(),
        table: state.table.clone(),
        phase: state.phase.clone(),
        sources: state.sources.clone(),
    });
    let shared =
        Arc::new(Shared { state, page, sessions: Arc::new(Semaphore::new(SESSIONS_AT_ONCE)) });
    let router = Router::new()
        .route("/", get(index))
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/sessions", get(show_sessions))
        .route("/pools", get(show_pools))
        .route("/version", get(version))
        .route("/reload", post(reload))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(shared)
        .layer(middleware::map_response(common_headers));
    if check_host { router.layer(middleware::from_fn(only_us)) } else { router }
}

async fn index() -> Response {
    #[derive(Serialize)]
    struct Endpoint {
        method: &'static str,
        path: &'static str,
        does: &'static str,
    }
    let endpoints = ENDPOINTS.iter().map(|(method, path, does)| Endpoint { method, path, does });
    json(&endpoints.collect::<Vec<_>>())
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): Asked) -> Response {
    let detail = match shared.state.phase.stage() {
        Stage::Ready => return ready(&shared.state.sources.borrow()),
        Stage::Starting => "starting: not every listener is bound yet",
        Stage::Draining => "draining: no new connections are accepted",
    };
    problem(StatusCode::SERVICE_UNAVAILABLE, detail)
}

/// Ready as soon as every source has a set, be it an old one: refusing clients would help nobody.
fn ready(sources: &[SourceView]) -> Response {
    let named = |source: &SourceView| format!("pool {}: {}", source.pool, source.label);
    if let Some(cold) = sources.iter().find(|source| source.members.is_none()) {
        let detail = format!("starting: {} has not been read yet", named(cold));
        return problem(StatusCode::SERVICE_UNAVAILABLE, &detail);
    }
    let mut text = "ok\n".to_owned();
    for source in sources.iter().filter(|source| source.state != SourceState::Fresh) {
        let set = if source.restored { "a saved set" } else { "the last set" };
        text += &format!("{} is {}, using {set}\n", named(source), source.state.name());
    }
    text.into_response()
}

async fn metrics(State(shared): Asked) -> Response {
    match shared.page.render() {
        Ok(page) => ([(CONTENT_TYPE, page::CONTENT_TYPE)], page).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionsQuery {
    limit: Option<usize>,
}

async fn show_sessions(
    State(shared): Asked,
    query: Result<Query<SessionsQuery>, QueryRejection>,
) -> Response {
    let limit = match query {
        Ok(Query(query)) => query.limit.unwrap_or(LIMIT_DEFAULT),
        Err(rejection) => return problem(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    if limit > LIMIT_MAX {
        let detail = format!("limit is {limit}, at most {LIMIT_MAX} are shown");
        return problem(StatusCode::BAD_REQUEST, &detail);
    }
    let turn = shared.sessions.clone().acquire_owned();
    let Ok(Ok(turn)) = tokio::time::timeout(sessions::TIMEOUT, turn).await else {
        let detail = "other requests for sessions are still being answered";
        return problem(StatusCode::SERVICE_UNAVAILABLE, detail);
    };
    match sessions::ask(&shared.state, limit).await {
        Ok(sessions) => json_with(&sessions, |text| counted(text, turn)),
        Err(Silent { shard, ended }) => {
            let why = if ended { "has ended" } else { "did not answer within a second" };
            problem(StatusCode::SERVICE_UNAVAILABLE, &format!("shard {shard} {why}"))
        }
    }
}

async fn show_pools(State(shared): Asked) -> Response {
    let table = shared.state.table.borrow().clone();
    json(&pools::show(&table))
}

async fn version() -> Response {
    #[derive(Serialize)]
    struct Version {
        name: &'static str,
        version: &'static str,
        pid: u32,
    }
    json(&Version { name: "corelane", version: env!("CARGO_PKG_VERSION"), pid: std::process::id() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadQuery {
    #[serde(default)]
    dry_run: bool,
}

async fn reload(
    State(shared): Asked,
    query: Result<Query<ReloadQuery>, QueryRejection>,
) -> Response {
    let dry_run = match query {
        Ok(Query(query)) => query.dry_run,
        Err(rejection) => return problem(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    let (reply, answer) = oneshot::channel();
    let asked = shared.state.commands.send(Command::Reload { dry_run, reply }).await;
    match (asked, answer.await) {
        (Ok(()), Ok(Ok(reloaded))) => json(&reloaded),
        (Ok(()), Ok(Err(refused))) => refusal(&refused),
        _ => problem(StatusCode::SERVICE_UNAVAILABLE, "the control plane has ended"),
    }
}

fn refusal(refused: &Refused) -> Response {
    let status = match refused {
        Refused::NoFile | Refused::Draining => StatusCode::CONFLICT,
        Refused::File(_) | Refused::NeedsRestart(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refused::System(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    problem_with(status, &refused.to_string(), refused.faults())
}

async fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "no such path; / lists what there is")
}

async fn method_not_allowed() -> Response {
    let detail = "not with this method; / lists what there is";
    problem(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// A value as `application/json`.
fn json(value: &impl Serialize) -> Response {
    json_with(value, Body::from)
}

fn json_with(value: &impl Serialize, body: impl FnOnce(Vec<u8>) -> Body) -> Response {
    let mut text = Vec::new();
    match append_json(value, &mut text) {
        Ok(()) => {
            text.push(b'\n');
            ([(CONTENT_TYPE, "application/json")], body(text)).into_response()
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// An error as RFC 9457 wants it.
fn problem(status: StatusCode, detail: &str) -> Response {
    problem_with(status, detail, &[])
}

fn problem_with(status: StatusCode, detail: &str, faults: &[Fault]) -> Response {
    #[derive(Serialize)]
    struct Problem<'a> {
        title: &'a str,
        status: u16,
        detail: &'a str,
        #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
        faults: &'a [Fault],
    }
    let title = status.canonical_reason().unwrap_or("Error");
    let mut answer = json(&Problem { title, status: status.as_u16(), detail, faults });
    *answer.status_mut() = status;
    let media_type = HeaderValue::from_static("application/problem+json");
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

/// Answers are of the moment, and never to be taken for a page.
async fn common_headers(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// Refuses requests that call us by a name. A web page can make a visitor's browser ask us by
/// pointing a name of its own at our address (DNS rebinding), but the browser then sends that name.
/// Without a Host there is no browser: old probes speak HTTP/1.0.
async fn only_us(request: Request, next: Next) -> Response {
    let by_header = request.headers().get_all(HOST).iter();
    let by_header = by_header.map(|host| host.to_str().unwrap_or_default());
    let by_target = request.uri().authority().map(|authority| authority.as_str());
    if by_header.chain(by_target).all(is_address_or_localhost) {
        return next.run(request).await;
    }
    let detail = "this interface is called by IP address or as localhost, not by another name";
    problem(StatusCode::MISDIRECTED_REQUEST, detail)
}

/// Whether a Host value is an IP address or `localhost`, with or without a port.
fn is_address_or_localhost(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::is_address_or_localhost;

    #[test]
    fn addresses_and_localhost_are_ours_and_names_are_not() {
        for host in ["127.0.0.1", "127.0.0.1:9901", "[::1]", "[::1]:9901", "LOCALHOST:1"] {
            assert!(is_address_or_localhost(host), "{host}");
        }
        let names = [
            "",
            "example.com",
            "example.com:9901",
            "127.0.0.1.example.com",
            "::1",
            "localhost.example.com",
            "localhost:80:80",
            "[::1",
            "127.0.0.1:x",
            "user@127.0.0.1",
        ];
        for host in names {
            assert!(!is_address_or_localhost(host), "{host}");
        }
    }
}

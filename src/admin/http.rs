//! Paths, answers, and who may ask: the HTTP side of the admin interface.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

use super::answer::{common_headers, json, json_with, problem, problem_with};
use super::body::counted;
use super::guard::{self, Gate};
use super::sessions::{self, LIMIT_DEFAULT, LIMIT_MAX, Silent};
use super::{AdminState, Stage, pools};
use crate::control::commands::Command;
use crate::control::reload::Refused;
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

/// Bytes of a request's body.
const BODY_LEN_MAX: usize = 64 * 1024;

struct Shared {
    state: AdminState,
    page: Page,
    /// Held from the question to the shards until the answer is sent.
    sessions: Arc<Semaphore>,
}

type Asked = State<Arc<Shared>>;

/// The whole interface. `check_host` refuses requests that name another host.
pub(super) fn router(state: AdminState, check_host: bool) -> Router {
    let page = Page::new(Observed {
        metrics: state.metrics.clone(),
        logs: state.logs.clone(),
        table: state.table.clone(),
        phase: state.phase.clone(),
        sources: state.sources.clone(),
    });
    let (configs, audit) = (state.configs.clone(), state.audit.clone());
    let gate = Arc::new(Gate { configs, audit, check_host });
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
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .layer(middleware::from_fn_with_state(gate, guard::admit))
        .layer(middleware::map_response(common_headers));
    router
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

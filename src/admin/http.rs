//! The router: which function answers which path, and what stands before all of them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::answer::{common_headers, problem};
use super::guard::{self, Gate};
use super::{
    AdminState, Stage, closing, edits, events, openapi, pools, process, sessions, sources, whereis,
};
use crate::control::commands::Command;
use crate::metrics::page::{self, Observed, Page};
use crate::source::guard::State as SourceState;
use crate::source::view::SourceView;

/// Answers to `/sessions` made or sent at once. Each makes every shard stop and write, and takes up
/// to some megabytes until it is sent.
const SESSIONS_AT_ONCE: usize = 4;

/// Bytes of a request's body.
const BODY_LEN_MAX: usize = 64 * 1024;

/// What every answer may need.
pub(super) struct Shared {
    pub state: AdminState,
    page: Page,
    /// Held from the question to the shards until the answer is sent.
    sessions: Arc<Semaphore>,
}

/// How a handler gets it.
pub(super) type Asked = State<Arc<Shared>>;

impl Shared {
    /// Asks the control plane; `None` when it has ended.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.state.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    /// The right to ask the shards for sessions, unless others are at it for too long.
    ///
    /// # Errors
    /// The answer that says so.
    #[allow(clippy::result_large_err, reason = "the error is the answer")]
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, Response> {
        let turn = self.sessions.clone().acquire_owned();
        match tokio::time::timeout(sessions::TIMEOUT, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => {
                let detail = "other requests for sessions are still being answered";
                Err(problem(StatusCode::SERVICE_UNAVAILABLE, detail))
            }
        }
    }
}

/// Paths as they are added, so that a test can compare them with what is documented.
#[derive(Default)]
struct Paths {
    router: Router<Arc<Shared>>,
    all: Vec<(&'static str, &'static str)>,
}

impl Paths {
    fn add(
        mut self,
        method: &'static str,
        path: &'static str,
        handler: MethodRouter<Arc<Shared>>,
    ) -> Paths {
        self.all.push((method, path));
        self.router = self.router.route(path, handler);
        self
    }
}

fn paths() -> Paths {
    const BACKEND: &str = "/pools/{pool}/backends/{backend}";
    const CLOSE: &str = "/pools/{pool}/backends/{backend}/close";
    Paths::default()
        .add("get", "/", get(openapi::index))
        .add("get", "/openapi.json", get(openapi::document))
        .add("get", "/livez", get(livez))
        .add("get", "/healthz", get(livez))
        .add("get", "/readyz", get(readyz))
        .add("get", "/version", get(process::version))
        .add("get", "/metrics", get(metrics))
        .add("get", "/pools", get(pools::show))
        .add("get", "/pools/{pool}", get(pools::show_one))
        .add("get", "/backends", get(pools::show_backends))
        .add("get", BACKEND, get(pools::show_backend))
        .add("post", "/pools/{pool}/backends", post(edits::add))
        .add("patch", BACKEND, patch(edits::change))
        .add("delete", BACKEND, delete(edits::remove))
        .add("post", CLOSE, post(closing::begin))
        .add("delete", CLOSE, delete(closing::stop))
        .add("get", "/sessions", get(sessions::show))
        .add("delete", "/sessions/{id}", delete(sessions::end))
        .add("get", "/where/{*key}", get(whereis::show))
        .add("get", "/sources", get(sources::show))
        .add("get", "/sources/{pool}", get(sources::show_of_pool))
        .add("post", "/sources/{pool}/refresh", post(sources::refresh))
        .add("post", "/sources/{pool}/confirm", post(sources::confirm))
        .add("get", "/config", get(process::config))
        .add("post", "/reload", post(process::reload))
        .add("get", "/log", get(process::log))
        .add("patch", "/log", patch(process::change_log))
        .add("get", "/audit", get(process::audit))
        .add("get", "/events", get(events::stream))
}

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
    paths()
        .router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(shared)
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .layer(middleware::from_fn_with_state(gate, guard::admit))
        .layer(middleware::map_response(common_headers))
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

async fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "no such path; / lists what there is")
}

async fn method_not_allowed() -> Response {
    let detail = "not with this method; / lists what there is";
    problem(StatusCode::METHOD_NOT_ALLOWED, detail)
}

#[cfg(test)]
mod tests {
    use super::paths;
    use crate::admin::openapi;

    #[test]
    fn every_path_is_documented_and_every_documented_path_is_there() {
        let mut served: Vec<(String, String)> = paths()
            .all
            .into_iter()
            .map(|(method, path)| (method.to_owned(), path.replace("{*", "{")))
            .collect();
        let mut documented: Vec<(String, String)> =
            openapi::operations().into_iter().map(|one| (one.method, one.path)).collect();
        served.sort();
        documented.sort();
        assert_eq!(served, documented);
    }
}

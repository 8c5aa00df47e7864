//! The process: what runs, its configuration, its log, and who changed what.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tracing::Level;

use super::answer::{Unchanged, body, done, ended, json, problem, problem_with, query};
use super::audit::{ENTRIES_MAX, Entry};
use super::http::Asked;
use crate::control::commands::Command;
use crate::control::reload::Refused;

/// `GET /version`
pub(super) async fn version() -> Response {
    #[derive(Serialize)]
    struct Version {
        name: &'static str,
        version: &'static str,
        pid: u32,
    }
    json(&Version { name: "corelane", version: env!("CARGO_PKG_VERSION"), pid: std::process::id() })
}

/// `GET /config`
pub(super) async fn config(State(shared): Asked) -> Response {
    #[derive(Serialize)]
    struct Effective<'a> {
        /// Rises by one with each configuration.
        generation: u64,
        /// What the file leaves to the machine.
        resolved: Resolved,
        /// The file, with defaults, without secrets.
        config: &'a serde_json::Value,
    }
    #[derive(Serialize)]
    struct Resolved {
        cores: Vec<usize>,
        max_connections: usize,
        descriptors_needed: u64,
        state_dir: String,
    }
    let config = shared.state.configs.borrow().clone();
    let generation = shared.state.table.borrow().generation;
    let runtime = &config.runtime;
    json(&Effective {
        generation,
        resolved: Resolved {
            cores: runtime.cores.clone(),
            max_connections: runtime.max_connections,
            descriptors_needed: runtime.descriptors_needed,
            state_dir: runtime.state_dir.display().to_string(),
        },
        config: &config.shown.0,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReloadQuery {
    #[serde(default)]
    dry_run: bool,
}

/// `POST /reload`
pub(super) async fn reload(
    State(shared): Asked,
    asked: Result<Query<ReloadQuery>, QueryRejection>,
) -> Response {
    let ReloadQuery { dry_run } = match query(asked) {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    let mut answer = match shared.ask(|reply| Command::Reload { dry_run, reply }).await {
        Some(Ok(reloaded)) => done(&reloaded, format!("table {}", reloaded.table)),
        Some(Err(refused)) => refusal(&refused),
        None => ended(),
    };
    if dry_run {
        answer.extensions_mut().insert(Unchanged);
    }
    answer
}

fn refusal(refused: &Refused) -> Response {
    let status = match refused {
        Refused::NoFile | Refused::Draining => StatusCode::CONFLICT,
        Refused::File(_) | Refused::NeedsRestart(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Refused::System(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    problem_with(status, &refused.to_string(), refused.faults())
}

/// Names of the levels, as `[log] level` has them.
const LEVELS: &[(&str, Level)] = &[
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

#[derive(Serialize)]
struct LogLine {
    /// Lowest level that is written now.
    level: Option<&'static str>,
    /// The one of the configuration, which a reload puts back in force.
    configured: Option<&'static str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogChange {
    level: String,
}

/// `GET /log`
pub(super) async fn log(State(shared): Asked) -> Response {
    let configured = name_of(shared.state.configs.borrow().log.level);
    match shared.ask(|reply| Command::Level { level: None, reply }).await {
        Some(level) => json(&LogLine { level: level.and_then(name_of), configured }),
        None => ended(),
    }
}

/// `PATCH /log`
pub(super) async fn change_log(
    State(shared): Asked,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let LogChange { level } = match body(&headers, bytes) {
        Ok(change) => change,
        Err(answer) => return answer,
    };
    let Some((name, level)) = LEVELS.iter().find(|(name, _)| *name == level) else {
        let names: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
        let detail = format!("no level is called {level:?}; valid: {}", names.join(", "));
        return problem(StatusCode::BAD_REQUEST, &detail);
    };
    let configured = name_of(shared.state.configs.borrow().log.level);
    match shared.ask(|reply| Command::Level { level: Some(*level), reply }).await {
        Some(level) => {
            done(&LogLine { level: level.and_then(name_of), configured }, format!("level {name}"))
        }
        None => ended(),
    }
}

fn name_of(level: Level) -> Option<&'static str> {
    LEVELS.iter().find(|(_, one)| *one == level).map(|(name, _)| *name)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    limit: Option<usize>,
}

/// `GET /audit`
pub(super) async fn audit(
    State(shared): Asked,
    asked: Result<Query<AuditQuery>, QueryRejection>,
) -> Response {
    #[derive(Serialize)]
    struct Log {
        /// Newest first.
        entries: Vec<Entry>,
    }
    match query(asked) {
        Ok(AuditQuery { limit }) => {
            json(&Log { entries: shared.state.audit.newest(limit.unwrap_or(ENTRIES_MAX)) })
        }
        Err(answer) => answer,
    }
}

//! Sources: what each is worth, and having them read again or believed.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tokio::sync::oneshot;

use super::answer::{absent, done, ended, json, problem};
use super::http::{Asked, Shared};
use crate::control::commands::Command;
use crate::source::FailureCause;
use crate::source::view::SourceView;

/// What `/sources` answers.
#[derive(Debug, Serialize)]
struct Sources<'a> {
    sources: Vec<SourceLine<'a>>,
}

#[derive(Debug, Serialize)]
struct SourceLine<'a> {
    pool: &'a str,
    source: &'a str,
    /// `cold`, `fresh`, `stale` or `failed`.
    state: &'static str,
    /// Seconds since the store was heard last; `null` if it never was.
    age_seconds: Option<f64>,
    /// The set in force was saved by an earlier run.
    restored: bool,
    /// Backends in force; `null` before there is any set.
    backends: Option<usize>,
    /// Backends that are gone from the store, but held back.
    held: usize,
    /// The store says that there are none, and that is not believed.
    empty_kept: bool,
    /// Entries that are no backends, each with the reason.
    rejected: &'a [String],
    /// What the store calls the state that was read last.
    revision: Option<&'a str>,
    /// What went wrong last, while it does.
    failure: Option<FailureLine<'a>>,
    /// Sets read.
    readings: u64,
    /// Sets put in force.
    publications: u64,
    /// Failed attempts, by reason; those that never occurred are left out.
    failures: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct FailureLine<'a> {
    reason: &'static str,
    detail: &'a str,
}

fn line(view: &SourceView, now: Instant) -> SourceLine<'_> {
    let failures = FailureCause::ALL.iter().map(|cause| {
        let count = view.counts.failures.get(*cause as usize).copied().unwrap_or(0);
        (cause.name(), count)
    });
    SourceLine {
        pool: &view.pool,
        source: &view.label,
        state: view.state.name(),
        age_seconds: view.heard.map(|heard| now.saturating_duration_since(heard).as_secs_f64()),
        restored: view.restored,
        backends: view.members,
        held: view.held,
        empty_kept: view.empty_kept,
        rejected: &view.rejected,
        revision: view.revision.as_deref(),
        failure: view
            .failure
            .as_ref()
            .map(|failure| FailureLine { reason: failure.cause.name(), detail: &failure.detail }),
        readings: view.counts.readings,
        publications: view.counts.publications,
        failures: failures.filter(|(_, count)| *count > 0).collect(),
    }
}

/// `GET /sources`
pub(super) async fn show(State(shared): Asked) -> Response {
    answer(&shared, |_| true)
}

/// `GET /sources/{pool}`
pub(super) async fn show_of_pool(State(shared): Asked, Path(pool): Path<String>) -> Response {
    if !has_pool(&shared, &pool) {
        return absent("pool", &pool);
    }
    answer(&shared, |view| view.pool == pool)
}

fn answer(shared: &Shared, wanted: impl Fn(&SourceView) -> bool) -> Response {
    let views = shared.state.sources.borrow().clone();
    let now = Instant::now();
    let wanted = views.iter().filter(|view| wanted(view));
    json(&Sources { sources: wanted.map(|view| line(view, now)).collect() })
}

fn has_pool(shared: &Shared, pool: &str) -> bool {
    shared.state.table.borrow().pool(pool).is_some()
}

/// What a change answers.
#[derive(Serialize)]
struct Told<'a> {
    pool: &'a str,
    /// How many were told.
    sources: usize,
}

/// `POST /sources/{pool}/refresh`
pub(super) async fn refresh(State(shared): Asked, Path(pool): Path<String>) -> Response {
    let command = |pool, reply| Command::Refresh { pool, reply };
    tell(&shared, pool, command).await
}

/// `POST /sources/{pool}/confirm`
pub(super) async fn confirm(State(shared): Asked, Path(pool): Path<String>) -> Response {
    let command = |pool, reply| Command::Confirm { pool, reply };
    tell(&shared, pool, command).await
}

async fn tell(
    shared: &Shared,
    pool: String,
    command: impl FnOnce(String, oneshot::Sender<usize>) -> Command,
) -> Response {
    if !has_pool(shared, &pool) {
        return absent("pool", &pool);
    }
    match shared.ask(|reply| command(pool.clone(), reply)).await {
        Some(0) => {
            let detail = format!("pool {pool:?} has no source that is watched");
            problem(StatusCode::CONFLICT, &detail)
        }
        Some(sources) => done(&Told { pool: &pool, sources }, format!("{sources} sources")),
        None => ended(),
    }
}

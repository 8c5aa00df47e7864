//! Closing all sessions of a backend, so many in a second.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::answer::{absent, body, done, problem};
use super::http::Asked;
use super::sessions::tell;
use crate::end::End;
use crate::shard::closing::CloseOrder;
use crate::shard::mailbox::Message;
use crate::table::{BackendShared, Table};

/// Most sessions closed in a second, as in `close_rate`.
const RATE_MAX: u32 = 1_000_000;

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// Sessions in a second, `"200/s"`; the pool's `close_rate` without it.
    rate: Option<String>,
}

/// What is being done.
#[derive(Serialize)]
struct Closing<'a> {
    pool: &'a str,
    backend: &'a str,
    /// Sessions that it has now.
    sessions: u32,
    /// Of which so many are closed in a second; `null` when no more are.
    rate: Option<String>,
}

/// `POST /pools/{pool}/backends/{backend}/close`
pub(super) async fn begin(
    State(shared): Asked,
    Path((pool, backend)): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let order: Order = match body(&headers, bytes) {
        Ok(order) => order,
        Err(answer) => return answer,
    };
    let table = shared.state.table.borrow().clone();
    let (identity, rate) = match find(&table, &pool, &backend) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let rate = match order.rate.as_deref().map(rate_of) {
        None => rate,
        Some(Some(rate)) => rate,
        Some(None) => {
            let detail = format!("rate is not \"1/s\" to \"{RATE_MAX}/s\"");
            return problem(StatusCode::BAD_REQUEST, &detail);
        }
    };
    let now = Instant::now();
    for shard in &shared.state.shards {
        let order = CloseOrder {
            backend: identity.clone(),
            end: End::Operator,
            accepted_before: Some(now),
            rate,
        };
        tell(shard, Message::Close(order));
    }
    let sessions = identity.room.live();
    let detail = format!("{sessions} sessions, {rate} in a second");
    let rate = Some(format!("{rate}/s"));
    let closing = Closing { pool: &pool, backend: &backend, sessions, rate };
    let mut answer = done(&closing, detail);
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer
}

/// `DELETE /pools/{pool}/backends/{backend}/close`
pub(super) async fn stop(
    State(shared): Asked,
    Path((pool, backend)): Path<(String, String)>,
) -> Response {
    let table = shared.state.table.borrow().clone();
    let identity = match find(&table, &pool, &backend) {
        Ok((identity, _)) => identity,
        Err(answer) => return answer,
    };
    for shard in &shared.state.shards {
        tell(shard, Message::StopClosing(identity.clone()));
    }
    let sessions = identity.room.live();
    let closing = Closing { pool: &pool, backend: &backend, sessions, rate: None };
    done(&closing, format!("{sessions} sessions left"))
}

/// A backend's identity, be it one that is no longer in its pool, and the pool's `close_rate`.
#[allow(clippy::result_large_err, reason = "the error is the answer")]
fn find(table: &Table, pool: &str, backend: &str) -> Result<(Arc<BackendShared>, u32), Response> {
    let Some(found) = table.all_pools().find(|one| one.settings.name == pool) else {
        return Err(absent("pool", pool));
    };
    match found.all_backends().find(|one| *one.label == *backend) {
        Some(one) => Ok((one.shared.clone(), found.settings.close_rate)),
        None => Err(absent("backend", backend)),
    }
}

fn rate_of(text: &str) -> Option<u32> {
    let rate: u32 = text.strip_suffix("/s")?.trim_end().parse().ok()?;
    (1..=RATE_MAX).contains(&rate).then_some(rate)
}

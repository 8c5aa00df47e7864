//! Changes of the set of backends: they go to where the truth lives, see [`crate::edits`].

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use super::answer::{body, done, ended, problem};
use super::http::{Asked, Shared};
use crate::config::{Address, BackendState, read_address};
use crate::control::commands::Command;
use crate::edits::{Addition, Change, Edit, EditRefused, Edited};

/// A backend that is added.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    address: String,
    weight: Option<u32>,
    state: Option<StateName>,
    /// Its place among the others, where a store keeps one.
    order: Option<i64>,
    /// Which source of the pool gets it, counted from 0.
    source: Option<usize>,
}

/// What is to be different about a backend: one of both.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Different {
    weight: Option<u32>,
    state: Option<StateName>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateName {
    Ready,
    Drain,
    Down,
}

impl From<StateName> for BackendState {
    fn from(state: StateName) -> BackendState {
        match state {
            StateName::Ready => BackendState::Ready,
            StateName::Drain => BackendState::Drain,
            StateName::Down => BackendState::Down,
        }
    }
}

/// `POST /pools/{pool}/backends`
pub(super) async fn add(
    State(shared): Asked,
    Path(pool): Path<String>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let New { address, weight, state, order, source } = match body(&headers, bytes) {
        Ok(new) => new,
        Err(answer) => return answer,
    };
    let default = Addition::default();
    let addition = Addition {
        weight: weight.unwrap_or(default.weight),
        state: state.map_or(default.state, BackendState::from),
        order,
        source,
    };
    let mut answer = edit(&shared, pool, &address, Change::Add(addition)).await;
    if answer.status() == StatusCode::OK {
        *answer.status_mut() = StatusCode::CREATED;
    }
    answer
}

/// `PATCH /pools/{pool}/backends/{backend}`
pub(super) async fn change(
    State(shared): Asked,
    Path((pool, address)): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Response {
    let different: Different = match body(&headers, bytes) {
        Ok(different) => different,
        Err(answer) => return answer,
    };
    let change = match (different.weight, different.state) {
        (Some(weight), None) => Change::Weight(weight),
        (None, Some(StateName::Ready)) => Change::Ready,
        (None, Some(StateName::Drain)) => Change::Drain,
        (None, Some(StateName::Down)) => Change::Down,
        // Half of it could be done, and the other refused.
        (Some(_), Some(_)) | (None, None) => {
            let detail = "either weight or state is changed, one at a time";
            return problem(StatusCode::UNPROCESSABLE_ENTITY, detail);
        }
    };
    edit(&shared, pool, &address, change).await
}

/// `DELETE /pools/{pool}/backends/{backend}`
pub(super) async fn remove(
    State(shared): Asked,
    Path((pool, address)): Path<(String, String)>,
) -> Response {
    edit(&shared, pool, &address, Change::Remove).await
}

async fn edit(shared: &Shared, pool: String, address: &str, change: Change) -> Response {
    let address: Address = match read_address(address) {
        Ok(address) => address,
        Err(why) => return problem(StatusCode::UNPROCESSABLE_ENTITY, &format!("address: {why}")),
    };
    let what = detail(&change, &pool, &address);
    let edit = Edit { pool, address, change };
    match shared.ask(|reply| Command::Edit { edit, reply }).await {
        Some(Ok(edited)) => done(&edited, format!("{what}, in {}", place(&edited))),
        Some(Err(refused)) => refusal(&refused),
        None => ended(),
    }
}

/// For the audit log: a request's path does not say what its body does.
fn detail(change: &Change, pool: &str, address: &Address) -> String {
    let more = match change {
        Change::Weight(weight) => format!(" {weight}"),
        Change::Add(addition) => format!(" with weight {}", addition.weight),
        _ => String::new(),
    };
    format!("{} {pool} {address}{more}", change.name())
}

fn place(edited: &Edited) -> String {
    match edited {
        Edited::InStore { source, .. } => source.clone(),
        Edited::InState { file, .. } => file.display().to_string(),
    }
}

fn refusal(refused: &EditRefused) -> Response {
    let status = StatusCode::from_u16(refused.http_status());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    problem(status, &refused.to_string())
}

//! Sessions: asks every shard for those that are wanted, and has one ended.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::AdminState;
use super::answer::{absent, done, json_with, problem, query};
use super::body::counted;
use super::http::Asked;
use crate::shard::mailbox::{
    Message, SessionFilter, SessionId, SessionPage, SessionQuestion, SessionView, ShardHandle,
};

/// Sessions shown unless the request says otherwise.
const LIMIT_DEFAULT: usize = 100;

/// Most sessions shown.
const LIMIT_MAX: usize = 10_000;

/// How long the shards have, all together.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);

/// What `/sessions` answers.
#[derive(Debug, Serialize)]
struct Sessions {
    /// Client connections open on all shards, shown or not.
    open: u32,
    limit: usize,
    sessions: Vec<SessionView>,
}

/// A shard that gave no answer.
#[derive(Debug)]
pub(super) struct Silent {
    shard: usize,
    /// It is gone, rather than slow.
    ended: bool,
}

impl Silent {
    pub(super) fn answer(&self) -> Response {
        let why = if self.ended { "has ended" } else { "did not answer within a second" };
        let detail = format!("shard {} {why}", self.shard);
        problem(StatusCode::SERVICE_UNAVAILABLE, &detail)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionsQuery {
    limit: Option<usize>,
    key: Option<String>,
    key_hex: Option<String>,
    listener: Option<String>,
    pool: Option<String>,
    backend: Option<String>,
}

impl SessionsQuery {
    #[allow(clippy::result_large_err, reason = "the error is the answer")]
    fn filter(self) -> Result<SessionFilter, Response> {
        let SessionsQuery { limit: _, key, key_hex, listener, pool, backend } = self;
        let key = match (key, key_hex) {
            (Some(_), Some(_)) => {
                return Err(problem(StatusCode::BAD_REQUEST, "key and key_hex are one too many"));
            }
            (None, Some(hex)) => match decoded(&hex) {
                Some(key) => Some(key),
                None => {
                    let detail = "key_hex is not pairs of hexadecimal digits";
                    return Err(problem(StatusCode::BAD_REQUEST, detail));
                }
            },
            (key, None) => key.map(String::into_bytes),
        };
        Ok(SessionFilter { key, listener, pool, backend })
    }
}

/// `GET /sessions`
pub(super) async fn show(
    State(shared): Asked,
    asked: Result<Query<SessionsQuery>, QueryRejection>,
) -> Response {
    let asked = match query(asked) {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT);
    if limit > LIMIT_MAX {
        let detail = format!("limit is {limit}, at most {LIMIT_MAX} are shown");
        return problem(StatusCode::BAD_REQUEST, &detail);
    }
    let filter = match asked.filter() {
        Ok(filter) => filter,
        Err(answer) => return answer,
    };
    let turn = match shared.turn().await {
        Ok(turn) => turn,
        Err(answer) => return answer,
    };
    match ask(&shared.state, filter, limit).await {
        Ok(sessions) => {
            let open = shared.state.metrics.process.connections.load(Relaxed);
            let sessions = Sessions { open, limit, sessions };
            json_with(&sessions, |text| counted(text, turn))
        }
        Err(silent) => silent.answer(),
    }
}

/// `DELETE /sessions/{id}`
pub(super) async fn end(State(shared): Asked, Path(name): Path<String>) -> Response {
    let Some(id) = SessionId::parse(&name) else {
        let detail = "a session is called SHARD-SLOT-SERIAL, as /sessions shows it";
        return problem(StatusCode::BAD_REQUEST, detail);
    };
    let Some(shard) = shared.state.shards.get(id.shard) else { return absent("session", &name) };
    let (reply, answer) = oneshot::channel();
    tell(shard, Message::End { id, reply });
    match timeout_at(Instant::now() + TIMEOUT, answer).await {
        Ok(Ok(Some(view))) => {
            let detail = format!("{} on {} of {}", view.client, view.backend, view.pool);
            done(&view, detail)
        }
        Ok(Ok(None)) => absent("session", &name),
        Ok(Err(_dropped)) => Silent { shard: id.shard, ended: true }.answer(),
        Err(_elapsed) => Silent { shard: id.shard, ended: false }.answer(),
    }
}

/// Up to `limit` sessions of all shards, which are asked at the same time.
///
/// # Errors
/// A shard that has not answered when [`TIMEOUT`] is over.
pub(super) async fn ask(
    state: &AdminState,
    filter: SessionFilter,
    limit: usize,
) -> Result<Vec<SessionView>, Silent> {
    let deadline = Instant::now() + TIMEOUT;
    let shares = match filter == SessionFilter::default() {
        true => shares(limit, &open_per_shard(state)),
        // Which shard has them is not known.
        false => vec![limit; state.shards.len()],
    };
    let filter = Arc::new(filter);
    let asked = state.shards.iter().zip(shares).enumerate();
    let asked = asked.map(|(shard, (handle, limit))| {
        let filter = filter.clone();
        async move {
            let answered = timeout_at(deadline, ask_one(handle, filter, limit)).await;
            match answered {
                Ok(Some(views)) => Ok(views),
                Ok(None) => Err(Silent { shard, ended: true }),
                Err(_elapsed) => Err(Silent { shard, ended: false }),
            }
        }
    });
    let mut sessions: Vec<SessionView> = try_join_all(asked).await?.into_iter().flatten().collect();
    sessions.truncate(limit);
    Ok(sessions)
}

/// Page by page; `None` when the shard has ended.
async fn ask_one(
    shard: &ShardHandle,
    filter: Arc<SessionFilter>,
    limit: usize,
) -> Option<Vec<SessionView>> {
    let mut views = Vec::new();
    let mut from = 0;
    loop {
        let (reply, answer) = oneshot::channel();
        let question = SessionQuestion { filter: filter.clone(), from, limit: limit - views.len() };
        tell(shard, Message::Sessions { question, reply });
        let SessionPage { views: mut more, next } = answer.await.ok()?;
        views.append(&mut more);
        match next {
            Some(next) if views.len() < limit => from = next,
            _ => return Some(views),
        }
    }
}

pub(super) fn tell(shard: &ShardHandle, message: Message) {
    if let Err(error) = shard.send(message) {
        // The message lies in the mailbox: the shard finds it when something else wakes it.
        tracing::warn!(%error, "shard not woken");
    }
}

fn open_per_shard(state: &AdminState) -> Vec<u64> {
    let table = state.table.borrow().clone();
    let open = |shard| table.all_listeners().map(|one| one.cells.of(shard).active.value()).sum();
    (0..state.shards.len()).map(open).collect()
}

/// How many sessions to ask of each shard, given how many it has: what one shard lacks, others
/// give, so that the answer is full and no shard writes views that are thrown away. Every shard is
/// asked for one at least, for it may have sessions by now.
fn shares(limit: usize, open: &[u64]) -> Vec<usize> {
    let mut by_open: Vec<usize> = (0..open.len()).collect();
    by_open.sort_by_key(|shard| open[*shard]);
    let mut shares = vec![0; open.len()];
    let mut left = limit;
    // From the emptiest to the fullest: each takes an equal part of what is left, or all it has.
    for (done, shard) in by_open.iter().enumerate() {
        let part = left.div_ceil(open.len() - done);
        let has = usize::try_from(open[*shard]).unwrap_or(usize::MAX);
        shares[*shard] = part.min(has).max(1).min(limit);
        left = left.saturating_sub(shares[*shard]);
    }
    shares
}

/// Bytes from pairs of hexadecimal digits.
fn decoded(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{decoded, shares};

    #[test]
    fn what_one_shard_lacks_others_give() {
        assert_eq!(shares(100, &[1000, 1000]), [50, 50]);
        assert_eq!(shares(100, &[10, 1000]), [10, 90]);
        assert_eq!(shares(100, &[1000, 0, 30]), [69, 1, 30]);
        assert_eq!(shares(10, &[3, 2]), [3, 2]);
    }

    #[test]
    fn every_shard_is_asked_for_one_and_none_for_more_than_the_limit() {
        assert_eq!(shares(1, &[5, 5, 5]), [1, 1, 1]);
        assert_eq!(shares(0, &[5, 5]), [0, 0]);
        assert_eq!(shares(7, &[u64::MAX]), [7]);
        assert_eq!(shares(7, &[]), [0; 0]);
    }

    #[test]
    fn hexadecimal_keys() {
        assert_eq!(decoded("00fFa1"), Some(vec![0, 255, 161]));
        assert_eq!(decoded(""), Some(Vec::new()));
        assert_eq!([decoded("0"), decoded("0g"), decoded("+1")], [None, None, None]);
    }
}

//! Where a key belongs, why, and whether its client is connected now.

use std::borrow::Cow;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::Uri;
use axum::response::Response;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::answer::{absent, json, query};
use super::http::Asked;
use super::sessions::ask;
use crate::end::{End, Placement};
use crate::explain::pool_of;
use crate::log::hex;
use crate::movement::Standing;
use crate::shard::mailbox::{SessionFilter, SessionView};
use crate::table::{Listener, Pool, Table};

/// Sessions shown per listener: a key should have one.
const SESSIONS_MAX: usize = 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhereQuery {
    listener: Option<String>,
}

/// What `/where/KEY` answers.
#[derive(Debug, Serialize)]
struct Where<'a> {
    key: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    /// Version of the table that the places are of.
    table: u64,
    /// One for each listener asked about.
    places: Vec<Place>,
    /// Its open connections.
    sessions: Vec<SessionView>,
}

/// Where a listener would send a new connection with this key.
#[derive(Debug, Serialize)]
struct Place {
    listener: String,
    /// `null` if the listener refuses the key.
    pool: Option<String>,
    /// The name of the algorithm.
    balance: Option<&'static str>,
    /// The backend that it belongs to while all are ready; `null` if the algorithm looks at no key.
    home: Option<String>,
    /// The backend that takes it now; `null` if none would, or if that depends on other sessions.
    backend: Option<String>,
    /// A placement's label, the label of the end if it is refused, or `not_keyed`.
    reason: &'static str,
    /// How the key came to its home: the function and what it makes of the key.
    hash: Option<String>,
}

/// `GET /where/{key}`
pub(super) async fn show(
    State(shared): Asked,
    uri: Uri,
    asked: Result<Query<WhereQuery>, QueryRejection>,
) -> Response {
    let WhereQuery { listener } = match query(asked) {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    // Not by an extractor: a key need not be UTF-8, and may hold a slash.
    let key = uri.path().strip_prefix("/where/").unwrap_or_default();
    let key: Vec<u8> = percent_decode_str(key).collect();
    let table = shared.state.table.borrow().clone();
    let wanted = |one: &&std::sync::Arc<Listener>| {
        listener.as_ref().is_none_or(|name| one.settings.name == *name)
    };
    let listeners: Vec<_> = table.listeners.iter().filter(wanted).collect();
    if let (Some(name), true) = (&listener, listeners.is_empty()) {
        return absent("listener", name);
    }
    let _turn = match shared.turn().await {
        Ok(turn) => turn,
        Err(answer) => return answer,
    };
    let filter = SessionFilter { key: Some(key.clone()), listener, ..SessionFilter::default() };
    let sessions = match ask(&shared.state, filter, SESSIONS_MAX).await {
        Ok(sessions) => sessions,
        Err(silent) => return silent.answer(),
    };
    json(&Where {
        key: String::from_utf8_lossy(&key),
        key_hex: std::str::from_utf8(&key).is_err().then(|| hex(&key)),
        table: table.version,
        places: listeners.into_iter().map(|one| place(&table, one, &key)).collect(),
        sessions,
    })
}

fn place(table: &Table, listener: &Listener, key: &[u8]) -> Place {
    let mut place = Place {
        listener: listener.settings.name.clone(),
        pool: None,
        balance: None,
        home: None,
        backend: None,
        reason: if key.is_empty() { End::KeyMissing } else { End::KeyTooLong }.label(),
        hash: None,
    };
    let Some(index) = pool_of(&listener.settings, key) else { return place };
    let Some((_, pool)) = table.pool_of(listener, index) else {
        place.reason = End::PoolRemoved.label();
        return place;
    };
    place.pool = Some(pool.settings.name.clone());
    place.balance = Some(pool.settings.balance.name());
    if pool.backends.is_empty() {
        place.reason = End::PoolEmpty.label();
        return place;
    }
    if !pool.settings.balance.is_keyed() {
        place.reason = "not_keyed";
        return place;
    }
    let label = |index: usize| pool.backends.get(index).map(|one| one.label.to_string());
    let home = pool.balance.home(key);
    place.home = home.and_then(label);
    place.hash = pool.balance.trace(key).map(|trace| format!("{} {trace}", trace.function));
    match Standing::of_table(pool).place(key) {
        Ok(index) => {
            place.backend = label(index);
            place.reason = placement(pool, home, index).label();
        }
        Err(end) => place.reason = end.label(),
    }
    place
}

/// Why this backend, as far as states decide; load and failures of a moment are a shard's.
fn placement(pool: &Pool, home: Option<usize>, index: usize) -> Placement {
    match home {
        None => Placement::KeyMissing,
        Some(home) if home == index => Placement::Home,
        Some(home) => match pool.backends.get(home).is_some_and(|home| pool.in_service(home)) {
            true => Placement::Reshuffled,
            false => Placement::Next,
        },
    }
}

//! Answers: values as JSON, errors as RFC 9457 wants them.

use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Fault;
use crate::log::append_json;

/// Media type of errors.
const PROBLEM: &str = "application/problem+json";

/// Beside an answer to a request that could have changed something: what it did, or why not.
#[derive(Debug, Clone)]
pub(super) struct Detail(pub String);

/// Beside an answer: nothing was to be changed, although the method would allow it.
#[derive(Debug, Clone)]
pub(super) struct Unchanged;

/// A value as `application/json`.
pub(super) fn json(value: &impl Serialize) -> Response {
    json_with(value, Body::from)
}

/// The same, in a body of the caller's.
pub(super) fn json_with(value: &impl Serialize, body: impl FnOnce(Vec<u8>) -> Body) -> Response {
    let mut text = Vec::new();
    match append_json(value, &mut text) {
        Ok(()) => {
            text.push(b'\n');
            ([(CONTENT_TYPE, "application/json")], body(text)).into_response()
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// The answer to a change: what was done, which goes to the audit log too.
pub(super) fn done(value: &impl Serialize, detail: String) -> Response {
    let mut answer = json(value);
    answer.extensions_mut().insert(Detail(detail));
    answer
}

/// An error.
pub(super) fn problem(status: StatusCode, detail: &str) -> Response {
    problem_with(status, detail, &[])
}

/// An error with the faults of a file.
pub(super) fn problem_with(status: StatusCode, detail: &str, faults: &[Fault]) -> Response {
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
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
    answer.extensions_mut().insert(Detail(detail.to_owned()));
    answer
}

/// There is no such thing.
pub(super) fn absent(what: &str, name: &str) -> Response {
    problem(StatusCode::NOT_FOUND, &format!("there is no {what} {name:?}"))
}

/// The control plane gives no answer any more.
pub(super) fn ended() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "the control plane has ended")
}

/// What a query says.
///
/// # Errors
/// The answer to one that cannot be read.
#[allow(clippy::result_large_err, reason = "the error is the answer")]
pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Response> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(rejection) => Err(problem(StatusCode::BAD_REQUEST, &rejection.body_text())),
    }
}

/// What the body of a request says.
///
/// # Errors
/// The answer to one that is no JSON, too long, or not what is wanted. Other media types are
/// refused: a form of another site's page could send them without asking its visitor's browser.
#[allow(clippy::result_large_err, reason = "the error is the answer")]
pub(super) fn body<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<T, Response> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        let detail = "the body has to be application/json, and its Content-Type has to say so";
        return Err(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let body = body.map_err(|rejection| problem(rejection.status(), &rejection.body_text()))?;
    serde_json::from_slice(&body)
        .map_err(|error| problem(StatusCode::BAD_REQUEST, &format!("the body: {error}")))
}

/// Answers are of the moment, and never to be taken for a page; errors that were found before a
/// handler was asked are told like all others.
pub(super) async fn common_headers(mut answer: Response) -> Response {
    let status = answer.status();
    let media_type = answer.headers().get(CONTENT_TYPE);
    if status.is_client_error() && media_type.is_none_or(|found| found != PROBLEM) {
        answer = problem(status, "the path cannot be read: it has to be UTF-8, percent-encoded");
    }
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

//! The OpenAPI document, and the list of paths that is made of it.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use super::answer::json;

/// OpenAPI 3.1.
const DOCUMENT: &str = include_str!("openapi.json");

/// A method and path, and what it does.
#[derive(Debug, Serialize)]
pub(super) struct Operation {
    #[serde(serialize_with = "upper_case")]
    pub method: String,
    pub path: String,
    does: String,
}

fn upper_case<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&text.to_ascii_uppercase())
}

/// `GET /`
pub(super) async fn index() -> Response {
    json(&operations())
}

/// `GET /openapi.json`
pub(super) async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

/// Every operation of the document.
pub(super) fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap_or_default();
    let paths = document.get("paths").and_then(Value::as_object);
    let mut operations = Vec::new();
    for (path, item) in paths.into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            // Beside methods there are the parameters that they share.
            let Some(does) = operation.get("summary").and_then(Value::as_str) else { continue };
            let (method, path, does) = (method.clone(), path.clone(), does.to_owned());
            operations.push(Operation { method, path, does });
        }
    }
    operations
}

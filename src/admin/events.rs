//! What happens, as it happens: a bounded record of events, and the stream that tells them.
//!
//! A reader that is too slow, or comes back after a while, is told what it missed: how many events,
//! never nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::answer::problem;
use super::http::Asked;
use super::life::Life;
use crate::log::append_json;

/// Events kept for slow readers and for those that come back.
const EVENTS_MAX: usize = 1_024;
/// Streams at once; each holds one of the interface's connections.
const STREAMS_MAX: usize = 16;
/// Events written in one piece.
const BATCH_MAX: usize = 64;
/// A comment is sent this often when nothing happens, so that a reader that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The record.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<VecDeque<Arc<Event>>>,
    /// Number of the newest; the first is 1.
    newest: watch::Sender<u64>,
    streams: Arc<Semaphore>,
}

/// One event, written out.
#[derive(Debug)]
struct Event {
    number: u64,
    text: Bytes,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            kept: Mutex::default(),
            newest: watch::Sender::new(0),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }
}

impl Events {
    /// Tells everybody. `data` is an object.
    pub fn tell(&self, kind: &str, data: &impl Serialize) {
        #[derive(Serialize)]
        struct Told<'a, T> {
            time: String,
            #[serde(flatten)]
            data: &'a T,
        }
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let mut kept = self.kept();
        let number = *self.newest.borrow() + 1;
        let mut text = format!("id: {number}\nevent: {kind}\ndata: ").into_bytes();
        if let Err(error) = append_json(&Told { time, data }, &mut text) {
            tracing::error!(kind, %error, "event not told");
            return;
        }
        text.extend_from_slice(b"\n\n");
        if kept.len() == EVENTS_MAX {
            kept.pop_front();
        }
        kept.push_back(Arc::new(Event { number, text: text.into() }));
        drop(kept);
        self.newest.send_replace(number);
    }

    /// The events after this one, as far as they are kept and fit into one piece, and how many are
    /// not kept any more.
    fn after(&self, last: u64) -> (u64, Vec<Arc<Event>>) {
        let kept = self.kept();
        let oldest = kept.front().map_or(last + 1, |event| event.number);
        let missed = oldest.saturating_sub(last + 1);
        let from = usize::try_from((last + 1).saturating_sub(oldest)).unwrap_or(usize::MAX);
        (missed, kept.iter().skip(from).take(BATCH_MAX).cloned().collect())
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Event>>> {
        // Nobody can panic while holding it; should that change, the events are still whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET /events`
pub(super) async fn stream(
    State(shared): Asked,
    Extension(life): Extension<Life>,
    headers: HeaderMap,
) -> Response {
    let events = shared.state.events.clone();
    let Ok(permit) = events.streams.clone().try_acquire_owned() else {
        let detail = format!("{STREAMS_MAX} streams of events are open, and no more are served");
        return problem(StatusCode::SERVICE_UNAVAILABLE, &detail);
    };
    let newest = events.newest.subscribe();
    let now = *newest.borrow();
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    // A number of an earlier process says nothing about this one.
    let last = last.filter(|last| *last <= now).unwrap_or(now);
    let table = shared.state.table.borrow().version;
    let first = format!(
        "retry: 2000\nid: {last}\nevent: start\ndata: {{\"table\":{table},\"version\":{:?}}}\n\n",
        env!("CARGO_PKG_VERSION")
    );
    life.sends();
    let body = Told {
        events,
        newest,
        last,
        first: Some(first.into()),
        heartbeat: Box::pin(tokio::time::sleep(HEARTBEAT)),
        life,
        _permit: permit,
    };
    let body = Body::new(Streamed { told: Box::pin(tell_all(body)) });
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// A stream on its way to one reader.
struct Told {
    events: Arc<Events>,
    newest: watch::Receiver<u64>,
    last: u64,
    first: Option<Bytes>,
    heartbeat: Pin<Box<tokio::time::Sleep>>,
    life: Life,
    _permit: OwnedSemaphorePermit,
}

type Piece = Pin<Box<dyn Future<Output = Option<(Bytes, Told)>> + Send>>;

struct Streamed {
    told: Piece,
}

/// The next piece, and the stream after it; `None` at the end of the process.
async fn tell_all(mut told: Told) -> Option<(Bytes, Told)> {
    if let Some(first) = told.first.take() {
        return Some((first, told));
    }
    loop {
        told.life.sends();
        let (missed, events) = told.events.after(told.last);
        let mut text = Vec::new();
        if missed > 0 {
            let last = told.last + missed;
            text = format!("id: {last}\nevent: lagged\ndata: {{\"missed\":{missed}}}\n\n").into();
            told.last = last;
        }
        for event in events {
            text.extend_from_slice(&event.text);
            told.last = event.number;
        }
        if !text.is_empty() {
            let next = tokio::time::Instant::now() + HEARTBEAT;
            told.heartbeat.as_mut().reset(next);
            return Some((text.into(), told));
        }
        tokio::select! {
            changed = told.newest.changed() => changed.ok()?,
            () = told.heartbeat.as_mut() => {
                let next = tokio::time::Instant::now() + HEARTBEAT;
                told.heartbeat.as_mut().reset(next);
                return Some((Bytes::from_static(b": nothing new\n\n"), told));
            }
        }
    }
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.told.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some((piece, told))) => {
                self.told = Box::pin(tell_all(told));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(events: &[Arc<Event>]) -> Vec<u64> {
        events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn events_are_numbered_kept_and_missed_ones_are_counted() {
        let events = Events::default();
        let data = serde_json::json!({ "table": 1 });
        assert_eq!(events.after(0).0, 0);
        events.tell("table", &data);
        events.tell("table", &data);
        let (missed, after) = events.after(0);
        assert_eq!((missed, numbers(&after)), (0, vec![1, 2]));
        assert_eq!(numbers(&events.after(1).1), [2]);
        assert!(events.after(2).1.is_empty());
        let text = String::from_utf8(after[0].text.to_vec()).unwrap();
        assert!(text.starts_with("id: 1\nevent: table\ndata: {\"time\":\"20"), "{text}");
        assert!(text.ends_with(",\"table\":1}\n\n"), "{text}");
        for _ in 0..EVENTS_MAX {
            events.tell("table", &data);
        }
        let (missed, after) = events.after(1);
        assert_eq!((missed, after.len(), after[0].number), (1, BATCH_MAX, 3));
    }
}

//! One request and its answer.

use std::cell::Cell;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;

use super::{Callers, Sender};
use crate::counters::{Count, Measure};
use crate::web::check::{self, Asked};

/// Largest body of an answer, bytes.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// What is asked and when it was due.
pub struct Exchange<'a> {
    /// The request.
    pub asked: Asked<'a>,
    /// Open loop: its intended moment; closed: when a connection was free for it. ns.
    pub due_ns: u64,
    /// Whether it was sent, or tried to be.
    pub sent: Cell<bool>,
}

/// Why there is no answer.
pub enum Failure {
    /// The connection was closed already; nothing was sent.
    Unsent(Box<Request<Full<Bytes>>>),
    /// Counted as this.
    Broken(Count, String),
}

impl Failure {
    /// What the library reports.
    fn of(error: &hyper::Error) -> Failure {
        let mut text = error.to_string();
        let mut reset = false;
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            text.push_str(&format!(": {inner}"));
            let io = inner.downcast_ref::<std::io::Error>();
            reset |= io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionReset);
            cause = inner.source();
        }
        let count = match () {
            () if error.is_parse() => Count::Corrupted,
            () if reset => Count::PeerReset,
            () if error.is_incomplete_message() || error.is_canceled() => Count::PeerClosed,
            () => Count::PeerOther,
        };
        Failure::Broken(count, text)
    }
}

impl Callers {
    /// Sends a request, reads its answer to the end and checks it.
    pub async fn exchange(
        &self,
        sender: &mut Sender,
        request: Request<Full<Bytes>>,
        exchange: &Exchange<'_>,
    ) -> Result<(), Failure> {
        if let Err(closed) = sender.ready().await {
            return match closed.is_closed() {
                true => Err(Failure::Unsent(Box::new(request))),
                false => Err(Failure::of(&closed)),
            };
        }
        let now_ns = self.plan.now_ns();
        let Exchange { asked, due_ns, sent } = exchange;
        if !sent.replace(true) {
            let mut tally = self.tally.borrow_mut();
            tally.count(Count::Sent);
            tally.count_many(Count::BytesSent, asked.body.len() as u64);
            if self.args.rate.is_some() {
                tally.record(Measure::SendLag, now_ns.saturating_sub(*due_ns));
            }
        }
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut unsent) => {
                return Err(match unsent.take_message() {
                    Some(request) => Failure::Unsent(Box::new(request)),
                    None => Failure::of(unsent.error()),
                });
            }
        };
        let first_ns = self.plan.now_ns();
        let (head, body) = response.into_parts();
        let body = match Limited::new(body, ANSWER_LEN_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return Err(match error.downcast_ref::<hyper::Error>() {
                    Some(error) => Failure::of(error),
                    None => Failure::Broken(Count::Corrupted, error.to_string()),
                });
            }
        };
        let now_ns = self.plan.now_ns();
        let mut tally = self.tally.borrow_mut();
        tally.count(Count::Received);
        tally.count_many(Count::BytesReceived, body.len() as u64);
        tally.record(Measure::FirstReply, first_ns.saturating_sub(*due_ns));
        tally.record(Measure::RoundTrip, now_ns.saturating_sub(*due_ns));
        check::answer((&self.args, &self.plan), &mut tally, asked, (&head, &body));
        Ok(())
    }
}

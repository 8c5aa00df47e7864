//! The body of a large answer: it is counted until it has been sent, not until it has been made.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes handed to the connection at a time; it takes more only when it has sent what it has.
const PIECE_LEN: usize = 64 * 1024;

/// A text that keeps a permit until its last piece is on its way, or its caller is given up.
pub(super) fn counted(text: Vec<u8>, permit: OwnedSemaphorePermit) -> Body {
    Body::new(Counted { rest: text.into(), _permit: permit })
}

struct Counted {
    rest: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.rest.len().min(PIECE_LEN);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

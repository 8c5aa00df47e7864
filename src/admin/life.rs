//! How long a connection may live: one answer in a given time, or a stream as long as it is read.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// A stream whose reader takes nothing for this long is cut.
const STALL_MAX: Duration = Duration::from_secs(60);

/// A change may take this much longer: two deadlines of the slowest store that can be configured.
const WORK_MAX: Duration = Duration::from_secs(120);

/// What is known of a connection, shared with the body of its answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Life {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    began: Instant,
    /// Milliseconds after `began` when the stream was last able to send; 0: there is no stream.
    sent_ms: AtomicU64,
    became_stream: Notify,
    /// Something is being changed for it.
    working: AtomicBool,
}

impl Default for Inner {
    fn default() -> Inner {
        let became_stream = Notify::new();
        let (sent_ms, working) = Default::default();
        Inner { began: Instant::now(), sent_ms, became_stream, working }
    }
}

impl Life {
    /// It is a stream, and its reader takes what is sent.
    pub(super) fn sends(&self) {
        let ms = u64::try_from(self.inner.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.inner.sent_ms.swap(ms.max(1), Relaxed) == 0 {
            self.inner.became_stream.notify_one();
        }
    }

    /// Something is being changed for it, which may take longer than an answer.
    pub(super) fn works(&self) {
        self.inner.working.store(true, Relaxed);
    }

    /// Returns when the connection has lived long enough: after `answer_max` unless it became a
    /// stream, which goes on until nobody reads it. `socket` is another descriptor of the same
    /// socket.
    pub(super) async fn over(&self, answer_max: Duration, socket: std::io::Result<OwnedFd>) {
        tokio::select! {
            () = tokio::time::sleep(answer_max) => {
                if self.inner.working.load(Relaxed) {
                    tokio::time::sleep(WORK_MAX).await;
                }
                return;
            }
            () = self.inner.became_stream.notified() => {}
        }
        let stalled = async {
            loop {
                let sent = Duration::from_millis(self.inner.sent_ms.load(Relaxed));
                let give_up = self.inner.began + sent + STALL_MAX;
                if give_up <= Instant::now() {
                    return;
                }
                tokio::time::sleep_until(give_up.into()).await;
            }
        };
        tokio::select! {
            () = stalled => {}
            () = hung_up(socket) => {}
        }
    }
}

/// Returns when the other side sends no more. For an answer that means nothing, but whoever follows
/// a stream and closes its side is gone; a write would show that only with the one after it.
async fn hung_up(socket: std::io::Result<OwnedFd>) {
    // Only waited on and peeked at, which is the same for TCP.
    let watched = socket.map(std::os::unix::net::UnixStream::from);
    let Ok(watched) = watched.and_then(UnixStream::from_std) else {
        return std::future::pending().await;
    };
    let peeked = watched.async_io(Interest::READABLE, || {
        SockRef::from(&watched).peek(&mut [MaybeUninit::uninit()])
    });
    if let Ok(1..) = peeked.await {
        // It says something although nothing was asked: it hears what happens all the same.
        std::future::pending().await
    }
}

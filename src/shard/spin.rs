//! Looking for work a while before sleeping, for shards whose core does nothing else.
//!
//! Waking a sleeping core takes tens of microseconds, more than everything we do with a message.
//! While something happened a moment ago, an operation that is always ready is kept in monoio's
//! ring: its turns do not block then, and everything that waits on it is served as ever.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::Shard;
use crate::sys::{WakeFd, always_readable};

/// Whether anything happens on a shard.
#[derive(Debug, Default)]
pub struct Activity {
    events: Cell<u64>,
    sleeper: RefCell<Option<Waker>>,
}

impl Activity {
    /// Something happened.
    #[inline]
    pub fn note(&self) {
        self.events.set(self.events.get().wrapping_add(1));
        if let Some(sleeper) = self.sleeper.take() {
            sleeper.wake();
        }
    }

    /// Waits until something has happened after `seen`.
    async fn after(&self, seen: u64) {
        poll_fn(|context| {
            if self.events.get() != seen {
                return Poll::Ready(());
            }
            *self.sleeper.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Keeps the shard awake for `spin` after whatever happened last.
///
/// # Errors
/// What the kernel says about one more descriptor, or the ring.
pub async fn run(shard: Rc<Shard>, spin: Duration) -> io::Result<()> {
    let always: WakeFd = always_readable()?;
    let mut seen = shard.activity.events.get();
    loop {
        shard.activity.after(seen).await;
        let mut since = Instant::now();
        while since.elapsed() < spin {
            always.readable().await?;
            if shard.activity.events.get() != seen {
                seen = shard.activity.events.get();
                since = Instant::now();
            }
        }
    }
}

//! TLS handshakes under way on a shard: each costs memory and, twice, a public-key operation. Past
//! a listener's bound clients wait their turn, holding nothing but their connection.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::future::poll_fn;
use std::task::Poll;

use super::Shard;
use crate::session::Session;

/// Handshakes of one shard, all listeners together.
#[derive(Debug, Default)]
pub struct Handshakes {
    running: Cell<u32>,
    /// Slot and serial of each that waits, the longest first.
    waiting: RefCell<VecDeque<(u32, u32)>>,
    /// Those whose turn has come, and who have not looked yet.
    called: RefCell<HashSet<(u32, u32)>>,
}

/// A turn; another's begins when it is dropped.
pub struct Handshaking<'a>(&'a Shard);

impl Drop for Handshaking<'_> {
    fn drop(&mut self) {
        self.0.handshakes().finished(self.0);
    }
}

/// A place in the line, given up when dropped.
struct Place<'a> {
    shard: &'a Shard,
    who: (u32, u32),
    left: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let line = self.shard.handshakes();
        line.waiting.borrow_mut().retain(|who| *who != self.who);
        // Called, and gone in the same moment: the turn is the next one's.
        if line.called.borrow_mut().remove(&self.who) {
            line.finished(self.shard);
        }
    }
}

impl Handshakes {
    /// Waits until fewer than `most` handshakes are under way. The session's interrupt has the
    /// waker: wait with `Interrupt::or`. Cancel-safe.
    pub async fn begin<'a>(
        &self,
        shard: &'a Shard,
        session: &Session,
        most: u32,
    ) -> Handshaking<'a> {
        if self.running.get() < most && self.waiting.borrow().is_empty() {
            self.running.set(self.running.get() + 1);
            return Handshaking(shard);
        }
        let who = (session.slot, session.serial);
        self.waiting.borrow_mut().push_back(who);
        let mut place = Place { shard, who, left: false };
        poll_fn(|_context| match self.called.borrow_mut().remove(&who) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        place.left = true;
        Handshaking(shard)
    }

    /// Gives the turn to whoever waited longest, or takes it back.
    fn finished(&self, shard: &Shard) {
        loop {
            let Some(next) = self.waiting.borrow_mut().pop_front() else {
                self.running.set(self.running.get().saturating_sub(1));
                return;
            };
            if let Some(session) = shard.session(next.0, next.1) {
                self.called.borrow_mut().insert(next);
                session.interrupt.wake();
                return;
            }
        }
    }

    /// Handshakes under way, and sessions that wait for theirs.
    pub fn count(&self) -> (u32, usize) {
        (self.running.get(), self.waiting.borrow().len())
    }
}

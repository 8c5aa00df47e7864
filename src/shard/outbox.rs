//! Sends of HTTP messages, gathered while the sessions of a turn act, and made together.
//!
//! Each send wakes its receiver. Where that runs on the same core it takes the core at once, and
//! one system call for every message means one switch of tasks for every message; a batch of sends
//! in one call means one for the batch. On another core it saves the calls.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::Shard;
use crate::stream::Gathered;
use crate::sys::Exchange;

/// Sends gathered at most: whoever is first should not wait for too many others.
const SENDS_MAX: usize = 64;

/// The gathered sends of a shard.
pub struct Outbox {
    exchange: Rc<Exchange>,
    queue: RefCell<Queue>,
    /// Tokens of sockets that did not take everything.
    missed: RefCell<Vec<u64>>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Each holds its socket open until it is done.
    sends: Vec<(Rc<Gathered>, Range<usize>)>,
}

impl Outbox {
    /// Empty; sends go through this ring.
    pub fn new(exchange: Rc<Exchange>) -> Outbox {
        Outbox {
            exchange,
            queue: RefCell::default(),
            missed: RefCell::default(),
            waker: RefCell::default(),
        }
    }

    /// Gathers a send. One socket has one at a time.
    pub fn push(&self, from: &Rc<Gathered>, bytes: &[u8]) {
        let mut queue = self.queue.borrow_mut();
        let begin = queue.bytes.len();
        queue.bytes.extend_from_slice(bytes);
        let range = begin..queue.bytes.len();
        queue.sends.push((from.clone(), range));
        let full = queue.sends.len() >= SENDS_MAX;
        drop(queue);
        if full { self.flush() } else { self.wake() }
    }

    /// Makes the gathered sends. What a socket does not take stays with its stream, whose session
    /// is told in the next turn.
    pub fn flush(&self) {
        let mut queue = self.queue.take();
        let Queue { bytes, sends } = &mut queue;
        if sends.is_empty() {
            return;
        }
        let part = |range: &Range<usize>| bytes.get(range.clone()).unwrap_or_default();
        let missed = |index: usize, sent: io::Result<usize>| {
            let Some((from, range)) = sends.get(index) else { return };
            // Whatever it is, it is met again when the rest is sent.
            let taken = sent.unwrap_or(0);
            from.leave(part(range).get(taken..).unwrap_or_default());
            self.missed.borrow_mut().push(from.token());
        };
        if let [(from, range)] = sends.as_slice() {
            // A batch of one: the call alone is cheaper.
            match from.socket().send(part(range)) {
                Ok(taken) if taken == range.len() => {}
                sent => missed(0, sent),
            }
        } else {
            let all = sends.iter().map(|(from, range)| (from.socket().as_fd(), part(range)));
            if let Err(error) = self.exchange.send_all(all, missed) {
                tracing::error!(%error, "sending failed; ending");
                std::process::abort();
            }
        }
        for (from, _) in sends.drain(..) {
            from.done();
        }
        bytes.clear();
        // Nobody has gathered anything meanwhile: closing a socket asks nobody.
        self.queue.replace(queue);
        self.wake();
    }

    /// Sockets that did not take everything, since this was asked last.
    pub fn take_missed(&self) -> Vec<u64> {
        self.missed.take()
    }

    /// Waits until there is something to send or to tell. Others that are to act come first.
    pub fn pending(&self) -> impl Future<Output = ()> {
        poll_fn(|context| {
            let idle = self.queue.borrow().sends.is_empty()
                && self.missed.borrow().is_empty()
                && !self.exchange.is_holding();
            if !idle {
                return Poll::Ready(());
            }
            self.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Shard {
    /// Where small sends of HTTP are gathered.
    pub fn outbox(&self) -> &Rc<Outbox> {
        &self.outbox
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

//! A value that ends somebody's wait: the shard's timers, drains and hang-ups reach a task with it.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Set at most once until it is taken; one task waits for it at a time.
pub struct Interrupt<T> {
    value: Cell<Option<T>>,
    waker: RefCell<Option<Waker>>,
}

impl<T: Copy> Interrupt<T> {
    /// Not set.
    pub fn new() -> Interrupt<T> {
        Interrupt { value: Cell::new(None), waker: RefCell::new(None) }
    }

    /// Ends the wait with `value`; the first value stays.
    pub fn set(&self, value: T) {
        if self.value.get().is_none() {
            self.value.set(Some(value));
            self.wake();
        }
    }

    /// Wakes whoever waits, without a value.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Nobody waits any more. A waker keeps the memory of its task, even of one that has ended.
    pub fn release(&self) {
        self.waker.take();
    }

    /// The value, if set.
    pub fn value(&self) -> Option<T> {
        self.value.get()
    }

    /// The value, if set, which is then forgotten.
    pub fn take(&self) -> Option<T> {
        self.value.take()
    }

    /// The value if set; otherwise whoever polls is woken when it is.
    pub fn poll(&self, context: &mut Context<'_>) -> Option<T> {
        if let Some(value) = self.value.get() {
            return Some(value);
        }
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) if known.will_wake(context.waker()) => {}
            other => *other = Some(context.waker().clone()),
        }
        None
    }

    /// Waits for `future` unless the interrupt comes first.
    ///
    /// The future is dropped on an interrupt, so it must be one that loses nothing when dropped, or
    /// belong to a connection that is at its end.
    ///
    /// # Errors
    /// The value of the interrupt.
    pub async fn or<F: Future>(&self, future: F) -> Result<F::Output, T> {
        let mut future = pin!(future);
        poll_fn(|context| {
            if let Some(value) = self.poll(context) {
                return Poll::Ready(Err(value));
            }
            future.as_mut().poll(context).map(Ok)
        })
        .await
    }
}

impl<T: Copy> Default for Interrupt<T> {
    fn default() -> Self {
        Interrupt::new()
    }
}

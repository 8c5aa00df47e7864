//! Floods: splice(2) through a pipe that a flow borrows for as long as bytes are in it.

use std::cell::{Cell, RefCell};

use super::flow::Moved;
use super::shape::Path;
use super::{Failure, FlowEnd, Rest, Turn};
use crate::session::Direction;
use crate::sys::Pipe;

/// Bytes of a pipe: what is moved per pair of calls.
const PIPE_LEN: usize = 256 * 1024;
/// Pipes a shard has at most, two descriptors each. They are in use while a sink stalls, so this
/// many stalled floods; further ones are copied.
pub const PIPES_MAX: usize = 32;

/// The pipes of a shard.
#[derive(Debug, Default)]
pub struct Pipes {
    idle: RefCell<Vec<Pipe>>,
    made: Cell<usize>,
}

impl Pipes {
    fn take(&self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.made.get() >= PIPES_MAX {
            return None;
        }
        let pipe = Pipe::new(PIPE_LEN).ok()?;
        self.made.set(self.made.get() + 1);
        Some(pipe)
    }

    /// Takes a pipe back; one that holds bytes of somebody is closed.
    pub(super) fn give(&self, pipe: Pipe) {
        if pipe.held() == 0 {
            self.idle.borrow_mut().push(pipe);
        } else {
            self.made.set(self.made.get() - 1);
        }
    }
}

impl Turn<'_> {
    /// The flow is a flood from here on.
    pub(super) fn begin_bulk(&mut self, direction: Direction) {
        self.shard.cells().relay_spliced.add(1);
        self.relay.flow(direction).path = Path::Spliced;
        self.shard.look_soon(self.session);
    }

    /// Moves up to a pipe full.
    pub(super) fn splice_once(&mut self, direction: Direction) -> Moved {
        let Some(mut pipe) = self.shard.pipes().take() else {
            self.shard.cells().relay_pipes_exhausted.add(1);
            let flow = self.relay.flow(direction);
            flow.path = Path::Polled;
            // To be found out again, not to be tried with every read.
            flow.shape.cool();
            return self.move_once(direction);
        };
        let n = match pipe.fill(self.relay.socket(direction.source())) {
            Ok(n) => n,
            Err(error) => {
                self.shard.pipes().give(pipe);
                return match error.raw_os_error() {
                    Some(libc::EAGAIN) => Moved::Nothing,
                    // Not every socket can be spliced; the copy finds any other fault.
                    Some(libc::EINVAL | libc::ENOSYS) => {
                        self.relay.flow(direction).path = Path::Polled;
                        self.move_once(direction)
                    }
                    _ => Moved::End(FlowEnd::SourceFailed(Failure::of(&error))),
                };
            }
        };
        if n == 0 {
            self.shard.pipes().give(pipe);
            return self.fin_of_source(direction);
        }
        self.count_received(direction, n);
        match self.drain(direction, pipe) {
            Ok(None) => Moved::All { n, emptied: false },
            Ok(Some(pipe)) => {
                self.relay.flow(direction).rest = Some(Box::new(Rest::Pipe(pipe)));
                Moved::Stalled
            }
            Err(end) => Moved::End(end),
        }
    }

    /// Gives the sink what it takes. `Some`: it did not take all.
    pub(super) fn drain(
        &mut self,
        direction: Direction,
        mut pipe: Pipe,
    ) -> Result<Option<Pipe>, FlowEnd> {
        while pipe.held() > 0 {
            match pipe.drain(self.relay.socket(direction.sink())) {
                Ok(n) => self.count_sent(direction, n),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(Some(pipe)),
                Err(error) => {
                    let end = self.sink_failed(direction, &error);
                    self.shard.pipes().give(pipe);
                    return Err(end);
                }
            }
        }
        self.shard.pipes().give(pipe);
        Ok(None)
    }
}

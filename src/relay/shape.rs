//! What a flow looks like, and so how it is best moved. Pure.
//!
//! Small messages at intervals: poll, then receive into memory of the shard. Small messages one
//! after the other: keep a receive armed in the ring. A flood: leave the bytes in the kernel. Each
//! was measured against the others (docs/performance.md).

use crate::shard::wheel::Tick;
use crate::sys::BUFFER_LEN;

/// A flow that moved twice within this many ticks is busy; one quiet for as long is idle again.
pub const COOL_AFTER: Tick = 10;
/// From this size on a read is counted towards a flood, bytes.
const LARGE: usize = 16 * 1024;
/// This many large reads in a row are a flood.
const LARGE_IN_A_ROW: u8 = 8;
/// This many moves below [`LARGE`] in a row end one.
const SMALL_IN_A_ROW: u8 = 32;
/// This many moves that fit an armed buffer make a conversation: one alone may be the gap in a
/// flood, whose bytes would pile up in armed buffers if its sink stalled just then.
const SHORT_IN_A_ROW: u8 = 3;

/// Ways to move a flow's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Path {
    /// Wait in the epoll set; receive and send by calls.
    #[default]
    Polled,
    /// Keep a receive armed in the ring; send by calls.
    Armed,
    /// Wait in the epoll set; move through a pipe by splice(2).
    Spliced,
}

/// What was seen of one flow.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    moved_at: Tick,
    large: u8,
    small: u8,
    short: u8,
}

impl Shape {
    /// Nothing was seen yet.
    pub fn new() -> Shape {
        Shape { moved_at: Tick::MAX, large: 0, small: 0, short: 0 }
    }

    /// Learns from a move of `n` bytes on `path` at tick `now`: the path to take from here on.
    pub fn after_move(&mut self, path: Path, n: usize, now: Tick) -> Path {
        let busy = self.moved_at != Tick::MAX && now.saturating_sub(self.moved_at) < COOL_AFTER;
        self.moved_at = now;
        if n >= LARGE {
            self.large = self.large.saturating_add(1);
            self.small = 0;
        } else {
            self.large = 0;
            self.small = self.small.saturating_add(1);
        }
        self.short = if n < BUFFER_LEN { self.short.saturating_add(1) } else { 0 };
        match path {
            Path::Spliced if self.small < SMALL_IN_A_ROW => Path::Spliced,
            // A full buffer says that there is more than it holds.
            Path::Armed if n < BUFFER_LEN => Path::Armed,
            _ if self.large >= LARGE_IN_A_ROW => Path::Spliced,
            Path::Polled if busy && self.short >= SHORT_IN_A_ROW => Path::Armed,
            _ => Path::Polled,
        }
    }

    /// Whether nothing has moved for long.
    pub fn is_quiet(&self, now: Tick) -> bool {
        now.saturating_sub(self.moved_at) >= COOL_AFTER
    }

    /// Forgets that the flow was busy.
    pub fn cool(&mut self) {
        *self = Shape::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_polled_and_conversations_armed() {
        let mut shape = Shape::new();
        for beat in 0..5 {
            assert_eq!(shape.after_move(Path::Polled, 6, beat * 300), Path::Polled);
        }
        assert_eq!(shape.after_move(Path::Polled, 128, 1201), Path::Armed);
        assert_eq!(Shape::new().after_move(Path::Polled, 128, 1201), Path::Polled);
        assert_eq!(shape.after_move(Path::Armed, 128, 1202), Path::Armed);
        assert!(!shape.is_quiet(1211) && shape.is_quiet(1212));
    }

    #[test]
    fn a_message_that_fills_an_armed_buffer_is_better_called_for() {
        let mut shape = Shape::new();
        assert_eq!(shape.after_move(Path::Armed, BUFFER_LEN, 1), Path::Polled);
        assert_eq!(shape.after_move(Path::Polled, 3 * BUFFER_LEN, 1), Path::Polled);
    }

    #[test]
    fn a_flood_is_spliced_until_it_ebbs() {
        let mut shape = Shape::new();
        for _ in 1..LARGE_IN_A_ROW {
            assert_eq!(shape.after_move(Path::Polled, 64 << 10, 1), Path::Polled);
        }
        assert_eq!(shape.after_move(Path::Polled, 64 << 10, 1), Path::Spliced);
        for _ in 1..SMALL_IN_A_ROW {
            assert_eq!(shape.after_move(Path::Spliced, 100, 1), Path::Spliced);
        }
        assert_ne!(shape.after_move(Path::Spliced, 100, 1), Path::Spliced);
    }
}

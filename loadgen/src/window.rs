//! What a device waits for: which sequence numbers are out, and what an answer means. Pure.

use std::collections::VecDeque;

/// The frames of one device that are not answered yet.
#[derive(Debug, Default)]
pub struct Window {
    /// Sequence number and intended moment of sending (ns since the start of the run), ascending.
    waiting: VecDeque<(u64, u64)>,
    next: u64,
    /// One more than the largest number answered.
    answered_to: u64,
}

/// What an answer to a sequence number is. Times are intended moments of sending, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// As it should be.
    InOrder(u64),
    /// A frame sent later was answered before it.
    OutOfOrder(u64),
    /// It was answered, or given up, before.
    Duplicate,
    /// It was never sent.
    Unknown,
}

impl Window {
    /// Takes the next sequence number.
    pub fn send(&mut self, intended_ns: u64) -> u64 {
        let sequence = self.next;
        self.next += 1;
        self.waiting.push_back((sequence, intended_ns));
        sequence
    }

    /// Classifies an answer and takes it off.
    ///
    /// Numbers skipped by an answer stay: they are lost only if they never come.
    pub fn answer(&mut self, sequence: u64) -> Answer {
        if sequence >= self.next {
            return Answer::Unknown;
        }
        let Ok(position) = self.waiting.binary_search_by_key(&sequence, |entry| entry.0) else {
            return Answer::Duplicate;
        };
        let intended_ns = match self.waiting.remove(position) {
            Some((_, intended_ns)) => intended_ns,
            None => return Answer::Duplicate,
        };
        let in_order = sequence >= self.answered_to;
        self.answered_to = self.answered_to.max(sequence + 1);
        if in_order { Answer::InOrder(intended_ns) } else { Answer::OutOfOrder(intended_ns) }
    }

    /// Gives up on what is out; says how many and the first number.
    pub fn abandon(&mut self) -> Option<(usize, u64)> {
        let first = self.waiting.front()?.0;
        let count = self.waiting.len();
        self.waiting.clear();
        Some((count, first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(count: u64) -> Window {
        let mut window = Window::default();
        for n in 0..count {
            assert_eq!(window.send(100 + n), n);
        }
        window
    }

    #[test]
    fn in_order() {
        let mut window = sent(3);
        assert_eq!([0, 1, 2].map(|n| window.answer(n)), [100, 101, 102].map(Answer::InOrder));
        assert_eq!(window.abandon(), None);
    }

    #[test]
    fn one_lost_frame_is_one_fault() {
        let mut window = sent(4);
        assert_eq!([0, 2, 3].map(|n| window.answer(n)), [100, 102, 103].map(Answer::InOrder));
        assert_eq!(window.abandon(), Some((1, 1)));
        assert_eq!(window.answer(1), Answer::Duplicate);
    }

    #[test]
    fn swapped_frames_are_one_fault() {
        let mut window = sent(3);
        assert_eq!(window.answer(1), Answer::InOrder(101));
        assert_eq!(window.answer(0), Answer::OutOfOrder(100));
        assert_eq!(window.answer(2), Answer::InOrder(102));
        assert_eq!(window.abandon(), None);
    }

    #[test]
    fn repeated_and_invented_frames() {
        let mut window = sent(2);
        assert_eq!(window.answer(0), Answer::InOrder(100));
        assert_eq!(window.answer(0), Answer::Duplicate);
        assert_eq!(window.answer(2), Answer::Unknown);
        assert_eq!(window.abandon(), Some((1, 1)));
    }
}

//! What one shard remembers of one pool between picks.

use super::resty_roundrobin::Turn;

/// What one shard remembers of one pool between picks.
#[derive(Debug, Clone)]
pub struct PickState {
    /// Smooth round robin: current weight per backend.
    pub current: Vec<i64>,
    /// State of the pseudo-random generator.
    pub random: u64,
    /// Interleaved round robin.
    pub(super) turn: Turn,
    /// Whether a random start was made.
    pub(super) begun: bool,
}

impl PickState {
    /// A fresh state; `seed` decides where random choices start.
    pub fn new(count: usize, seed: u64) -> PickState {
        PickState { current: vec![0; count], random: seed, turn: Turn::default(), begun: false }
    }

    /// Follows a pool whose number of backends changed; picking does it by itself.
    /// Backends keep their turn by position, new ones start level: round robin compares current
    /// weights with each other only, so that whatever sum the old ones leave does no harm.
    pub fn resize(&mut self, count: usize) {
        self.current.resize(count, 0);
    }

    /// The state for another set of `count` backends, among which `position` finds those of this
    /// one by their index here: they keep their turn, new ones start level.
    pub fn moved(&self, count: usize, position: impl Fn(usize) -> Option<usize>) -> PickState {
        let mut current = vec![0; count];
        for (index, weight) in self.current.iter().enumerate().filter(|(_, weight)| **weight != 0) {
            if let Some(slot) = position(index).and_then(|index| current.get_mut(index)) {
                *slot = *weight;
            }
        }
        let last = position(self.turn.last).unwrap_or(self.turn.last);
        PickState { current, turn: Turn { last, ..self.turn }, ..*self }
    }
}

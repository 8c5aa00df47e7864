//! Cumulative weights: from a number below their sum to a backend, and what is below a backend.

/// Weights of the backends that take part, summed up in declared order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// Per backend: the sum up to and including it.
    cumulative: Box<[u64]>,
}

impl Shares {
    pub(super) fn new(weights: impl Iterator<Item = u32>) -> Shares {
        let mut sum = 0;
        let cumulative = weights.map(|weight| {
            sum += u64::from(weight);
            sum
        });
        Shares { cumulative: cumulative.collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.cumulative.len()
    }

    pub(super) fn total(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or(0)
    }

    /// The backend whose share this ticket, below the total, falls into.
    pub(super) fn at(&self, ticket: u64) -> Option<usize> {
        let index = self.cumulative.partition_point(|sum| *sum <= ticket);
        (index < self.cumulative.len()).then_some(index)
    }

    /// The sums before and after a backend; both 0 for one that does not exist.
    pub(super) fn around(&self, index: usize) -> (u64, u64) {
        let before = index.checked_sub(1).and_then(|index| self.cumulative.get(index));
        let after = self.cumulative.get(index);
        (before.copied().unwrap_or(0), after.copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ticket_has_its_backend() {
        let shares = Shares::new([2, 0, 1, 3].into_iter());
        assert_eq!(shares.total(), 6);
        let found: Vec<_> = (0..7).map(|ticket| shares.at(ticket)).collect();
        let expected = [0, 0, 2, 3, 3, 3].map(Some);
        assert_eq!(found[..6], expected);
        assert_eq!((found[6], Shares::new([].into_iter()).at(0)), (None, None));
        assert_eq!(
            (shares.around(0), shares.around(1), shares.around(3)),
            ((0, 2), (2, 2), (3, 6))
        );
    }
}

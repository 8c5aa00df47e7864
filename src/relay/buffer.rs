//! How large the buffer of an armed read should be: it follows the flow. Pure.

/// First buffer of a direction that became busy, bytes: several heartbeats, one small page of heap.
const FIRST: usize = 1024;
/// This many reads in a row that used less than an eighth make the buffer shrink.
const SMALL_READS_MAX: u32 = 32;

/// Size of one direction's buffer.
#[derive(Debug, Clone, Copy)]
pub struct BufferSize {
    bytes: usize,
    max: usize,
    small_reads: u32,
}

impl BufferSize {
    /// Starts small; never passes `max` bytes.
    pub fn new(max: usize) -> BufferSize {
        BufferSize { bytes: FIRST.min(max), max, small_reads: 0 }
    }

    /// The size to use for the next read.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Learns from a read of `n` bytes: a full buffer quadruples, one that stays nearly empty
    /// halves.
    pub fn after_read(&mut self, n: usize) {
        if n >= self.bytes {
            self.bytes = (self.bytes * 4).min(self.max);
            self.small_reads = 0;
        } else if n < self.bytes / 8 && self.bytes > FIRST {
            self.small_reads += 1;
            if self.small_reads >= SMALL_READS_MAX {
                self.bytes /= 2;
                self.small_reads = 0;
            }
        } else {
            self.small_reads = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_full_reads_up_to_the_maximum_and_shrinks_when_quiet() {
        let mut size = BufferSize::new(64 * 1024);
        for _ in 0..10 {
            size.after_read(size.bytes());
        }
        assert_eq!(size.bytes(), 64 * 1024);
        for _ in 0..10 * SMALL_READS_MAX {
            size.after_read(100);
        }
        assert_eq!(size.bytes(), FIRST);
    }

    #[test]
    fn a_steady_flow_keeps_its_buffer() {
        let mut size = BufferSize::new(64 * 1024);
        size.after_read(FIRST);
        let before = size.bytes();
        for _ in 0..1000 {
            size.after_read(before / 4);
        }
        assert_eq!(size.bytes(), before);
    }
}

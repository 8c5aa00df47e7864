//! Buffers that bytes of HTTP messages pass through, used again.

use std::cell::RefCell;

/// Bytes of one.
pub const LEN: usize = 16 * 1024;
/// Buffers kept while nobody uses them: a megabyte.
const FREE_MAX: usize = 64;

/// The free buffers of a shard.
#[derive(Debug, Default)]
pub struct Buffers {
    free: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    /// An empty buffer with room for [`LEN`] bytes.
    pub fn take(&self) -> Vec<u8> {
        self.free.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(LEN))
    }

    /// Takes a buffer back. One that has grown, or never had its size, is thrown away.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut free = self.free.borrow_mut();
        if buffer.capacity() == LEN && free.len() < FREE_MAX {
            buffer.clear();
            free.push(buffer);
        }
    }
}

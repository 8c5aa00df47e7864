//! A second ring per shard, for busy sockets: multishot receives into buffers they share.
//!
//! One receive is armed per busy socket and stays armed. When bytes come the kernel picks a buffer,
//! copies, and posts a completion: no call per message, no buffer per connection. The published
//! monoio has neither multishot operations nor buffer rings, so the ring stands beside its own, and
//! is awaited on it.

use std::alloc::{self, Layout};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode};

use super::WakeFd;

/// Bytes of a buffer. Larger messages are better received with a call and a larger buffer.
pub const BUFFER_LEN: usize = 4096;
/// Buffers of a shard, a power of two: one batch of completions between two turns.
const BUFFERS: u16 = 256;
/// Between two buffers: a cache line more than the length, for messages are short and buffers at
/// multiples of 4 KiB would all begin in the same cache set.
const STRIDE: usize = BUFFER_LEN + 64;
const PAGE: usize = 4096;
const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 8192;
const GROUP: u16 = 0;
/// Token of cancellations, which nobody waits for.
const CANCELLED: u64 = u64::MAX;

/// What an armed socket has for us.
#[derive(Debug)]
pub enum Received<'a> {
    /// Bytes.
    Bytes(&'a [u8]),
    /// The peer's FIN.
    Fin,
    /// All buffers were in use.
    NoBuffers,
    /// Taken back.
    Cancelled,
    /// What recv(2) says.
    Failed(io::Error),
}

/// The ring and its buffers.
pub struct Receiver {
    ring: RefCell<IoUring>,
    wake: WakeFd,
    buffers: Buffers,
    completed: RefCell<Vec<cqueue::Entry>>,
}

impl Receiver {
    /// A ring for the calling thread.
    ///
    /// # Errors
    /// What io_uring_setup(2) or io_uring_register(2) says.
    pub fn new() -> io::Result<Receiver> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let buffers = Buffers::new();
        // SAFETY: the entries are page-aligned, have room for BUFFERS, and are never freed.
        unsafe {
            ring.submitter().register_buf_ring(buffers.entries as u64, BUFFERS, GROUP)?;
        }
        buffers.give_all();
        // SAFETY: the ring is open while it is borrowed here; the clone is a descriptor of its own.
        let fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned()?;
        let wake = WakeFd::new(fd)?;
        let completed = RefCell::new(Vec::with_capacity(COMPLETIONS as usize));
        Ok(Receiver { ring: RefCell::new(ring), wake, buffers, completed })
    }

    /// Receives from a socket until it ends or is taken back. Each thing received comes with
    /// `token`.
    ///
    /// # Errors
    /// What io_uring_enter(2) says; nothing is armed then.
    pub fn arm(&self, socket: &impl AsRawFd, token: u64) -> io::Result<()> {
        let receive = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), GROUP).build();
        self.submit(receive.user_data(token))
    }

    /// Takes an armed receive back. What has come before is still given, then `Cancelled`, unless
    /// the receive ended by itself meanwhile.
    ///
    /// # Errors
    /// What io_uring_enter(2) says; the receive stays armed then.
    pub fn cancel(&self, token: u64) -> io::Result<()> {
        let cancel = opcode::AsyncCancel::new(token).build();
        self.submit(cancel.user_data(CANCELLED))
    }

    fn submit(&self, entry: io_uring::squeue::Entry) -> io::Result<()> {
        let mut ring = self.ring.borrow_mut();
        // SAFETY: neither operation names memory of ours: receives use the registered buffers.
        let full = unsafe { ring.submission().push(&entry) };
        if full.is_err() {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        ring.submit().map(|_count| ())
    }

    /// Waits until there is something to take.
    ///
    /// # Errors
    /// What the ring says.
    pub async fn ready(&self) -> io::Result<()> {
        self.wake.readable().await
    }

    /// Takes what has completed: token, what came, and whether the receive is still armed. Bytes
    /// are valid during the call only. Returns how many there were.
    pub fn take(&self, mut each: impl FnMut(u64, Received<'_>, bool)) -> usize {
        let mut completed = self.completed.take();
        completed.extend(self.ring.borrow_mut().completion());
        let count = completed.len();
        for entry in completed.drain(..) {
            if entry.user_data() == CANCELLED {
                continue;
            }
            let armed = cqueue::more(entry.flags());
            let Some(buffer) = cqueue::buffer_select(entry.flags()) else {
                each(entry.user_data(), outcome(entry.result()), armed);
                continue;
            };
            let len = usize::try_from(entry.result()).unwrap_or(0).min(BUFFER_LEN);
            // SAFETY: the kernel has given this buffer back to us, with `len` bytes initialised,
            // and does not touch it before `give`.
            let bytes = unsafe { std::slice::from_raw_parts(self.buffers.at(buffer), len) };
            let received = if len == 0 { Received::Fin } else { Received::Bytes(bytes) };
            each(entry.user_data(), received, armed);
            self.buffers.give(buffer);
        }
        self.completed.replace(completed);
        count
    }
}

fn outcome(result: i32) -> Received<'static> {
    match -result {
        0 => Received::Fin,
        libc::ENOBUFS => Received::NoBuffers,
        libc::ECANCELED => Received::Cancelled,
        error => Received::Failed(io::Error::from_raw_os_error(error)),
    }
}

/// Buffers and the ring that lends them to the kernel. The memory lives as long as the process: a
/// ring is torn down some time after it is closed, and may write until then.
struct Buffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    tail: Cell<u16>,
}

impl Buffers {
    fn new() -> Buffers {
        let zeroed = |len: usize| {
            let layout = Layout::from_size_align(len, PAGE).expect("sizes are constants");
            // SAFETY: the layout has a size.
            let memory = unsafe { alloc::alloc_zeroed(layout) };
            if memory.is_null() {
                alloc::handle_alloc_error(layout);
            }
            memory
        };
        let entries = zeroed(usize::from(BUFFERS) * size_of::<BufRingEntry>()).cast();
        let memory = zeroed(usize::from(BUFFERS) * STRIDE);
        Buffers { entries, memory, tail: Cell::new(0) }
    }

    fn at(&self, buffer: u16) -> *mut u8 {
        let index = usize::from(buffer) % usize::from(BUFFERS);
        // SAFETY: the index is within the memory.
        unsafe { self.memory.add(index * STRIDE) }
    }

    fn give_all(&self) {
        for buffer in 0..BUFFERS {
            self.give(buffer);
        }
    }

    /// Lends a buffer to the kernel.
    fn give(&self, buffer: u16) {
        let tail = self.tail.get();
        let address = self.at(buffer) as u64;
        // SAFETY: the slot is within the entries. The kernel reads it only after it has seen the
        // new tail, and its tail shares memory with the unused last field of the first entry.
        unsafe {
            let entry = &mut *self.entries.add(usize::from(tail % BUFFERS));
            entry.set_addr(address);
            entry.set_len(BUFFER_LEN as u32);
            entry.set_bid(buffer);
        }
        let tail = tail.wrapping_add(1);
        self.tail.set(tail);
        // SAFETY: the tail is 2 aligned bytes of the entries, written only here and read by the
        // kernel; an atomic store publishes the slot before it.
        unsafe {
            let shared = BufRingEntry::tail(self.entries).cast_mut();
            AtomicU16::from_ptr(shared).store(tail, Ordering::Release);
        }
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("entries", &ptr::from_ref(&self.buffers)).finish()
    }
}

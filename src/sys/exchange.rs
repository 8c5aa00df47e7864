//! A second ring per shard, for busy sockets: multishot receives into buffers they share, and sends
//! from the same buffers, a batch at a time.
//!
//! One receive is armed per busy socket and stays armed. When bytes come the kernel picks a buffer,
//! copies, and posts a completion: no call per message, no buffer per connection. The published
//! monoio has neither multishot operations nor buffer rings, so the ring stands beside its own, and
//! is awaited on it.

use std::alloc::{self, Layout};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};

use rustix::net::{SendFlags, send};

use super::{WakeFd, always_readable};

/// Bytes of a buffer. Larger messages are better received with a call and a larger buffer.
pub const BUFFER_LEN: usize = 4096;
/// Buffers of a shard, a power of two: one batch of completions between two turns. Also what a flow
/// that turns into a flood can fill before its receive is taken back.
const BUFFERS: u16 = 128;
/// Between two buffers: a cache line more than the length, for messages are short and buffers at
/// multiples of 4 KiB would all begin in the same cache set.
const STRIDE: usize = BUFFER_LEN + 64;
const PAGE: usize = 4096;
const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 8192;
const GROUP: u16 = 0;
/// Marks the completion of a send; the rest is its index.
const SENT: u64 = 1 << 63;
/// And that of one of [`Exchange::send_all`].
const GATHERED: u64 = 1 << 62;
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

/// What to do about something received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing more.
    Done,
    /// Send the bytes to this socket, and say what came of it. The descriptor must stay open until
    /// then.
    Send(RawFd),
    /// Do first what was to be sent, and then ask again: sends of one flow must not overtake each
    /// other when the first is taken in part.
    Flush,
}

/// Who is told.
pub trait Listen {
    /// An armed socket has something; `armed`: and its receive stays armed.
    fn received(&mut self, token: u64, what: &Received<'_>, armed: bool) -> Answer;
    /// What came of a send: how many of the bytes were taken.
    fn sent(&mut self, token: u64, bytes: &[u8], sent: io::Result<usize>);
}

/// The ring and its buffers.
pub struct Exchange {
    ring: RefCell<IoUring>,
    wake: WakeFd,
    /// Is always readable: a way to let others have a turn.
    always: WakeFd,
    buffers: Buffers,
    completed: RefCell<VecDeque<cqueue::Entry>>,
    sending: RefCell<Vec<Sending>>,
    /// Of the sends of one [`Exchange::send_all`]: which were not taken whole, and what the kernel
    /// says of them.
    missed: RefCell<Vec<(usize, i32)>>,
}

/// A send that is queued or done.
#[derive(Debug, Clone, Copy)]
struct Sending {
    token: u64,
    buffer: u16,
    len: u16,
    /// What the kernel says, unless it took everything.
    result: Option<i32>,
}

impl Exchange {
    /// A ring for the calling thread.
    ///
    /// # Errors
    /// What io_uring_setup(2) or io_uring_register(2) says.
    pub fn new() -> io::Result<Exchange> {
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
        for buffer in 0..BUFFERS {
            buffers.give(buffer);
        }
        // SAFETY: the ring is open while it is borrowed here; the clone is a descriptor of its own.
        let fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned()?;
        let wake = WakeFd::new(fd)?;
        Ok(Exchange {
            ring: RefCell::new(ring),
            wake,
            always: always_readable()?,
            buffers,
            completed: RefCell::default(),
            sending: RefCell::default(),
            missed: RefCell::default(),
        })
    }

    /// Receives from a socket until it ends or is taken back. Each thing received comes with
    /// `token`, whose highest bit is not set.
    ///
    /// # Errors
    /// What io_uring_enter(2) says; nothing is armed then.
    pub fn arm(&self, socket: &impl AsRawFd, token: u64) -> io::Result<()> {
        let receive = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), GROUP).build();
        // SAFETY: the operation names no memory of ours: it uses the registered buffers.
        unsafe { self.push(&receive.user_data(token))? };
        self.submit()
    }

    /// Takes an armed receive back. What has come before is still given, then `Cancelled`, unless
    /// the receive ended by itself meanwhile.
    ///
    /// # Errors
    /// What io_uring_enter(2) says; the receive stays armed then.
    pub fn cancel(&self, token: u64) -> io::Result<()> {
        let cancel = opcode::AsyncCancel::new(token).build();
        // SAFETY: the operation names no memory.
        unsafe { self.push(&cancel.user_data(CANCELLED))? };
        self.submit()
    }

    /// # Safety
    /// Memory that the entry names must be valid until it has completed.
    unsafe fn push(&self, entry: &squeue::Entry) -> io::Result<()> {
        let mut ring = self.ring.borrow_mut();
        // SAFETY: the caller's promise.
        if unsafe { ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        ring.submit()?;
        // SAFETY: the caller's promise.
        unsafe { ring.submission().push(entry) }
            .map_err(|_full| io::Error::from(io::ErrorKind::WouldBlock))
    }

    /// Submits everything: the kernel may take a part when it is short of memory, and what is left
    /// names memory of ours.
    fn submit(&self) -> io::Result<()> {
        let mut ring = self.ring.borrow_mut();
        loop {
            let count = ring.submit()?;
            if ring.submission().is_empty() {
                return Ok(());
            }
            if count == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
        }
    }

    /// Waits until there is something to take. When there already is, other tasks get a turn of
    /// monoio's ring first.
    ///
    /// # Errors
    /// What the ring says.
    pub async fn ready(&self) -> io::Result<()> {
        // Taken off the ring already: nothing would report it again.
        if self.completed.borrow().is_empty() {
            self.wake.readable().await
        } else {
            self.always.readable().await
        }
    }

    /// Tells what has completed, and sends what is to be sent. Returns how much there was.
    ///
    /// # Errors
    /// What io_uring_enter(2) says.
    pub fn turn(&self, listener: &mut impl Listen) -> io::Result<usize> {
        self.reap();
        let mut count = 0;
        loop {
            let next = self.completed.borrow_mut().pop_front();
            let Some(entry) = next else { break };
            count += 1;
            self.tell(&entry, listener)?;
        }
        self.flush(listener)?;
        Ok(count)
    }

    fn tell(&self, entry: &cqueue::Entry, listener: &mut impl Listen) -> io::Result<()> {
        let (token, armed) = (entry.user_data(), cqueue::more(entry.flags()));
        let buffer = cqueue::buffer_select(entry.flags());
        let len = usize::try_from(entry.result()).unwrap_or(0).min(BUFFER_LEN);
        let what = match buffer {
            Some(buffer) if len > 0 => Received::Bytes(self.buffers.bytes(buffer, len)),
            _ => outcome(entry.result()),
        };
        let mut answer = listener.received(token, &what, armed);
        if answer == Answer::Flush {
            self.flush(listener)?;
            answer = listener.received(token, &what, armed);
        }
        match (answer, buffer) {
            // A batch of one: the call alone is cheaper than the operation and its submission.
            (Answer::Send(socket), Some(buffer)) if self.is_last() => {
                let bytes = self.buffers.bytes(buffer, len);
                // SAFETY: whoever answered keeps the descriptor open until it is told.
                let socket = unsafe { BorrowedFd::borrow_raw(socket) };
                let sent = send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
                listener.sent(token, bytes, sent.map_err(io::Error::from));
                self.buffers.give(buffer);
                Ok(())
            }
            (Answer::Send(socket), Some(buffer)) => {
                self.queue(socket, Sending { token, buffer, len: len as u16, result: None })
            }
            (_, Some(buffer)) => {
                self.buffers.give(buffer);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether something was taken off the ring that nobody was told yet: [`Exchange::turn`].
    pub fn is_holding(&self) -> bool {
        !self.completed.borrow().is_empty()
    }

    /// Makes many sends with one system call, none of which waits. `missed` is told, by its place,
    /// of each that was not taken whole, and how many bytes were. Takes completions off the ring:
    /// see [`Exchange::is_holding`].
    ///
    /// # Errors
    /// What io_uring_enter(2) says. The ring may still name the bytes then: the process has to end.
    pub fn send_all<'s>(
        &self,
        sends: impl Iterator<Item = (BorrowedFd<'s>, &'s [u8])>,
        mut missed: impl FnMut(usize, io::Result<usize>),
    ) -> io::Result<()> {
        for (index, (socket, bytes)) in sends.enumerate() {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let send = send_operation(socket.as_raw_fd(), bytes.as_ptr(), len);
            // SAFETY: the bytes outlive this call, and a send that does not wait is over when it
            // has been submitted, which is below, or by `push` when the queue is full.
            unsafe { self.push(&send.user_data(SENT | GATHERED | index as u64))? };
        }
        self.submit()?;
        self.reap();
        for (index, result) in self.missed.borrow_mut().drain(..) {
            missed(index, sent(result));
        }
        Ok(())
    }

    /// Whether nothing else is queued or to be told.
    fn is_last(&self) -> bool {
        self.sending.borrow().is_empty() && self.completed.borrow().is_empty()
    }

    /// Queues a send from a buffer.
    fn queue(&self, socket: RawFd, sending: Sending) -> io::Result<()> {
        let mut all = self.sending.borrow_mut();
        let bytes = self.buffers.at(sending.buffer);
        let send = send_operation(socket, bytes, sending.len.into());
        let send = send.user_data(SENT | all.len() as u64);
        all.push(sending);
        // SAFETY: the buffer is given back only after the send is done.
        unsafe { self.push(&send) }
    }

    /// Sends what is queued and says what came of it.
    fn flush(&self, listener: &mut impl Listen) -> io::Result<()> {
        if self.sending.borrow().is_empty() {
            return Ok(());
        }
        self.submit()?;
        self.reap();
        let mut sending = self.sending.take();
        for Sending { token, buffer, len, result } in sending.drain(..) {
            let bytes = self.buffers.bytes(buffer, len.into());
            let outcome = match result {
                None => Ok(bytes.len()),
                Some(result) => sent(result),
            };
            listener.sent(token, bytes, outcome);
            self.buffers.give(buffer);
        }
        if self.sending.borrow().is_empty() {
            self.sending.replace(sending);
        }
        Ok(())
    }

    /// Takes completions off the ring: failed sends are noted, the rest is told later.
    fn reap(&self) {
        let mut ring = self.ring.borrow_mut();
        let mut completed = self.completed.borrow_mut();
        for entry in ring.completion() {
            match entry.user_data() {
                CANCELLED => {}
                tagged if tagged & (SENT | GATHERED) == SENT | GATHERED => {
                    let index = (tagged & !(SENT | GATHERED)) as usize;
                    self.missed.borrow_mut().push((index, entry.result()));
                }
                tagged if tagged & SENT != 0 => {
                    let mut sending = self.sending.borrow_mut();
                    if let Some(sending) = sending.get_mut((tagged & !SENT) as usize) {
                        sending.result = Some(entry.result());
                    }
                }
                _ => completed.push_back(entry),
            }
        }
    }
}

/// A send that is done when it has been submitted: MSG_DONTWAIT keeps the kernel from arming a poll
/// for it, MSG_WAITALL makes it fail when a part is left, and only failures are completed.
fn send_operation(socket: RawFd, bytes: *const u8, len: u32) -> squeue::Entry {
    opcode::Send::new(Fd(socket), bytes, len)
        .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
}

/// What a completion says of a send.
fn sent(result: i32) -> io::Result<usize> {
    match result {
        taken @ 0.. => Ok(taken.unsigned_abs() as usize),
        error => Err(io::Error::from_raw_os_error(-error)),
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

    /// What the kernel put into a buffer that it has given back.
    fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        // SAFETY: the memory is initialised (zeroed at first), never freed, and not written by the
        // kernel between its completion and `give`.
        unsafe { std::slice::from_raw_parts(self.at(buffer), len.min(BUFFER_LEN)) }
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

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("buffers", &BUFFERS).finish()
    }
}

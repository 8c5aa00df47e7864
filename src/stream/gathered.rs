//! A plain connection whose small sends are made together with those of others.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use crate::shard::outbox::Outbox;
use crate::sys::Socket;

/// Longest send that is gathered, bytes; a longer one is not dearer by a call of its own.
const GATHERED_LEN_MAX: usize = 4096;

/// A socket, and what it was to send.
#[derive(Debug)]
pub struct Gathered {
    socket: Socket,
    outbox: Rc<Outbox>,
    /// Who is told when it did not take everything.
    token: Cell<u64>,
    /// Whether the outbox has a send of it.
    queued: Cell<bool>,
    /// What was taken for sending, and the socket has not.
    left: RefCell<Vec<u8>>,
}

impl Gathered {
    /// A socket whose session has this token.
    pub fn new(socket: Socket, outbox: Rc<Outbox>, token: u64) -> Rc<Gathered> {
        Rc::new(Gathered {
            socket,
            outbox,
            token: Cell::new(token),
            queued: Cell::new(false),
            left: RefCell::default(),
        })
    }

    /// The socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Takes bytes for sending, all of them if they are few.
    ///
    /// # Errors
    /// `WouldBlock` while earlier bytes are left, or what send(2) says of them.
    pub fn send(self: &Rc<Self>, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        if bytes.len() > GATHERED_LEN_MAX {
            return self.socket.send(bytes);
        }
        self.queued.set(true);
        self.outbox.push(self, bytes);
        Ok(bytes.len())
    }

    /// Sends what was taken.
    ///
    /// # Errors
    /// `WouldBlock` when some of it is left, or what send(2) says.
    pub fn flush(&self) -> io::Result<()> {
        if self.queued.get() {
            self.outbox.flush();
        }
        let mut left = self.left.borrow_mut();
        while !left.is_empty() {
            let taken = self.socket.send(&left)?;
            let taken = taken.min(left.len());
            left.drain(..taken);
        }
        // Few connections ever need it.
        *left = Vec::new();
        Ok(())
    }

    /// Bytes that were taken and that the socket is known not to have.
    pub fn left_len(&self) -> usize {
        self.left.borrow().len()
    }

    /// Whether the socket has everything that was taken.
    pub fn is_settled(&self) -> bool {
        !self.queued.get() && self.left_len() == 0
    }

    /// The socket alone, unless something is left to send.
    ///
    /// # Errors
    /// The connection as it was.
    pub fn into_socket(self: Rc<Self>) -> Result<Socket, Rc<Gathered>> {
        if self.flush().is_err() {
            return Err(self);
        }
        Rc::try_unwrap(self).map(|gathered| gathered.socket)
    }

    /// Who is told.
    pub fn token(&self) -> u64 {
        self.token.get()
    }

    /// Another session has it from now on.
    pub fn set_token(&self, token: u64) {
        self.token.set(token);
    }

    /// Notes what a send has left.
    pub fn leave(&self, rest: &[u8]) {
        self.left.borrow_mut().extend_from_slice(rest);
    }

    /// The outbox has no send of it any more.
    pub fn done(&self) {
        self.queued.set(false);
    }
}

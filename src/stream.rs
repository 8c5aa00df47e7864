//! A connection whose bytes may be inside TLS: non-blocking calls over a shard's socket.
//!
//! Waiting is the business of whoever holds the stream: receive until `WouldBlock`, then wait for
//! the socket with [`Stream::wants`] added to what one waits for. A TLS session may hold bytes that
//! came already, of which the epoll set says nothing, so a wait before `WouldBlock` may last for
//! ever.

mod gathered;

use std::io;
use std::net::Shutdown;
use std::rc::Rc;

use socket2::SockRef;

pub use self::gathered::Gathered;
use crate::shard::outbox::Outbox;
use crate::sys::{Interest, Socket};
use crate::tls;

/// One side of a session.
#[derive(Debug)]
pub enum Stream {
    /// The bytes as they are.
    Plain(Socket),
    /// The same, small sends together with those of others.
    Gathered(Rc<Gathered>),
    /// Inside TLS, whose handshake is over.
    Tls(Box<tls::Session>),
}

impl Stream {
    /// Appends what is there to `buf`, up to its spare capacity, which must not be 0; never waits.
    /// 0 is the peer's end: FIN, or with TLS its close_notify.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; what recv(2) says; what [`tls::Failure::of`] knows: an
    /// end without close_notify is [`tls::Failure::Truncated`].
    pub fn receive_more(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.receive_more(buf),
            Stream::Gathered(gathered) => gathered.socket().receive_more(buf),
            Stream::Tls(session) => session.receive_more(buf),
        }
    }

    /// Takes what fits of `bytes` for sending; never waits. What TLS has taken and the socket has
    /// not is at most two records; it leaves with the next `send` or [`Stream::flush`].
    ///
    /// # Errors
    /// `WouldBlock` when nothing was taken, or what send(2) or TLS says.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.send(bytes),
            Stream::Gathered(gathered) => gathered.send(bytes),
            Stream::Tls(session) => session.send(bytes),
        }
    }

    /// Sends what was taken and is still here.
    ///
    /// # Errors
    /// `WouldBlock` when some of it is left, or what send(2) says.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Gathered(gathered) => gathered.flush(),
            Stream::Tls(session) => session.flush(),
        }
    }

    /// What to wait for besides what the caller is after: room, while records wait for it. Whoever
    /// is told of room flushes.
    pub fn wants(&self) -> Interest {
        match self {
            Stream::Plain(_) => Interest::default(),
            Stream::Gathered(gathered) => {
                Interest { room: gathered.left_len() > 0, ..Interest::default() }
            }
            Stream::Tls(session) => session.wants(),
        }
    }

    /// Ends our direction: FIN, or close_notify and then FIN. The other direction goes on.
    ///
    /// # Errors
    /// `WouldBlock` when records wait for room before it: flush, and call it again. Otherwise what
    /// shutdown(2) says.
    pub fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => SockRef::from(&*socket).shutdown(Shutdown::Write),
            Stream::Gathered(gathered) => {
                gathered.flush()?;
                SockRef::from(gathered.socket()).shutdown(Shutdown::Write)
            }
            Stream::Tls(session) => session.shutdown(),
        }
    }

    /// Whether bytes were received that the next [`Stream::receive_more`] may give without the
    /// socket. They are not much.
    pub fn is_holding(&self) -> bool {
        match self {
            Stream::Plain(_) | Stream::Gathered(_) => false,
            Stream::Tls(session) => session.is_holding(),
        }
    }

    /// The socket, to wait for and to ask for addresses. Its bytes belong to the stream.
    pub fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Gathered(gathered) => gathered.socket(),
            Stream::Tls(session) => session.socket(),
        }
    }

    /// Has small sends of a plain stream made together with those of others from now on. What a
    /// socket does not take of them then stays here as TLS's records do, and the session that
    /// `token` names is told.
    pub fn gather(self, outbox: &Rc<Outbox>, token: u64) -> Stream {
        match self {
            Stream::Plain(socket) => Stream::Gathered(Gathered::new(socket, outbox.clone(), token)),
            other => other,
        }
    }

    /// Another session has the stream from now on.
    pub fn set_token(&self, token: u64) {
        if let Stream::Gathered(gathered) = self {
            gathered.set_token(token);
        }
    }

    /// Whether the socket has everything that [`Stream::send`] took.
    pub fn is_settled(&self) -> bool {
        match self {
            Stream::Plain(_) => true,
            Stream::Gathered(gathered) => gathered.is_settled(),
            Stream::Tls(session) => !session.wants().room,
        }
    }

    /// Bytes without TLS that [`Stream::send`] took and the socket is known not to have.
    pub fn left_len(&self) -> usize {
        match self {
            Stream::Gathered(gathered) => gathered.left_len(),
            Stream::Plain(_) | Stream::Tls(_) => 0,
        }
    }

    /// The socket of a stream without TLS.
    ///
    /// # Errors
    /// The stream itself if it has TLS, whose bytes nobody else can read, or something to send.
    pub fn into_plain(self) -> Result<Socket, Stream> {
        match self {
            Stream::Plain(socket) => Ok(socket),
            Stream::Gathered(gathered) => gathered.into_socket().map_err(Stream::Gathered),
            tls @ Stream::Tls(_) => Err(tls),
        }
    }

    /// The TLS session, if there is one: its name, version and protocol.
    pub fn tls(&self) -> Option<&tls::Session> {
        match self {
            Stream::Plain(_) | Stream::Gathered(_) => None,
            Stream::Tls(session) => Some(session),
        }
    }
}

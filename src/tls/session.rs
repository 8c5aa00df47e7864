//! One TLS connection over a non-blocking socket, with no buffer while it is idle.
//!
//! rustls runs without buffers of its own here: bytes are received into memory of the thread and
//! decrypted from there. Only a record that has not come whole, plaintext that nobody has taken,
//! and records that the socket has not taken are kept with the session.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;

use socket2::SockRef;
use tokio_rustls::rustls::client::UnbufferedClientConnection;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::server::UnbufferedServerConnection;
use tokio_rustls::rustls::{
    ClientConfig, CommonState, Error, HandshakeKind, ProtocolVersion, ServerConfig,
};

use super::step::{Held, Outputs, Step, Write};
use super::{Asked, Failure, asked};
use crate::sys::{Interest, Socket};

/// Longest record on the wire, bytes: 16 KiB of text, its header, and what TLS 1.2 may add.
const RECORD_LEN_MAX: usize = 5 + 16_384 + 2_048;
/// Most plaintext taken by one send, bytes: two records.
const SEND_LEN_MAX: usize = 32_768;
/// Most bytes that are looked at together. The longest handshake message, 64 KiB, fits in records.
const WINDOW_LEN: usize = 5 * RECORD_LEN_MAX;

thread_local! {
    /// Memory that records come in through.
    static WINDOW: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Which side of the handshake is ours.
enum Connection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// A TLS connection.
pub struct Session {
    socket: Socket,
    connection: Connection,
    /// What the client named in its first message.
    name: Option<Box<str>>,
    /// Received, and not whole records yet, or not needed yet.
    incoming: Vec<u8>,
    /// Decrypted, and not taken yet: one record.
    plain: Held,
    /// Encrypted, and not taken by the socket yet.
    outgoing: Held,
    /// `incoming` gives nothing without more bytes.
    hungry: bool,
    /// The peer's close_notify has come.
    peer_closed: bool,
    /// Our close_notify is in `outgoing`, or sent.
    closed: bool,
    failed: Option<Failure>,
}

impl Session {
    /// Begins a handshake with a client.
    ///
    /// # Errors
    /// What rustls has against the configuration.
    pub fn accept(socket: Socket, config: Arc<ServerConfig>) -> Result<Session, Failure> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Session::new(socket, Connection::Server(connection)))
    }

    /// Begins a handshake with a backend of this name.
    ///
    /// # Errors
    /// What rustls has against the configuration or the name.
    pub fn connect(
        socket: Socket,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Session, Failure> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Session::new(socket, Connection::Client(connection)))
    }

    fn new(socket: Socket, connection: Connection) -> Session {
        Session {
            socket,
            connection,
            name: None,
            incoming: Vec::new(),
            plain: Held::default(),
            outgoing: Held::default(),
            hungry: false,
            peer_closed: false,
            closed: false,
            failed: None,
        }
    }

    /// Takes bytes that were received from the socket before the handshake began.
    pub fn received_before(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// Goes on with the handshake as far as it gets. After `Ok` the session may be used.
    ///
    /// # Errors
    /// `WouldBlock` when the peer's next bytes are missing, or with [`Session::wants`] room for
    /// ours; an end is [`Failure::Truncated`]; what recv(2), send(2) or TLS says.
    pub fn handshake(&mut self) -> io::Result<()> {
        loop {
            self.look(None, false)?;
            let flushed = self.flush();
            if let Some(failure) = &self.failed {
                return Err(failure.clone().into());
            }
            flushed?;
            if !self.state().is_handshaking() {
                return Ok(());
            }
            if self.peer_closed {
                return Err(Failure::Truncated.into());
            }
            self.look(None, true)?;
        }
    }

    /// See `Stream::receive_more`.
    pub fn receive_more(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let before = buf.len();
        loop {
            self.plain.give(buf);
            if buf.len() > before {
                return Ok(buf.len() - before);
            }
            if let Some(failure) = &self.failed {
                return Err(failure.clone().into());
            }
            if self.peer_closed {
                return Ok(0);
            }
            self.look(Some(buf), self.hungry)?;
            // Answers to key updates, and the alert of a failure. A socket that takes no more shows
            // it when something is sent.
            let _later = self.flush();
        }
    }

    /// See `Stream::send`.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let bytes = &bytes[..bytes.len().min(SEND_LEN_MAX)];
        self.write(Write::Data(bytes))?;
        self.flush_some()?;
        Ok(bytes.len())
    }

    /// See `Stream::flush`.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.outgoing.rest() {
            let sent = self.socket.send(rest)?;
            self.outgoing.advance(sent);
        }
        Ok(())
    }

    /// Sends what the socket takes; what it does not is no error.
    fn flush_some(&mut self) -> io::Result<()> {
        match self.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    /// See `Stream::wants`.
    pub fn wants(&self) -> Interest {
        Interest { input: false, room: self.outgoing.rest().is_some() }
    }

    /// See `Stream::shutdown`.
    pub fn shutdown(&mut self) -> io::Result<()> {
        if !self.closed {
            self.write(Write::CloseNotify)?;
            self.closed = true;
        }
        self.flush()?;
        SockRef::from(&self.socket).shutdown(Shutdown::Write)
    }

    /// See `Stream::is_holding`.
    pub fn is_holding(&self) -> bool {
        self.plain.rest().is_some() || (!self.hungry && !self.incoming.is_empty())
    }

    /// Whether nothing is here: no bytes of the peer's that nobody has taken, no record of ours
    /// that the socket has not, and no end.
    pub fn is_quiet(&self) -> bool {
        let nothing = self.plain.rest().is_none() && self.outgoing.rest().is_none();
        nothing && self.incoming.is_empty() && !self.peer_closed && self.failed.is_none()
    }

    /// See `Stream::socket`.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The name that the client asked for, in lower case (SNI); `None` if it named none, or the
    /// session is one of ours to a backend.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The protocol that both sides agreed on (ALPN), such as `http/1.1`.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.state().alpn_protocol()
    }

    /// TLS 1.2 or 1.3, once that is known.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.state().protocol_version()
    }

    /// Whether the handshake was shortened by a ticket of an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Bytes of buffers that the session holds: 0 while it is idle, but for a record half here.
    pub fn held_len(&self) -> usize {
        self.incoming.capacity() + self.plain.bytes.capacity() + self.outgoing.bytes.capacity()
    }

    fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Server(connection) => connection,
            Connection::Client(connection) => connection,
        }
    }

    /// Looks at what was received, after receiving more if `receive`, until `taker` is full or
    /// nothing is left to see. A failure of TLS is kept, behind the plaintext before it.
    fn look(&mut self, mut taker: Option<&mut Vec<u8>>, receive: bool) -> io::Result<()> {
        WINDOW.with_borrow_mut(|window| {
            // Once per thread.
            window.resize(WINDOW_LEN, 0);
            let kept = self.incoming.len().min(WINDOW_LEN);
            let mut end = kept;
            if receive {
                let room = taker.as_ref().map_or(0, |taker| taker.capacity() - taker.len());
                let limit = (kept + 1).max(RECORD_LEN_MAX).max(room).min(WINDOW_LEN);
                // Part of a handshake message is here: its other records are wanted.
                let limit = if kept >= RECORD_LEN_MAX { WINDOW_LEN } else { limit };
                match window.get_mut(kept..limit).filter(|free| !free.is_empty()) {
                    Some(free) => match self.socket.receive(free)? {
                        0 => self.failed = self.failed.take().or(Some(Failure::Truncated)),
                        received => end += received,
                    },
                    None => self.failed = Some(Error::PeerSentOversizedRecord.into()),
                }
            }
            window[..kept].copy_from_slice(&self.incoming[..kept]);
            let mut from = 0;
            self.hungry = false;
            while self.failed.is_none() && !self.hungry && !self.peer_closed {
                let is_full = taker.as_ref().is_some_and(|taker| taker.len() == taker.capacity());
                if is_full || self.plain.rest().is_some() {
                    break;
                }
                let (discard, step) =
                    self.step(&mut window[from..end], taker.as_deref_mut(), Write::Nothing);
                from += discard;
                self.note(step);
            }
            self.incoming.clear();
            self.incoming.extend_from_slice(&window[from..end]);
            if self.incoming.is_empty() {
                self.incoming = Vec::new();
            }
            Ok(())
        })
    }

    fn note(&mut self, step: Step) {
        match step {
            Step::More | Step::Written => {}
            Step::Hungry => self.hungry = true,
            Step::PeerClosed => self.peer_closed = true,
            Step::Failed(failure) => {
                self.failed = Some(failure);
                self.encode_alert();
            }
        }
    }

    /// What rustls has to say to the peer about a failure goes out, if it gets that far. Only that:
    /// a connection that has failed must not be shown what comes behind.
    fn encode_alert(&mut self) {
        while self.state().wants_write() {
            let (_, Step::More) = self.step(&mut [], None, Write::Nothing) else { return };
        }
    }

    /// Encrypts something into `outgoing`.
    fn write(&mut self, what: Write<'_>) -> io::Result<()> {
        loop {
            if let Some(failure) = &self.failed {
                return Err(failure.clone().into());
            }
            let mut incoming = std::mem::take(&mut self.incoming);
            let (discard, step) = self.step(&mut incoming, None, what);
            if discard > 0 {
                incoming.drain(..discard.min(incoming.len()));
            }
            self.incoming = incoming;
            match step {
                Step::Written => return Ok(()),
                // Before the handshake is over, or after our close_notify.
                Step::Hungry => return Err(io::ErrorKind::NotConnected.into()),
                step => self.note(step),
            }
        }
    }

    /// Lets rustls look once. Returns how many bytes of the front are done with.
    fn step(
        &mut self,
        bytes: &mut [u8],
        taker: Option<&mut Vec<u8>>,
        write: Write<'_>,
    ) -> (usize, Step) {
        let (plain, outgoing) = (&mut self.plain, &mut self.outgoing);
        let outputs = Outputs { taker, plain, outgoing };
        match &mut self.connection {
            Connection::Server(connection) => {
                let (asked, (discard, mut step)) =
                    asked(|| outputs.take(connection.process_tls_records(bytes), write));
                if let Some(Asked { name, served }) = asked {
                    self.name = name;
                    if let (Step::Failed(failure), false) = (&mut step, served) {
                        *failure = Failure::UnknownName;
                    }
                }
                (discard, step)
            }
            Connection::Client(connection) => {
                outputs.take(connection.process_tls_records(bytes), write)
            }
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("socket", &self.socket)
            .field("name", &self.name)
            .field("version", &self.version())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

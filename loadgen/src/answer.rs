//! What a message server does on one connection: read frames, answer them, or do it wrong.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::backend::{Buffers, Server};
use crate::cli::AnswerMode;
use crate::frame::{Data, Decoded, Header, Login, LoginAck, Receipt, Remainder};
use crate::frame::{decode, encode, kind};
use crate::units::Fault;

/// How long a closing server reads what is still under way, so that its FIN does not become a RST.
const LINGER: Duration = Duration::from_secs(1);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The other end finished and everything was answered.
    Fin,
    /// The socket broke, or the bytes were no frames.
    Error,
    /// As the fault wanted.
    Fault,
}

/// One connection of a server.
pub struct Connection<'s> {
    server: &'s Server,
    stream: TcpStream,
    remainder: Remainder,
    /// Answers that the socket has not taken yet; while there are any, nothing is read.
    pending: Vec<u8>,
    answered: u64,
}

/// Why a connection stopped reading.
enum Turn {
    /// Answers wait.
    Flush,
    /// The other end's FIN.
    Fin,
    /// The socket broke, or the bytes were no frames.
    Broken,
    /// It is time to do the wrong thing.
    Fault,
}

impl<'s> Connection<'s> {
    /// A connection that was just accepted.
    pub fn new(server: &'s Server, stream: TcpStream) -> Connection<'s> {
        let (remainder, pending) = (Remainder::default(), Vec::new());
        Connection { server, stream, remainder, pending, answered: 0 }
    }

    /// Serves it to its end.
    pub async fn serve(mut self) -> Ended {
        loop {
            let turn = poll_fn(|cx| self.poll(cx)).await;
            if let Some(Fault::Slow(delay)) = self.server.fault {
                tokio::time::sleep(delay).await;
            }
            if self.flush().await.is_err() {
                return Ended::Error;
            }
            match turn {
                Turn::Flush => {}
                // Everything is answered: dropping the socket sends our FIN.
                Turn::Fin => return Ended::Fin,
                Turn::Broken => return Ended::Error,
                Turn::Fault => return self.misbehave().await,
            }
        }
    }

    /// Reads and answers until there is nothing to read, or a reason to stop reading.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let buffers = Rc::clone(&self.server.buffers);
        let mut buffer = buffers.read.borrow_mut();
        loop {
            let start = self.remainder.place(&mut buffer);
            let mut space = ReadBuf::new(&mut buffer[start..]);
            let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space));
            let end = start + space.filled().len();
            match outcome {
                Err(_) => return Poll::Ready(Turn::Broken),
                Ok(()) if end == start => return Poll::Ready(Turn::Fin),
                Ok(()) => self.server.note(|s| s.bytes_in += (end - start) as u64),
            }
            if let Some(turn) = self.answer_all(&buffer[..end], &buffers) {
                return Poll::Ready(turn);
            }
        }
    }

    /// Answers every whole frame with as few writes as there can be: one.
    fn answer_all(&mut self, bytes: &[u8], buffers: &Buffers) -> Option<Turn> {
        if self.server.fault == Some(Fault::Reset) {
            return Some(Turn::Fault);
        }
        let mut answers = buffers.write.borrow_mut();
        answers.clear();
        let mut at = 0;
        // While everything so far is echoed, the answer is what was read: nothing is copied.
        let mut verbatim = true;
        let mut turn = None;
        while turn.is_none() {
            match decode(&bytes[at..], self.server.frame_max) {
                Decoded::NeedMore => break,
                Decoded::TooLong(_) => turn = Some(self.bad_frame()),
                Decoded::Frame(header, body, whole) => {
                    let echoes = self.echoes(header);
                    if verbatim && !echoes {
                        answers.extend_from_slice(&bytes[..at]);
                        verbatim = false;
                    }
                    at += whole.len();
                    if echoes {
                        self.server.note(|s| s.data_frames += 1);
                    }
                    if !verbatim {
                        turn = self.answer(header, (body, whole), &mut answers);
                    }
                    self.answered += 1;
                    if self.closes_now() {
                        turn = Some(Turn::Fault);
                    }
                }
            }
        }
        let slow = matches!(self.server.fault, Some(Fault::Slow(_)));
        let answers = if verbatim { &bytes[..at] } else { &answers[..] };
        self.remainder.keep(&bytes[at..]);
        if self.server.fault == Some(Fault::Silent) {
            return turn;
        }
        let blocked = self.send(answers, slow);
        turn.or(blocked)
    }

    fn echoes(&self, header: Header) -> bool {
        let other = !matches!(header.kind, kind::LOGIN | kind::HEARTBEAT);
        other && self.server.mode == AnswerMode::Echo
    }

    fn closes_now(&self) -> bool {
        matches!(self.server.fault, Some(Fault::CloseAfter(frames)) if self.answered >= frames)
    }

    fn bad_frame(&self) -> Turn {
        self.server.note(|s| s.bad_frames += 1);
        Turn::Broken
    }

    fn answer(
        &self,
        header: Header,
        (body, whole): (&[u8], &[u8]),
        answers: &mut Vec<u8>,
    ) -> Option<Turn> {
        match header.kind {
            kind::LOGIN => return self.acknowledge_login(body, answers),
            kind::HEARTBEAT => {
                self.server.note(|s| s.heartbeats += 1);
                encode(answers, kind::HEARTBEAT_ACK, header.heartbeat_s, &[]);
            }
            _ if self.server.mode == AnswerMode::Echo => answers.extend_from_slice(whole),
            _ => {
                let Some(data) = Data::parse(body) else { return Some(self.bad_frame()) };
                self.server.note(|s| s.data_frames += 1);
                let crc32 = crc32fast::hash(whole);
                Receipt { sequence: data.sequence, crc32 }.encode(answers);
            }
        }
        None
    }

    fn acknowledge_login(&self, body: &[u8], answers: &mut Vec<u8>) -> Option<Turn> {
        let Ok(login) = serde_json::from_slice::<Login<'_>>(body) else {
            return Some(self.bad_frame());
        };
        let name = self.server.name_on(&self.stream);
        let ack = LoginAck { server: name.into(), devid: login.devid };
        let Ok(body) = serde_json::to_vec(&ack) else { return Some(self.bad_frame()) };
        if body.len() > usize::from(u16::MAX) {
            return Some(self.bad_frame());
        }
        self.server.note(|s| s.logins += 1);
        encode(answers, kind::LOGIN_ACK, 0, &[&body]);
        None
    }

    /// Writes at once what the socket takes; keeps the rest.
    fn send(&mut self, answers: &[u8], slow: bool) -> Option<Turn> {
        self.server.note(|s| s.bytes_out += answers.len() as u64);
        let written = match slow {
            true => 0,
            false if answers.is_empty() => 0,
            // An error shows again when the rest is flushed.
            false => self.stream.try_write(answers).unwrap_or(0),
        };
        let rest = &answers[written..];
        self.pending.extend_from_slice(rest);
        (!rest.is_empty()).then_some(Turn::Flush)
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        let mut start = 0;
        while start < self.pending.len() {
            self.stream.writable().await?;
            match self.stream.try_write(&self.pending[start..]) {
                Ok(written) => start += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.pending = Vec::new();
        Ok(())
    }

    async fn misbehave(mut self) -> Ended {
        if self.server.fault == Some(Fault::Reset) {
            let reset = self.stream.set_zero_linger();
            return if reset.is_ok() { Ended::Fault } else { Ended::Error };
        }
        if self.stream.shutdown().await.is_err() {
            return Ended::Error;
        }
        let discard = poll_fn(|cx| self.poll_discard(cx));
        match tokio::time::timeout(LINGER, discard).await {
            Ok(()) | Err(_) => Ended::Fault,
        }
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut buffer = self.server.buffers.read.borrow_mut();
        loop {
            let mut space = ReadBuf::new(&mut buffer);
            let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space));
            if outcome.is_err() || space.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

//! The response on its way to the client: its head written anew, its body held to its framing.

use std::io;

use super::{Response, Transfer, pass};
use crate::end::{End, Side};
use crate::http::body::Body;
use crate::http::head::{Read, Scan};
use crate::http::response::{self, ResponseHead, Role};
use crate::http::rewrite::{self, Recipient};
use crate::http::{Framing, Version};
use crate::metrics::BackendCells;
use crate::relay::Failure;
use crate::session::http::place::Link;
use crate::session::http::record::Fault;
use crate::session::http::{Connection, GROWTH, receive};

/// Interim responses of one request.
const INTERIMS_MAX: u32 = 32;

impl Transfer<'_> {
    /// Sends what there is of the response, and reads more of it. Whether anything moved.
    pub(super) fn pull(
        &mut self,
        connection: &mut Connection<'_>,
        link: &mut Link,
        cells: &BackendCells,
    ) -> Result<bool, Fault> {
        let mut moved = self.flush(connection)?;
        while self.down.is_empty()
            && link.readable
            && !self.response.as_ref().is_some_and(Response::is_over)
        {
            if !self.receive_response(connection, link, cells)? {
                break;
            }
            moved = true;
            self.flush(connection)?;
        }
        Ok(moved)
    }

    fn flush(&mut self, connection: &mut Connection<'_>) -> Result<bool, Fault> {
        let mut moved = false;
        while self.down_writable && self.down_sent < self.down.len() {
            match connection.send(self.down.get(self.down_sent..).unwrap_or_default()) {
                Ok(n) => {
                    self.down_sent += n;
                    self.down_moved = self.shard.now();
                    self.tally.sent += n as u64;
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.down_writable = false;
                }
                Err(error) => return Err(Fault::Cut(Failure::of(&error).end(Side::Client))),
            }
        }
        if self.down_sent == self.down.len() {
            self.down.clear();
            self.down_sent = 0;
        }
        Ok(moved)
    }

    /// Receives once from the backend. Whether anything came.
    fn receive_response(
        &mut self,
        connection: &mut Connection<'_>,
        link: &mut Link,
        cells: &BackendCells,
    ) -> Result<bool, Fault> {
        let in_head = self.response.is_none();
        let buffer = if in_head { &mut self.answer } else { &mut self.down };
        if buffer.capacity() == 0 {
            *buffer = self.shard.buffers().take();
        } else if buffer.len() == buffer.capacity() {
            buffer.reserve(GROWTH);
        }
        match receive(connection.session, Side::Backend, &mut link.stream, buffer) {
            Ok((0, _)) => return self.response_ended(Ok(())).map(|()| true),
            Ok((n, more)) => {
                link.readable = more;
                connection.session.active.set(self.shard.now());
                self.down_moved = self.shard.now();
                cells.bytes_in.add(n as u64);
                self.tally.backend_received += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                link.readable = false;
                return if self.refused {
                    Err(Fault::Backend(End::HttpUnanswered))
                } else {
                    Ok(false)
                };
            }
            Err(error) => return self.response_ended(Err(error)).map(|()| true),
        }
        match in_head {
            true => self.read_answer(connection)?,
            false => self.pass_body(0)?,
        }
        Ok(true)
    }

    /// The backend says no more.
    fn response_ended(&mut self, how: io::Result<()>) -> Result<(), Fault> {
        let Some(response) = &mut self.response else {
            return Err(Fault::Backend(End::HttpUnanswered));
        };
        if how.is_err() || response.body.end_of_stream().is_err() {
            return Err(Fault::Cut(End::HttpResponseTruncated));
        }
        response.body = Body::new(Framing::None);
        Ok(())
    }

    /// Holds what has come behind the head to the response's body.
    fn pass_body(&mut self, from: usize) -> Result<(), Fault> {
        let Some(response) = &mut self.response else { return Ok(()) };
        let passed = pass(&mut response.body, (&mut self.down, from), response.unchunk);
        match passed {
            Ok(passed) => self.surplus |= !passed.rest.is_empty(),
            Err(fault) if from > 0 => {
                // Nothing of this response has gone on yet.
                (self.response, self.down) = (None, Vec::new());
                return Err(Fault::Answer(fault.label()));
            }
            Err(_) => return Err(Fault::Cut(End::HttpResponseInvalid)),
        }
        Ok(())
    }

    fn read_answer(&mut self, connection: &Connection<'_>) -> Result<(), Fault> {
        while !self.answer.is_empty() {
            let limits = (&self.http.head, self.asked);
            let head = match response::read_more(&mut self.scan, &self.answer, limits) {
                Read::Partial => return Ok(()),
                Read::Refused(refusal) => return Err(Fault::Answer(refusal.label())),
                Read::Complete(head) => head,
            };
            self.scan = Scan::default();
            if head.role != Role::Interim {
                return self.begin_response(connection, &head);
            }
            self.interims += 1;
            if self.interims > INTERIMS_MAX {
                return Err(Fault::Answer("interims_too_many"));
            }
            // HTTP/1.0 has none (RFC 9110, 15.2).
            if self.version >= Version::Http11 {
                self.write_head(&head, true);
            }
            self.answer.drain(..head.len.min(self.answer.len()));
        }
        Ok(())
    }

    /// Writes the client's head; what is behind the backend's is the body.
    fn begin_response(
        &mut self,
        connection: &Connection<'_>,
        head: &ResponseHead,
    ) -> Result<(), Fault> {
        let keep = self.keeps && self.body.is_complete() && !connection.closes_when_idle();
        let passing = self.write_head(head, keep);
        self.tally.status = Some(head.status);
        self.tally.head_after = self.began.map(|began| began.elapsed());
        let from = self.down.len();
        self.down.extend_from_slice(self.answer.get(head.len..).unwrap_or_default());
        self.shard.buffers().give(std::mem::take(&mut self.answer));
        let upgraded = head.role == Role::Upgraded;
        self.response = Some(Response {
            body: Body::new(head.framing),
            unchunk: passing.unchunk,
            closes: passing.closes,
            keeps_alive: head.keeps_alive,
            upgraded,
        });
        // What comes behind a 101 is not ours to read.
        if upgraded { Ok(()) } else { self.pass_body(from) }
    }

    fn write_head(&mut self, head: &ResponseHead, keep: bool) -> rewrite::Passing {
        if self.down.capacity() == 0 {
            self.down = self.shard.buffers().take();
        }
        let via = self.http.forwarding.via.as_deref();
        let recipient = Recipient { version: self.version, keep, via };
        let before = self.down.len();
        let passing = rewrite::response_head((head, &self.answer), &recipient, &mut self.down);
        self.tally.sent_heads += (self.down.len() - before) as u64;
        passing
    }
}

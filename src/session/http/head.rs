//! Reading the head of a request: strictly, within a deadline, keeping no more than its bytes.

use std::io;

use super::Connection;
use super::record::Fault;
use crate::config::HttpListener;
use crate::end::{End, Side};
use crate::http::head::{Read, Scan};
use crate::http::request::{self, RequestHead};
use crate::relay::Failure;

impl Connection<'_> {
    /// Reads a head, of which the first bytes have come. What is behind it stays in `input`; the
    /// bytes of the head are returned with it.
    pub(super) async fn read_head(
        &mut self,
        http: &HttpListener,
    ) -> Result<(RequestHead, Vec<u8>), Fault> {
        let until = self.deadline(http.head_timeout);
        let mut scan = Scan::default();
        let mut expired = None;
        loop {
            match request::read_more(&mut scan, &self.input, &http.head) {
                Read::Complete(head) => {
                    let behind = self.input.split_off(head.len.min(self.input.len()));
                    return Ok((head, std::mem::replace(&mut self.input, behind)));
                }
                Read::Refused(refusal) => return Err(Fault::Refused(refusal)),
                Read::Partial => {}
            }
            self.receive_more_of_head(http.head.head_len_max, until, &mut expired).await?;
        }
    }

    async fn receive_more_of_head(
        &mut self,
        len_max: usize,
        until: u32,
        expired: &mut Option<End>,
    ) -> Result<(), Fault> {
        loop {
            if self.readable {
                self.grow_for_head(len_max);
                let mut buffer = std::mem::take(&mut self.input);
                let received = self.receive(&mut buffer);
                self.input = buffer;
                match received {
                    Ok(0) => return Err(Fault::Cut(End::HttpTruncated)),
                    Ok(_) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(Fault::Cut(Failure::of(&error).end(Side::Client))),
                }
            }
            match *expired {
                Some(End::HttpHeadTimeout) => return Err(Fault::Late(End::HttpHeadTimeout)),
                Some(end) => return Err(Fault::Cut(end)),
                None => {}
            }
            // Who sends slowly pays for what it sent.
            let kept = self.input.as_slice().to_vec();
            self.shard.buffers().give(std::mem::replace(&mut self.input, kept));
            if let Err(end) = self.wait(until, End::HttpHeadTimeout).await {
                self.session.interrupt.take();
                // What came in time counts, even if this machine was late to look.
                (*expired, self.readable) = (Some(end), true);
            }
        }
    }

    /// Makes room for another receive.
    fn grow_for_head(&mut self, len_max: usize) {
        if self.input.capacity() > self.input.len() {
            return;
        }
        let mut buffer = self.shard.buffers().take();
        if buffer.capacity() <= self.input.len() {
            self.shard.buffers().give(buffer);
            let room = len_max.saturating_sub(self.input.len()).clamp(1, super::GROWTH);
            self.input.reserve(room);
            return;
        }
        buffer.extend_from_slice(&self.input);
        self.input = buffer;
    }
}

//! One step of a TLS connection: what rustls makes of bytes, and where that goes.

use tokio_rustls::rustls::Error;
use tokio_rustls::rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, ReadTraffic, UnbufferedStatus,
};

use super::Failure;

/// What encryption adds to a record, bytes, generously.
const OVERHEAD_LEN_MAX: usize = 64;

/// What came of looking at received bytes once.
pub enum Step {
    /// Something; look again.
    More,
    /// What was to be written is.
    Written,
    /// Nothing without more bytes.
    Hungry,
    /// The peer sends no more.
    PeerClosed,
    /// The connection is of no use any more.
    Failed(Failure),
}

/// What is to be encrypted, as soon as the connection can.
#[derive(Clone, Copy)]
pub enum Write<'a> {
    /// There is nothing to write.
    Nothing,
    /// Plaintext.
    Data(&'a [u8]),
    /// The end of our direction.
    CloseNotify,
}

/// Where a step puts what it makes.
pub struct Outputs<'a, 'b> {
    /// Takes plaintext up to its spare capacity.
    pub taker: Option<&'b mut Vec<u8>>,
    /// Takes the plaintext that is left.
    pub plain: &'a mut Held,
    /// Takes records that go out.
    pub outgoing: &'a mut Held,
}

/// Bytes that wait to be taken, from an index on.
#[derive(Default)]
pub struct Held {
    /// Those that were taken already among them.
    pub bytes: Vec<u8>,
    from: usize,
}

/// Writes into the room that it is given: how much it wrote, or how much room it needs if it says.
type Writer<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<usize, Option<usize>>;

impl Outputs<'_, '_> {
    /// Takes what rustls made of received bytes. Returns how many of their front are done with.
    pub fn take<D>(self, status: UnbufferedStatus<'_, '_, D>, write: Write<'_>) -> (usize, Step) {
        let discard = status.discard;
        let state = match status.state {
            Ok(state) => state,
            Err(error) => return (discard, Step::Failed(error.into())),
        };
        let step = match state {
            ConnectionState::ReadTraffic(mut traffic) => return self.read(discard, &mut traffic),
            ConnectionState::EncodeTlsData(mut record) => {
                let mut encode = |out: &mut [u8]| match record.encode(out) {
                    Ok(len) => Ok(len),
                    Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
                    Err(EncodeError::AlreadyEncoded) => Err(None),
                };
                self.outgoing.append(0, &mut encode).map_or_else(Step::Failed, |()| Step::More)
            }
            ConnectionState::TransmitTlsData(transmit) => {
                // In `outgoing`, which is sent before anything else.
                transmit.done();
                Step::More
            }
            ConnectionState::PeerClosed => Step::PeerClosed,
            ConnectionState::WriteTraffic(mut traffic) => {
                let sized = |result| match result {
                    Ok(len) => Ok(len),
                    Err(EncryptError::InsufficientSize(size)) => Err(Some(size.required_size)),
                    Err(EncryptError::EncryptExhausted) => Err(None),
                };
                let result = match write {
                    Write::Nothing => return (discard, Step::Hungry),
                    Write::Data(bytes) => {
                        let records = bytes.len() / 16_384 + 1;
                        let len = bytes.len() + records * OVERHEAD_LEN_MAX;
                        self.outgoing.append(len, &mut |out| sized(traffic.encrypt(bytes, out)))
                    }
                    Write::CloseNotify => self.outgoing.append(OVERHEAD_LEN_MAX, &mut |out| {
                        sized(traffic.queue_close_notify(out))
                    }),
                };
                result.map_or_else(Step::Failed, |()| Step::Written)
            }
            // No early data is accepted, and none asked for.
            ConnectionState::BlockedHandshake
            | ConnectionState::Closed
            | ConnectionState::ReadEarlyData(_) => Step::Hungry,
            _ => Step::Hungry,
        };
        (discard, step)
    }

    fn read<D>(self, mut discard: usize, traffic: &mut ReadTraffic<'_, '_, D>) -> (usize, Step) {
        let mut taker = self.taker;
        while let Some(record) = traffic.next_record() {
            let record = match record {
                Ok(record) => record,
                Err(error) => return (discard, Step::Failed(error.into())),
            };
            discard += record.discard;
            let room = taker.as_ref().map_or(0, |taker| taker.capacity() - taker.len());
            let (now, later) = record.payload.split_at(room.min(record.payload.len()));
            if let Some(taker) = &mut taker {
                taker.extend_from_slice(now);
            }
            self.plain.bytes.extend_from_slice(later);
        }
        (discard, Step::More)
    }
}

impl Held {
    /// What waits, if anything does.
    pub fn rest(&self) -> Option<&[u8]> {
        self.bytes.get(self.from..).filter(|rest| !rest.is_empty())
    }

    /// The front of it is gone; with the last byte its memory.
    pub fn advance(&mut self, n: usize) {
        self.from += n;
        if self.from >= self.bytes.len() {
            *self = Held::default();
        }
    }

    /// Gives what fits into the spare capacity of `buf`.
    pub fn give(&mut self, buf: &mut Vec<u8>) {
        let Some(rest) = self.rest() else { return };
        let n = rest.len().min(buf.capacity() - buf.len());
        buf.extend_from_slice(&rest[..n]);
        self.advance(n);
    }

    /// Appends what `write` puts into room of `len` bytes, or of the length that it asks for.
    fn append(&mut self, mut len: usize, write: Writer<'_>) -> Result<(), Failure> {
        let before = self.bytes.len();
        for _ in 0..2 {
            self.bytes.resize(before + len, 0);
            match write(&mut self.bytes[before..]) {
                Ok(written) => {
                    self.bytes.truncate(before + written);
                    return Ok(());
                }
                Err(Some(needed)) => len = needed,
                Err(None) => break,
            }
        }
        self.bytes.truncate(before);
        Err(Error::EncryptError.into())
    }
}

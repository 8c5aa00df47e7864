//! The protocol of the devices: header `>ccHH` (type, version, heartbeat seconds, body bytes), then
//! the body. Written anew, not shared with the gateway, so that one cannot hide the other's faults.

use serde::{Deserialize, Serialize};

/// Bytes of a header.
pub const HEADER_LEN: usize = 6;
/// Bytes of the longest frame a header can announce.
pub const FRAME_LEN_MAX: usize = HEADER_LEN + u16::MAX as usize;
/// The version byte that our devices send.
pub const VERSION: i8 = 1;

/// Types of frames.
pub mod kind {
    /// Device to server, first frame, body `{"devid":"…"}`.
    pub const LOGIN: i8 = 1;
    /// Server to device, body [`super::LoginAck`].
    pub const LOGIN_ACK: i8 = 2;
    /// Device to server, no body.
    pub const HEARTBEAT: i8 = 3;
    /// Server to device, no body.
    pub const HEARTBEAT_ACK: i8 = 4;
    /// Either way: sequence number, device id, payload.
    pub const DATA: i8 = 5;
    /// Server to device: [`super::Receipt`] of a data frame.
    pub const DATA_ACK: i8 = 6;
}

/// The four fields of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// One of [`kind`].
    pub kind: i8,
    /// See [`VERSION`].
    pub version: i8,
    /// Heartbeat interval of the device, seconds.
    pub heartbeat_s: u16,
    /// Bytes that follow the header.
    pub body_len: u16,
}

/// What the beginning of a buffer is.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'b> {
    /// Part of a frame.
    NeedMore,
    /// A whole frame: its header, its body, and all of its bytes.
    Frame(Header, &'b [u8], &'b [u8]),
    /// The header announces a frame of this many bytes, more than allowed.
    TooLong(usize),
}

/// Decodes the first frame of a buffer, as netty's LengthFieldBasedFrameDecoder
/// (`frame_len_max`, offset 4, length 2) does.
pub fn decode(bytes: &[u8], frame_len_max: usize) -> Decoded<'_> {
    let Some((head, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return Decoded::NeedMore;
    };
    let header = Header {
        kind: i8::from_be_bytes([head[0]]),
        version: i8::from_be_bytes([head[1]]),
        heartbeat_s: u16::from_be_bytes([head[2], head[3]]),
        body_len: u16::from_be_bytes([head[4], head[5]]),
    };
    let frame_len = HEADER_LEN + usize::from(header.body_len);
    if frame_len > frame_len_max {
        return Decoded::TooLong(frame_len);
    }
    match bytes.get(..frame_len) {
        Some(whole) => Decoded::Frame(header, &whole[HEADER_LEN..], whole),
        None => Decoded::NeedMore,
    }
}

/// Appends a frame whose body is the concatenation of `parts` (65,535 bytes at most).
pub fn encode(out: &mut Vec<u8>, kind: i8, heartbeat_s: u16, parts: &[&[u8]]) {
    let body_len: usize = parts.iter().map(|part| part.len()).sum();
    let body_len = u16::try_from(body_len).expect("bodies are bounded where they are configured");
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&heartbeat_s.to_be_bytes());
    out.extend_from_slice(&body_len.to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Body of a login frame.
#[derive(Debug, Serialize, Deserialize)]
pub struct Login<'a> {
    /// Who is calling.
    #[serde(borrow)]
    pub devid: std::borrow::Cow<'a, str>,
    /// Makes the frame as long as wanted.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub pad: Option<std::borrow::Cow<'a, str>>,
}

/// Body of a login acknowledgement.
#[derive(Debug, Serialize, Deserialize)]
pub struct LoginAck<'a> {
    /// The backend's own address.
    #[serde(borrow)]
    pub server: std::borrow::Cow<'a, str>,
    /// The id it read from the login frame.
    #[serde(borrow)]
    pub devid: std::borrow::Cow<'a, str>,
}

/// Body of a data frame: sequence number (u64 BE), length of the device id (u8), the id, payload.
#[derive(Debug, PartialEq, Eq)]
pub struct Data<'b> {
    /// Counts from 0 for each device.
    pub sequence: u64,
    /// The sender.
    pub devid: &'b [u8],
    /// Pseudo-random bytes known to the sender.
    pub payload: &'b [u8],
}

/// Bytes of a data body that are not payload.
pub fn data_overhead(devid: &[u8]) -> usize {
    8 + 1 + devid.len()
}

impl<'b> Data<'b> {
    /// Appends the frame. The id has at most 255 bytes.
    pub fn encode(&self, out: &mut Vec<u8>, heartbeat_s: u16) {
        let devid_len = u8::try_from(self.devid.len()).expect("ids are bounded by their template");
        let parts: [&[u8]; 4] =
            [&self.sequence.to_be_bytes(), &[devid_len], self.devid, self.payload];
        encode(out, kind::DATA, heartbeat_s, &parts);
    }

    /// Reads a body; `None` if it is too short.
    pub fn parse(body: &'b [u8]) -> Option<Data<'b>> {
        let (sequence, rest) = body.split_first_chunk::<8>()?;
        let (devid_len, rest) = rest.split_first()?;
        let (devid, payload) = rest.split_at_checked(usize::from(*devid_len))?;
        Some(Data { sequence: u64::from_be_bytes(*sequence), devid, payload })
    }
}

/// Body of a data acknowledgement: sequence number (u64 BE) and CRC-32 (u32 BE) of the whole frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Of the data frame.
    pub sequence: u64,
    /// Over header and body of the data frame.
    pub crc32: u32,
}

impl Receipt {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let parts: [&[u8]; 2] = [&self.sequence.to_be_bytes(), &self.crc32.to_be_bytes()];
        encode(out, kind::DATA_ACK, 0, &parts);
    }

    /// Reads a body; `None` if it has another length.
    pub fn parse(body: &[u8]) -> Option<Receipt> {
        let (sequence, rest) = body.split_first_chunk::<8>()?;
        let crc32 = <[u8; 4]>::try_from(rest).ok()?;
        Some(Receipt { sequence: u64::from_be_bytes(*sequence), crc32: u32::from_be_bytes(crc32) })
    }
}

/// The incomplete frame at the end of what was read; owns memory only while there is one.
///
/// Reads go into one buffer per thread: the remainder is put in front, the socket fills the rest,
/// and what is incomplete afterwards is kept.
#[derive(Debug, Default)]
pub struct Remainder(Vec<u8>);

/// A remainder longer than this gives its memory back once it is used up.
const RETAINED_LEN_MAX: usize = 512;

impl Remainder {
    /// Copies the remainder to the front of a buffer and says where the rest begins.
    pub fn place(&self, buffer: &mut [u8]) -> usize {
        buffer[..self.0.len()].copy_from_slice(&self.0);
        self.0.len()
    }

    /// Replaces the remainder.
    pub fn keep(&mut self, tail: &[u8]) {
        self.0.clear();
        if tail.is_empty() {
            if self.0.capacity() > RETAINED_LEN_MAX {
                self.0 = Vec::new();
            }
            return;
        }
        self.0.extend_from_slice(tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a stream that arrives in the given pieces, as a connection does.
    fn decode_pieces(pieces: &[&[u8]]) -> Vec<(Header, Vec<u8>)> {
        let mut buffer = vec![0; 2 * FRAME_LEN_MAX];
        let mut remainder = Remainder::default();
        let mut frames = Vec::new();
        for piece in pieces {
            let start = remainder.place(&mut buffer);
            let end = start + piece.len();
            buffer[start..end].copy_from_slice(piece);
            let mut at = 0;
            while let Decoded::Frame(header, body, whole) = decode(&buffer[at..end], FRAME_LEN_MAX)
            {
                frames.push((header, body.to_vec()));
                at += whole.len();
            }
            remainder.keep(&buffer[at..end]);
        }
        assert!(remainder.0.is_empty());
        frames
    }

    fn three_frames() -> Vec<u8> {
        let mut stream = Vec::new();
        encode(&mut stream, kind::LOGIN, 30, &[br#"{"devid":"868120200000001"}"#]);
        encode(&mut stream, kind::HEARTBEAT, 30, &[]);
        Data { sequence: 7, devid: b"868120200000001", payload: b"abc" }.encode(&mut stream, 30);
        stream
    }

    #[test]
    fn every_split_point_gives_the_same_frames() {
        let stream = three_frames();
        let whole = decode_pieces(&[&stream]);
        assert_eq!(whole.iter().map(|f| f.0.kind).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(whole[2].1, b"\0\0\0\0\0\0\0\x07\x0f868120200000001abc");
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(decode_pieces(&pieces), whole, "split at {first} and {second}");
            }
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(decode_pieces(&bytes), whole);
    }

    #[test]
    fn the_header_is_as_documented() {
        let mut frame = Vec::new();
        encode(&mut frame, -2, 0x0102, &[&[9; 259]]);
        assert_eq!(frame[..HEADER_LEN], [0xfe, 1, 1, 2, 1, 3]);
        assert_eq!(frame.len(), HEADER_LEN + 259);
    }

    #[test]
    fn longest_frame_passes_and_longer_ones_are_named() {
        let mut frame = Vec::new();
        encode(&mut frame, kind::DATA, 0, &[&[1; 65_535]]);
        assert!(matches!(decode(&frame, FRAME_LEN_MAX), Decoded::Frame(_, body, _)
            if body.len() == 65_535));
        assert_eq!(decode(&frame, 1_000), Decoded::TooLong(FRAME_LEN_MAX));
        assert_eq!(decode(&frame[..HEADER_LEN], 1_000), Decoded::TooLong(FRAME_LEN_MAX));
    }

    #[test]
    fn short_bodies_are_none_not_a_panic() {
        let mut frame = Vec::new();
        Data { sequence: 1, devid: b"id", payload: b"" }.encode(&mut frame, 0);
        let body = &frame[HEADER_LEN..];
        assert_eq!(Data::parse(body), Some(Data { sequence: 1, devid: b"id", payload: b"" }));
        for len in 0..body.len() {
            assert_eq!(Data::parse(&body[..len]), None, "{len} bytes");
        }
        for len in (0..20).filter(|len| *len != 12) {
            assert_eq!(Receipt::parse(&vec![0; len]), None, "{len} bytes");
        }
    }

    #[test]
    fn receipts_round_trip() {
        let receipt = Receipt { sequence: 1 << 40, crc32: 0xdead_beef };
        let mut frame = Vec::new();
        receipt.encode(&mut frame);
        assert_eq!(Receipt::parse(&frame[HEADER_LEN..]), Some(receipt));
    }

    #[test]
    fn a_large_remainder_gives_its_memory_back() {
        let mut remainder = Remainder::default();
        remainder.keep(&[1; 60_000]);
        assert_eq!(remainder.0.len(), 60_000);
        remainder.keep(&[]);
        assert_eq!(remainder.0.capacity(), 0);
    }
}

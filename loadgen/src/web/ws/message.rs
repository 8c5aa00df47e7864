//! Messages: a sequence number and bytes that depend on it, as binary or as text. Pure.

use std::fmt::Write as _;

use tokio_tungstenite::tungstenite::Message;

use crate::random::PayloadPool;

/// Digits of a sequence number in a text; in a binary message it takes eight bytes.
pub const MESSAGE_LEN_MIN: usize = 16;
const BINARY_NUMBER_LEN: usize = 8;

/// What messages depend on.
#[derive(Clone, Copy)]
pub struct Composer<'p> {
    /// Where bytes are cut from.
    pub pool: &'p PayloadPool,
    /// Whose they are.
    pub client: u64,
    /// Length of a message, bytes.
    pub len: usize,
    /// Text instead of binary.
    pub text: bool,
}

impl Composer<'_> {
    /// The message with this sequence number.
    pub fn message(&self, sequence: u64) -> Message {
        match self.text {
            true => Message::text(self.text_of(sequence)),
            false => Message::binary(self.bytes_of(sequence)),
        }
    }

    /// The sequence number that a message has, if it has one.
    pub fn sequence(message: &Message) -> Option<u64> {
        match message {
            Message::Binary(bytes) => {
                Some(u64::from_be_bytes(*bytes.first_chunk::<BINARY_NUMBER_LEN>()?))
            }
            Message::Text(text) => {
                u64::from_str_radix(text.as_str().get(..MESSAGE_LEN_MIN)?, 16).ok()
            }
            _ => None,
        }
    }

    /// Whether a message is, in kind and in every byte, the one with this sequence number.
    pub fn is(&self, message: &Message, sequence: u64) -> bool {
        match message {
            Message::Binary(bytes) if !self.text => {
                let (number, rest) = bytes.split_at(BINARY_NUMBER_LEN.min(bytes.len()));
                let payload =
                    self.pool.payload(self.client, sequence, self.len - BINARY_NUMBER_LEN);
                number == sequence.to_be_bytes() && rest == payload
            }
            Message::Text(text) if self.text => text.as_str() == self.text_of(sequence),
            _ => false,
        }
    }

    fn bytes_of(&self, sequence: u64) -> Vec<u8> {
        let payload = self.pool.payload(self.client, sequence, self.len - BINARY_NUMBER_LEN);
        [&sequence.to_be_bytes(), payload].concat()
    }

    fn text_of(&self, sequence: u64) -> String {
        let mut text = String::with_capacity(self.len);
        // Writing to a string does not fail.
        let _ = write!(text, "{sequence:016x}");
        let payload = self.pool.payload(self.client, sequence, self.len - MESSAGE_LEN_MIN);
        text.extend(payload.iter().map(|byte| char::from(b' ' + byte % 95)));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_by_number_kind_client_and_every_byte() {
        let pool = PayloadPool::new(3, 100);
        for text in [false, true] {
            let composer = Composer { pool: &pool, client: 5, len: 100, text };
            let message = composer.message(9);
            assert_eq!((message.len(), Composer::sequence(&message)), (100, Some(9)));
            assert!(composer.is(&message, 9));
            assert!(!composer.is(&message, 8));
            assert!(!Composer { client: 6, ..composer }.is(&message, 9));
            assert!(!Composer { text: !text, ..composer }.is(&message, 9));
            let mut bytes = message.into_data().to_vec();
            bytes[99] ^= 1;
            let changed = match text {
                true => Message::text(String::from_utf8(bytes).unwrap()),
                false => Message::binary(bytes),
            };
            assert!(!composer.is(&changed, 9));
        }
        assert_eq!(Composer::sequence(&Message::binary(vec![1, 2])), None);
        assert_eq!(Composer::sequence(&Message::text("né")), None);
    }
}

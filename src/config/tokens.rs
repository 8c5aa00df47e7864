//! Bearer tokens of the admin interface: who holds one may read and change everything.

use std::fmt;
use std::io;
use std::path::Path;

use subtle::{Choice, ConstantTimeEq};

use super::Secret;
use crate::input::read_at_most;

/// Longest file of tokens, bytes.
const FILE_LEN_MAX: usize = 64 << 10;
/// Shortest token, bytes: shorter ones can be guessed.
pub const TOKEN_LEN_MIN: usize = 16;
/// Longest token, bytes.
const TOKEN_LEN_MAX: usize = 512;
/// Whose token it is when its line does not say.
const NAMELESS: &str = "token";

/// The tokens of one file.
#[derive(Debug)]
pub struct Tokens(Vec<(String, Secret)>);

/// Why a file holds no tokens.
#[derive(Debug)]
pub enum TokensError {
    /// It cannot be read.
    Unreadable(io::Error),
    /// What is wrong, without the token.
    Invalid(String),
}

impl fmt::Display for TokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokensError::Unreadable(error) => error.fmt(f),
            TokensError::Invalid(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for TokensError {}

impl Tokens {
    /// Reads a file: a token a line, with a name and white space before it or without; empty lines
    /// and those that begin with `#` do not count.
    ///
    /// # Errors
    /// It cannot be read, holds no token, or one that is too short or could not stand in a header.
    pub fn read(file: &Path) -> Result<Tokens, TokensError> {
        // Opening a pipe would wait for somebody to write.
        let opened = std::fs::metadata(file).and_then(|about| match about.is_file() {
            false => Err(io::Error::other("not a regular file")),
            true => std::fs::File::open(file),
        });
        let bytes = opened.and_then(|opened| read_at_most(opened, FILE_LEN_MAX));
        Tokens::parse(&bytes.map_err(TokensError::Unreadable)?)
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// See [`Tokens::read`].
    pub fn parse(bytes: &[u8]) -> Result<Tokens, TokensError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| TokensError::Invalid(format!("not UTF-8 ({error})")))?;
        let mut tokens = Vec::new();
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: &str| TokensError::Invalid(format!("line {}: {what}", number + 1));
            let mut words = line.split_whitespace();
            let (name, token) = match (words.next(), words.next(), words.next()) {
                (Some(token), None, None) => (NAMELESS, token),
                (Some(name), Some(token), None) => (name, token),
                _ => return Err(wrong("more than a name and a token")),
            };
            if !(TOKEN_LEN_MIN..=TOKEN_LEN_MAX).contains(&token.len()) {
                return Err(wrong(&format!(
                    "a token of {} bytes; {TOKEN_LEN_MIN} to {TOKEN_LEN_MAX} are allowed",
                    token.len()
                )));
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(wrong("a token with other than visible ASCII characters"));
            }
            if name.chars().any(char::is_control) || name.len() > 64 {
                return Err(wrong("a name over 64 bytes, or with control characters"));
            }
            tokens.push((name.to_owned(), Secret::new(token.to_owned())));
        }
        match tokens.is_empty() {
            true => Err(TokensError::Invalid("holds no token".to_owned())),
            false => Ok(Tokens(tokens)),
        }
    }

    /// The name beside this token. Every token is compared, each in a time that does not depend on
    /// where it differs; only its length could be learnt.
    pub fn holder(&self, offered: &[u8]) -> Option<&str> {
        let mut holder = None;
        for (name, token) in &self.0 {
            let same: Choice = token.reveal().as_bytes().ct_eq(offered);
            if bool::from(same) {
                holder = Some(name.as_str());
            }
        }
        holder
    }

    /// The first token, for a client that has the file.
    pub fn first(&self) -> &Secret {
        // A file without any is no `Tokens`.
        &self.0[0].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0123456789abcdef";
    const B: &str = "fedcba9876543210-._~+/=";

    #[test]
    fn tokens_with_and_without_names() {
        let text = format!("# of the team\n\n{A}\r\n  ops\t{B}\n");
        let tokens = Tokens::parse(text.as_bytes()).unwrap();
        assert_eq!(tokens.holder(A.as_bytes()), Some("token"));
        assert_eq!(tokens.holder(B.as_bytes()), Some("ops"));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF", "ops"] {
            assert_eq!(tokens.holder(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(tokens.first().reveal(), A);
        assert!(!format!("{tokens:?}").contains(A));
    }

    #[test]
    fn files_without_good_tokens() {
        let long = "x".repeat(513);
        let with_name = format!("{} {A}", "n".repeat(65));
        for (text, why) in [
            ("", "no token"),
            ("# only a comment\n", "no token"),
            ("short", "5 bytes"),
            ("a b c", "more than"),
            (&*long, "513 bytes"),
            ("ümläute-ümläute-ümläute", "ASCII"),
            (&*with_name, "over 64"),
        ] {
            let error = Tokens::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains(A), "{error}");
        }
        assert!(Tokens::parse(b"\xff").is_err());
    }
}

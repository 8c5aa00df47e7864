//! Reading what a user names, no further than a bound: a path may lead to something endless.

use std::io::{self, Read};

/// Everything `source` has, of which no more than `len_max` bytes are held.
///
/// # Errors
/// `FileTooLarge` if it has more, or what reading it says.
pub fn read_at_most(source: impl Read, len_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more tells "just enough" from "too much".
    let limit = u64::try_from(len_max).unwrap_or(u64::MAX).saturating_add(1);
    source.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > len_max {
        let error = format!("over {len_max} bytes, and not read further");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, error));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_read_whole_and_one_byte_more_is_refused() {
        for len in [0, 1, 9, 10] {
            let bytes = vec![7; len];
            assert_eq!(read_at_most(&bytes[..], 10).unwrap(), bytes);
        }
        let error = read_at_most(&[7; 11][..], 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        let error = read_at_most(io::repeat(7), 10).unwrap_err();
        assert_eq!(error.to_string(), "over 10 bytes, and not read further");
    }
}

//! Numbers as LuaJIT prints them: C's `%.14g`.

use std::fmt::Write;

use smallvec::SmallVec;

use super::{Key, KeyText};

/// Significant digits of `%.14g`.
const PRECISION: usize = 14;

/// Formats as LuaJIT's `tostring`: 14 significant digits without trailing zeros, and an exponent
/// if it is below -4 or not below 14. A JSON number can be infinite here, but never NaN.
pub(super) fn lua(double: f64) -> Key<'static> {
    let mut text = KeyText(SmallVec::new());
    // Writing into memory cannot fail.
    let _ = write_g(&mut text, double);
    Key::Written(text.0)
}

fn write_g(out: &mut KeyText, double: f64) -> std::fmt::Result {
    if !double.is_finite() {
        return out.write_str(if double < 0.0 { "-inf" } else { "inf" });
    }
    // C decides by the exponent after rounding to the precision, which is what this prints:
    // "d.ddddddddddddde-7". Both round the exact binary value, halves to even.
    let mut rounded = KeyText(SmallVec::new());
    write!(rounded, "{:.*e}", PRECISION - 1, double.abs())?;
    let rounded = std::str::from_utf8(&rounded.0).unwrap_or_default();
    let (mantissa, exponent) = rounded.split_once('e').unwrap_or((rounded, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    let (first, others) = mantissa.split_at(mantissa.len().min(1));
    let others = others.trim_start_matches('.');
    if double.is_sign_negative() {
        out.write_char('-')?;
    }
    match exponent {
        -4..0 => {
            out.write_str("0.")?;
            (1..-exponent).try_for_each(|_| out.write_char('0'))?;
            write!(out, "{first}{others}")
        }
        0..14 => {
            let whole_len = usize::try_from(exponent).unwrap_or(0);
            let (whole, fraction) = others.split_at(whole_len.min(others.len()));
            write!(out, "{first}{whole}")?;
            (whole.len()..whole_len).try_for_each(|_| out.write_char('0'))?;
            if fraction.is_empty() { Ok(()) } else { write!(out, ".{fraction}") }
        }
        _ => {
            let point = if others.is_empty() { "" } else { "." };
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(out, "{first}{point}{others}e{sign}{:02}", exponent.unsigned_abs())
        }
    }
}

//! Chunks in any form: whole and byte by byte they end at the same place, or are refused alike.

#![no_main]

use corelane::http::Framing;
use corelane::http::body::Body;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut whole = Body::new(Framing::Chunked);
    let at_once = whole.take(bytes);
    let mut body = Body::new(Framing::Chunked);
    let mut taken = 0;
    for byte in bytes {
        match body.take(std::slice::from_ref(byte)) {
            Ok(more) => taken += more.len,
            Err(fault) => {
                assert_eq!(at_once, Err(fault));
                return;
            }
        }
    }
    let at_once = at_once.expect("accepted byte by byte");
    assert_eq!((at_once.len, at_once.complete), (taken, body.is_complete()));
});

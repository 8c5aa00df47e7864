//! A request in any form: what is accepted is accepted at every split, goes on to a backend as a head
//! that is accepted again, and frames the same body.

#![no_main]

use corelane::http::client::{Client, Request};
use corelane::http::head::{HeadLimits, Read, Scan};
use corelane::http::request;
use corelane::http::rewrite::{Forwarding, Mode, Onward, request_head};
use corelane::http::template::{Template, Values};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = HeadLimits::default();
    let whole = request::read(bytes, &limits);
    let mut scan = Scan::default();
    let mut split = Read::Partial;
    for len in 0..=bytes.len() {
        split = request::read_more(&mut scan, &bytes[..len], &limits);
        if split != Read::Partial {
            break;
        }
    }
    assert_eq!(whole, split);
    let Read::Complete(head) = whole else { return };
    let template = |text| Template::parse(text).expect("a template");
    let forwarding = Forwarding {
        x_forwarded_for: Mode::Append,
        x_forwarded_proto: Mode::Append,
        x_forwarded_host: Mode::Append,
        x_real_ip: Mode::Append,
        forwarded: Mode::Append,
        request_id: Mode::Append,
        trusted: Vec::new(),
        trusted_unix: true,
        client_behind_proxies: false,
        host: template("{host}"),
        headers: vec![("X-Path".to_string(), template("{path}{query:a}{cookie:a}"))],
        via: Some("fuzz".to_string()),
    };
    let request = Request::new(bytes, &head, Client { address: None, tls: false, trusted: true });
    let onward = Onward { forwarding: &forwarding, values: Values::default(), keep: true };
    let mut sent = Vec::new();
    request_head(&request, &onward, &mut sent);
    // Our own lines come on top of what the client was allowed.
    let wide = HeadLimits { head_len_max: 1 << 20, fields_max: 256, target_len_max: 1 << 20 };
    match request::read(&sent, &wide) {
        Read::Complete(again) => {
            assert_eq!((again.len, again.framing), (sent.len(), head.framing));
        }
        other => panic!("{other:?}: {}", sent.escape_ascii()),
    }
});

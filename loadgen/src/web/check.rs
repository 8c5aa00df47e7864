//! Every answer, compared with what was asked and with where it should come from.

use hyper::body::Bytes;
use hyper::http::response::Parts;
use hyper::{HeaderMap, Method};
use serde::{Deserialize, Serialize};

use super::{BACKEND_HEADER, Head, REQUEST_HEADER, WebPlan};
use crate::cli::{HttpArgs, Verify};
use crate::counters::{Count, Tally};
use crate::oracle::Home;

/// What the backend says about a request: all that it received.
#[derive(Debug, Serialize, Deserialize)]
pub struct Echo {
    /// Who says so.
    pub server: String,
    /// As in the request line.
    pub method: String,
    /// As in the request line.
    pub target: String,
    /// "HTTP/1.1", say.
    pub version: String,
    /// Names in lower case. Bytes over 127 of a value are replaced.
    pub headers: Vec<(String, String)>,
    /// Bytes of the body,
    pub body_len: u64,
    /// and its CRC-32.
    pub body_crc32: u32,
}

/// One request with what is known about it.
pub struct Asked<'a> {
    /// The number of its templates.
    pub number: u64,
    /// The number of the request.
    pub sequence: u64,
    /// What was sent.
    pub head: &'a Head,
    /// Likewise.
    pub body: &'a [u8],
    /// Where it had to land.
    pub home: Home,
}

/// Compares an answer; books every fault.
pub fn answer(
    (args, plan): (&HttpArgs, &WebPlan),
    tally: &mut Tally,
    asked: &Asked<'_>,
    (head, body): (&Parts, &Bytes),
) {
    let Asked { number, sequence, home, .. } = *asked;
    let status = head.status.as_u16();
    if home == Home::Refused {
        // Its backend is down: whatever it was answered, it did not get there.
        return tally.count(Count::RouteUnchecked);
    }
    if !args.expect_status.contains(&status) {
        let what = || format!("request {sequence} (number {number}): status {status}");
        return tally.fault(Count::StatusUnexpected, what);
    }
    place(plan, tally, (number, home), &head.headers);
    if args.verify == Verify::None {
        return;
    }
    let told = head.headers.get(REQUEST_HEADER).map(|value| value.as_bytes());
    if told.is_some_and(|told| told != sequence.to_string().as_bytes()) {
        let told = String::from_utf8_lossy(told.unwrap_or_default()).into_owned();
        let what = || format!("request {sequence} got the answer to request {told}");
        return tally.fault(Count::Foreign, what);
    }
    // An answer to HEAD has no body; that it is ours is said above.
    if args.method == Method::HEAD {
        if told.is_none() {
            let what = || format!("request {sequence}: the answer is not of our backend");
            tally.fault(Count::Corrupted, what);
        }
        return;
    }
    if let Err(difference) = echo(args, asked, body) {
        tally.fault(Count::Corrupted, || format!("request {sequence}: {difference}"));
    }
}

/// Whether an answer, or an upgrade, came from the right place.
pub fn place(plan: &WebPlan, tally: &mut Tally, (number, home): (u64, Home), headers: &HeaderMap) {
    let text =
        |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let backend = headers.get(BACKEND_HEADER).map(text);
    let name = backend.as_deref().unwrap_or("unnamed");
    tally.place(name);
    match home {
        Home::At(place) => {
            tally.count(Count::RouteChecked);
            if plan.routes.place_of(name) != Some(place) {
                let belongs = plan.routes.backends.get(place).map_or("", String::as_str);
                let what = || format!("number {number} landed on {name}, belongs to {belongs}");
                tally.fault(Count::Misrouted, what);
            }
        }
        Home::Open | Home::Refused if plan.args.expect_header.is_empty() => {
            tally.count(Count::RouteUnchecked);
        }
        Home::Open | Home::Refused => tally.count(Count::RouteChecked),
    }
    for (wanted, value) in plan.expected(number) {
        if !headers.get_all(wanted).iter().any(|have| have.as_bytes() == value.as_bytes()) {
            let have = headers.get(wanted).map(text);
            let what = || format!("number {number}: {wanted} is {have:?}, expected {value:?}");
            tally.fault(Count::Misrouted, what);
        }
    }
}

/// What differs between a request and what its backend says it was.
fn echo(args: &HttpArgs, asked: &Asked<'_>, body: &[u8]) -> Result<(), String> {
    let echo: Echo =
        serde_json::from_slice(body).map_err(|error| format!("no account of it: {error}"))?;
    let differs =
        |what: &str, sent: &str, got: &str| Err(format!("{what} {sent:?} became {got:?}"));
    if echo.method != args.method.as_str() {
        return differs("method", args.method.as_str(), &echo.method);
    }
    let target = asked.head.target.to_string();
    if echo.target != target {
        return differs("target", &target, &echo.target);
    }
    for (name, value) in &asked.head.headers {
        // Proxies put their own there, unless told otherwise.
        if name == hyper::header::HOST {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes());
        if !echo.headers.iter().any(|(n, v)| n == name.as_str() && *v == *value) {
            return Err(format!("header {name}: {value} did not get there"));
        }
    }
    let (len, crc32) = (asked.body.len() as u64, crc32fast::hash(asked.body));
    if (echo.body_len, echo.body_crc32) != (len, crc32) {
        return Err(format!("a body of {len} bytes became another of {}", echo.body_len));
    }
    Ok(())
}

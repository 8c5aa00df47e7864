//! Every frame that comes back, compared with what was sent and with where it should come from.

use crate::counters::{Count, Measure};
use crate::device::Device;
use crate::frame::{Data, LoginAck, Receipt, data_overhead, kind};
use crate::link::{compose_message, start_watch};
use crate::oracle::Home;
use crate::squad::Squad;
use crate::window::Answer;

/// One frame as it arrived.
pub struct Received<'b> {
    /// The type in its header.
    pub kind: i8,
    /// Its body.
    pub body: &'b [u8],
    /// All of it.
    pub whole: &'b [u8],
    /// When it was read, ns since the plan's epoch.
    pub now_ns: u64,
}

/// Checks one frame; appends to `replies` what a closed loop sends next.
pub fn frame(
    squad: &Squad,
    (n, device): (usize, &mut Device),
    received: &Received<'_>,
    replies: &mut Vec<u8>,
) {
    let logged_in = device.link.as_ref().is_some_and(|link| link.logged_in);
    match (received.kind, logged_in) {
        (kind::LOGIN_ACK, false) => login_ack(squad, (n, device), received, replies),
        (kind::HEARTBEAT_ACK, true) => heartbeat_ack(squad, device, received),
        (kind::DATA, true) => data(squad, device, received, replies),
        (kind::DATA_ACK, true) => receipt(squad, device, received, replies),
        (kind::LOGIN_ACK, true) => fault(squad, device, Count::Duplicated, "login answered twice"),
        (other, _) => {
            fault(squad, device, Count::Corrupted, &format!("unexpected frame of type {other}"));
        }
    }
}

fn fault(squad: &Squad, device: &Device, count: Count, what: &str) {
    squad.tally.borrow_mut().fault(count, || format!("device {}: {what}", device.devid));
}

fn login_ack(
    squad: &Squad,
    (n, device): (usize, &mut Device),
    received: &Received<'_>,
    replies: &mut Vec<u8>,
) {
    let ack: LoginAck<'_> = match serde_json::from_slice(received.body) {
        Ok(ack) => ack,
        Err(error) => {
            let what = format!("login acknowledgement: {error}");
            return fault(squad, device, Count::Corrupted, &what);
        }
    };
    if *ack.devid != *device.devid {
        let what = format!("its login was acknowledged to {:?}", ack.devid);
        fault(squad, device, Count::Foreign, &what);
    }
    check_route(squad, device, &ack.server);
    if let Some(link) = &mut device.link {
        link.logged_in = true;
    }
    device.logged_in(squad, n, received.now_ns);
    start_watch(squad, n, device, received.now_ns);
    if squad.plan.args.closed && squad.is_loading() {
        for _ in 0..squad.plan.args.window {
            compose_message(squad, device, replies, received.now_ns);
        }
    }
}

fn check_route(squad: &Squad, device: &mut Device, server: &str) {
    let mut servers = squad.servers.borrow_mut();
    let next = servers.len() as u32;
    let place = match servers.get(server) {
        Some(place) => *place,
        None => *servers.entry(server.into()).or_insert(next),
    };
    device.server = Some(place);
    let routes = &squad.plan.routes;
    match device.home {
        Home::At(home) => {
            squad.count(Count::RouteChecked);
            if routes.place_of(server) != Some(home) {
                let what = format!("landed on {server}, belongs to {}", routes.backends[home]);
                fault(squad, device, Count::Misrouted, &what);
            }
        }
        Home::Open | Home::Refused => squad.count(Count::RouteUnchecked),
    }
}

fn heartbeat_ack(squad: &Squad, device: &mut Device, received: &Received<'_>) {
    if !received.body.is_empty() {
        fault(squad, device, Count::Corrupted, "heartbeat answered with a body");
    }
    let Some(link) = &mut device.link else { return };
    if link.heartbeats_out == 0 {
        return fault(squad, device, Count::Duplicated, "heartbeat answered twice");
    }
    link.heartbeats_out -= 1;
    squad.outstanding.set(squad.outstanding.get() - 1);
    squad.count(Count::HeartbeatsAnswered);
}

fn data(squad: &Squad, device: &mut Device, received: &Received<'_>, replies: &mut Vec<u8>) {
    let Some(echo) = Data::parse(received.body) else {
        return fault(squad, device, Count::Corrupted, "data frame too short for its fields");
    };
    if echo.devid != device.devid.as_bytes() {
        let what = format!("got a frame of {:?}", String::from_utf8_lossy(echo.devid));
        return fault(squad, device, Count::Foreign, &what);
    }
    // The header and the lengths are part of the frame: compare all that was sent.
    let plan = &squad.plan;
    let payload_len = plan.args.payload.saturating_sub(data_overhead(echo.devid));
    let sent = plan.payloads.payload(device.number.into(), echo.sequence, payload_len);
    let header = header_of(plan.args.payload, plan.heartbeat_s);
    let intact = echo.payload == sent && received.whole.starts_with(&header);
    answer(squad, device, (echo.sequence, intact, received.now_ns), replies);
}

/// What the header of every data frame is.
fn header_of(body_len: usize, heartbeat_s: u16) -> [u8; crate::frame::HEADER_LEN] {
    let [time_high, time_low] = heartbeat_s.to_be_bytes();
    let [len_high, len_low] = u16::try_from(body_len).unwrap_or(u16::MAX).to_be_bytes();
    let [kind] = kind::DATA.to_be_bytes();
    let [version] = crate::frame::VERSION.to_be_bytes();
    [kind, version, time_high, time_low, len_high, len_low]
}

fn receipt(squad: &Squad, device: &mut Device, received: &Received<'_>, replies: &mut Vec<u8>) {
    let Some(receipt) = Receipt::parse(received.body) else {
        return fault(squad, device, Count::Corrupted, "acknowledgement of another length");
    };
    let plan = &squad.plan;
    let devid = device.devid.as_bytes();
    let payload_len = plan.args.payload.saturating_sub(data_overhead(devid));
    let sequence = receipt.sequence;
    let payload = plan.payloads.payload(device.number.into(), sequence, payload_len);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header_of(plan.args.payload, plan.heartbeat_s));
    crc.update(&sequence.to_be_bytes());
    crc.update(&[u8::try_from(devid.len()).unwrap_or(u8::MAX)]);
    crc.update(devid);
    crc.update(payload);
    let intact = crc.finalize() == receipt.crc32;
    answer(squad, device, (sequence, intact, received.now_ns), replies);
}

/// Books the answer to a sequence number; a closed loop goes on.
fn answer(
    squad: &Squad,
    device: &mut Device,
    (sequence, intact, now_ns): (u64, bool, u64),
    replies: &mut Vec<u8>,
) {
    let verdict = device.window.answer(sequence);
    let what = format_args!("frame {sequence}");
    let intended_ns = match verdict {
        Answer::InOrder(intended_ns) => intended_ns,
        Answer::OutOfOrder(intended_ns) => {
            fault(squad, device, Count::OutOfOrder, &what.to_string());
            intended_ns
        }
        Answer::Duplicate => return fault(squad, device, Count::Duplicated, &what.to_string()),
        Answer::Unknown => {
            return fault(squad, device, Count::Corrupted, &format!("{what} was never sent"));
        }
    };
    squad.outstanding.set(squad.outstanding.get() - 1);
    if !intact {
        fault(squad, device, Count::Corrupted, &format!("{what} came back changed"));
    }
    let mut tally = squad.tally.borrow_mut();
    tally.count(Count::Received);
    tally.record(Measure::RoundTrip, now_ns.saturating_sub(intended_ns));
    drop(tally);
    if squad.plan.args.closed && squad.is_loading() {
        compose_message(squad, device, replies, now_ns);
    }
}

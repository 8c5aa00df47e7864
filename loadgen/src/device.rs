//! The life of one device: connect, log in, beat, send, and connect again when the link is lost.
//!
//! What its link does with frames is in `link.rs`; this file decides when there is a link.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::cli::CloseHow;
use crate::counters::{Count, Measure};
use crate::link::{self, Link};
use crate::oracle::Home;
use crate::plan::Plan;
use crate::random::{Random, mix};
use crate::squad::{Phase, Squad};
use crate::window::Window;

/// What a device is between and during connections.
pub struct Device {
    /// Its id on the wire.
    pub devid: Box<str>,
    /// Where it must land.
    pub home: Home,
    /// What its payloads depend on: its number in the fleet.
    pub number: u32,
    /// Frames without an answer; sequence numbers go on over connections.
    pub window: Window,
    /// Splits and jitter.
    pub random: Random,
    /// The connection, while there is one.
    pub link: Option<Link>,
    /// Who acknowledged the last login: index into the squad's names.
    pub server: Option<u32>,
    /// Its place in the squad's roster while it is logged in.
    pub roster_place: Option<usize>,
    /// Counts connections, so that timers of an earlier one mean nothing.
    pub generation: u32,
    target: SocketAddr,
    source: Option<IpAddr>,
    /// When the last connection was lost, until the next login.
    lost_at_ns: Option<u64>,
    settled: bool,
    logins: u64,
    /// The last connection ended by the storm.
    killed: bool,
}

/// What a device is told from outside its own task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Reset the connection.
    Kill,
    /// End the connection as the run ends.
    Leave,
    /// The login was not answered in time.
    LoginTimeout,
    /// Nothing was read for the reader-idle time.
    ReaderIdle,
}

/// How an attempt or a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Not by us, or by a deadline of ours; counted as this.
    Broken(Count),
    /// By the storm.
    Killed,
    /// By us at the end of the run.
    Left,
    /// By us, to start again.
    Churned,
}

impl Device {
    /// A device that has not connected yet.
    pub fn new(plan: &Plan, number: u32) -> Device {
        let devid = plan.args.id_template.id(plan.args.first_id + u64::from(number));
        let home = plan.routes.home(devid.as_bytes());
        Device {
            target: plan.target_of(number, home),
            source: plan.source_of(number),
            devid: devid.into(),
            home,
            number,
            window: Window::default(),
            random: Random::new(mix(plan.args.seed ^ mix(u64::from(number) + 1))),
            link: None,
            server: None,
            roster_place: None,
            generation: 0,
            lost_at_ns: None,
            settled: false,
            logins: 0,
            killed: false,
        }
    }

    /// Books the login acknowledgement of the current connection.
    pub fn logged_in(&mut self, squad: &Squad, n: usize, now_ns: u64) {
        let started_ns = self.link.as_ref().map_or(now_ns, |link| link.started_ns);
        let mut tally = squad.tally.borrow_mut();
        tally.count(Count::Logins);
        tally.record(Measure::FirstReply, now_ns - started_ns);
        if let Some(lost_at_ns) = self.lost_at_ns.take() {
            tally.count(Count::Reconnected);
            tally.record(Measure::Reconnect, now_ns - lost_at_ns);
        }
        if self.logins == 0 {
            tally.count(Count::DevicesLoggedIn);
        }
        self.logins += 1;
        drop(tally);
        self.settle(squad);
        let mut roster = squad.roster.borrow_mut();
        self.roster_place = Some(roster.len());
        roster.push(n);
    }

    /// Whether it once was logged in and is not connected, for another reason than a storm.
    pub fn is_gone(&self) -> bool {
        self.logins > 0 && !self.killed && self.roster_place.is_none()
    }

    fn settle(&mut self, squad: &Squad) {
        if !std::mem::replace(&mut self.settled, true) {
            squad.settled.set(squad.settled.get() + 1);
        }
    }
}

/// Lives until the run ends, or until the device may not connect again.
pub async fn live(squad: &Squad, n: usize) {
    let mut failures: u32 = 0;
    loop {
        let logins = squad.devices[n].borrow().logins;
        let ended = connect_and_stay(squad, n).await;
        let ending = matches!(squad.phase.get(), Phase::Drain | Phase::Leave);
        if ended == Ended::Left || ending {
            return;
        }
        if ended == Ended::Churned {
            failures = 0;
            continue;
        }
        if !squad.plan.args.reconnect {
            return;
        }
        if squad.devices[n].borrow().logins != logins {
            failures = 0;
        }
        let pause = backoff(squad, n, failures);
        failures = failures.saturating_add(1);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = squad.leave.notified() => return,
        }
    }
}

/// Exponential, capped, with full jitter: uniform between zero and the bound.
fn backoff(squad: &Squad, n: usize, failures: u32) -> Duration {
    let args = &squad.plan.args;
    let bound = args.backoff.saturating_mul(1 << failures.min(20)).min(args.backoff_max);
    let bound_ns = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(squad.devices[n].borrow_mut().random.below(bound_ns.max(1)))
}

async fn connect_and_stay(squad: &Squad, n: usize) -> Ended {
    let (source, target) = {
        let device = squad.devices[n].borrow();
        (device.source, device.target)
    };
    let started_ns = squad.now_ns();
    squad.count(Count::Attempts);
    let attempt = tokio::time::timeout(squad.plan.args.connect_timeout, dial(source, target));
    let outcome = tokio::select! {
        outcome = attempt => outcome,
        () = squad.leave.notified() => return Ended::Left,
    };
    let stream = match outcome {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return connect_failed(squad, n, &error),
        Err(late) => return connect_failed(squad, n, &Error::new(ErrorKind::TimedOut, late)),
    };
    {
        let mut tally = squad.tally.borrow_mut();
        tally.count(Count::Connected);
        tally.record(Measure::Connect, squad.now_ns() - started_ns);
    }
    let ended = link::stay(squad, n, stream, started_ns).await;
    unlink(squad, n, ended);
    ended
}

/// Connects, from this address if there is one.
///
/// # Errors
/// What the kernel says; see [`Count::of_connect`].
pub async fn dial(source: Option<IpAddr>, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = crate::machine::open_socket(source, target)?;
    TcpSocket::from_std_stream(socket.into()).connect(target).await
}

fn connect_failed(squad: &Squad, n: usize, error: &Error) -> Ended {
    let kind = Count::of_connect(error);
    let mut device = squad.devices[n].borrow_mut();
    squad
        .tally
        .borrow_mut()
        .fault(kind, || format!("device {} to {}: {error}", device.devid, device.target));
    device.settle(squad);
    Ended::Broken(kind)
}

/// Books the end of a connection and what was in flight on it.
fn unlink(squad: &Squad, n: usize, ended: Ended) {
    let mut device = squad.devices[n].borrow_mut();
    let Some(link) = device.link.take() else { return };
    let was_logged_in = link.logged_in;
    device.killed = ended == Ended::Killed;
    if let Some(place) = device.roster_place.take() {
        strike_off(squad, place);
    }
    device.settle(squad);
    let mut tally = squad.tally.borrow_mut();
    match ended {
        Ended::Killed => tally.count(Count::Killed),
        Ended::Broken(kind) => tally.fault(kind, || match &link.failure {
            Some(error) => format!("device {}: {error}", device.devid),
            None => format!("device {} at {}", device.devid, device.target),
        }),
        Ended::Left | Ended::Churned => {}
    }
    if was_logged_in && matches!(ended, Ended::Killed | Ended::Broken(_)) {
        device.lost_at_ns = Some(squad.now_ns());
    }
    let heartbeats = u64::from(link.heartbeats_out);
    let frames = device.window.abandon();
    let gone = frames.map_or(0, |(count, _)| count as u64) + heartbeats;
    if gone == 0 {
        return;
    }
    squad.outstanding.set(squad.outstanding.get() - gone);
    let ours = ended == Ended::Killed;
    let tolerated = squad.plan.args.tolerate_breaks && matches!(ended, Ended::Broken(_));
    if ours || tolerated {
        return tally.count_many(Count::Cut, gone);
    }
    tally.count_many(Count::Lost, gone - 1);
    tally.fault(Count::Lost, || match frames {
        Some((count, first)) => {
            format!("device {}: {count} frames from number {first} on", device.devid)
        }
        None => format!("device {}: {heartbeats} heartbeats unanswered", device.devid),
    });
}

/// Takes a device off the roster; the last one moves to its place.
fn strike_off(squad: &Squad, place: usize) {
    let mut roster = squad.roster.borrow_mut();
    roster.swap_remove(place);
    if let Some(moved) = roster.get(place) {
        // The device struck off is borrowed by the caller and is never the one that moves.
        squad.devices[*moved].borrow_mut().roster_place = Some(place);
    }
}

/// Tells a device what to do with its connection, if it has one.
pub fn order(squad: &Squad, n: usize, order: Order) {
    if let Some(link) = &mut squad.devices[n].borrow_mut().link {
        link.take_order(order);
    }
}

/// A timer of a connection is due: beats, gives up, or comes back later.
pub fn look_at(squad: &Squad, n: usize, generation: u32, now_ns: u64) {
    let mut device = squad.devices[n].borrow_mut();
    if device.generation != generation || device.link.is_none() {
        return;
    }
    if let Some(at_ns) = link::keep_alive(squad, &mut device, now_ns) {
        squad.watch(at_ns, n, generation);
    }
}

/// Sends one open-loop message.
pub fn send_open_loop(squad: &Squad, n: usize, due_ns: u64, now_ns: u64) {
    let mut device = squad.devices[n].borrow_mut();
    let backlog = device.link.as_ref().map_or(0, Link::backlog);
    if backlog > link::BACKLOG_LEN_MAX {
        return squad.count(Count::QueueFull);
    }
    let mut frames = squad.write_buffer.borrow_mut();
    frames.clear();
    link::compose_message(squad, &mut device, &mut frames, due_ns);
    link::write(squad, &mut device, &frames, now_ns);
}

/// Sends the first messages of a closed loop.
pub fn start_closed_loop(squad: &Squad, n: usize) {
    let mut device = squad.devices[n].borrow_mut();
    let mut frames = squad.write_buffer.borrow_mut();
    frames.clear();
    let now_ns = squad.now_ns();
    for _ in 0..squad.plan.args.window {
        link::compose_message(squad, &mut device, &mut frames, now_ns);
    }
    link::write(squad, &mut device, &frames, now_ns);
}

/// The run is over and this device's connection is still there: nobody answered its FIN.
pub fn give_up(squad: &Squad, n: usize) {
    if squad.devices[n].borrow().link.is_none() {
        return;
    }
    let ended = match squad.plan.close {
        CloseHow::Fin => Ended::Broken(Count::FinUnanswered),
        CloseHow::Reset => Ended::Left,
    };
    unlink(squad, n, ended);
}

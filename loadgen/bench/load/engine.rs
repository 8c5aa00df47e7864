//! The event loop: sockets, their events, and the phases of a measurement.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::args::{Kind, Plan};
use super::connection::{Connection, Errand, Role, Then};
use super::http::{self, Request};
use super::measure::Snapshot;
use super::schedule::Schedule;

/// Logins under way at a time: less than a listener's queue.
const LOGINS_MAX: usize = 256;
/// For all devices to log in.
const LOGIN_DEADLINE: Duration = Duration::from_secs(40);
/// For answers after the end of the window.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
const BACKLOG: i32 = 4096;
/// Bytes of a read; floods are read and written in such pieces.
pub const CHUNK: usize = 256 * 1024;
const TIMER: Token = Token(usize::MAX);
const LISTENERS_FROM: usize = usize::MAX - 1024;

/// Everything of a load.
pub struct Engine {
    pub(super) plan: Plan,
    pub(super) poll: Poll,
    timer: TimerFd,
    listeners: Vec<TcpListener>,
    pub(super) connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    generation: Vec<u32>,
    /// Floods whose turn was cut short.
    pub(super) again: Vec<usize>,
    pub(super) buffer: Vec<u8>,
    pub(super) message: Vec<u8>,
    pub(super) request: Option<Request>,
    pub(super) pattern: Vec<u8>,
    pub(super) devices: Vec<usize>,
    pub(super) next_device: u64,
    pub(super) next_sequence: u64,
    pub(super) logging_in: usize,
    pub(super) logged_in: usize,
    pub(super) phase: Phase,
    schedule: Option<Schedule>,
    pub(super) counts: Counts,
    measured: Option<(Snapshot, Duration)>,
}

/// Where a load stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Devices log in.
    Login,
    /// Load that does not count, or counts.
    Load,
    /// Nothing new is begun.
    Over,
}

/// What is counted in the measurement.
pub struct Counts {
    /// Echoed messages, connections, or bytes.
    pub completed: u64,
    /// What went wrong.
    pub errors: BTreeMap<&'static str, u64>,
    /// Latencies, ns.
    pub latency: Histogram<u64>,
    /// Times from connect to the first echoed byte, ns.
    pub first_echo: Histogram<u64>,
}

impl Counts {
    fn new() -> anyhow::Result<Counts> {
        let histogram = || Histogram::new_with_bounds(1, 120_000_000_000, 3);
        let (latency, first_echo) = (histogram()?, histogram()?);
        Ok(Counts { completed: 0, errors: BTreeMap::new(), latency, first_echo })
    }

    /// Counts a fault.
    pub fn error(&mut self, name: &'static str) {
        *self.errors.entry(name).or_default() += 1;
    }
}

impl Engine {
    /// A load that has not begun.
    pub fn new(plan: Plan) -> anyhow::Result<Engine> {
        let poll = Poll::new()?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let timer_fd = std::os::fd::AsFd::as_fd(&timer).as_raw_fd();
        poll.registry().register(&mut SourceFd(&timer_fd), TIMER, Interest::READABLE)?;
        let mut message = vec![0; plan.message_bytes];
        match plan.upgrade {
            true => http::put_frame_header(&mut message),
            false => message[..6].copy_from_slice(&message_header(plan.message_bytes)),
        }
        Ok(Engine {
            poll,
            timer,
            listeners: Vec::new(),
            connections: Vec::new(),
            free: Vec::new(),
            generation: Vec::new(),
            again: Vec::new(),
            buffer: vec![0; CHUNK],
            message,
            request: plan.requests.as_ref().map(Request::new),
            pattern: (0..2 * CHUNK).map(|n| ((n % CHUNK * 2_654_435_761) >> 11) as u8).collect(),
            devices: Vec::new(),
            next_device: 0,
            next_sequence: 0,
            logging_in: 0,
            logged_in: 0,
            phase: Phase::Login,
            schedule: None,
            counts: Counts::new()?,
            measured: None,
            plan,
        })
    }

    /// Listens on the backends' addresses.
    pub fn listen(&mut self) -> anyhow::Result<()> {
        for (index, address) in self.plan.backends.iter().enumerate() {
            let mut listener = listen(*address).with_context(|| format!("listen on {address}"))?;
            let token = Token(LISTENERS_FROM + index % 1000);
            self.poll.registry().register(&mut listener, token, Interest::READABLE)?;
            self.listeners.push(listener);
        }
        Ok(())
    }

    /// Whether the kind has no measurement of its own.
    pub fn is_idle_kind(&self) -> bool {
        self.plan.kind == Kind::Idle
    }

    /// Connects every device that is to stay, and waits until each has its login echoed.
    pub fn log_in(&mut self) -> anyhow::Result<()> {
        let talkers = match self.plan.kind {
            Kind::Messages(_) | Kind::Bulk | Kind::Requests => self.plan.connections,
            Kind::Connects(_) | Kind::Idle | Kind::Echo => 0,
        };
        let then = match self.plan.kind {
            Kind::Bulk => Then::Flood,
            Kind::Requests => Then::Ask,
            _ => Then::Talk,
        };
        let all = self.plan.idle + talkers;
        let give_up = Instant::now() + LOGIN_DEADLINE;
        let mut begun = 0;
        while self.logged_in < all {
            while begun < all && self.logging_in < LOGINS_MAX {
                let then = if begun < self.plan.idle { Then::Silence } else { then };
                self.begin(then, Instant::now())?;
                begun += 1;
            }
            self.turn(Some(Duration::from_millis(100)))?;
            if let Some((name, _)) = self.counts.errors.first_key_value() {
                bail!("a device could not log in: {name}");
            }
            if Instant::now() > give_up {
                bail!("only {} of {all} devices logged in in time", self.logged_in);
            }
        }
        self.counts.completed = if self.is_idle_kind() { all as u64 } else { 0 };
        Ok(())
    }

    /// Warm-up, measurement, end.
    pub fn run_measured(&mut self) -> anyhow::Result<()> {
        self.phase = Phase::Load;
        let start = Instant::now();
        match self.plan.kind {
            Kind::Messages(None) => self.for_each_device(Engine::send_message),
            Kind::Requests => {
                // Those whose first answer was the last begin anew.
                let ended = self.plan.connections - self.devices.len();
                self.for_each_device(Engine::send_message);
                for _ in 0..ended {
                    self.begin(Then::Ask, start)?;
                }
            }
            Kind::Bulk => self.for_each_device(|engine, index, _now| engine.flood(index)),
            Kind::Connects(None) => {
                for _ in 0..self.plan.connections {
                    self.begin(Then::Reset, start)?;
                }
            }
            Kind::Messages(Some(rate)) | Kind::Connects(Some(rate)) => {
                self.schedule = Some(Schedule::new(start, rate));
            }
            Kind::Idle | Kind::Echo => {}
        }
        self.run_until(start + self.plan.warmup)?;
        // What went wrong before counts too.
        self.counts = Counts { errors: std::mem::take(&mut self.counts.errors), ..Counts::new()? };
        let (before, begun) =
            (Snapshot::take(&self.plan.measured, &self.plan.ends)?, Instant::now());
        self.run_until(begun + self.plan.duration)?;
        let after = Snapshot::take(&self.plan.measured, &self.plan.ends)?;
        self.measured = Some((after.since(&before), begun.elapsed()));
        self.phase = Phase::Over;
        self.wait_for_answers()
    }

    /// What was sent in the window is waited for: its latency counts, and what never comes is an
    /// error. The rate is that of the window.
    fn wait_for_answers(&mut self) -> anyhow::Result<()> {
        let completed = self.counts.completed;
        self.schedule = None;
        let give_up = Instant::now() + ANSWER_DEADLINE;
        while self.unanswered() > 0 && Instant::now() < give_up {
            self.turn(Some(Duration::from_millis(10)))?;
        }
        let unanswered = self.unanswered();
        if unanswered > 0 {
            self.counts.errors.insert("unanswered", unanswered as u64);
        }
        self.counts.completed = completed;
        Ok(())
    }

    fn unanswered(&self) -> usize {
        let of = |connection: &Connection| match &connection.role {
            Role::Talking(talk) | Role::Asking(_, talk) => talk.in_flight.len(),
            role => usize::from(role.errand().is_some()),
        };
        self.connections.iter().flatten().map(of).sum()
    }

    /// Looks at connections that were silent: whatever happened to one is an error by now.
    pub fn look_at_silent(&mut self) -> anyhow::Result<()> {
        for index in 0..self.connections.len() {
            self.ready(index, false, true);
        }
        let open = self.connections.iter().flatten();
        let silent = open.filter(|connection| matches!(connection.role, Role::Silent));
        self.counts.completed = silent.count() as u64;
        Ok(())
    }

    fn for_each_device(&mut self, mut act: impl FnMut(&mut Engine, usize, Instant)) {
        for index in self.devices.clone() {
            act(self, index, Instant::now());
        }
    }

    fn run_until(&mut self, end: Instant) -> anyhow::Result<()> {
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            self.send_due(now)?;
            let mut wait = end - now;
            if let Some(schedule) = &self.schedule {
                wait = wait.min(schedule.due().saturating_duration_since(now));
            }
            let wait = if self.plan.spin || !self.again.is_empty() { Duration::ZERO } else { wait };
            self.wait(wait)?;
        }
    }

    /// Begins what is due in an open loop.
    fn send_due(&mut self, now: Instant) -> anyhow::Result<()> {
        while let Some((number, due)) = self.schedule.as_mut().and_then(|all| all.take(now)) {
            match self.plan.kind {
                Kind::Connects(_) if self.logging_in >= self.plan.connections => {
                    self.counts.error("late");
                }
                Kind::Connects(_) => self.begin(Then::Reset, due)?,
                _ if self.devices.is_empty() => self.counts.error("nobody_to_send"),
                _ => {
                    let turn = number as usize % self.devices.len();
                    self.send_message(self.devices[turn], due);
                }
            }
        }
        Ok(())
    }

    /// Waits for events, up to a time that epoll's milliseconds would not be exact enough for.
    fn wait(&mut self, most: Duration) -> anyhow::Result<()> {
        if most.is_zero() || most >= Duration::from_millis(50) {
            return self.turn(Some(most.min(Duration::from_millis(50))));
        }
        let after = Expiration::OneShot(TimeSpec::from_duration(most));
        self.timer.set(after, TimerSetTimeFlags::empty())?;
        self.turn(None)
    }

    pub(super) fn turn(&mut self, timeout: Option<Duration>) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        match self.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            match event.token() {
                TIMER => {}
                Token(listener) if listener >= LISTENERS_FROM => self.accept()?,
                Token(token) => {
                    let index = token & 0xffff_ffff;
                    let current = self.generation.get(index).copied();
                    if current == Some((token >> 32) as u32) {
                        self.ready(index, event.is_writable(), event.is_read_closed());
                    }
                }
            }
        }
        for index in std::mem::take(&mut self.again) {
            self.ready(index, true, true);
        }
        Ok(())
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        for listener in 0..self.listeners.len() {
            loop {
                match self.listeners[listener].accept() {
                    Ok((socket, _peer)) => {
                        socket.set_nodelay(true)?;
                        let role = match self.plan.http {
                            true => Role::serving(listener),
                            false => Role::Echo,
                        };
                        self.add(Connection::new(socket, role))?;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Out of descriptors, it would fail again and again.
                    Err(_no_descriptor) => {
                        self.counts.error("accept");
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Begins a device. Its latency counts from `begun`.
    pub(super) fn begin(&mut self, then: Then, begun: Instant) -> anyhow::Result<()> {
        let target = self.plan.targets[self.next_device as usize % self.plan.targets.len()];
        let errand = Errand { then, begun, first_echo: None };
        self.logging_in += 1;
        match connect(target) {
            Ok(socket) => self.add(Connection::new(socket, Role::Connecting(errand)))?,
            Err(_no_port) => {
                self.logging_in -= 1;
                self.counts.error("connect");
                0
            }
        };
        Ok(())
    }

    fn add(&mut self, mut connection: Connection) -> anyhow::Result<usize> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.generation.push(0);
            self.connections.len() - 1
        });
        let token = Token((self.generation[index] as usize) << 32 | index);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut connection.socket, token, interest)?;
        self.connections[index] = Some(connection);
        Ok(index)
    }

    /// Closes a connection; with a reset if it is a device's (linger 0).
    pub(super) fn close(&mut self, index: usize) -> Option<Connection> {
        let closed = self.connections.get_mut(index)?.take();
        self.generation[index] = self.generation[index].wrapping_add(1) & 0x3fff_ffff;
        self.free.push(index);
        closed
    }

    /// The report.
    pub fn report(&self) -> Value {
        let (used, elapsed) = self.measured.unwrap_or_default();
        let seconds = elapsed.as_secs_f64();
        let completed = self.counts.completed;
        let is_bulk = self.plan.kind == Kind::Bulk;
        let megabytes = completed as f64 / 1e6;
        let operations = if is_bulk { megabytes } else { completed as f64 };
        let per = |ns: u64| (operations > 0.0).then(|| ns as f64 / operations);
        let rate = |n: f64| (seconds > 0.0).then(|| n / seconds);
        let wanted = match self.plan.kind {
            Kind::Messages(rate) | Kind::Connects(rate) => rate,
            Kind::Idle | Kind::Bulk | Kind::Requests | Kind::Echo => None,
        };
        json!({
            "kind": self.plan.kind.name(),
            "target": self.plan.targets.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "connections": self.plan.connections,
            "idle": self.plan.idle,
            "message_bytes": self.plan.message_bytes,
            "spin": self.plan.spin,
            "rate_wanted": wanted,
            "seconds": seconds,
            "completed": completed,
            "errors": self.counts.errors,
            "rate": if is_bulk { None } else { rate(completed as f64) },
            "megabytes_per_second": if is_bulk { rate(megabytes) } else { None },
            "latency_us": summary(&self.counts.latency),
            "first_echo_us": summary(&self.counts.first_echo),
            "percentiles": percentiles(match self.plan.kind {
                Kind::Connects(_) => &self.counts.first_echo,
                _ => &self.counts.latency,
            }),
            "forwarder_cpu_ns": used.forwarder_ns,
            "forwarder_cpu_ns_per_operation": per(used.forwarder_ns),
            "forwarder_switches": used.switches,
            "load_cpu_ns": used.load_ns,
            "machine_busy_ns": used.busy_ns,
            "machine_steal_ns": used.steal_ns,
        })
    }
}

fn summary(histogram: &Histogram<u64>) -> Option<Value> {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    (!histogram.is_empty()).then(|| {
        json!({
            "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999),
            "max": histogram.max() as f64 / 1e3, "mean": histogram.mean() / 1e3,
        })
    })
}

/// Points of a curve over a logarithmic axis: 0 %, 16 %, 29 %, … 99.997 %.
fn percentiles(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let point = |step: i32| {
        let quantile = 1.0 - 2f64.powf(-f64::from(step) / 4.0);
        (quantile * 100.0, histogram.value_at_quantile(quantile) as f64 / 1e3)
    };
    (0..60).map(point).collect()
}

/// `>ccHH`: data, version 1, no heartbeat, length of the body.
fn message_header(message_bytes: usize) -> [u8; 6] {
    let body = (message_bytes - 6) as u16;
    let [high, low] = body.to_be_bytes();
    [corelane_loadgen::frame::kind::DATA as u8, 1, 0, 0, high, low]
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// A device's socket: closing it is a reset, so that no TIME_WAIT is left to the next measurement.
fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(target)?;
    let options = SockRef::from(&socket);
    options.set_tcp_nodelay(true)?;
    options.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

//! The command line of the load.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use corelane_loadgen::units::{parse_duration, parse_rate};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Devices and backends of one measurement; prints one JSON object.
#[derive(Debug, Args)]
pub struct LoadArgs {
    #[command(subcommand)]
    kind: KindArgs,
}

#[derive(Debug, Subcommand)]
enum KindArgs {
    /// Messages that are echoed, closed loop or at a rate.
    Messages {
        /// Each device asks for WebSocket first, and its messages are masked binary frames, which
        /// backends send back as they are.
        #[arg(long)]
        upgrade: bool,
        /// Devices.
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// Messages per second over all devices, by intended send times; without it each device
        /// sends upon the last echo.
        #[arg(long, value_parser = parse_rate)]
        rate: Option<f64>,
        /// Further devices that log in and stay silent.
        #[arg(long, default_value_t = 0)]
        idle: usize,
        #[command(flatten)]
        common: Common,
    },
    /// Connect, login frame, echo, reset, and again.
    Connects {
        /// Connections at a time.
        #[arg(long, default_value_t = 64)]
        parallel: usize,
        /// Connections per second; without it as fast as it goes.
        #[arg(long, value_parser = parse_rate)]
        rate: Option<f64>,
        #[command(flatten)]
        common: Common,
    },
    /// Devices that log in and stay silent, until standard input ends.
    Idle {
        /// Devices.
        #[arg(long, default_value_t = 1000)]
        count: usize,
        #[command(flatten)]
        common: Common,
    },
    /// Requests of HTTP over connections that stay, closed loop. Each names one of several places
    /// in a header; place N belongs to the backend N modulo their number, which is checked.
    Requests {
        /// Connections, each with one request at a time.
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// The method; POST has a small body.
        #[arg(long, value_enum, default_value_t = Method::Get)]
        method: Method,
        /// The header that names the place, with three digits.
        #[arg(long, default_value = "x-place")]
        header: String,
        /// Places, used in turn.
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=999))]
        places: u16,
        #[command(flatten)]
        common: Common,
    },
    /// The backends alone (started by the other kinds).
    #[command(hide = true)]
    Echo(EchoArgs),
    /// As many bytes as go through, echoed.
    Bulk {
        /// Devices.
        #[arg(long, default_value_t = 4)]
        connections: usize,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args, Clone)]
struct EchoArgs {
    /// Where to listen.
    #[arg(long, value_delimiter = ',', required = true)]
    backends: Vec<SocketAddr>,
    /// Answer requests of HTTP; without it every byte is echoed.
    #[arg(long)]
    http: bool,
}

/// A method of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// Without a body.
    Get,
    /// With a small body.
    Post,
}

#[derive(Debug, Args, Clone)]
struct Common {
    /// The forwarder.
    #[arg(long, required_unless_present = "direct")]
    target: Option<SocketAddr>,
    /// No forwarder: devices connect to the backends in turn.
    #[arg(long)]
    direct: bool,
    /// Where to listen and echo.
    #[arg(long, value_delimiter = ',', required = true)]
    backends: Vec<SocketAddr>,
    /// Bytes of a message, and of a login frame that is measured.
    #[arg(long, default_value_t = 128)]
    message_bytes: usize,
    /// Time between listening and the first connection: a forwarder that has found nobody there
    /// may send nobody there for a while.
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    settle: Duration,
    /// Load before the measurement.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    warmup: Duration,
    /// The measurement.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
    /// Whose CPU time is measured.
    #[arg(long, value_delimiter = ',')]
    measure_pid: Vec<u32>,
    /// Never sleep, and play devices and backends in one process: on a core of its own the load
    /// then adds next to nothing to latencies.
    #[arg(long)]
    spin: bool,
}

/// What the load does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Echoed messages; open loop at this rate per second.
    Messages(Option<f64>),
    /// Connections one after the other; at this rate per second.
    Connects(Option<f64>),
    /// Silent devices.
    Idle,
    /// A flood both ways.
    Bulk,
    /// Requests of HTTP.
    Requests,
    /// No devices: backends that echo.
    Echo,
}

/// What requests look like.
#[derive(Debug, Clone)]
pub struct Requests {
    /// The method.
    pub method: Method,
    /// The header that names the place.
    pub header: String,
    /// Places, used in turn.
    pub places: u16,
    /// Whether a place has one backend: not if there is nobody who could choose it.
    pub is_placed: bool,
}

impl Kind {
    /// Name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Messages(_) => "messages",
            Kind::Connects(_) => "connects",
            Kind::Idle => "idle",
            Kind::Bulk => "bulk",
            Kind::Requests => "requests",
            Kind::Echo => "echo",
        }
    }
}

/// Everything an engine is told.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What to do.
    pub kind: Kind,
    /// Devices that talk.
    pub connections: usize,
    /// Devices that stay silent.
    pub idle: usize,
    /// Where devices connect to, in turn.
    pub targets: Vec<SocketAddr>,
    /// Where backends listen.
    pub backends: Vec<SocketAddr>,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Of [`Kind::Requests`].
    pub requests: Option<Requests>,
    /// Devices ask for WebSocket in place of a login.
    pub upgrade: bool,
    /// Backends answer HTTP.
    pub http: bool,
    /// Time between listening and the first connection.
    pub settle: Duration,
    /// Load before the measurement.
    pub warmup: Duration,
    /// The measurement.
    pub duration: Duration,
    /// Whose CPU time is measured.
    pub measured: Vec<u32>,
    /// Processes of the load besides this one.
    pub ends: Vec<u32>,
    /// Never sleep; backends are in this process.
    pub spin: bool,
}

/// A login frame and a sequence number at both ends must fit.
const MESSAGE_BYTES_MIN: usize = 48;

impl LoadArgs {
    /// The plan.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let (kind, connections, idle, common) = match &self.kind {
            KindArgs::Messages { connections, rate, idle, common, .. } => {
                (Kind::Messages(*rate), *connections, *idle, common)
            }
            KindArgs::Connects { parallel, rate, common } => {
                (Kind::Connects(*rate), *parallel, 0, common)
            }
            KindArgs::Idle { count, common } => (Kind::Idle, 0, *count, common),
            KindArgs::Bulk { connections, common } => (Kind::Bulk, *connections, 0, common),
            KindArgs::Requests { connections, common, .. } => {
                (Kind::Requests, *connections, 0, common)
            }
            KindArgs::Echo(echo) => return Ok(Plan::echo(echo)),
        };
        let requests = match &self.kind {
            KindArgs::Requests { method, header, places, .. } => Some(Requests {
                method: *method,
                header: header.clone(),
                places: *places,
                is_placed: !common.direct,
            }),
            _ => None,
        };
        let upgrade = matches!(self.kind, KindArgs::Messages { upgrade: true, .. });
        ensure!(
            (MESSAGE_BYTES_MIN..=60_000).contains(&common.message_bytes),
            "--message-bytes is from {MESSAGE_BYTES_MIN} to 60000"
        );
        let targets = match common.target {
            Some(target) if !common.direct => vec![target],
            _ => common.backends.iter().map(|address| reachable(*address)).collect(),
        };
        Ok(Plan {
            kind,
            connections,
            idle,
            targets,
            backends: common.backends.clone(),
            message_bytes: common.message_bytes,
            http: upgrade || requests.is_some(),
            requests,
            upgrade,
            settle: common.settle,
            warmup: common.warmup,
            duration: common.duration,
            measured: common.measure_pid.clone(),
            ends: Vec::new(),
            spin: common.spin,
        })
    }
}

impl Plan {
    fn echo(echo: &EchoArgs) -> Plan {
        Plan {
            kind: Kind::Echo,
            connections: 0,
            idle: 0,
            targets: Vec::new(),
            backends: echo.backends.clone(),
            message_bytes: MESSAGE_BYTES_MIN,
            requests: None,
            upgrade: false,
            http: echo.http,
            settle: Duration::ZERO,
            warmup: Duration::ZERO,
            duration: Duration::MAX,
            measured: Vec::new(),
            ends: Vec::new(),
            spin: false,
        }
    }
}

/// A wildcard is reached on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        other => other,
    }
}

/// Raises the limit of open files to the hard one.
pub fn raise_descriptors() -> anyhow::Result<()> {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of open files")
}

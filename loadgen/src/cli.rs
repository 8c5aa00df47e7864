//! The command line: what can be asked for, and the small languages of its values.

mod web;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub use web::{Heartbeat, HttpArgs, Verify, WebArgs, WsArgs};

use crate::units::{Fault, FaultAt, IdTemplate, Kill, Splits};
use crate::units::{parse_duration, parse_rate, parse_size};

/// A fleet of netty heartbeat clients and their message servers.
#[derive(Debug, Parser)]
#[command(name = "corelane-loadgen", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to be.
    #[command(subcommand)]
    pub role: Role,
}

const EXIT_CODES: &str = "Exit codes: 0 everything as it should be; 1 something was misrouted, lost, \
duplicated, out of order, corrupted or broken; 2 could not run.";

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Be the fleet: connect, log in, beat, send, verify every byte that comes back
    Devices(Box<DevicesArgs>),
    /// Be the message servers: acknowledge logins and heartbeats, echo data, fail on request
    Backend(BackendArgs),
    /// Be callers: HTTP requests at a rate, each answer checked
    Http(Box<HttpArgs>),
    /// Be WebSocket clients: upgrade, beat, send, verify every message that comes back
    Ws(Box<WsArgs>),
    /// Be both: random sizes, splits and half-closes in both directions at once, byte-exact
    Soak(SoakArgs),
}

/// `corelane-loadgen devices`
#[derive(Debug, Clone, Args)]
pub struct DevicesArgs {
    /// Where the gateway listens; several are used in turn
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub target: Vec<SocketAddr>,
    /// The gateway's configuration: every device must land where its table says
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Run the same load without the gateway first; addresses default to those in --config
    #[arg(long, value_name = "ADDR", num_args = 0.., value_delimiter = ',')]
    pub direct: Option<Vec<SocketAddr>>,
    /// Number of devices
    #[arg(long, default_value_t = 1)]
    pub count: u32,
    /// Devices started per second
    #[arg(long, value_name = "N/s", default_value = "1000/s", value_parser = parse_rate)]
    pub ramp: f64,
    /// Device ids: {} or {:0WIDTH} becomes the device's number
    #[arg(long, value_name = "TEXT", default_value = "8681202{:08}")]
    pub id_template: IdTemplate,
    /// Number of the first device
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub first_id: u64,
    /// Bytes of padding in the login frame
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = parse_size)]
    pub login_padding: usize,
    /// Writer-idle time after which a heartbeat is sent
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub heartbeat: Duration,
    /// Reader-idle time after which a device gives its connection up
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = parse_duration)]
    pub reader_idle: Duration,
    /// Messages per second over all devices, open loop on intended times
    #[arg(long, value_name = "N/s", value_parser = parse_rate, conflicts_with = "closed")]
    pub rate: Option<f64>,
    /// Each device sends the next message upon the answer to the last one
    #[arg(long)]
    pub closed: bool,
    /// With --closed: messages in flight per device
    #[arg(long, value_name = "N", default_value_t = 1, requires = "closed")]
    pub window: u32,
    /// Each device connects, logs in, closes, and starts again
    #[arg(long, conflicts_with_all = ["closed", "rate"])]
    pub churn: bool,
    /// Body bytes of a data frame, with sequence number and device id
    #[arg(long, value_name = "BYTES", default_value = "122", value_parser = parse_size)]
    pub payload: usize,
    /// How frames are cut into writes: none, random, bytewise, or a number of bytes
    #[arg(long, value_name = "HOW", default_value = "none")]
    pub splits: Splits,
    /// Pause between the writes of --splits
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub split_gap: Duration,
    /// How long to measure, after the ramp and the warm-up
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Load before the measurement
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// Loopback source addresses 127.0.0.2, 127.0.0.3, … (0: the kernel chooses)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sources: u32,
    /// Whether devices connect again
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub reconnect: bool,
    /// Bound of the first pause before a device connects again; it doubles, jitter is full
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration)]
    pub backoff: Duration,
    /// Largest bound of that pause
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub backoff_max: Duration,
    /// Storm: reset this share of the connections at this moment of the measurement (50%@10s)
    #[arg(long, value_name = "SHARE@TIME")]
    pub kill: Vec<Kill>,
    /// Do not fail because of connections that broke, if their devices came back
    #[arg(long)]
    pub tolerate_breaks: bool,
    /// Deadline of a connection attempt
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub connect_timeout: Duration,
    /// Deadline of the login acknowledgement, from the start of the attempt
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub login_timeout: Duration,
    /// How long to wait for outstanding answers, and then for the other ends' FINs
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub drain: Duration,
    /// How devices leave: fin or reset (default fin; reset with --churn)
    #[arg(long, value_name = "HOW")]
    pub close: Option<CloseHow>,
    /// Threads, each with its share of the devices
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: u32,
    /// Seed of payloads, splits, jitter and storms
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Where results go
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `corelane-loadgen backend`
#[derive(Debug, Clone, Args)]
pub struct BackendArgs {
    /// Addresses to listen on, one server each
    #[arg(long, value_name = "ADDR", value_delimiter = ',', conflicts_with_all = ["count", "base"])]
    pub listen: Vec<SocketAddr>,
    /// Number of servers, on consecutive ports
    #[arg(long, value_name = "K", default_value_t = 3)]
    pub count: u16,
    /// Address of the first server (port 0: any free ports)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9101")]
    pub base: SocketAddr,
    /// What it speaks and answers: frames with ack (sequence number and checksum) or echo (the very
    /// frame); http with what it received; ws with the very message
    #[arg(long, default_value = "echo")]
    pub mode: AnswerMode,
    /// FAULT or SERVER:FAULT (servers count from 0): refuse, noaccept, stall, silent, reset, slow,
    /// slow=TIME, close-after=FRAMES (answers, with http and ws)
    #[arg(long, value_name = "FAULT")]
    pub fault: Vec<FaultAt>,
    /// Largest frame accepted
    #[arg(long, value_name = "BYTES", default_value = "65541", value_parser = parse_size)]
    pub frame_max: usize,
    /// Threads, each with its share of the servers
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: u32,
    /// Stop after this time (default: when told to)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Statistics as JSON on exit (- is standard output)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `corelane-loadgen soak`
#[derive(Debug, Clone, Args)]
pub struct SoakArgs {
    /// Where the gateway listens
    #[arg(long, value_name = "ADDR", required_unless_present = "direct")]
    pub target: Option<SocketAddr>,
    /// The gateway's configuration: every session must land where its table says
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Addresses of the servers to be; default: those in --config
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub backends: Vec<SocketAddr>,
    /// Connect to the servers without a gateway
    #[arg(long, conflicts_with = "target")]
    pub direct: bool,
    /// Sessions at a time
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub sessions: u32,
    /// Start new sessions for this long (0s: each of --sessions once)
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Most bytes of a direction
    #[arg(long, value_name = "BYTES", default_value = "256KiB", value_parser = parse_size)]
    pub size_max: usize,
    /// Deadline of one session
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub session_timeout: Duration,
    /// Device ids: {} or {:0WIDTH} becomes the session's number
    #[arg(long, value_name = "TEXT", default_value = "8681202{:08}")]
    pub id_template: IdTemplate,
    /// Seed of sizes, splits, bytes and the order of closes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Results as JSON (- is standard output)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Where results of `devices` go.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Results as JSON (- is standard output)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write PREFIX-ARM-MEASURE.hgrm files
    #[arg(long, value_name = "PREFIX")]
    pub hgrm: Option<PathBuf>,
    /// No progress on standard error
    #[arg(long)]
    pub quiet: bool,
}

/// How a device ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CloseHow {
    /// FIN, then wait for the other end's.
    Fin,
    /// RST.
    Reset,
}

/// How a backend answers data frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AnswerMode {
    /// Sequence number and checksum of the frame.
    Ack,
    /// The very frame.
    Echo,
    /// Not frames but HTTP/1.1: what was received, as JSON.
    Http,
    /// Not frames but WebSocket: the very message.
    Ws,
}

impl BackendArgs {
    /// The addresses of the servers, in order.
    pub fn addresses(&self) -> anyhow::Result<Vec<SocketAddr>> {
        if !self.listen.is_empty() {
            return Ok(self.listen.clone());
        }
        let first = self.base.port();
        (0..self.count)
            .map(|n| {
                let port = if first == 0 { Some(0) } else { first.checked_add(n) };
                let port = port.ok_or_else(|| {
                    anyhow::anyhow!("{} servers from {} exceed port 65535", self.count, self.base)
                })?;
                Ok(SocketAddr::new(self.base.ip(), port))
            })
            .collect()
    }

    /// The fault of each server; the last one named for it counts.
    pub fn faults(&self, servers: usize) -> anyhow::Result<Vec<Option<Fault>>> {
        let mut faults = vec![None; servers];
        for FaultAt { server, fault } in &self.fault {
            match server {
                None => faults.fill(Some(*fault)),
                Some(index) => match faults.get_mut(*index) {
                    Some(place) => *place = Some(*fault),
                    None => anyhow::bail!("--fault names server {index}; there are {servers}"),
                },
            }
        }
        Ok(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn faults_find_their_servers() {
        let line = ["x", "backend", "--fault", "reset", "--fault", "1:slow=5ms"];
        let Role::Backend(args) = Cli::parse_from(line).role else { panic!("not a backend") };
        let slow = Fault::Slow(Duration::from_millis(5));
        let faults = args.faults(3).unwrap();
        assert_eq!(faults, [Some(Fault::Reset), Some(slow), Some(Fault::Reset)]);
        assert!(args.faults(1).is_err());
    }

    #[test]
    fn servers_take_consecutive_ports_and_none_past_the_last() {
        let line = ["x", "backend", "--count", "2", "--base", "127.0.0.1:65534"];
        let Role::Backend(mut args) = Cli::parse_from(line).role else { panic!("not a backend") };
        let ports: Vec<u16> = args.addresses().unwrap().iter().map(|a| a.port()).collect();
        assert_eq!(ports, [65_534, 65_535]);
        args.count = 3;
        assert!(args.addresses().is_err());
    }
}

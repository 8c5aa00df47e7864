//! The command lines of `http` and `ws`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::OutputArgs;
use crate::template::{HeaderTemplate, Template};
use crate::units::{parse_duration, parse_rate, parse_size};

/// What requests and upgrades have in common.
#[derive(Debug, Clone, Args)]
pub struct WebArgs {
    /// Where the gateway listens; several are used in turn
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub target: Vec<SocketAddr>,
    /// The gateway's configuration: every answer must come from where its rules and table say
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Run the same load without the gateway first; addresses default to those in --config
    #[arg(long, value_name = "ADDR", num_args = 0.., value_delimiter = ',')]
    pub direct: Option<Vec<SocketAddr>>,
    /// What is balanced by, where no rule of --config says it: the backend is crc32(KEY) % N of
    /// the table in --config, or of --direct
    #[arg(long, value_name = "TEXT")]
    pub key: Option<Template>,
    /// Every answer must have this header (NAME: TEXT)
    #[arg(long, value_name = "HEADER")]
    pub expect_header: Vec<HeaderTemplate>,
    /// Path: {} or {:0WIDTH} becomes the number, here and in all that follows
    #[arg(long, value_name = "TEXT", default_value = "/")]
    pub path: Template,
    /// Argument of the query (NAME=TEXT), as it is to be sent
    #[arg(long, value_name = "ARGUMENT")]
    pub query: Vec<Template>,
    /// Header (NAME: TEXT)
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<HeaderTemplate>,
    /// The first number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub first_id: u64,
    /// Connections started per second
    #[arg(long, value_name = "N/s", default_value = "1000/s", value_parser = parse_rate)]
    pub ramp: f64,
    /// How long to measure, after the ramp and the warm-up
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Load before the measurement
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// Loopback source addresses 127.0.0.2, 127.0.0.3, … (0: the kernel chooses)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sources: u32,
    /// Do not fail because of connections that could not be made or broke
    #[arg(long)]
    pub tolerate_breaks: bool,
    /// Deadline of a connection attempt
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub connect_timeout: Duration,
    /// How long to wait for outstanding answers, and then for the other ends' closes
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub drain: Duration,
    /// Threads, each with its share of the connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: u32,
    /// Seed of payloads and jitter
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Where results go
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `corelane-loadgen http`
#[derive(Debug, Clone, Args)]
pub struct HttpArgs {
    /// What it has in common with `ws`
    #[command(flatten)]
    pub web: WebArgs,
    /// Requests per second, open loop on intended times
    #[arg(long, value_name = "N/s", value_parser = parse_rate)]
    #[arg(required_unless_present = "closed", conflicts_with = "closed")]
    pub rate: Option<f64>,
    /// Each connection sends the next request upon the answer to the last one
    #[arg(long)]
    pub closed: bool,
    /// Number of connections: most requests in flight
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub connections: u32,
    /// Whether a connection carries more than one request
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub keep_alive: bool,
    /// Method
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    pub method: hyper::Method,
    /// How many numbers requests use in turn (0: each has its own)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub ids: u64,
    /// Bytes of a request's body
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = parse_size)]
    pub body: usize,
    /// Statuses that are right
    #[arg(long, value_name = "STATUS", value_delimiter = ',', default_value = "200")]
    pub expect_status: Vec<u16>,
    /// What answers must say: echo (what `backend --mode http` got is what was sent) or none
    #[arg(long, default_value = "echo")]
    pub verify: Verify,
    /// Deadline of an answer, from the moment its request was sent
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// What is compared of an answer besides status, place and headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Verify {
    /// Method, target, headers and body as the backend received them.
    Echo,
    /// Nothing.
    None,
}

/// `corelane-loadgen ws`
#[derive(Debug, Clone, Args)]
pub struct WsArgs {
    /// What it has in common with `http`
    #[command(flatten)]
    pub web: WebArgs,
    /// Number of clients; the number in templates is the client's
    #[arg(long, default_value_t = 1)]
    pub count: u32,
    /// Messages per second over all clients, open loop on intended times
    #[arg(long, value_name = "N/s", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// Bytes of a message, 16 to 16MiB
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = parse_size)]
    pub payload: usize,
    /// Messages are text instead of binary
    #[arg(long)]
    pub text: bool,
    /// Writer-idle time after which a heartbeat is sent
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub heartbeat: Duration,
    /// What a heartbeat is
    #[arg(long, value_name = "WHAT", default_value = "ping")]
    pub heartbeat_with: Heartbeat,
    /// Reader-idle time after which a client gives its connection up
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = parse_duration)]
    pub reader_idle: Duration,
    /// Deadline of the upgrade, from the established connection
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub upgrade_timeout: Duration,
    /// Whether clients connect again
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub reconnect: bool,
    /// Bound of the first pause before a client connects again; it doubles, jitter is full
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration)]
    pub backoff: Duration,
    /// Largest bound of that pause
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub backoff_max: Duration,
}

/// What a WebSocket client shows that it lives with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Heartbeat {
    /// A ping frame; its pong must carry the same bytes.
    Ping,
    /// A text message that must come back.
    Text,
}

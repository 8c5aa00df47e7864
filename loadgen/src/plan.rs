//! One arm of a run, decided before it starts: where devices connect and what they send.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::bail;

use crate::cli::{CloseHow, DevicesArgs};
use crate::frame::data_overhead;
use crate::machine;
use crate::oracle::{Home, Routes};
use crate::random::PayloadPool;

/// Which way devices take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arm {
    /// Straight to the right backend.
    Direct,
    /// Through the gateway.
    Gateway,
}

impl Arm {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Arm::Direct => "direct",
            Arm::Gateway => "gateway",
        }
    }
}

/// Everything devices read and nothing changes.
#[derive(Debug)]
pub struct Plan {
    /// The command line.
    pub args: DevicesArgs,
    /// Which way.
    pub arm: Arm,
    /// Gateway addresses, used in turn; or the backends, by place in the table.
    pub targets: Vec<SocketAddr>,
    /// Where devices must land.
    pub routes: Routes,
    /// Local addresses, used in turn.
    pub sources: Vec<IpAddr>,
    /// Bytes of messages.
    pub payloads: PayloadPool,
    /// Header field of our frames.
    pub heartbeat_s: u16,
    /// How devices leave.
    pub close: CloseHow,
    /// What times are counted from.
    pub epoch: Instant,
}

/// Largest login padding: with the id it must fit a body.
const LOGIN_PADDING_MAX: usize = 65_000;

impl Plan {
    /// Checks what the command line alone cannot.
    pub fn new(
        args: &DevicesArgs,
        arm: Arm,
        targets: Vec<SocketAddr>,
        routes: Routes,
    ) -> anyhow::Result<Plan> {
        if targets.is_empty() {
            bail!("no address to connect to in the {} arm", arm.name());
        }
        if args.count == 0 || args.threads == 0 || args.window == 0 {
            bail!("--count, --threads and --window are at least 1");
        }
        let last = args.first_id.saturating_add(u64::from(args.count));
        let overhead = data_overhead(args.id_template.id(last).as_bytes());
        let sends = args.rate.is_some() || args.closed;
        if sends && !(overhead..=usize::from(u16::MAX)).contains(&args.payload) {
            bail!("--payload is {overhead} (sequence number and device id) to 65535 bytes");
        }
        if args.login_padding > LOGIN_PADDING_MAX {
            bail!("--login-padding is at most {LOGIN_PADDING_MAX} bytes");
        }
        let fits = machine::raise_descriptor_limit()?;
        if u64::from(args.count) > fits {
            bail!(
                "{} devices need as many descriptors; this process may have {fits} (ulimit -n)",
                args.count
            );
        }
        let close = match (args.close, args.churn) {
            (Some(how), _) => how,
            (None, true) => CloseHow::Reset,
            (None, false) => CloseHow::Fin,
        };
        Ok(Plan {
            arm,
            sources: machine::loopback_sources(args.sources, &targets)?,
            targets,
            routes,
            payloads: PayloadPool::new(args.seed, args.payload),
            heartbeat_s: u16::try_from(args.heartbeat.as_secs()).unwrap_or(u16::MAX),
            close,
            epoch: Instant::now(),
            args: args.clone(),
        })
    }

    /// Nanoseconds since the epoch of this run.
    pub fn now_ns(&self) -> u64 {
        // A run of 584 years would overflow.
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Where a device connects.
    pub fn target_of(&self, number: u32, home: Home) -> SocketAddr {
        match (self.arm, home) {
            (Arm::Direct, Home::At(place)) => self.targets[place],
            _ => self.targets[number as usize % self.targets.len()],
        }
    }

    /// What a device binds to. Sources change after each round over the targets.
    pub fn source_of(&self, number: u32) -> Option<IpAddr> {
        let turn = number as usize / self.targets.len();
        (!self.sources.is_empty()).then(|| self.sources[turn % self.sources.len()])
    }
}

//! `corelane-bench gateway`: the gateway within this program, so that its table can be swapped
//! while it carries a load. Otherwise it does what `corelane run` does.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use corelane::config::{self, Environment};
use corelane::run::{self, Start};
use corelane_loadgen::units::parse_duration;

/// `corelane-bench gateway`
#[derive(Debug, Args)]
pub struct GatewayArgs {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Publish a new version of the table this often, 1 ms or more; never without it.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub swap_every: Option<Duration>,
}

/// Runs until told to stop and drained.
pub fn gateway(args: &GatewayArgs) -> anyhow::Result<u8> {
    let environment = Environment::of_process()?;
    let loaded = config::load(&args.config, &environment)?;
    if let Some(every) = args.swap_every {
        ensure!(every >= Duration::from_millis(1), "--swap-every: 1 ms or more");
    }
    let start = Start { config: loaded.config, file: None, swap_every: args.swap_every };
    run::run(start).context("running the gateway")?;
    Ok(0)
}

//! The benchmark: corelane beside HAProxy, nginx and no forwarder at all, on one machine.
//!
//! `run` is the whole of it: it writes every forwarder's configuration, starts and pins them one
//! at a time, has each carry the same load in interleaved rounds, and writes a report. `load` is
//! that load, a process of its own so that its CPU time is told apart.

mod gateway;
mod launch;
mod load;
mod output;
mod peers;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures corelane beside HAProxy, nginx and no forwarder.
#[derive(Debug, Parser)]
#[command(name = "corelane-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the matrix: exit 0 every measured target holds, 1 one is missed, 2 could not run, 3 the
    /// machine was too noisy to compare.
    Run(run::RunArgs),
    /// Carry a load and print what came of it as one JSON object (used by `run`).
    Load(load::LoadArgs),
    /// Start a program on given cores that dies with us (used by `run`).
    #[command(hide = true)]
    Launch(launch::LaunchArgs),
    /// Run the gateway, with table swaps if asked for (used by `run`).
    #[command(hide = true)]
    Gateway(gateway::GatewayArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Launch(args) => launch::launch(&args),
        Command::Gateway(args) => gateway::gateway(&args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("corelane-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

//! The load generator: a fleet of netty heartbeat clients, and the message servers behind the
//! gateway; callers over HTTP and WebSocket and what answers them. See docs/loadgen.md.

mod answer;
mod backend;
mod cli;
mod counters;
mod course;
mod device;
mod fleet;
pub mod frame;
mod hgrm;
mod link;
mod live;
mod machine;
mod oracle;
mod pacer;
mod plan;
mod random;
mod report;
mod soak;
mod squad;
mod template;
pub mod units;
mod verify;
mod web;
mod window;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Role};

/// The `corelane-loadgen` command.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().role {
        Role::Devices(args) => fleet::run(&args),
        Role::Backend(args) => backend::run(&args),
        Role::Http(args) => web::http::run(&args),
        Role::Ws(args) => web::ws::run(&args),
        Role::Soak(args) => soak::run(&args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("corelane-loadgen: {error:#}");
            ExitCode::from(2)
        }
    }
}

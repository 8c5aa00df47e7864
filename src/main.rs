//! The `corelane` command.

mod cli;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let name = arguments.command.name();
    match cli::execute(arguments).with_context(|| format!("corelane {name}")) {
        Ok(code) => code,
        Err(error) => {
            // Where even this cannot be written, the exit code has to do.
            let _ = cli::write_error(&format!("{error:#}\n"));
            ExitCode::from(cli::EXIT_COULD_NOT_RUN)
        }
    }
}

//! `corelane completions` and `corelane man`: made of the command line's own description.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Arguments, Failure, write_result};

/// `completions`
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// Which shell.
    shell: Shell,
}

/// `man`
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Write the pages of all commands into this folder instead.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Prints a script for a shell.
pub(super) fn completions(arguments: &CompletionsArguments) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "corelane", &mut script);
    write_result(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the page of `corelane`, or writes those of all commands.
pub(super) fn man(arguments: &ManArguments) -> Result<ExitCode, Failure> {
    // It is a word of the command line, and no page.
    let command = Arguments::command().disable_help_subcommand(true);
    if let Some(folder) = &arguments.dir {
        let unwritten = |error| Failure::Output(error);
        std::fs::create_dir_all(folder).map_err(unwritten)?;
        clap_mangen::generate_to(command, folder).map_err(unwritten)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(Failure::Output)?;
    write_result(&String::from_utf8_lossy(&page))?;
    Ok(ExitCode::SUCCESS)
}

//! The `corelane-loadgen` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    corelane_loadgen::main()
}

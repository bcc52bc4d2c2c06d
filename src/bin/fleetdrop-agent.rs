//! The agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    fleetdrop::agent::main(std::env::args_os().skip(1))
}

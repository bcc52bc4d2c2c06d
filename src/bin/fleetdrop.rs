//! The controller.

use std::process::ExitCode;

fn main() -> ExitCode {
    fleetdrop::cli::main()
}

//! The controller. `fleetdrop agent ...` is the same agent as the binary `fleetdrop-agent`: it is pushed to hosts when no small
//! agent for their architecture is at hand, and is not part of the command line that people use.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == "agent").is_some() {
        return fleetdrop::agent::main(arguments);
    }
    fleetdrop::cli::main()
}

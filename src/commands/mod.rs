//! One file a command, each thin.

use std::process::ExitCode;

/// Parses the command line and runs one command.
pub fn run() -> ExitCode {
    unimplemented!()
}

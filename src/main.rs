//! The command line of cstor-rs.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}

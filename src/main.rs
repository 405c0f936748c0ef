//! The one binary: daemon, launcher, shim and command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(batchd::supervisor::launcher::VERB) => batchd::supervisor::launcher::main(),
        Some(_) | None => ExitCode::FAILURE,
    }
}

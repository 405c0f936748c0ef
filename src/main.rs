//! The one binary: daemon, launcher, shim and command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|verb| verb == batchd::store::unpack::UNPACK_VERB) {
        return batchd::store::unpack::unpack_child_main();
    }
    ExitCode::SUCCESS
}

//! The one binary: daemon, launcher, shim, unpacker and command line.

use std::process::ExitCode;

use batchd::cli::{self, Cli};
use batchd::store::unpack;
use batchd::supervisor::launcher;
use batchd::{clock, daemon};
use clap::Parser as _;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(launcher::VERB) => launcher::main(),
        Some(unpack::UNPACK_VERB) => unpack::unpack_child_main(),
        Some(_) | None => {
            let result = cli::run(Cli::parse(), clock::now(), |args, paths| daemon::run(&args, paths));
            ExitCode::from(cli::conclude(result).code())
        }
    }
}

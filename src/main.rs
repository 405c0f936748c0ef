//! The one binary: daemon, launcher, shim, unpacker and command line.

use std::process::ExitCode;

use batchd::cli;
use batchd::store::unpack;
use batchd::supervisor::launcher;
use batchd::{clock, daemon};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(launcher::VERB) => launcher::main(),
        Some(unpack::UNPACK_VERB) => unpack::unpack_child_main(),
        Some(_) | None => {
            let run = |cli| cli::run(cli, clock::now(), |args, paths| daemon::run(&args, paths));
            let exit = cli::parse(std::env::args_os()).map_or_else(|exit| exit, |cli| cli::conclude(run(cli)));
            ExitCode::from(exit.code())
        }
    }
}

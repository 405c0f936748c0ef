//! The one binary: daemon, launcher, shim and command line.

use std::process::ExitCode;
use std::time::SystemTime;

use batchd::cli::{self, Cli};
use batchd::model::time::Instant;
use clap::Parser as _;

fn main() -> ExitCode {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = Instant::from_ms(0) + since_1970;
    let result = cli::run(Cli::parse(), now, |_, _| anyhow::bail!("not merged"));
    ExitCode::from(cli::conclude(result).code())
}

//! `batchd disable`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::args::Json;
use super::exit::Exit;
use super::{Context, operate};
use crate::model::id::BatchName;
use crate::model::request::Request;
use crate::model::time::parse_duration;

/// Disable a batch, for a while or until it is enabled
///
/// Meanwhile, each start of the batch is recorded as `skipped` and is never caught up. Runs that exist already go on: running ones finish,
/// waiting ones start, and failed ones are retried. Use `batchd stop` to stop them.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd disable report
  batchd disable report --for 2h --reason 'database upgrade'")]
pub struct DisableArgs {
    /// Batch to disable
    pub batch: BatchName,
    /// How long, such as 90s, 5m, 2h or 7d [default: until it is enabled]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Reason, shown by `list`
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    #[command(flatten)]
    pub json: Json,
}

/// Carries it out.
pub(super) fn run(args: &DisableArgs, context: &mut Context) -> Result<Exit> {
    let until = args.duration.map(|duration| context.now + duration);
    let request = Request::Disable { batch: args.batch.clone(), until, reason: args.reason.clone() };
    operate::act(context, args.json, &request)
}

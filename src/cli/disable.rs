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

/// Lets nothing start a batch, until `enable` or for a time
///
/// What falls due meanwhile is `skipped`, a row each, and never caught up. What is there already is not touched: a run that has begun
/// goes on, one that waits starts when its turn comes, and one that fails is retried; `batchd stop` ends those.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd disable report
  batchd disable report --for 2h --reason 'database upgrade'")]
pub struct DisableArgs {
    /// The batch
    pub batch: BatchName,
    /// For how long, such as 90s, 5m, 2h or 7d; else until `enable`
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Why; `list` shows it
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

//! `batchd rerun`.

use anyhow::Result;
use clap::Args;

use super::args::Json;
use super::exit::Exit;
use super::{Context, operate};
use crate::model::id::RunId;
use crate::model::request::{Request, RerunMode};

/// Runs a batch again in the chain of an earlier run, with that run's inputs, and prints the new run's id
///
/// It runs the definition that is in force now. What follows it and has not succeeded in this chain is then decided again. What will
/// follow, and what will not, is said on stderr.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd rerun load.17                       again, and what has not succeeded behind it
  batchd rerun load.17 --only --wait         nothing behind it
  batchd rerun load.17 --downstream          everything behind it, also what had succeeded
  batchd rerun load.17 --only-downstream     it was repaired by hand: go on behind it")]
pub struct RerunArgs {
    /// The run to repeat
    pub run: RunId,
    /// Nothing behind it is decided again
    #[arg(long, group = "mode")]
    pub only: bool,
    /// Everything behind it runs again, also what had succeeded
    #[arg(long, group = "mode")]
    pub downstream: bool,
    /// It counts as succeeded without running; what has not succeeded behind it is decided again
    #[arg(long, group = "mode")]
    pub only_downstream: bool,
    /// Even if the batch is disabled
    #[arg(long)]
    pub force: bool,
    /// Follow it to the end of its last attempt and exit as it does
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub json: Json,
}

/// Carries it out.
pub(super) fn run(args: &RerunArgs, context: &mut Context) -> Result<Exit> {
    let mode = match (args.only, args.downstream, args.only_downstream) {
        (true, _, _) => RerunMode::Only,
        (_, true, _) => RerunMode::Downstream,
        (_, _, true) => RerunMode::OnlyDownstream,
        (false, false, false) => RerunMode::Unsucceeded,
    };
    let request = Request::Rerun { run: args.run.clone(), mode, force: args.force };
    operate::make_run(context, args.json, &request, args.wait)
}

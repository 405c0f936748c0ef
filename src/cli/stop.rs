//! `batchd stop`.

use anyhow::Result;
use clap::Args;

use super::args::Json;
use super::exit::{Complaint, Exit};
use super::{Context, operate};
use crate::model::id::RunId;
use crate::model::request::Request;

/// Ends a run: TERM to its whole process tree, after `stop_grace` KILL; a run that waits is taken out of the queue
///
/// Its outcome is `cancelled`; it is not retried, and what comes after it in its chain is aborted.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd stop report.42 --reason 'wrong input'
  batchd stop --all")]
pub struct StopArgs {
    /// The run
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub run: Option<RunId>,
    /// Every run that has not ended
    #[arg(long)]
    pub all: bool,
    /// Why; it is kept with the run
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    #[command(flatten)]
    pub json: Json,
}

/// Carries it out.
pub(super) fn run(args: &StopArgs, context: &mut Context) -> Result<Exit> {
    let reason = args.reason.clone();
    let request = match (&args.run, args.all) {
        (Some(run), false) => Request::Stop { run: run.clone(), reason },
        (None, true) => Request::StopAll { reason },
        // clap lets neither through.
        (Some(_), true) | (None, false) => return Err(Complaint::usage("stop what?", "give a run's id, or --all")),
    };
    operate::act(context, args.json, &request)
}

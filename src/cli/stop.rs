//! `batchd stop`.

use anyhow::Result;
use clap::Args;

use super::args::{Json, Target};
use super::exit::{Complaint, Exit};
use super::{Context, facts, operate};
use crate::model::id::BatchName;
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
    pub run: Option<Target>,
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
        (Some(Target::Run(run)), false) => Request::Stop { run: run.clone(), reason },
        (Some(Target::Batch(batch)), false) => return Err(which_run(context, batch)?),
        (None, true) => Request::StopAll { reason },
        // clap lets neither through.
        (Some(_), true) | (None, false) => return Err(Complaint::usage("stop what?", "give a run's id, or --all")),
    };
    operate::act(context, args.json, &request)
}

/// Of a batch several runs may be under way: which one is meant has to be said.
fn which_run(context: &Context, batch: &BatchName) -> Result<anyhow::Error> {
    facts::Facts::read(context)?.batch(batch)?;
    let journal = facts::open_journal(context)?;
    let mut live = journal.map(|journal| journal.live()).transpose()?.unwrap_or_default();
    live.retain(|run| run.id.batch == *batch);
    let what = format!("`{batch}` is a batch; `stop` ends a run");
    let Some(first) = live.first() else {
        let hint = format!("no run of {batch} waits or is running; `batchd runs {batch}` lists those there were");
        return Ok(Complaint::usage(what, hint));
    };
    let names: Vec<String> = live.iter().map(|run| format!("{} ({})", run.id, run.state.word())).collect();
    let hint = format!("`batchd stop {}`; of {batch} there are {}", first.id, names.join(", "));
    Ok(Complaint::usage(what, hint))
}

//! `batchd stop`.

use anyhow::Result;
use clap::Args;

use super::args::{Json, Target};
use super::exit::{Complaint, Exit};
use super::{Context, facts, operate};
use crate::model::id::BatchName;
use crate::model::request::Request;

/// Stop a run and all its processes
///
/// The processes get a TERM, and a KILL after `stop_grace`. The outcome of the run is `cancelled`: it is not retried, and the batches
/// after it in its chain are aborted. A run that is still waiting is removed from the queue.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd stop report.42 --reason 'wrong input'
  batchd stop --all")]
pub struct StopArgs {
    /// Run to stop
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub run: Option<Target>,
    /// Stop every run that has not ended
    #[arg(long)]
    pub all: bool,
    /// Reason for the stop, which `show` prints
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
        (Some(_), true) | (None, false) => return Err(Complaint::usage("no run is named", "name a run, or use --all")),
    };
    operate::act(context, args.json, &request)
}

/// A batch can have several active runs, so the run has to be named.
fn which_run(context: &Context, batch: &BatchName) -> Result<anyhow::Error> {
    facts::Facts::read(context)?.known(batch)?;
    let journal = facts::open_journal(context)?;
    let mut live = journal.map(|journal| journal.live()).transpose()?.unwrap_or_default();
    live.retain(|run| run.id.batch == *batch);
    let what = format!("`{batch}` is a batch; `stop` needs a run");
    let Some(first) = live.first() else {
        let hint = format!("no run of {batch} is waiting or running; to list past runs: `batchd runs {batch}`");
        return Ok(Complaint::usage(what, hint));
    };
    let names: Vec<String> = live.iter().map(|run| format!("{} ({})", run.id, run.state.word())).collect();
    let hint = format!("`batchd stop {}`; the active runs are {}", first.id, names.join(", "));
    Ok(Complaint::usage(what, hint))
}

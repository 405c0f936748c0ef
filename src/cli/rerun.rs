//! `batchd rerun`.

use anyhow::Result;
use clap::Args;

use super::args::{Json, Target};
use super::exit::{Complaint, Exit};
use super::operate::{Daemon, Then};
use super::{Context, facts, operate};
use crate::journal::query::Filter;
use crate::model::id::BatchName;
use crate::model::request::{Request, RerunMode};

/// Repeat a run in its chain, with the same inputs, and print the new run's id
///
/// The new run uses the definition that is in force now. Batches after it that have not succeeded in this chain are started again.
/// batchd prints on stderr which batches will follow and which will not.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd rerun load.17                    with all that did not succeed after it
  batchd rerun load.17 --only --wait      without what follows
  batchd rerun load.17 --downstream       with everything after it
  batchd rerun load.17 --mark-succeeded   without running it: continue the chain")]
pub struct RerunArgs {
    /// Run to repeat
    #[arg(value_name = "RUN")]
    pub run: Target,
    /// Don't start the batches that follow
    #[arg(long, group = "mode")]
    pub only: bool,
    /// Also repeat what succeeded after the run
    #[arg(long, group = "mode")]
    pub downstream: bool,
    /// Mark the run as succeeded and continue its chain
    #[arg(long, group = "mode", alias = "only-downstream")]
    pub mark_succeeded: bool,
    /// Repeat the run even if its batch is disabled
    #[arg(long)]
    pub force: bool,
    /// Wait for the last attempt and exit with its exit code
    #[arg(long)]
    pub wait: bool,
    /// Print the log as it is written, then exit as with `--wait`
    #[arg(short, long, conflicts_with = "json")]
    pub follow: bool,
    #[command(flatten)]
    pub json: Json,
}

/// Carries it out.
pub(super) fn run(args: RerunArgs, context: &mut Context) -> Result<Exit> {
    let mode = match (args.only, args.downstream, args.mark_succeeded) {
        (true, _, _) => RerunMode::Only,
        (_, true, _) => RerunMode::Downstream,
        (_, _, true) => RerunMode::MarkSucceeded,
        (false, false, false) => RerunMode::Unsucceeded,
    };
    let run = match args.run {
        Target::Run(run) => run,
        Target::Batch(batch) => return Err(which_run(context, &batch)?),
    };
    let then = Then { wait: args.wait, follow: args.follow, json: args.json };
    let daemon = Daemon::connect(context)?;
    operate::make_run(context, daemon, &Request::Rerun { run, mode, force: args.force }, then)
}

/// A batch was named: probably its latest run is meant, but that has to be said.
fn which_run(context: &Context, batch: &BatchName) -> Result<anyhow::Error> {
    let facts = facts::Facts::read(context)?;
    facts.known(batch)?;
    let of_batch = Filter { batch: Some(batch.clone()), ..Filter::default() };
    let latest = facts.journal().map(|journal| journal.runs(&of_batch, None, 1)).transpose()?;
    let hint = match latest.and_then(|page| page.runs.into_iter().next()) {
        Some(run) => format!("the latest run is {}: `batchd rerun {}`", run.id, run.id),
        None => format!("{batch} has no runs yet; to start one: `batchd start {batch}`"),
    };
    Ok(Complaint::usage(format!("`{batch}` is a batch; `rerun` needs a run"), hint))
}

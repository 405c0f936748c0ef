//! `batchd path`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::args::{Json, Target};
use super::exit::{Complaint, Exit};
use super::facts::Facts;
use super::{Context, facts};
use crate::model::definition::Overlap;
use crate::model::id::BatchName;
use crate::store::definitions::definition_path;
use crate::store::workspace::{WorkspaceName, workspace_path};

/// Print the folder of a run, a workspace or a definition
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  cp -r \"$(batchd path report.42)\" /tmp/for-the-ticket
  ls \"$(batchd path --workspace report)\"
  diff -r \"$(batchd path --definition report)\" batches.d/report")]
pub struct PathArgs {
    /// A run, or a batch for its latest run that started
    #[arg(value_name = "RUN|BATCH", required_unless_present_any = ["workspace", "definition"])]
    pub target: Option<Target>,
    /// The workspace of this batch, in which its script runs
    #[arg(long, value_name = "BATCH", conflicts_with_all = ["target", "definition"])]
    pub workspace: Option<BatchName>,
    /// The stored definition of this batch that is in force
    #[arg(long, value_name = "BATCH", conflicts_with = "target")]
    pub definition: Option<BatchName>,
    #[command(flatten)]
    pub json: Json,
}

/// Carries it out.
pub(super) fn run(args: &PathArgs, context: &mut Context) -> Result<Exit> {
    let (path, if_absent) = match (&args.target, &args.workspace, &args.definition) {
        (Some(target), _, _) => {
            let run = facts::begun(context, target)?;
            let never = run.started_at.is_none();
            let why = if never { "the script of this run has not started" } else { "the folder was removed" };
            (facts::folder(context, &run)?, why.to_owned())
        }
        (None, Some(batch), _) => (workspace(context, batch)?, format!("{batch} has not run yet")),
        (None, None, Some(batch)) => (definition(context, batch)?, format!("no daemon has put {batch} in force yet")),
        (None, None, None) => {
            return Err(Complaint::usage(
                "name a run or a batch",
                "name a run, or use --workspace BATCH or --definition BATCH",
            ));
        }
    };
    if !facts::is_there(&path)? {
        return Err(Complaint::failure(format!("{} does not exist", path.display()), if_absent));
    }
    if args.json.json {
        context.screen.json(&serde_json::json!({ "path": path }))?;
    } else {
        writeln!(context.screen, "{}", path.display())?;
    }
    Ok(Exit::Success)
}

fn workspace(context: &Context, batch: &BatchName) -> Result<PathBuf> {
    let facts = Facts::read(context)?;
    let definition = &facts.batch(batch)?.definition;
    let name = match definition.overlap {
        Overlap::Allow => WorkspaceName::of_definition(batch, definition.hash),
        Overlap::Skip | Overlap::Queue | Overlap::Replace => WorkspaceName::of_batch(batch),
    };
    Ok(workspace_path(&context.paths.state, &name))
}

fn definition(context: &Context, batch: &BatchName) -> Result<PathBuf> {
    let facts = Facts::read(context)?;
    Ok(definition_path(&context.paths.state, facts.batch(batch)?.definition.hash))
}

//! `batchd path`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::args::Json;
use super::exit::{Complaint, Exit};
use super::facts::Facts;
use super::{Context, facts};
use crate::model::id::{BatchName, RunId};

/// Prints the folder of a run, of a batch's workspace, or of its definition in force
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  cp -r \"$(batchd path report.42)\" /tmp/for-the-ticket
  ls \"$(batchd path --workspace report)\"
  diff -r \"$(batchd path --definition report)\" batches.d/report")]
pub struct PathArgs {
    /// The run
    #[arg(required_unless_present_any = ["workspace", "definition"])]
    pub run: Option<RunId>,
    /// Where the batch's script runs and may leave files
    #[arg(long, value_name = "BATCH", conflicts_with_all = ["run", "definition"])]
    pub workspace: Option<BatchName>,
    /// The copy of the batch's folder that is in force
    #[arg(long, value_name = "BATCH", conflicts_with = "run")]
    pub definition: Option<BatchName>,
    #[command(flatten)]
    pub json: Json,
}

/// Carries it out.
pub(super) fn run(args: &PathArgs, context: &mut Context) -> Result<Exit> {
    let (path, if_absent) = match (&args.run, &args.workspace, &args.definition) {
        (Some(id), _, _) => {
            let run = facts::run(context, id)?;
            let never = run.started_at.is_none();
            let why = if never { "its script has not been started" } else { "somebody removed it" };
            (context.paths.runs.join(id.to_string()), why.to_owned())
        }
        (None, Some(batch), _) => (workspace(context, batch)?, format!("{batch} has not run yet")),
        (None, None, Some(batch)) => (definition(context, batch)?, "no daemon has accepted it yet".to_owned()),
        (None, None, None) => {
            return Err(Complaint::usage("the path of what?", "give a run's id, --workspace or --definition"));
        }
    };
    if !path.is_dir() {
        return Err(Complaint::failure(format!("there is no folder {}", path.display()), if_absent));
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
    Ok(context.paths.state.join("workspaces").join(facts::workspace_name(definition)))
}

fn definition(context: &Context, batch: &BatchName) -> Result<PathBuf> {
    let facts = Facts::read(context)?;
    let hash = facts.batch(batch)?.definition.hash;
    Ok(context.paths.state.join("definitions").join(hash.to_string()))
}

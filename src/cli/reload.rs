//! `batchd reload`.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;

use super::args::Json;
use super::exit::Exit;
use super::{Context, check, operate};
use crate::model::diagnostic::errors;

/// Reload the definitions now and wait until they are in force
///
/// The daemon notices changes without this command. It is for scripts that need to know when a change is in force and whether
/// it is valid. Exits with 1 if there are errors; remarks alone exit with 0.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  git pull && batchd reload")]
pub struct ReloadArgs {
    #[command(flatten)]
    pub json: Json,
}

/// Carries it out.
pub(super) fn run(args: &ReloadArgs, context: &mut Context) -> Result<Exit> {
    let reloaded = operate::Daemon::connect(context)?.reload()?;
    let is_valid = errors(&reloaded.diagnostics) == 0;
    if args.json.json {
        context.screen.json(&reloaded)?;
    } else {
        check::show(context, &reloaded.diagnostics)?;
        if is_valid {
            writeln!(std::io::stderr(), "the definitions are in force")?;
        }
    }
    Ok(if is_valid { Exit::Success } else { Exit::Failure })
}

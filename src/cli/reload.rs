//! `batchd reload`.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;

use super::args::Json;
use super::exit::Exit;
use super::{Context, check, operate};

/// Reload the definitions now and wait until they are in force
///
/// The daemon sees changes by itself; this is for scripts that want to know when they are in force, and whether they are good.
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
    if args.json.json {
        context.screen.json(&reloaded)?;
    } else {
        check::show(context, &reloaded.diagnostics)?;
        if reloaded.diagnostics.is_empty() {
            writeln!(std::io::stderr(), "what is on the disk is in force")?;
        }
    }
    Ok(if reloaded.diagnostics.is_empty() { Exit::Success } else { Exit::Failure })
}

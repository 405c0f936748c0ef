//! `batchd restore`: replaces the journal with a backup.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::exit::Exit;
use super::{Context, facts};
use crate::checkup::Places;
use crate::checkup::restore::restore;

/// Replace a lost or damaged journal with a backup
///
/// The command fails while the daemon or a run is active, and while there is a journal: move the journal away first. Nothing is run
/// again. Runs that started after the backup are added from their folders. Runs that had not ended when the backup was made are ended.
/// Starts that have been missed since then are not caught up. FILE is not changed.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  mkdir lost && mv state/journal.db* lost/
  batchd restore /backup/journal-2026-11-24.db

docs/backup.md has all steps.")]
pub struct RestoreArgs {
    /// Backup, or any other copy of a journal
    file: PathBuf,
}

/// Carries it out.
pub(super) fn run(args: &RestoreArgs, context: &mut Context) -> Result<Exit> {
    let journal = context.paths.journal();
    let places = Places { journal: &journal, runs: &context.paths.runs, state: &context.paths.state };
    let restored = restore(&places, &args.file, context.now).map_err(facts::explained)?;
    writeln!(context.screen, "{}: {restored}", journal.display())?;
    Ok(Exit::Success)
}

//! `batchd restore`: a backup of the journal is put in force.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Context;
use super::exit::Exit;
use crate::checkup::Places;
use crate::checkup::restore::restore;

/// Puts a backup of the journal in force, and sees to what has been done since it was made
///
/// For the day on which the journal is damaged or gone. Refuses while a daemon or a run lives, and while a journal is in place:
/// move that away first. Nothing runs again: runs that began after the backup get their rows from their folders, what was under
/// way or waited when it was made gets an end, and what fell due since is not caught up. FILE stays as it is.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  mkdir lost && mv state/journal.db* lost/
  batchd restore /backup/journal-2026-11-24.db    docs/operating.md says what else")]
pub struct RestoreArgs {
    /// The backup, or any other copy of a journal
    file: PathBuf,
}

/// Carries it out.
pub(super) fn run(args: &RestoreArgs, context: &mut Context) -> Result<Exit> {
    let journal = context.paths.journal();
    let places = Places { journal: &journal, runs: &context.paths.runs, state: &context.paths.state };
    let restored = restore(&places, &args.file, context.now)?;
    writeln!(context.screen, "{}: {restored}", journal.display())?;
    Ok(Exit::Success)
}

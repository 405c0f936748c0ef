//! `batchd backup`: a copy of the journal from one moment.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Context;
use super::exit::Exit;
use crate::journal::backup::{Backup, back_up};

/// Writes a copy of the journal to FILE, beside a daemon that goes on or without one
///
/// The copy is from one moment, on the disk when this returns, and whole or not there. FILE must not be there: nothing is ever
/// written over. It is for the journal's user to read. Definitions, run folders and workspaces are plain files and no part of it.
/// `batchd restore` puts it in force again.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd backup /backup/journal-$(date +%F).db")]
pub struct BackupArgs {
    /// Where the copy goes
    file: PathBuf,
}

/// Carries it out.
pub(super) fn run(args: &BackupArgs, context: &mut Context) -> Result<Exit> {
    let Backup { journal, runs, bytes } = back_up(&context.paths.journal(), &args.file, context.now)?;
    writeln!(context.screen, "{}: {runs} runs of journal {}, {bytes} bytes", args.file.display(), journal.0)?;
    Ok(Exit::Success)
}

//! `batchd backup`: a copy of the journal from one moment.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Context;
use super::exit::Exit;
use crate::journal::backup::{Backup, back_up};
use crate::model::text::counted;

/// Write a copy of the journal to FILE
///
/// The daemon can go on meanwhile. The copy has the state of one moment. When the command returns, either the whole copy is on the disk
/// or there is no FILE. An existing FILE is never overwritten. Only the owner of the journal can read the copy. Definitions, run folders,
/// workspaces and stored inputs are plain files, and are not part of the copy. To use the copy: `batchd restore FILE`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd backup /backup/journal-$(date +%F).db")]
pub struct BackupArgs {
    /// File to write
    file: PathBuf,
}

/// Carries it out.
pub(super) fn run(args: &BackupArgs, context: &mut Context) -> Result<Exit> {
    let Backup { journal, runs, bytes } = back_up(&context.paths.journal(), &args.file, context.now)?;
    let (runs, bytes) = (counted(runs, "run", "runs"), counted(bytes, "byte", "bytes"));
    writeln!(context.screen, "{}: {runs} of journal {}, {bytes}", args.file.display(), journal.0)?;
    Ok(Exit::Success)
}

//! Run folders that are ahead of the journal: it is gone, was restored from an older copy, or has lost its last commits.
//!
//! A row is always committed before its folder is made. So a folder that names this journal, and that the journal does not
//! know, proves that the journal is not the newest; to go on from there would run again what has run.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::model::id::{BatchName, JournalId, RunId};
use crate::model::record::Recovered;
use crate::paths::Paths;
use crate::rundir::RunDir;
use crate::store::definitions;

/// What to do about both.
const REMEDY: &str = "the daemon does not start, because runs could be repeated: put the newest `journal.db` and its `-wal` file \
    back, or restore a backup with `batchd restore FILE`, or rebuild the journal from the run folders with \
    `batchd doctor --rebuild FILE` (see docs/backup.md)";

/// Refuses to begin a new journal where there was one.
pub(super) fn refuse_without_journal(paths: &Paths) -> Result<()> {
    let journal = paths.journal();
    // Whether it can be opened is for the journal to say.
    if fs::symlink_metadata(&journal).is_ok() {
        return Ok(());
    }
    let known = match first_run(&paths.runs, |_| true, |_| true)? {
        Some(run) => format!("{} still has the folder of {run}", paths.runs.display()),
        None if definitions::any(&paths.state) => {
            format!("{} still has definitions of its batches", paths.state.display())
        }
        None => return Ok(()),
    };
    bail!(
        "the journal {} is missing, but {known}; {REMEDY}. To start with an empty journal, move {} and {} away",
        journal.display(),
        paths.runs.display(),
        paths.state.display()
    )
}

/// Refuses to go on with a journal that lacks what has happened.
pub(super) fn refuse_older_journal(paths: &Paths, recovered: &Recovered) -> Result<()> {
    let next: BTreeMap<&BatchName, u64> =
        recovered.batches.iter().map(|facts| (&facts.name, facts.next_number)).collect();
    let is_ahead = |run: &RunId| next.get(&run.batch).is_none_or(|next| run.number >= *next);
    let Some(run) = first_run(&paths.runs, is_ahead, |journal| *journal == recovered.journal)? else { return Ok(()) };
    bail!(
        "{} has the folder of {run}, but its journal {} does not know that run: the journal was restored from an older copy, \
         or has lost its last records; {REMEDY}",
        paths.runs.display(),
        paths.journal().display()
    )
}

/// The first run with such an id, and such a journal, that has a folder. Of the others only the names are read.
fn first_run(
    runs: &Path,
    is_wanted: impl Fn(&RunId) -> bool,
    is_of: impl Fn(&JournalId) -> bool,
) -> Result<Option<RunId>> {
    let cannot = || format!("can't read {}", runs.display());
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(cannot),
    };
    for entry in entries {
        let name = entry.with_context(cannot)?.file_name();
        let Some(run) = name.to_str().and_then(|name| name.parse::<RunId>().ok()) else { continue };
        if is_wanted(&run)
            && let Some(record) = RunDir::run_record(&runs.join(&name), &run)
            && is_of(&record.token.journal)
        {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

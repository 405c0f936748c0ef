//! Whether the journal is older than the run folders: somebody put an old copy in its place, or a disk has lost its latest
//! commits. A daemon that began with it would do again what has been done since.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::model::id::RunId;
use crate::model::record::Recovered;
use crate::rundir::RunDir;

/// A run of this journal that it does not know, though its folder is there: the journal has a run's row before its folder is
/// made, so it has lost that one. Only the names are read of all other folders.
pub(super) fn unknown_run(runs: &Path, recovered: &Recovered) -> io::Result<Option<RunId>> {
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<RunId>().ok()) else { continue };
        let facts = recovered.batches.binary_search_by(|facts| facts.name.cmp(&id.batch));
        if facts.is_ok_and(|index| id.number < recovered.batches[index].next_number) {
            continue;
        }
        let record = RunDir::open(&runs.join(&name)).ok().and_then(|folder| folder.told_of(&id));
        if record.is_some_and(|record| record.token.journal == recovered.journal) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

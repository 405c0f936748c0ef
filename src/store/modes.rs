//! `state/modes/<batch>@<hash>.json`: the permission bits of a batch's files, as their sources have them.
//!
//! They are no part of a definition's hash, so that a mere `chmod` is no new definition; it is in force at the next run. The
//! daemon notes them when it reads a folder, and the shim gives them to the files of the workspace. Each definition has a
//! note of its own: one that was read is perhaps never in force, and a run of an earlier one may still wait.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Stat};
use serde::{Deserialize, Serialize};

use super::{FileError, cannot};
use crate::model::files::{Files, MODE_MASK};
use crate::model::id::DefinitionHash;

/// The folder in `state/`.
const MODES: &str = "modes";
/// Nobody else has any business with it: names of files may be telling.
const FOLDER_MODE: u32 = 0o700;
/// Of each note.
const NOTE_MODE: u32 = 0o600;
/// The version of the format. A note of another version counts as none.
const VERSION: u32 = 1;
/// How a file that is not yet whole ends.
const UNFINISHED: &str = ".new";
/// Its owner reads a file of a workspace, whoever could read the source.
const OWNER_READS: u32 = 0o400;
/// The execute bits, which the definition's hash decides on.
const EXECUTE: u32 = 0o111;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: u32,
    modes: BTreeMap<String, u32>,
}

/// Notes the modes of `files`, a definition of `batch`, if they are not noted yet.
pub fn note(state: &Path, batch: &str, definition: DefinitionHash, files: &Files) -> Result<(), FileError> {
    let path = path(state, batch, definition);
    let modes = files.0.iter().map(|(path, file)| (path.clone(), file.mode & MODE_MASK)).collect();
    let note = Note { version: VERSION, modes };
    let bytes = serde_json::to_vec(&note).map_err(cannot("write", &path))?;
    if fs::read(&path).is_ok_and(|noted| noted == bytes) {
        return Ok(());
    }
    make_folder(state)?;
    let beside = PathBuf::from(format!("{}{UNFINISHED}", path.display()));
    let open = || OpenOptions::new().write(true).create(true).truncate(true).mode(NOTE_MODE).open(&beside);
    let written = open().and_then(|mut file| file.write_all(&bytes)).map_err(cannot("write", &beside));
    if written.is_err() {
        // The disk is full, most likely.
        let _ = fs::remove_file(&beside);
    }
    written?;
    fs::rename(&beside, &path).map_err(cannot("rename", &beside))
}

/// Gives `files`, a definition of `batch`, the modes that are noted. Without a note they are private: that takes no right
/// from the script, and gives none to others.
pub(super) fn apply(state: &Path, batch: &str, definition: DefinitionHash, files: &mut Files) {
    let bytes = fs::read(path(state, batch, definition)).unwrap_or_default();
    let note = serde_json::from_slice::<Note>(&bytes).ok().filter(|note| note.version == VERSION);
    for (path, file) in &mut files.0 {
        let Some(mode) = note.as_ref().and_then(|note| note.modes.get(path)) else { continue };
        let executable = file.mode & EXECUTE;
        let others = if executable == 0 { 0 } else { mode & EXECUTE };
        file.mode = mode & MODE_MASK & !EXECUTE | executable | others | OWNER_READS;
    }
}

/// How the note of a definition looks from outside, if there is one.
pub(super) fn look(state: &Path, batch: &str, definition: DefinitionHash) -> Option<Stat> {
    rustix::fs::statat(CWD, path(state, batch, definition), rustix::fs::AtFlags::empty()).ok()
}

/// Removes what an earlier daemon began to write and did not finish. For the start of a daemon.
pub fn clear_unfinished(state: &Path) -> Result<(), FileError> {
    let folder = state.join(MODES);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("read", &folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(cannot("read", &folder))?.path();
        if path.as_os_str().as_encoded_bytes().ends_with(UNFINISHED.as_bytes()) {
            fs::remove_file(&path).map_err(cannot("remove", &path))?;
        }
    }
    Ok(())
}

/// Makes the folder of the notes.
fn make_folder(state: &Path) -> Result<(), FileError> {
    let folder = state.join(MODES);
    match DirBuilder::new().mode(FOLDER_MODE).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(cannot("make", &folder)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn path(state: &Path, batch: &str, definition: DefinitionHash) -> PathBuf {
    state.join(MODES).join(format!("{batch}@{definition}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::files::FileContent;

    fn files(mode: u32) -> Files {
        Files([("own.env".to_owned(), FileContent { bytes: Vec::new(), mode })].into())
    }

    fn applied(state: &Path, definition: DefinitionHash, stored: u32) -> u32 {
        let mut files = files(stored);
        apply(state, "report", definition, &mut files);
        files.0["own.env"].mode
    }

    #[test]
    fn a_mode_is_noted_for_its_definition_and_the_hash_decides_what_is_executable() {
        let state = tempfile::tempdir().unwrap();
        let (state, hash) = (state.path(), DefinitionHash([1; 32]));
        assert_eq!(applied(state, hash, 0o600), 0o600);
        note(state, "report", hash, &files(0o4640)).unwrap();
        assert_eq!(applied(state, hash, 0o600), 0o640);
        note(state, "report", hash, &files(0o755)).unwrap();
        assert_eq!((applied(state, hash, 0o700), applied(state, hash, 0o600)), (0o755, 0o644));
        // Of another definition nothing is known.
        assert_eq!(applied(state, DefinitionHash([2; 32]), 0o600), 0o600);
        note(state, "report", DefinitionHash([2; 32]), &files(0o644)).unwrap();
        assert_eq!((applied(state, hash, 0o700), applied(state, hash, 0o600)), (0o755, 0o644));
        fs::write(path(state, "report", hash), "{").unwrap();
        assert_eq!(applied(state, hash, 0o600), 0o600);
        let inode = look(state, "report", hash).unwrap().st_ino;
        note(state, "report", hash, &files(0o644)).unwrap();
        assert_ne!(look(state, "report", hash).unwrap().st_ino, inode);
        let inode = look(state, "report", hash).unwrap().st_ino;
        note(state, "report", hash, &files(0o644)).unwrap();
        assert_eq!(look(state, "report", hash).unwrap().st_ino, inode);
    }
}

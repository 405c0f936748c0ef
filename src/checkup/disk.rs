//! Reads run folders, the state folder and stored definitions for the doctor. Only looks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::doctor::Violation;
use crate::doctor::folders::Folder;
use crate::doctor::state::{self, Entry, Kind};
use crate::model::id::{DefinitionHash, Token};
use crate::rundir::{self, RunDir, STDERR, STDOUT};
use crate::store::definitions::{self, DefinitionError};

/// The folders in the state folder whose entries are batchd's, too.
const FOLDERS: [&str; 5] = ["definitions", "inputs", "modes", "socket", "workspaces"];

/// Whether some process holds a lock on this file. It is asked for and not taken: to take it, even for a moment, would keep a
/// daemon from starting.
///
/// A file that can be opened is asked for its OFD lock, which is seen from each pid namespace. For others, and for daemons of
/// earlier versions, which only have a lock by flock(2), there is the kernel's list: proc_locks(5).
pub(super) fn is_locked(path: &Path) -> bool {
    let asked = File::open(path).and_then(|file| rundir::probe_lock(file.as_fd()));
    asked.unwrap_or(false) || is_in_list_of_locks(path)
}

/// Whether the kernel's list has a lock on this file. It lacks locks by flock(2) of other pid namespaces.
fn is_in_list_of_locks(path: &Path) -> bool {
    let (Ok(metadata), Ok(locks)) = (fs::metadata(path), fs::read_to_string("/proc/locks")) else { return false };
    let device = metadata.dev();
    let file = format!("{:02x}:{:02x}:{}", rustix::fs::major(device), rustix::fs::minor(device), metadata.ino());
    locks.lines().any(|line| {
        let mut words = line.split_whitespace().filter(|word| *word != "->");
        words.nth(1).is_some_and(|kind| matches!(kind, "FLOCK" | "OFDLCK")) && words.any(|word| word == file)
    })
}

/// The folder of a run, if there is one.
pub(super) fn folder(path: &Path, token: &Token) -> Result<Option<Folder>> {
    let run = match RunDir::open(path) {
        Ok(run) => run,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("can't open {}", path.display())),
    };
    let cannot = || format!("can't read {}", path.display());
    Ok(Some(Folder {
        names: run.names().with_context(cannot)?,
        started_aside: run.started_aside().with_context(cannot)?,
        run: run.read(token),
        claim: run.read(token),
        started: run.read(token),
        exit: run.read(token),
        lengths: [run.length(STDOUT), run.length(STDERR)],
    }))
}

/// Gives each name in a folder, one after the other.
pub(super) fn names(folder: &Path, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", folder.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("can't read {}", folder.display()))?;
        each(&entry.file_name().to_string_lossy())?;
    }
    Ok(())
}

/// Checks that each definition that is needed is stored, and that all that are stored are what their names say.
pub(super) fn definitions(state: &Path, needed: &BTreeSet<DefinitionHash>, violations: &mut Vec<Violation>) {
    let mut stored: BTreeSet<DefinitionHash> = BTreeSet::new();
    // What can't be listed is missed below, by each that needs it.
    let _ = names(&state.join("definitions"), |name| {
        stored.extend(name.parse::<DefinitionHash>());
        Ok(())
    });
    for hash in needed | &stored {
        let file = format!("state/definitions/{hash}");
        let (name, error) = match definitions::verify(state, hash) {
            Ok(()) => continue,
            Err(error @ DefinitionError::Missing(..)) => ("definition-missing", error),
            Err(error @ (DefinitionError::Damaged(_) | DefinitionError::Io(_))) => ("definition-damaged", error),
        };
        let hint = "`batchd reload` stores definitions in force again; older ones are only needed to look at past runs";
        violations.push(Violation::new(name, error.to_string(), hint).file(file));
    }
}

/// Checks owners, modes and names in the state folder.
pub(super) fn state(state: &Path, moving: bool, violations: &mut Vec<Violation>) -> Result<()> {
    let top = entry(state, String::new())?;
    let owner = top.uid;
    violations.extend(state::check(&top, owner, moving));
    names(state, |name| {
        // What goes while it is looked at was on its way.
        let Ok(found) = entry(&state.join(name), name.to_owned()) else { return Ok(()) };
        violations.extend(state::check(&found, owner, moving));
        if found.kind != Kind::Folder || !FOLDERS.contains(&name) {
            return Ok(());
        }
        names(&state.join(name), |inner| {
            let path = format!("{name}/{inner}");
            if let Ok(found) = entry(&state.join(&path), path.clone()) {
                violations.extend(state::check(&found, owner, moving));
            }
            Ok(())
        })
    })
}

fn entry(path: &Path, name: String) -> Result<Entry> {
    let metadata = fs::symlink_metadata(path).with_context(|| format!("can't look at {}", path.display()))?;
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => Kind::Folder,
        kind if kind.is_file() => Kind::File,
        kind if kind.is_socket() => Kind::Socket,
        kind if kind.is_symlink() => Kind::Link,
        _ => Kind::Other,
    };
    Ok(Entry { path: name, kind, mode: metadata.mode() & 0o7777, uid: metadata.uid() })
}

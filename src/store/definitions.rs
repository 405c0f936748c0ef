//! `state/definitions/<hash>/`: the content of accepted definitions, durable, whole or not there, and never changed.
//!
//! It does not know which of them are in force; the journal does. The journal may name a hash once [`put`] has returned.
//! One daemon writes here at a time, from one thread.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::upgrade::Upgraded;
use super::{FileError, cannot, folders_of};
use crate::model::files::{FileContent, Files};
use crate::model::id::DefinitionHash;
use crate::os::make_durable_folder;

/// The folder in `state/`.
const DEFINITIONS: &str = "definitions";
/// How the folder of a definition that is not yet whole begins.
const UNFINISHED: &str = ".new-";
/// Up to so many new definitions, each file is synced by itself; more are synced with all else that waits on their file
/// system, which costs a little more than a few files and far less than thousands.
const SYNCED_ALONE_MAX: usize = 4;

/// Only the daemon's user comes here: the shim copies before it gives up its rights, and a definition may hold secrets.
const DEFINITIONS_MODE: u32 = 0o700;
/// Of the folders in a definition: no copy has a permission that its source may lack. Modes are kept by [`super::modes`].
const FOLDER_MODE: u32 = 0o700;
/// Of a file, and of an executable one, for the same reason.
const FILE_MODE: u32 = 0o600;
/// See [`FILE_MODE`].
const EXECUTABLE_MODE: u32 = 0o700;

/// Why a definition can't be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// It is not there.
    #[error("definition {0} is missing from `{path}`; run `batchd reload` to store the current definitions again", path = .1.display())]
    Missing(DefinitionHash, PathBuf),
    /// It is not what was stored.
    #[error(
        "the definition in `{path}` is damaged; remove the folder, then run `batchd reload`",
        path = .0.display()
    )]
    Damaged(PathBuf),
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] FileError),
}

/// Where the definition `hash` is kept.
pub fn definition_path(state: &Path, hash: DefinitionHash) -> PathBuf {
    state.join(DEFINITIONS).join(hash.to_string())
}

/// Stores `files`, if they are not there already, and returns their hash when they are durable.
pub fn put(state: &Path, files: &Files) -> Result<DefinitionHash, DefinitionError> {
    let hash = files.hash();
    put_all(state, &[(hash, files)])?;
    Ok(hash)
}

/// Stores all of `definitions`, each with its hash, that are not there already. They are durable when it returns.
pub fn put_all(state: &Path, definitions: &[(DefinitionHash, &Files)]) -> Result<(), DefinitionError> {
    let folder = state.join(DEFINITIONS);
    make_durable_folder(&folder, DEFINITIONS_MODE).map_err(cannot("make", &folder))?;
    let mut seen = BTreeSet::new();
    let missing: Vec<_> = definitions
        .iter()
        .filter(|(hash, _)| seen.insert(*hash) && !definition_path(state, *hash).exists())
        .map(|(hash, files)| (folder.join(format!("{UNFINISHED}{hash}")), definition_path(state, *hash), *files))
        .collect();
    let sync_each = missing.len() <= SYNCED_ALONE_MAX;
    let beside = || missing.iter().map(|(beside, _, _)| beside);
    beside().try_for_each(|beside| remove(beside))?;
    let written = missing.iter().try_for_each(|(beside, _, files)| write_folder(beside, files, sync_each));
    if written.is_err() {
        // The disk is full, most likely: what is of no use takes no room on it. That it can't be removed is no news.
        beside().for_each(|beside| drop(remove(beside)));
    }
    written?;
    let open_folder = File::open(&folder).map_err(cannot("open", &folder))?;
    if !sync_each {
        rustix::fs::syncfs(&open_folder).map_err(cannot("sync the file system of", &folder))?;
    }
    for (beside, path, _) in &missing {
        fs::rename(beside, path).map_err(cannot("rename", beside))?;
    }
    // Also when nothing was missing: an earlier daemon may have died between its renames and this.
    open_folder.sync_all().map_err(cannot("sync", &folder))?;
    Ok(())
}

/// Whether there are any, or ever were: the folder is made with the first and never removed.
pub fn any(state: &Path) -> bool {
    state.join(DEFINITIONS).exists()
}

/// Removes what an earlier daemon began and did not finish. For the start of a daemon.
pub fn clear_unfinished(state: &Path) -> Result<(), DefinitionError> {
    let folder = state.join(DEFINITIONS);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("read", &folder)(error).into()),
    };
    for entry in entries {
        let entry = entry.map_err(cannot("read", &folder))?;
        if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// A definition without a file that earlier versions stored, and that must not be kept: its `env_file`. It lies beside the
/// definition, whose own hash can't prove the rest any more.
#[derive(Debug, Serialize, Deserialize)]
struct Reduced {
    /// The file that was removed.
    removed: String,
    /// The hash of all others.
    rest: DefinitionHash,
}

impl Reduced {
    fn path(state: &Path, hash: DefinitionHash) -> PathBuf {
        state.join(DEFINITIONS).join(format!("{hash}.json"))
    }

    fn read(state: &Path, hash: DefinitionHash) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(state, hash)).ok()?).ok()
    }
}

/// Removes the file that `unwanted` names, given the bytes of a definition's file `index`, from each stored definition. For
/// the first start of a version that does not keep such files.
pub(super) fn remove_from_all(
    state: &Path,
    index: &str,
    unwanted: &dyn Fn(&[u8]) -> Option<String>,
    upgraded: &mut Upgraded,
) {
    let remove = |hash: DefinitionHash| {
        let path = definition_path(state, hash);
        fs::set_permissions(&path, fs::Permissions::from_mode(DEFINITIONS_MODE))
            .map_err(cannot("change the mode of", &path))?;
        let name = match fs::read(path.join(index)) {
            Ok(bytes) => unwanted(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(cannot("read", &path.join(index))(error)),
        };
        name.map_or(Ok(false), |name| remove_from(state, hash, &name))
    };
    for hash in upgraded.take(stored(state)).unwrap_or_default() {
        upgraded.env_files_removed += usize::from(upgraded.take(remove(hash)).unwrap_or_default());
    }
}

/// The hashes of all definitions that are stored.
fn stored(state: &Path) -> Result<Vec<DefinitionHash>, FileError> {
    let folder = state.join(DEFINITIONS);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot("read", &folder)(error)),
    };
    let mut stored = Vec::new();
    for entry in entries {
        let name = entry.map_err(cannot("read", &folder))?.file_name();
        stored.extend(name.to_str().and_then(|name| name.parse::<DefinitionHash>().ok()));
    }
    Ok(stored)
}

/// Removes one file from a stored definition, if it is there.
fn remove_from(state: &Path, hash: DefinitionHash, name: &str) -> Result<bool, FileError> {
    let path = definition_path(state, hash);
    let mut files = Files::default();
    read_folder(&path, "", &mut files)?;
    let was_whole = files.hash() == hash;
    if files.0.remove(name).is_none() {
        return Ok(false);
    }
    // Of a definition that is damaged the rest proves nothing.
    if was_whole {
        let reduced = Reduced { removed: name.to_owned(), rest: files.hash() };
        let note = Reduced::path(state, hash);
        let bytes = serde_json::to_vec(&reduced).map_err(cannot("write", &note))?;
        let written = File::create(&note).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
        written.map_err(cannot("write", &note))?;
        sync_folder(&state.join(DEFINITIONS))?;
    }
    let file = path.join(name);
    fs::remove_file(&file).map_err(cannot("remove", &file))?;
    Ok(true)
}

/// The files of the definition `hash`, checked against it.
pub fn read_back(state: &Path, hash: DefinitionHash) -> Result<Files, DefinitionError> {
    let path = definition_path(state, hash);
    let mut files = Files::default();
    match read_folder(&path, "", &mut files) {
        Ok(()) if files.hash() == hash => Ok(files),
        Ok(()) if Reduced::read(state, hash).is_some_and(|reduced| reduced.rest == files.hash()) => Ok(files),
        Ok(()) => Err(DefinitionError::Damaged(path)),
        Err(error) if !path.exists() && error.source.kind() == io::ErrorKind::NotFound => {
            Err(DefinitionError::Missing(hash, path))
        }
        Err(error) => Err(error.into()),
    }
}

/// Checks that the definition `hash` is on the disk as it was stored.
pub fn verify(state: &Path, hash: DefinitionHash) -> Result<(), DefinitionError> {
    read_back(state, hash).map(drop)
}

fn write_folder(root: &Path, files: &Files, sync_each: bool) -> Result<(), FileError> {
    let below = folders_of(files).into_iter().map(|folder| root.join(folder));
    let folders: Vec<PathBuf> = std::iter::once(root.to_owned()).chain(below).collect();
    for folder in &folders {
        make_folder(folder, FOLDER_MODE)?;
    }
    for (path, file) in &files.0 {
        write_file(&root.join(path), file, sync_each)?;
    }
    if sync_each {
        for folder in &folders {
            sync_folder(folder)?;
        }
    }
    Ok(())
}

fn write_file(path: &Path, file: &FileContent, sync: bool) -> Result<(), FileError> {
    let mode = if file.is_executable() { EXECUTABLE_MODE } else { FILE_MODE };
    let mut out =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(cannot("make", path))?;
    out.write_all(&file.bytes).map_err(cannot("write", path))?;
    if sync {
        out.sync_all().map_err(cannot("sync", path))?;
    }
    Ok(())
}

fn make_folder(path: &Path, mode: u32) -> Result<(), FileError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(cannot("make", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_folder(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(cannot("sync", path))
}

fn remove(folder: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", folder)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Adds all files of `folder`, which is at `below` (empty, or with a `/` at its end) in the definition.
fn read_folder(folder: &Path, below: &str, files: &mut Files) -> Result<(), FileError> {
    for entry in fs::read_dir(folder).map_err(cannot("read", folder))? {
        let entry = entry.map_err(cannot("read", folder))?;
        let path = entry.path();
        // A name that no definition can have makes another hash, which the caller finds.
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        let metadata = entry.metadata().map_err(cannot("look at", &path))?;
        if metadata.is_dir() {
            read_folder(&path, &format!("{name}/"), files)?;
        } else {
            let bytes = fs::read(&path).map_err(cannot("read", &path))?;
            let is_executable = metadata.permissions().mode() & 0o100 != 0;
            let mode = if is_executable { EXECUTABLE_MODE } else { FILE_MODE };
            files.0.insert(name, FileContent { bytes, mode });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str, bool)]) -> Files {
        let mode = |executable| if executable { EXECUTABLE_MODE } else { FILE_MODE };
        let file = |bytes: &str, executable| FileContent { bytes: bytes.into(), mode: mode(executable) };
        Files(entries.iter().map(|(path, bytes, executable)| ((*path).to_owned(), file(bytes, *executable))).collect())
    }

    fn names(state: &Path) -> Vec<String> {
        let entries = fs::read_dir(state.join(DEFINITIONS)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_is_put_comes_back() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let all = [
            files(&[]),
            files(&[("script.sh", "echo", true)]),
            files(&[("a/b/c", "1", false), ("a/d", "2", true), ("batch.toml", "", false)]),
        ];
        for files in &all {
            let hash = put(state, files).unwrap();
            assert_eq!(put(state, files).unwrap(), hash);
            assert_eq!(&read_back(state, hash).unwrap(), files);
            verify(state, hash).unwrap();
        }
        assert_eq!(names(state).len(), all.len());
        let unknown = DefinitionHash([7; 32]);
        assert!(matches!(read_back(state, unknown), Err(DefinitionError::Missing(hash, _)) if hash == unknown));
    }

    #[test]
    fn many_at_once_and_the_same_twice() {
        let state = tempfile::tempdir().unwrap();
        let all: Vec<Files> = (0..20).map(|n| files(&[("script.sh", &(n % 10).to_string(), false)])).collect();
        let definitions: Vec<_> = all.iter().map(|files| (files.hash(), files)).collect();
        put_all(state.path(), &definitions).unwrap();
        assert_eq!(names(state.path()).len(), 10);
        for (hash, _) in definitions {
            verify(state.path(), hash).unwrap();
        }
    }

    #[test]
    fn damage_is_found() {
        let check = |damage: &dyn Fn(&Path)| {
            let state = tempfile::tempdir().unwrap();
            let hash = put(state.path(), &files(&[("script.sh", "echo", true), ("a/b", "b", false)])).unwrap();
            damage(&definition_path(state.path(), hash));
            let error = verify(state.path(), hash).unwrap_err();
            assert!(matches!(error, DefinitionError::Damaged(_)), "{error}");
        };
        check(&|path| fs::write(path.join("script.sh"), "").unwrap());
        check(&|path| fs::write(path.join("more"), "").unwrap());
        check(&|path| fs::remove_file(path.join("a/b")).unwrap());
        check(&|path| fs::set_permissions(path.join("a/b"), fs::Permissions::from_mode(0o755)).unwrap());
    }

    #[test]
    fn what_was_begun_is_cleared_and_never_taken_for_whole() {
        let state = tempfile::tempdir().unwrap();
        clear_unfinished(state.path()).unwrap();
        let whole = files(&[("script.sh", "echo", true)]);
        let beside = state.path().join(DEFINITIONS).join(format!("{UNFINISHED}{}", whole.hash()));
        let begin = || {
            fs::create_dir_all(&beside).unwrap();
            fs::write(beside.join("script.sh"), "ec").unwrap();
        };
        begin();
        let hash = put(state.path(), &whole).unwrap();
        verify(state.path(), hash).unwrap();
        begin();
        clear_unfinished(state.path()).unwrap();
        assert_eq!(names(state.path()), [hash.to_string()]);
    }
}

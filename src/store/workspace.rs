//! `state/workspaces/<batch>/`: the folder in which a batch's script runs, brought up to date before each run (design 3.4).
//!
//! It runs in the shim, once per run, so what is already in place costs one small file and one look at each of the
//! definition's files. It does not know whether a run of the batch lives: the caller deploys only when none does, or into
//! the workspace of one definition.

mod beneath;
mod manifest;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use self::beneath::{Beneath, Staging};
use self::manifest::{Manifest, Trace};
use super::definitions::{self, DefinitionError};
use super::walk::FOLDER;
use super::{FileError, cannot, folders_of};
use crate::model::files::Files;
use crate::model::id::{BatchName, DefinitionHash};
use crate::os;

/// The folder in `state/`.
const WORKSPACES: &str = "workspaces";
/// Users must come through to their workspaces, and need not see which others there are.
const WORKSPACES_MODE: Mode = Mode::from_raw_mode(0o711);
/// Of a workspace without an owner of its own, so that people can copy what a script leaves there.
const WORKSPACE_MODE: Mode = Mode::from_raw_mode(0o755);
/// Of a workspace that belongs to a user: nobody else's business.
const OWNED_WORKSPACE_MODE: Mode = Mode::from_raw_mode(0o700);
/// Between a workspace's name and the name of the process that prepares something for it.
const UNFINISHED: &str = ".new-";
/// How old it is when nobody can be at work on it any more, in seconds: a deployment takes seconds, on a slow server minutes.
const UNFINISHED_AGE_S_MAX: i64 = 24 * 60 * 60;

/// The user whom a workspace belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Number of the user.
    pub uid: u32,
    /// Number of its group.
    pub gid: u32,
}

/// The name of a workspace's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceName(String);

impl WorkspaceName {
    /// The one workspace of a batch.
    pub fn of_batch(batch: &BatchName) -> Self {
        Self(batch.to_string())
    }

    /// The workspace of one definition of a batch with `overlap = "allow"`: its runs live beside each other, and each must
    /// find the files of its own definition.
    pub fn of_definition(batch: &BatchName, definition: DefinitionHash) -> Self {
        Self(format!("{batch}@{definition}"))
    }
}

/// What [`deploy`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The workspace.
    pub path: PathBuf,
    /// How many files were written.
    pub written: usize,
    /// What stood in the way of a definition's file or folder, and where it is now: both are paths in the workspace.
    pub moved_aside: Vec<(String, String)>,
}

/// Why a workspace can't be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The definition can't be read.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] FileError),
}

/// Where a workspace is.
pub fn workspace_path(state: &Path, name: &WorkspaceName) -> PathBuf {
    state.join(WORKSPACES).join(&name.0)
}

/// Brings a workspace up to date: afterwards each file of `definition` is in it as it should be, those of the definition
/// that was deployed before and that this one lacks are gone, and all else is as it was. With an `owner` the workspace
/// belongs to that user; without, to the daemon's.
///
/// What was deployed during another boot is compared byte by byte, and the definition with its hash: a host that lost its
/// power may have lost either.
pub fn deploy(
    state: &Path,
    definition: DefinitionHash,
    name: &WorkspaceName,
    owner: Option<Owner>,
    boot_id: &str,
) -> Result<Deployed, WorkspaceError> {
    let path = workspace_path(state, name);
    let workspaces = state.join(WORKSPACES);
    let last = Manifest::read(&workspaces, name);
    if last.as_ref().is_some_and(|last| last.is_of(definition, owner, boot_id) && last.holds_in(&path)) {
        return Ok(Deployed { path, written: 0, moved_aside: Vec::new() });
    }
    let files = definitions::read_back(state, definition)?;
    make_workspaces(&workspaces)?;
    let deployment = Deployment { workspaces, path, name, owner, manifest: Manifest::new(definition, owner, boot_id) };
    match deployment.open()? {
        Some(folder) => deployment.update(folder, &files, last),
        None => deployment.make(&files, last),
    }
}

/// Removes what shims that died left half done. For the start of a daemon; what living shims prepare is left to them.
/// Whether a shim of another host, another container or an earlier boot lives can't be known: what is old is nobody's.
pub fn clear_unfinished(state: &Path) -> Result<(), WorkspaceError> {
    let workspaces = state.join(WORKSPACES);
    let entries = match std::fs::read_dir(&workspaces) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("read", &workspaces)(error).into()),
    };
    let now = touch(&workspaces).map_err(cannot("touch", &workspaces))?;
    for entry in entries {
        let entry = entry.map_err(cannot("read", &workspaces))?;
        let name = entry.file_name();
        let parts = name.to_str().filter(|name| name.starts_with('.')).and_then(|name| name.rsplit_once(UNFINISHED));
        let Some((_, process)) = parts else { continue };
        let path = entry.path();
        let is_old = || {
            let stat = rustix::fs::lstat(&path);
            stat.is_ok_and(|stat| now.saturating_sub(modified_s(&stat)) > UNFINISHED_AGE_S_MAX)
        };
        if os::has_ended(process).unwrap_or_else(is_old) {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(cannot("remove", &path))?;
        }
    }
    Ok(())
}

/// The current time in seconds, by the clock that stamps the files of this folder: a server may have its own.
fn touch(folder: &Path) -> rustix::io::Result<i64> {
    let folder = rustix::fs::openat(CWD, folder, FOLDER, Mode::empty())?;
    let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    rustix::fs::futimens(&folder, &Timestamps { last_access: now, last_modification: now })?;
    Ok(modified_s(&rustix::fs::fstat(&folder)?))
}

#[allow(clippy::unnecessary_cast, reason = "the field has other types on 32-bit systems; all values fit")]
fn modified_s(stat: &Stat) -> i64 {
    stat.st_mtime as i64
}

/// One workspace on its way to one definition.
struct Deployment<'a> {
    workspaces: PathBuf,
    path: PathBuf,
    name: &'a WorkspaceName,
    owner: Option<Owner>,
    /// As it will be, still without files.
    manifest: Manifest,
}

impl Deployment<'_> {
    /// Opens the workspace, if there is one. Its name stands in a folder of the daemon's: nobody can put a link there.
    fn open(&self) -> Result<Option<OwnedFd>, FileError> {
        match rustix::fs::openat(CWD, &self.path, FOLDER, Mode::empty()) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(cannot("open", &self.path)(error)),
        }
    }

    /// Makes the workspace beside, and renames all of it into place.
    fn make(mut self, files: &Files, last: Option<Manifest>) -> Result<Deployed, WorkspaceError> {
        let staging = Staging::new(&self.staging_path(), self.owner)?;
        for folder in folders_of(files) {
            staging.make_folder(folder)?;
        }
        for (path, file) in &files.0 {
            let (_file, stat) = staging.write_file(path, file)?;
            self.manifest.files.insert(path.clone(), Trace::of(&stat));
        }
        // Before the workspace is there: of a workspace without manifest nobody knows what is to be removed one day.
        self.manifest.write(&self.workspaces, self.name)?;
        let mode = if self.owner.is_some() { OWNED_WORKSPACE_MODE } else { WORKSPACE_MODE };
        staging.hand_over(mode)?;
        match os::rename_to_free(CWD, &staging.path, CWD, &self.path) {
            Ok(()) => Ok(Deployed { path: self.path, written: files.0.len(), moved_aside: Vec::new() }),
            // With `overlap = "allow"`, another shim was faster.
            Err(Errno::EXIST) => {
                staging.remove()?;
                self.manifest.files.clear();
                let folder = self.open()?.ok_or_else(|| cannot("open", &self.path)(Errno::NOENT))?;
                self.update(folder, files, last)
            }
            Err(error) => Err(cannot("rename", &staging.path)(error).into()),
        }
    }

    /// Changes what differs in a workspace that a script has lived in.
    fn update(mut self, folder: OwnedFd, files: &Files, last: Option<Manifest>) -> Result<Deployed, WorkspaceError> {
        self.give_to_owner(&folder)?;
        let last = last.unwrap_or_default();
        if files.0.keys().any(|path| !last.files.contains_key(path)) {
            // If this shim dies half way, the next one must know all files that may be there.
            let both = files.0.keys().chain(last.files.keys());
            Manifest::unfinished(both.cloned()).write(&self.workspaces, self.name)?;
        }
        let staging = Staging::new(&self.staging_path(), self.owner)?;
        let mut beneath = Beneath::new(&self.path, folder, &staging);
        let stale: Vec<&str> =
            last.files.keys().filter(|path| !files.0.contains_key(*path)).map(String::as_str).collect();
        beneath.remove_files(&stale, &folders_of(files))?;
        let mut written = 0;
        for (path, file) in &files.0 {
            let (trace, changed) = beneath.put(path, file)?;
            self.manifest.files.insert(path.clone(), trace);
            written += usize::from(changed);
        }
        let moved_aside = beneath.moved_aside;
        staging.remove()?;
        self.manifest.write(&self.workspaces, self.name)?;
        Ok(Deployed { path: self.path, written, moved_aside })
    }

    /// The batch's `user` may have changed. What its script left there is not touched.
    fn give_to_owner(&self, folder: &OwnedFd) -> Result<(), FileError> {
        let stat = rustix::fs::fstat(folder).map_err(cannot("look at", &self.path))?;
        if belongs_to(&stat, self.owner) {
            return Ok(());
        }
        give(folder, self.owner.unwrap_or_else(this_user)).map_err(cannot("change the owner of", &self.path))
    }

    fn staging_path(&self) -> PathBuf {
        self.workspaces.join(format!(".{}{UNFINISHED}{}", self.name.0, os::process_name()))
    }
}

fn make_workspaces(path: &Path) -> Result<(), FileError> {
    match rustix::fs::mkdir(path, WORKSPACES_MODE) {
        // The daemon's umask may have taken bits away.
        Ok(()) => rustix::fs::chmod(path, WORKSPACES_MODE).map_err(cannot("change the mode of", path)),
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(cannot("make", path)(error)),
    }
}

/// True if a file has the owner that it should have. Without a user of the batch's own, its group is the system's choice.
fn belongs_to(stat: &Stat, owner: Option<Owner>) -> bool {
    match owner {
        Some(owner) => stat.st_uid == owner.uid && stat.st_gid == owner.gid,
        None => stat.st_uid == this_user().uid,
    }
}

fn this_user() -> Owner {
    Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

fn give(file: &OwnedFd, owner: Owner) -> rustix::io::Result<()> {
    let uid = rustix::fs::Uid::from_raw(owner.uid);
    let gid = rustix::fs::Gid::from_raw(owner.gid);
    rustix::fs::fchown(file, Some(uid), Some(gid))
}

/// How a file is opened to be written for the first time.
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests;

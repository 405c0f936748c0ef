//! `state/workspaces/<batch>/`: the folder in which a batch's script runs, brought up to date before each run (design 3.4).
//!
//! It runs in the shim, once per run, so what is already in place costs one small file and one look at each of the
//! definition's files. It does not know whether a run of the batch lives: the caller deploys only when none does, or into
//! the workspace of one definition.

mod beneath;
mod changes;
mod handover;
mod manifest;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use self::beneath::{Beneath, Staging};
use self::changes::Changes;
use self::manifest::{Manifest, Trace, Wanted};
use super::definitions::{self, DefinitionError};
use super::upgrade::Upgraded;
use super::walk::FOLDER;
use super::{FileError, cannot, folders_of, modes, users};
use crate::model::files::Files;
use crate::model::id::{BatchName, DefinitionHash};
use crate::model::text::counted;
use crate::os;

/// The folder in `state/`.
const WORKSPACES: &str = "workspaces";
/// Users must come through to their workspaces, and need not see which others there are.
const WORKSPACES_MODE: Mode = Mode::from_raw_mode(0o711);
/// Of a workspace: what a script leaves there, and the files of its definition, are its user's alone.
const WORKSPACE_MODE: Mode = Mode::from_raw_mode(0o700);
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

    /// The batch's name.
    fn batch(&self) -> &str {
        self.0.split_once('@').map_or(self.0.as_str(), |(batch, _)| batch)
    }
}

/// What a workspace is brought to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'t> {
    /// The definition.
    pub definition: DefinitionHash,
    /// The script's path in it.
    pub script: &'t str,
    /// The folders in it that are included.
    pub include: &'t [String],
    /// The workspace.
    pub name: &'t WorkspaceName,
    /// Whom it belongs to; none: to the daemon's user.
    pub owner: Option<Owner>,
    /// The boot of the host.
    pub boot_id: &'t str,
}

/// What [`deploy`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The workspace.
    pub path: PathBuf,
    /// How many files were written.
    pub written: usize,
    /// What whoever looks at the run should know: what earlier runs had changed, and what became of it. Sentences.
    pub remarks: Vec<String>,
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

/// Brings a workspace up to date. The script, executables and included files are always those of the definition. Another
/// file that a script has changed stays so until the definition has a new version of it, and is then kept beside it. A file
/// of the definition that was deployed before is removed if this one lacks it and no script has changed it. All else is as
/// it was.
///
/// What was deployed during another boot is compared byte by byte, and the definition with its hash: a host that lost its
/// power may have lost either.
pub fn deploy(state: &Path, target: &Target<'_>) -> Result<Deployed, WorkspaceError> {
    let path = workspace_path(state, target.name);
    let workspaces = state.join(WORKSPACES);
    let noted = modes::look(state, target.name.batch(), target.definition);
    let last = Manifest::read(&workspaces, target.name);
    if last.as_ref().is_some_and(|last| last.is_of(target, noted.as_ref()) && last.holds_in(&path)) {
        return Ok(Deployed { path, written: 0, remarks: Vec::new() });
    }
    let mut files = definitions::read_back(state, target.definition)?;
    modes::apply(state, target.name.batch(), target.definition, &mut files);
    let last = last.map(|last| last.with_digests(state));
    make_workspaces(&workspaces)?;
    let manifest = Manifest::new(target, noted.as_ref());
    let deployment = Deployment { workspaces, path, target, manifest };
    match deployment.open()? {
        Some(folder) => deployment.update(folder, &files, last),
        None => deployment.make(&files, last),
    }
}

/// Lets nobody but its user into any workspace. For the first start of a version that makes them so.
pub(super) fn close_all(state: &Path, upgraded: &mut Upgraded) {
    for (_, path) in upgraded.take(workspaces(state)).unwrap_or_default() {
        let folder = match rustix::fs::openat(CWD, &path, FOLDER, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            opened => opened.map_err(cannot("open", &path)),
        };
        let closed = folder.and_then(|folder| close(&folder).map_err(cannot("change the mode of", &path)));
        upgraded.closed += usize::from(upgraded.take(closed).unwrap_or_default());
    }
}

/// Removes the file that `unwanted` names of a workspace's definition, from each workspace that it was deployed to.
/// Workspaces of `busy` batches are left as they are.
pub(super) fn remove_from_all(
    state: &Path,
    busy: &BTreeSet<BatchName>,
    unwanted: &dyn Fn(DefinitionHash) -> Option<String>,
    upgraded: &mut Upgraded,
) {
    // What can't be listed was complained of by [`close_all`].
    for (name, path) in workspaces(state).unwrap_or_default() {
        let Some(manifest) = Manifest::read(&state.join(WORKSPACES), &name) else { continue };
        let file = manifest.definition.and_then(unwanted).filter(|file| manifest.files.contains_key(file));
        let Some(file) = file else { continue };
        if busy.iter().any(|batch| batch.as_str() == name.batch()) {
            upgraded.left += 1;
        } else {
            let removed = beneath::remove_file(&path, &file);
            upgraded.env_files_removed += usize::from(upgraded.take(removed).unwrap_or_default());
        }
    }
}

/// All workspaces there are.
fn workspaces(state: &Path) -> Result<Vec<(WorkspaceName, PathBuf)>, FileError> {
    let folder = state.join(WORKSPACES);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot("read", &folder)(error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(cannot("read", &folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.push((WorkspaceName(name), entry.path()));
        }
    }
    Ok(all)
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
    target: &'a Target<'a>,
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
        let staging = Staging::new(&self.staging_path(), self.target.owner)?;
        for folder in folders_of(files) {
            staging.make_folder(folder)?;
        }
        for (path, file) in &files.0 {
            let (_file, stat) = staging.write_file(path, file)?;
            let wanted = Wanted::new(path, file, self.target);
            self.manifest.files.insert(path.clone(), Trace::of(&stat, &wanted));
        }
        // Before the workspace is there: of a workspace without manifest nobody knows what is to be removed one day.
        self.manifest.write(&self.workspaces, self.target.name)?;
        staging.hand_over(WORKSPACE_MODE)?;
        match os::rename_to_free(CWD, &staging.path, CWD, &self.path) {
            Ok(()) => Ok(Deployed { path: self.path, written: files.0.len(), remarks: Vec::new() }),
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
        let mut remarks: Vec<String> = self.give_to_owner(&folder)?.into_iter().collect();
        let last = last.unwrap_or_default();
        if last.is_of_earlier_version() {
            close(&folder).map_err(cannot("change the mode of", &self.path))?;
        }
        let wanted: BTreeMap<&str, Wanted<'_>> =
            files.0.iter().map(|(path, file)| (path.as_str(), Wanted::new(path, file, self.target))).collect();
        // If this shim dies half way, the next one must know all files that may be there.
        if let Some(unfinished) = Manifest::unfinished(&last, &wanted) {
            unfinished.write(&self.workspaces, self.target.name)?;
        }
        let staging = Staging::new(&self.staging_path(), self.target.owner)?;
        let mut beneath = Beneath::new(&self.path, folder, &staging, files, &last);
        remove_stale(&mut beneath, &last, files)?;
        for (path, wanted) in &wanted {
            let trace = beneath.put(path, wanted, last.files.get(*path))?;
            self.manifest.files.insert((*path).to_owned(), trace);
        }
        let changes: Changes = beneath.changes;
        self.manifest.put_beside = beneath.put_beside;
        staging.remove()?;
        self.manifest.write(&self.workspaces, self.target.name)?;
        remarks.extend(changes.remarks());
        Ok(Deployed { path: self.path, written: changes.written, remarks })
    }

    /// The batch's `user` may have changed: then the workspace changes hands with all that its script left there. What is to
    /// be said of that.
    fn give_to_owner(&self, folder: &OwnedFd) -> Result<Option<String>, FileError> {
        let stat = rustix::fs::fstat(folder).map_err(cannot("look at", &self.path))?;
        if belongs_to(&stat, self.target.owner) {
            return Ok(None);
        }
        let owner = self.target.owner.unwrap_or_else(this_user);
        let handed = handover::hand_over(folder, &stat, owner).and_then(|handed| give(folder, owner).map(|()| handed));
        let handed = handed.map_err(cannot("change the owner of", &self.path))?;
        if stat.st_uid == owner.uid {
            return Ok(None);
        }
        let (old, new) = (users::shown(stat.st_uid), users::shown(owner.uid));
        let mut remark = format!("the batch's user changed from {old} to {new}: the workspace now belongs to {new}");
        if handed.left > 0 {
            let files = counted(handed.left, "file", "files");
            remark += &format!("; {old} still owns {files} with several names or in too deeply nested folders");
        }
        Ok(Some(remark))
    }

    fn staging_path(&self) -> PathBuf {
        self.workspaces.join(format!(".{}{UNFINISHED}{}", self.target.name.0, os::process_name()))
    }
}

/// Removes the files that have left the definition, then the folders they were in that are empty.
fn remove_stale(beneath: &mut Beneath<'_>, last: &Manifest, files: &Files) -> Result<(), FileError> {
    let stale = || last.files.iter().filter(|(path, _)| !files.0.contains_key(*path));
    for (path, trace) in stale() {
        beneath.remove_stale(path, trace)?;
    }
    let kept = folders_of(files);
    let folders: BTreeSet<&str> =
        stale().flat_map(|(path, _)| path.match_indices('/').map(|(end, _)| &path[..end])).collect();
    // Backwards in the order of their paths: what is in a folder goes before it.
    folders.iter().rev().filter(|folder| !kept.contains(*folder)).try_for_each(|folder| beneath.remove_folder(folder))
}

/// Lets nobody but its owner into a workspace. Whether others could come in.
fn close(folder: &OwnedFd) -> rustix::io::Result<bool> {
    let is_open = rustix::fs::fstat(folder)?.st_mode & 0o077 != 0;
    if is_open {
        rustix::fs::fchmod(folder, WORKSPACE_MODE)?;
    }
    Ok(is_open)
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

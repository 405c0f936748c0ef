//! Changes below a folder that belongs to somebody else, who may plant links and swap folders at any moment.
//!
//! Everything new is made, and gets its owner, in a [`Staging`] folder that only the daemon's user can enter, and is then
//! renamed into place; nothing below the foreign folder ever gets an owner or a mode. Folders there are opened from its
//! descriptor, and never through a link.

mod beside;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::super::walk::{FILE, FOLDER};
use super::super::{FileError, cannot};
use super::changes::Changes;
use super::manifest::{ContentDigest, Manifest, Stamp, finish_digest};
use super::{NEW_FILE, Owner, Trace, Wanted, belongs_to, give};
use crate::model::files::{DEFINITION_BYTES_MAX, FileContent, Files, MODE_MASK};

/// Of a folder that only the daemon's user can enter.
const PRIVATE_MODE: Mode = Mode::from_raw_mode(0o700);
/// Of the folders of a definition in a workspace: some programs refuse private files in a folder that others may enter.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o700);
/// How often a folder is opened, or a file renamed, that somebody else keeps taking away.
const ATTEMPTS_MAX: u32 = 10;
/// The bits that decide whether a script can read and execute a file of its definition.
const USED_MODE: u32 = 0o500;
/// How much of a file is read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// A folder of the daemon's, in which new files get their content and owner.
pub(super) struct Staging {
    /// Where it is.
    pub(super) path: PathBuf,
    folder: OwnedFd,
    owner: Option<Owner>,
}

impl Staging {
    /// Makes it at `path`. What another process with this number left there is removed.
    pub(super) fn new(path: &Path, owner: Option<Owner>) -> Result<Self, FileError> {
        match rustix::fs::mkdir(path, PRIVATE_MODE) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                std::fs::remove_dir_all(path).map_err(cannot("remove", path))?;
                rustix::fs::mkdir(path, PRIVATE_MODE).map_err(cannot("make", path))?;
            }
            Err(error) => return Err(cannot("make", path)(error)),
        }
        let folder = rustix::fs::openat(CWD, path, FOLDER, Mode::empty()).map_err(cannot("open", path))?;
        Ok(Self { path: path.to_owned(), folder, owner })
    }

    /// Makes a folder in it.
    pub(super) fn make_folder(&self, name: &str) -> Result<(), FileError> {
        let make = || {
            rustix::fs::mkdirat(&self.folder, name, FOLDER_MODE)?;
            let folder = rustix::fs::openat(&self.folder, name, FOLDER, Mode::empty())?;
            self.finish(&folder, FOLDER_MODE).map(drop)
        };
        make().map_err(cannot("make", &self.path.join(name)))
    }

    /// Writes a file in it, and says how it looks then.
    pub(super) fn write_file(&self, name: &str, file: &FileContent) -> Result<(OwnedFd, Stat), FileError> {
        let mode = Mode::from_raw_mode(file.mode & MODE_MASK);
        let write = || {
            let mut out = File::from(rustix::fs::openat(&self.folder, name, NEW_FILE, PRIVATE_MODE)?);
            out.write_all(&file.bytes)?;
            let out = OwnedFd::from(out);
            let stat = self.finish(&out, mode)?;
            Ok((out, stat))
        };
        write().map_err(|error: std::io::Error| cannot("write", &self.path.join(name))(error))
    }

    /// Gives a file its owner, and its mode if the umask has taken bits away.
    fn finish(&self, file: &OwnedFd, mode: Mode) -> rustix::io::Result<Stat> {
        if let Some(owner) = self.owner {
            give(file, owner)?;
        }
        let stat = rustix::fs::fstat(file)?;
        if Mode::from_raw_mode(stat.st_mode) == mode {
            return Ok(stat);
        }
        rustix::fs::fchmod(file, mode)?;
        rustix::fs::fstat(file)
    }

    /// Makes the folder itself its owner's, with this mode. The last thing: from now on the owner can enter.
    pub(super) fn hand_over(&self, mode: Mode) -> Result<(), FileError> {
        self.finish(&self.folder, mode).map(drop).map_err(cannot("change the owner of", &self.path))
    }

    /// Removes it with all that is in it.
    pub(super) fn remove(self) -> Result<(), FileError> {
        std::fs::remove_dir_all(&self.path).map_err(cannot("remove", &self.path))
    }
}

/// If something failed (the disk is full), what was made in it takes no room. It is gone already if all went well.
impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// The foreign folder.
pub(super) struct Beneath<'a> {
    /// For messages.
    path: &'a Path,
    folder: Rc<OwnedFd>,
    staging: &'a Staging,
    /// The definition.
    files: &'a Files,
    /// What was changed, and what a script had changed.
    pub(super) changes: Changes,
    /// What deployments have put beside files of the definition, by its path.
    pub(super) put_beside: BTreeMap<String, Stamp>,
    /// How much of that was removed.
    discarded: usize,
}

/// What is at the place of a file.
enum Found {
    Nothing,
    /// A folder, a link, or anything else that is no file.
    Other,
    File {
        stat: Stat,
        /// None: it can't be read, or is longer than any file of a definition.
        digest: Option<ContentDigest>,
        open: Option<OwnedFd>,
    },
}

impl<'a> Beneath<'a> {
    /// What is new in `folder`, which is at `path`, is of `files` and comes from `staging`, on the same file system. `last` is
    /// what was deployed there before.
    pub(super) fn new(
        path: &'a Path,
        folder: OwnedFd,
        staging: &'a Staging,
        files: &'a Files,
        last: &Manifest,
    ) -> Self {
        let (changes, put_beside) = (Changes::default(), last.put_beside.clone());
        Self { path, folder: Rc::new(folder), staging, files, changes, put_beside, discarded: 0 }
    }

    /// Makes the file at `path` what it should be, unless it is one that the script may change, and has changed. `known` is
    /// what was deployed there before.
    pub(super) fn put(&mut self, path: &str, wanted: &Wanted<'_>, known: Option<&Trace>) -> Result<Trace, FileError> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = self.open_or_make(above)?;
        let found = self.find(&folder, name)?;
        if let Found::File { stat, digest, open } = &found {
            let is_owned = belongs_to(stat, self.staging.owner);
            let has_mode = stat.st_mode & 0o7777 == wanted.file.mode;
            if digest.as_ref() == Some(&wanted.digest) && is_owned && has_mode {
                return Ok(Trace::of(stat, wanted));
            }
            let scripts = |known: &&Trace| {
                !wanted.fixed && known.digest.as_ref() == Some(&wanted.digest) && !known.is_untouched(stat)
            };
            if let Some(known) = known.filter(scripts) {
                return self.leave(path, wanted, known, open.as_ref().filter(|_| is_owned));
            }
        }
        self.clear_way(&folder, path, &found, wanted, known)?;
        const STAGED: &str = "file";
        let (staged, _) = self.staging.write_file(STAGED, wanted.file)?;
        self.rename_into(&folder, path, name, STAGED)?;
        self.changes.written += 1;
        // Of the descriptor, not of the name: somebody may have put something else there already.
        let stat = rustix::fs::fstat(&staged).map_err(cannot("look at", &self.path.join(path)))?;
        Ok(Trace::of(&stat, wanted))
    }

    /// Leaves a file as the script has made it. Its mode follows the definition's; it is its owner's own file, who could do
    /// that as well.
    fn leave(&self, path: &str, wanted: &Wanted<'_>, known: &Trace, own: Option<&OwnedFd>) -> Result<Trace, FileError> {
        let mode = wanted.file.mode & MODE_MASK;
        if let Some(file) = own.filter(|_| known.mode != mode) {
            let changed = rustix::fs::fchmod(file, Mode::from_raw_mode(mode));
            changed.map_err(cannot("change the mode of", &self.path.join(path)))?;
        }
        let mut trace = known.clone();
        trace.mode = mode;
        Ok(trace)
    }

    /// Makes room for a file of the definition, and notes what the script had done to its predecessor.
    fn clear_way(
        &mut self,
        folder: &OwnedFd,
        path: &str,
        found: &Found,
        wanted: &Wanted<'_>,
        known: Option<&Trace>,
    ) -> Result<(), FileError> {
        let was_deployed = known.is_some_and(Trace::was_deployed);
        // What was data until now is the script's, even if it is code from now on.
        let is_code = wanted.fixed && known.is_some_and(|known| known.was_deployed() && known.fixed);
        match found {
            Found::Nothing if was_deployed && !self.changes.has_set_aside_above(path) => {
                self.changes.restored.push(path.to_owned())
            }
            Found::Nothing => {}
            Found::Other => self.set_aside(folder, path)?,
            Found::File { stat, digest, .. } => {
                let is_changed =
                    known.is_none_or(|known| !known.is_untouched(stat) && !known.has_deployed(digest.as_ref()));
                // What is not deployed yet may be right already: another shim has made the same workspace.
                let is_changed = is_changed && digest.as_ref() != Some(&wanted.digest);
                let lost_mode = known.is_some_and(|known| {
                    known.mode == wanted.file.mode && (stat.st_mode ^ known.mode) & USED_MODE != 0
                });
                if is_changed && !is_code {
                    self.keep(folder, path)?;
                } else if is_changed || (wanted.fixed && lost_mode) {
                    self.changes.restored.push(path.to_owned());
                }
            }
        }
        Ok(())
    }

    /// Removes a file that has left the definition, unless the script has changed it. What is a folder or a link now was made
    /// by a script, and stays as well.
    pub(super) fn remove_stale(&mut self, path: &str, known: &Trace) -> Result<(), FileError> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        // A folder that is gone, or is none any more, has nothing of ours in it.
        let Ok(folder) = self.open(above) else { return Ok(()) };
        match self.find(&folder, name)? {
            Found::Nothing => {}
            Found::File { stat, digest, .. } if known.is_untouched(&stat) || known.has_deployed(digest.as_ref()) => {
                self.unlink(&folder, path, name, AtFlags::empty())?;
            }
            Found::Other | Found::File { .. } => self.changes.stays.push(path.to_owned()),
        }
        Ok(())
    }

    /// Removes a folder, if it is empty.
    pub(super) fn remove_folder(&self, path: &str) -> Result<(), FileError> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Ok(folder) = self.open(above) else { return Ok(()) };
        self.unlink(&folder, path, name, AtFlags::REMOVEDIR)
    }

    fn unlink(&self, folder: &OwnedFd, path: &str, name: &str, flags: AtFlags) -> Result<(), FileError> {
        match rustix::fs::unlinkat(folder, name, flags) {
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(error) => Err(cannot("remove", &self.path.join(path))(error)),
        }
    }

    /// What is at `name` in `folder`.
    fn find(&self, folder: &OwnedFd, name: &str) -> Result<Found, FileError> {
        let look = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(cannot("look at", &self.path.join(name))(error)),
        };
        let is_file = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file(&look) {
            return Ok(Found::Other);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let open = rustix::fs::openat2(folder, name, FILE | OFlags::NOFOLLOW, Mode::empty(), resolve);
        // Whatever the reason why it can't be read, its content is none that was deployed.
        let Ok(open) = open else { return Ok(Found::File { stat: look, digest: None, open: None }) };
        let stat = rustix::fs::fstat(&open).map_err(cannot("look at", &self.path.join(name)))?;
        if !is_file(&stat) {
            return Ok(Found::Other);
        }
        let digest = digest_of_file(&open);
        Ok(Found::File { stat, digest, open: Some(open) })
    }

    /// The folder at `path`, made if it is not there.
    fn open_or_make(&mut self, path: &str) -> Result<Rc<OwnedFd>, FileError> {
        if let Ok(folder) = self.open(path) {
            return Ok(folder);
        }
        let mut above = Rc::clone(&self.folder);
        for end in path.match_indices('/').map(|(end, _)| end).chain([path.len()]) {
            above = self.open_or_make_part(&above, &path[..end])?;
        }
        Ok(above)
    }

    /// The folder at `path`. If it is not there or is something else, its last part is made in the folder `above`.
    fn open_or_make_part(&mut self, above: &OwnedFd, path: &str) -> Result<Rc<OwnedFd>, FileError> {
        const STAGED: &str = "folder";
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        let mut attempts = 0;
        loop {
            let error = match self.open(path) {
                Ok(folder) => return Ok(folder),
                Err(error) => error,
            };
            attempts += 1;
            let can_be_made = matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::AGAIN);
            if !can_be_made || attempts > ATTEMPTS_MAX {
                return Err(cannot("open", &self.path.join(path))(error));
            }
            self.staging.make_folder(STAGED)?;
            self.rename_into(above, path, name, STAGED)?;
        }
    }

    /// Renames `staged` to `name` in `folder`, which is at `path` in all. What is in the way and is not replaced by that is
    /// set aside: it is the script's.
    fn rename_into(&mut self, folder: &OwnedFd, path: &str, name: &str, staged: &str) -> Result<(), FileError> {
        for _ in 0..ATTEMPTS_MAX {
            match rustix::fs::renameat(&self.staging.folder, staged, folder, name) {
                Ok(()) => return Ok(()),
                Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => self.set_aside(folder, path)?,
                Err(error) => return Err(cannot("rename a file to", &self.path.join(path))(error)),
            }
        }
        Err(cannot("rename a file to", &self.path.join(path))(Errno::BUSY))
    }

    /// The folder at `path`, not through links. Empty: the foreign folder itself.
    fn open(&self, path: &str) -> rustix::io::Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.folder));
        }
        let flags = OFlags::PATH | FOLDER;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.folder, path, flags, Mode::empty(), resolve).map(Rc::new)
    }
}

/// Removes the file at `path` of `workspace`, unless links lead to it. Whether it was there.
pub(super) fn remove_file(workspace: &Path, path: &str) -> Result<bool, FileError> {
    let failed = |error: Errno| cannot("remove", &workspace.join(path))(error);
    let folder = match rustix::fs::openat(CWD, workspace, FOLDER, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let (above, name) = path.rsplit_once('/').unwrap_or((".", path));
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let Ok(above) = rustix::fs::openat2(&folder, above, OFlags::PATH | FOLDER, Mode::empty(), resolve) else {
        return Ok(false);
    };
    match rustix::fs::unlinkat(&above, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::ISDIR) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// The digest of a file that may be as long as the longest of a definition; none of a longer one, or if it can't be read.
fn digest_of_file(file: &OwnedFd) -> Option<ContentDigest> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes_left = DEFINITION_BYTES_MAX;
    let mut file = File::from(file.try_clone().ok()?);
    loop {
        let length = file.read(&mut chunk).ok()?;
        if length == 0 {
            return Some(finish_digest(hasher));
        }
        bytes_left = bytes_left.checked_sub(length as u64)?;
        hasher.update(&chunk[..length]);
    }
}

//! Changes below a folder that belongs to somebody else, who may plant links and swap folders at any moment.
//!
//! Everything new is made, and gets its owner, in a [`Staging`] folder that only the daemon's user can enter, and is then
//! renamed into place; nothing below the foreign folder ever gets an owner or a mode. Folders there are opened from its
//! descriptor, and never through a link.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::super::walk::{FILE, FOLDER};
use super::super::{FileError, cannot};
use super::{NEW_FILE, Owner, Trace, belongs_to, give};
use crate::model::files::FileContent;
use crate::os;

/// Of a folder that only the daemon's user can enter.
const PRIVATE_MODE: Mode = Mode::from_raw_mode(0o700);
/// Of the folders of a definition in a workspace.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);
/// The names that are tried for what is moved aside: a script that plants something there again and again must clean up.
const ASIDE_MAX: u32 = 100;
/// How often a folder is opened, or a file renamed, that somebody else keeps taking away.
const ATTEMPTS_MAX: u32 = 10;
/// The bits that a file must have as its definition says: its owner may read it, and execute it or not.
const COMPARED_MODE: u32 = 0o500;

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
        let mode = if file.executable { Mode::from_raw_mode(0o755) } else { Mode::from_raw_mode(0o644) };
        let write = || {
            let mut out = File::from(rustix::fs::openat(&self.folder, name, NEW_FILE, mode)?);
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
    /// What stood in the way, and where it is now.
    pub(super) moved_aside: Vec<(String, String)>,
}

impl<'a> Beneath<'a> {
    /// What is new in `folder`, which is at `path`, comes from `staging`, on the same file system.
    pub(super) fn new(path: &'a Path, folder: OwnedFd, staging: &'a Staging) -> Self {
        Self { path, folder: Rc::new(folder), staging, moved_aside: Vec::new() }
    }

    /// Makes the file at `path` what it should be; true if it had to be written.
    pub(super) fn put(&mut self, path: &str, file: &FileContent) -> Result<(Trace, bool), FileError> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = self.open_or_make(above)?;
        if let Some(trace) = self.trace_if_same(&folder, name, file) {
            return Ok((trace, false));
        }
        const STAGED: &str = "file";
        let (staged, _) = self.staging.write_file(STAGED, file)?;
        self.rename_into(&folder, path, name, STAGED)?;
        // Of the descriptor, not of the name: somebody may have put something else there already.
        let stat = rustix::fs::fstat(&staged).map_err(cannot("look at", &self.path.join(path)))?;
        Ok((Trace::of(&stat), true))
    }

    /// Removes files, then the folders they were in that are empty and not `kept`. What is a folder now was made by a
    /// script, and stays.
    pub(super) fn remove_files(&self, paths: &[&str], kept: &BTreeSet<&str>) -> Result<(), FileError> {
        for path in paths {
            self.remove_beneath(path, AtFlags::empty())?;
        }
        let folders: BTreeSet<&str> =
            paths.iter().flat_map(|path| path.match_indices('/').map(|(end, _)| &path[..end])).collect();
        // Backwards in the order of their paths: what is in a folder goes before it.
        for folder in folders.iter().rev().filter(|folder| !kept.contains(*folder)) {
            self.remove_beneath(folder, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }

    fn remove_beneath(&self, path: &str, flags: AtFlags) -> Result<(), FileError> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        // A folder that is gone, or is none any more, has nothing of ours in it.
        let Ok(folder) = self.open(above) else { return Ok(()) };
        match rustix::fs::unlinkat(&folder, name, flags) {
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(error) => Err(cannot("remove", &self.path.join(path))(error)),
        }
    }

    /// How the file `name` looks, if it is what it should be.
    fn trace_if_same(&self, folder: &OwnedFd, name: &str, file: &FileContent) -> Option<Trace> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // Whatever the reason why it can't be read, the remedy is the same: it is written anew.
        let open = rustix::fs::openat2(folder, name, FILE | OFlags::NOFOLLOW, Mode::empty(), resolve).ok()?;
        let stat = rustix::fs::fstat(&open).ok()?;
        let wanted_mode = if file.executable { 0o500 } else { 0o400 };
        let looks_same = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && belongs_to(&stat, self.staging.owner)
            && stat.st_mode & COMPARED_MODE == wanted_mode
            && u64::try_from(stat.st_size) == Ok(file.bytes.len() as u64);
        if !looks_same {
            return None;
        }
        let mut bytes = Vec::with_capacity(file.bytes.len() + 1);
        File::from(open).take(file.bytes.len() as u64 + 1).read_to_end(&mut bytes).ok()?;
        (bytes == file.bytes).then(|| Trace::of(&stat))
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
    /// moved aside: it is the script's.
    fn rename_into(&mut self, folder: &OwnedFd, path: &str, name: &str, staged: &str) -> Result<(), FileError> {
        for _ in 0..ATTEMPTS_MAX {
            match rustix::fs::renameat(&self.staging.folder, staged, folder, name) {
                Ok(()) => return Ok(()),
                Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                    self.move_aside(folder, path, name)?;
                }
                Err(error) => return Err(cannot("rename a file to", &self.path.join(path))(error)),
            }
        }
        Err(cannot("rename a file to", &self.path.join(path))(Errno::BUSY))
    }

    fn move_aside(&mut self, folder: &OwnedFd, path: &str, name: &str) -> Result<(), FileError> {
        for number in 1..=ASIDE_MAX {
            let aside = format!("{name}.aside-{number}");
            match os::rename_to_free(folder, name, folder, &aside) {
                Ok(()) => {
                    self.moved_aside.push((path.to_owned(), format!("{path}.aside-{number}")));
                    return Ok(());
                }
                // It is gone by itself.
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(cannot("move aside", &self.path.join(path))(error)),
            }
        }
        Err(cannot("move aside, like a hundred before it,", &self.path.join(path))(Errno::EXIST))
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

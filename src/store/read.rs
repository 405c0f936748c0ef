//! Reads folders of `batches.d`: which there are, whether one has changed, and what is in it.
//!
//! Everything is opened by descriptor from `batches.d` downwards, so that a folder swapped meanwhile is never read half and
//! half. It does not know what a `batch.toml` or a zip is, and when to look again is the watcher's business.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::trust::Trust;
use super::walk::{FOLDER, Walk};
use super::{FileError, cannot};
use crate::model::diagnostic::{Diagnostic, not_a_batch_name};
use crate::model::files::Files;
use crate::model::id::BatchName;
use crate::model::text::{shell_path, shown};
use crate::model::time::Instant;

/// An open `batches.d`. Opened anew for each scan, it follows a link at its path that is swapped.
#[derive(Debug)]
pub struct BatchesDir {
    path: PathBuf,
    folder: OwnedFd,
}

/// Why `batches.d` can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum BatchesDirError {
    /// It is not there, now.
    #[error("there is no folder `{}`; create it, or name another one with --batches", .0.display())]
    Missing(PathBuf),
    /// It is something else.
    #[error("`{}` is not a folder; name a folder with --batches", .0.display())]
    NotAFolder(PathBuf),
    /// It can't be opened or read.
    #[error(transparent)]
    Io(#[from] FileError),
}

/// What stands in `batches.d`, in the order of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Folders whose name is a batch's.
    pub batches: Vec<BatchName>,
    /// Folders that can't be batches and are not ignored: each with what to do.
    pub diagnostics: Vec<Diagnostic>,
    /// There is nothing at all in it, not even what is ignored.
    pub is_bare: bool,
}

/// What a folder's files look like from outside. Two equal ones mean the same content if `newest_change_at` was over when
/// the first was taken: a file system stamps changes by a coarse clock (4 ms on ext4, up to 2 s over a network), and a
/// second change within one tick leaves no trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Over names, inodes, modes, owners, sizes and times of all that is in it, links' targets included.
    pub(super) digest: [u8; 32],
    /// The latest change of any of it, by the file system's clock.
    pub newest_change_at: Instant,
    /// What has to be looked at to see whether it is as it was, where that is less than a walk (`Walk::retrace`).
    pub(super) paths: Option<Box<str>>,
}

/// What is in a folder. Not checked: whether it is a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFolder {
    /// All files of it.
    pub files: Files,
    /// How it looked while they were read.
    pub fingerprint: Fingerprint,
    /// Those of the files that may still be written.
    pub unfinished: Vec<Unfinished>,
}

/// A file that somebody has open for writing, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Its path in the folder.
    pub path: String,
    /// When it was last modified, by the file system's clock, if the kernel doesn't say whether it has a writer; none: it has.
    pub unknown_since: Option<Instant>,
}

/// Why there is no [`RawFolder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// It is not there.
    Gone,
    /// It changed while it was read: read it again after a quiet period.
    Changed,
    /// This file, a path below `batches.d`, is being written: read it again when the file is closed.
    Open(String),
    /// It must not, or can't be read.
    Refused(Vec<Diagnostic>),
}

impl BatchesDir {
    /// Opens the folder at `path`, which may be a link to it.
    pub fn open(path: &Path) -> Result<Self, BatchesDirError> {
        let path = std::path::absolute(path).map_err(cannot("find", path))?;
        match rustix::fs::openat(CWD, &path, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty()) {
            Ok(folder) => Ok(Self { path, folder }),
            Err(Errno::NOENT) => Err(BatchesDirError::Missing(path)),
            Err(Errno::NOTDIR) => Err(BatchesDirError::NotAFolder(path)),
            Err(error) => Err(cannot("open", &path)(error).into()),
        }
    }

    /// What is wrong with who may write `batches.d` and the folders above it. If anything is, nothing in it is trusted.
    pub fn check_parents(&self, trust: &Trust) -> Result<Vec<Diagnostic>, FileError> {
        trust.check_parents(&self.path).map_err(cannot("check the owners of", &self.path))
    }

    /// Which folders there are. Plain files, and names that begin with `.` or `_`, are nothing to batchd (design 3.1).
    pub fn list(&self) -> Result<Listing, FileError> {
        let mut listing = Listing { is_bare: true, ..Listing::default() };
        let dir = Dir::read_from(&self.folder).map_err(cannot("read", &self.path))?;
        for entry in dir {
            let entry = entry.map_err(cannot("read", &self.path))?;
            let bytes = entry.file_name().to_bytes();
            listing.is_bare &= bytes == b"." || bytes == b"..";
            if bytes.starts_with(b".") || bytes.starts_with(b"_") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not say.
                FileType::Unknown => {
                    match rustix::fs::statat(&self.folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                        Err(Errno::NOENT) => continue,
                        Err(error) => return Err(cannot("look at", &self.path)(error)),
                    }
                }
                kind => kind,
            };
            let name = entry.file_name().to_string_lossy();
            if kind == FileType::RegularFile {
                listing.diagnostics.extend(self.file_instead_of_batch(&name));
            } else if kind == FileType::Symlink {
                listing.diagnostics.extend(self.link_instead_of_batch(entry.file_name(), &name));
            } else if kind == FileType::Directory {
                match entry.file_name().to_str().ok().and_then(|name| BatchName::new(name).ok()) {
                    Some(batch) => listing.batches.push(batch),
                    None => listing.diagnostics.push(not_a_batch_name(&self.path.display().to_string(), &name)),
                }
            }
        }
        listing.batches.sort();
        listing.diagnostics.sort();
        Ok(listing)
    }

    /// How the folder `name` looks: no file is opened for it.
    pub fn fingerprint(&self, name: &str) -> Result<Fingerprint, ReadError> {
        let mut walk = Walk::new(&self.path, name, None);
        walk.run(&self.folder)?;
        walk.fingerprint()
    }

    /// Whether the folder `name` still looks like this: for thousands of folders once a minute, so nothing is opened or listed
    /// if that can be avoided.
    pub fn looks_like(&self, name: &str, before: &Fingerprint) -> bool {
        let mut walk = Walk::new(&self.path, name, None);
        let walked = match &before.paths {
            Some(paths) => walk.retrace(&self.folder, paths),
            None => walk.run(&self.folder),
        };
        walked.and_then(|()| walk.fingerprint()).is_ok_and(|now| now == *before)
    }

    /// Reads the folder `name`, a batch's or one for `include`: all its regular files, without what version control and
    /// editors leave there. Links to regular files inside the folder are read as these files.
    pub fn read(&self, name: &str, trust: &Trust) -> Result<RawFolder, ReadError> {
        let mut walk = Walk::new(&self.path, name, Some(trust));
        walk.run(&self.folder)?;
        let fingerprint = walk.fingerprint()?;
        if self.fingerprint(name)? != fingerprint {
            return Err(ReadError::Changed);
        }
        match walk.complaints() {
            diagnostics if diagnostics.is_empty() => {
                Ok(RawFolder { files: walk.files, fingerprint, unfinished: walk.unfinished })
            }
            diagnostics => Err(ReadError::Refused(diagnostics)),
        }
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A remark on a file that is ignored, and was probably meant as a batch.
    fn file_instead_of_batch(&self, name: &str) -> Option<Diagnostic> {
        let (stem, extension) = name.rsplit_once('.')?;
        let at = |path: &str| shell_path(&self.path.join(path).display().to_string());
        let (what, hint) = if extension.eq_ignore_ascii_case("zip") {
            let hint = match BatchName::suggestion(stem) {
                Some(batch) => {
                    let (folder, toml) = (at(batch.as_str()), at(&format!("{batch}/batch.toml")));
                    format!("make it one: `mkdir {folder} && mv {} {folder}/ && touch {toml}`", at(name))
                }
                None => "create a folder for it, with a `batch.toml`".to_owned(),
            };
            ("this zip is ignored; a batch is a folder with a `batch.toml`, and the zip belongs in that folder", hint)
        } else if matches!(name, "batch.toml" | "script.sh") {
            let (folder, toml) = (at("my-batch"), at("my-batch/batch.toml"));
            let touch = if name == "script.sh" { format!(" && touch {toml}") } else { String::new() };
            let hint = format!(
                "move it into a folder: `mkdir -p {folder} && mv -n {} {folder}/{touch}`; the folder's name is the batch's name",
                at(name)
            );
            ("this file is ignored; a batch is a folder in `batches.d`", hint)
        } else {
            return None;
        };
        Some(Diagnostic::of_file(None, shown(name), what).with_hint(hint).as_remark())
    }

    /// What is wrong with a link that leads to a folder, or that has a batch's name and leads to none: it was meant as one.
    fn link_instead_of_batch(&self, link: &CStr, name: &str) -> Option<Diagnostic> {
        let target = rustix::fs::statat(&self.folder, link, AtFlags::empty());
        let target = target.map(|stat| FileType::from_raw_mode(stat.st_mode));
        if target == Ok(FileType::Directory) {
            return Some(link_instead_of_folder(name));
        }
        let batch = BatchName::new(name).ok()?;
        let what = match target {
            Ok(_) => "this is a link to something other than a folder",
            Err(_) => "this link is broken: its target doesn't exist",
        };
        let hint = "a batch is a folder; replace the link with one, or remove the link";
        Some(Diagnostic::of_file(Some(batch), shown(name), what).with_hint(hint))
    }
}

pub(super) fn link_instead_of_folder(name: &str) -> Diagnostic {
    let hint = "replace the link with the folder; `batches.d` itself can be a link, a batch can't";
    Diagnostic::of_file(BatchName::new(name).ok(), shown(name), "this is a link to a folder").with_hint(hint)
}

#[cfg(test)]
mod tests;

//! What a script has made of a file of the definition, or has put in its place, moves to a name beside it. Nothing else that
//! the script made is replaced by that, and nothing grows with the number of runs.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;

use super::super::handover::DEPTH_MAX;
use super::super::manifest::Stamp;
use super::{Beneath, FOLDER};
use crate::os;
use crate::store::{FileError, cannot};

/// Names that are tried for what is kept of a file: a script has the usual one, or earlier versions are kept. Ten edits of a
/// file that its script writes are enough to look at.
const NAMES_MAX: u32 = 10;
/// What is behind the name of a file that a script made of one of the definition's.
const MINE: &str = "mine";
/// What is behind the name of something that stood in the way of one of the definition's files.
const ASIDE: &str = "aside";

impl Beneath<'_> {
    /// Keeps what the script has made of a file beside it. What was kept before stays, as long as there are names.
    pub(super) fn keep(&mut self, folder: &OwnedFd, path: &str) -> Result<(), FileError> {
        let kept = self.move_beside(folder, path, MINE)?;
        self.changes.kept.extend(kept.map(|kept| (path.to_owned(), kept)));
        Ok(())
    }

    /// Sets aside what stands in the way, in the place of what was set aside before: a script may put it there at each run.
    pub(super) fn set_aside(&mut self, folder: &OwnedFd, path: &str) -> Result<(), FileError> {
        let aside = self.move_beside(folder, path, ASIDE)?;
        self.changes.set_aside.extend(aside.map(|aside| (path.to_owned(), aside)));
        Ok(())
    }

    /// Renames what is at `path` in `folder` to a name beside it, as a path; none: it is gone by itself. Nothing of the
    /// script's is replaced, but only what was put there by this, and nobody has touched since.
    fn move_beside(&mut self, folder: &OwnedFd, path: &str, ending: &str) -> Result<Option<String>, FileError> {
        let names = self.names_beside(path, ending);
        let mut ours: Vec<String> = names.iter().filter(|name| self.is_as_put(folder, name)).cloned().collect();
        ours.sort_by_key(|beside| self.put_beside.get(beside).map(Stamp::changed_at));
        let ours = ours.into_iter().map(|beside| (beside, true));
        let free = names.into_iter().map(|beside| (beside, false));
        let candidates: Vec<(String, bool)> =
            if ending == ASIDE { ours.chain(free).collect() } else { free.chain(ours).collect() };
        for (beside, is_ours) in candidates {
            if is_ours {
                self.discard(folder, &beside)?;
            }
            match os::rename_to_free(folder, last_part(path), folder, last_part(&beside)) {
                Ok(()) => {
                    let stat = rustix::fs::statat(folder, last_part(&beside), AtFlags::SYMLINK_NOFOLLOW);
                    // Without its stamp it counts as the script's: the safe side.
                    stat.ok().map(|stat| self.put_beside.insert(beside.clone(), Stamp::of(&stat)));
                    return Ok(Some(beside));
                }
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(cannot("rename", &self.path.join(path))(error)),
            }
        }
        Err(cannot("find a free name beside", &self.path.join(path))(Errno::EXIST))
    }

    /// Whether what is at `path` in `folder` was put there by a deployment, and nobody has touched it since.
    fn is_as_put(&self, folder: &OwnedFd, path: &str) -> bool {
        let Some(stamp) = self.put_beside.get(path) else { return false };
        let stat = rustix::fs::statat(folder, last_part(path), AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| {
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            Stamp::of(&stat) == *stamp && (!is_folder || is_unchanged_in(folder, last_part(path), stamp, 0))
        })
    }

    /// Removes what is at `path` in `folder`, folders, too: it goes where only the daemon's user can enter.
    fn discard(&mut self, folder: &OwnedFd, path: &str) -> Result<(), FileError> {
        self.put_beside.remove(path);
        self.discarded += 1;
        match rustix::fs::renameat(folder, last_part(path), &self.staging.folder, format!("old-{}", self.discarded)) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(cannot("remove", &self.path.join(path))(error)),
        }
    }

    /// Names for what is kept of the file at `path`, as paths: none is one of the definition's.
    fn names_beside(&self, path: &str, ending: &str) -> Vec<String> {
        let first = format!("{path}.{ending}");
        let is_no_file = |name: &String| {
            let below = format!("{name}/");
            !self.files.0.contains_key(name) && !self.files.0.keys().any(|path| path.starts_with(&below))
        };
        let numbered = (2..=NAMES_MAX).map(|number| format!("{first}-{number}"));
        std::iter::once(first.clone()).chain(numbered).filter(is_no_file).collect()
    }
}

/// The name of what is at `path`.
fn last_part(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Whether nothing in the folder `name` of `above` has changed since a stamp was taken. What can't be looked at may have.
fn is_unchanged_in(above: &OwnedFd, name: impl rustix::path::Arg, stamp: &Stamp, depth: usize) -> bool {
    let entries = || {
        let folder = rustix::fs::openat(above, name, FOLDER, Mode::empty())?;
        let device = rustix::fs::fstat(&folder)?.st_dev;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            // What is mounted there is none of the workspace, and must not be removed.
            let is_unchanged = stat.st_dev == device && Stamp::of(&stat).changed_at() <= stamp.changed_at();
            if !is_unchanged || (is_folder && (depth >= DEPTH_MAX || !is_unchanged_in(&folder, name, stamp, depth + 1)))
            {
                return Ok(false);
            }
        }
        rustix::io::Result::Ok(true)
    };
    entries().unwrap_or(false)
}

//! A walk along a path, from descriptor to descriptor: every folder and every link on the way is seen, and no link is
//! followed by the kernel. What was seen is what was walked through, whatever is renamed meanwhile.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};

use super::trust::in_which_all_make_entries;

/// How many symbolic links a path may lead through, as in the kernel.
const LINKS_MAX: usize = 40;
/// Opens something only to look at it.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The walk.
pub(super) struct Descent {
    /// The folders from the first to the one reached, each with its path.
    folders: Vec<Folder>,
    ahead: VecDeque<OsString>,
    links: usize,
    /// Links may lead out of the first folder. If that is the root of the file system, there is no outside.
    may_leave: bool,
    is_begun: bool,
}

struct Folder {
    file: OwnedFd,
    path: PathBuf,
    stat: Stat,
}

/// A folder or a link that the path leads through.
pub(super) struct Step {
    /// Where it is.
    pub(super) path: PathBuf,
    /// How it looks; of a link, the link itself.
    pub(super) stat: Stat,
    /// Anybody may make entries in the folder that it stands in.
    pub(super) is_in_shared_folder: bool,
    /// The path ends here, as far as is known: a link leads further.
    pub(super) is_last: bool,
}

impl Step {
    pub(super) fn is_link(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Symlink
    }
}

/// What a path leads to, if it is neither folder nor link.
pub(super) struct End {
    /// The folder that it stands in.
    pub(super) folder: OwnedFd,
    /// Its name there.
    pub(super) name: OsString,
    /// Anybody may make entries in that folder.
    pub(super) is_in_shared_folder: bool,
}

impl Descent {
    /// Along an absolute path.
    pub(super) fn from_root(path: &Path) -> Result<Self> {
        let root = rustix::fs::openat(CWD, "/", LOOK | OFlags::DIRECTORY, Mode::empty())?;
        Self::new(root, Path::new("/"), path, true)
    }

    /// Along a relative path below the open folder `top`. A way that leads out of it ends with `XDEV`.
    pub(super) fn beneath(top: OwnedFd, top_path: &Path, path: &Path) -> Result<Self> {
        Self::new(top, top_path, path, false)
    }

    fn new(top: OwnedFd, top_path: &Path, path: &Path, may_leave: bool) -> Result<Self> {
        let stat = rustix::fs::fstat(&top)?;
        let top = Folder { file: top, path: top_path.to_owned(), stat };
        Ok(Self { folders: vec![top], ahead: parts(path).collect(), links: 0, may_leave, is_begun: false })
    }

    /// The next folder or link, the first folder included. None: the path is at its end.
    pub(super) fn next(&mut self) -> Result<Option<Step>> {
        if !std::mem::replace(&mut self.is_begun, true) {
            return Ok(Some(self.step_of_folder(false)));
        }
        while let Some(part) = self.ahead.front().cloned() {
            let here = self.here();
            if part == ".." {
                self.ahead.pop_front();
                if self.folders.len() > 1 {
                    self.folders.pop();
                } else if !self.may_leave {
                    return Err(Errno::XDEV);
                }
                continue;
            }
            let path = here.path.join(&part);
            let is_in_shared_folder = in_which_all_make_entries(&here.stat);
            // As a folder first: this also mounts what is to be mounted when somebody goes there.
            match rustix::fs::openat(&here.file, &part, LOOK | OFlags::DIRECTORY, Mode::empty()) {
                Ok(file) => {
                    let stat = rustix::fs::fstat(&file)?;
                    self.ahead.pop_front();
                    self.folders.push(Folder { file, path, stat });
                    return Ok(Some(self.step_of_folder(is_in_shared_folder)));
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
            let file = rustix::fs::openat(&here.file, &part, LOOK, Mode::empty())?;
            let stat = rustix::fs::fstat(&file)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                // Only the last part may be something else: it stays, for `end`.
                return if self.ahead.len() == 1 { Ok(None) } else { Err(Errno::NOTDIR) };
            }
            self.ahead.pop_front();
            let is_last = self.ahead.is_empty();
            self.follow(&file)?;
            return Ok(Some(Step { path, stat, is_in_shared_folder, is_last }));
        }
        Ok(None)
    }

    /// What the path leads to, at its end. None: the last folder that [`Self::next`] gave.
    pub(super) fn end(mut self) -> Option<End> {
        let name = self.ahead.pop_front()?;
        let here = self.folders.pop()?;
        let is_in_shared_folder = in_which_all_make_entries(&here.stat);
        Some(End { folder: here.file, name, is_in_shared_folder })
    }

    /// Puts the target of a link in its place.
    fn follow(&mut self, link: &OwnedFd) -> Result<()> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        let target = PathBuf::from(OsString::from_vec(rustix::fs::readlinkat(link, "", Vec::new())?.into_bytes()));
        if target.is_absolute() {
            if !self.may_leave {
                return Err(Errno::XDEV);
            }
            self.folders.truncate(1);
        }
        parts(&target).rev().for_each(|part| self.ahead.push_front(part));
        Ok(())
    }

    /// The folder reached. The first one is never left.
    fn here(&self) -> &Folder {
        &self.folders[self.folders.len() - 1]
    }

    fn step_of_folder(&self, is_in_shared_folder: bool) -> Step {
        let here = self.here();
        Step { path: here.path.clone(), stat: here.stat, is_in_shared_folder, is_last: self.ahead.is_empty() }
    }
}

/// The named parts and `..` of a path.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

//! A workspace changes hands because the batch's `user` has changed: all that belonged to the old owner goes to the new one.
//!
//! The old owner may still plant things there. So each file is looked at and given away through one descriptor, no link is
//! followed, and a file that has a second name, which may lie anywhere, stays where it belongs.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::super::walk::FOLDER;
use super::Owner;

/// How deep the folders of a workspace are followed: each level holds a few descriptors, and no tool nests deeper on purpose.
pub(super) const DEPTH_MAX: usize = 100;

/// Opens something only to look at it, and not what it leads to.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What became of the content of a workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Handed {
    /// How many files and folders changed hands.
    pub(super) handed: usize,
    /// How many of the old owner's stay the old owner's: they have several names, or are nested too deeply.
    pub(super) left: usize,
}

/// Gives all that is in `folder`, and belongs to its owner as `old` shows, to `new`. The folder itself is the caller's to
/// give, last: whoever dies on the way begins again.
pub(super) fn hand_over(folder: &OwnedFd, old: &Stat, new: Owner) -> rustix::io::Result<Handed> {
    let mut handed = Handed::default();
    walk(folder, old, new, 0, &mut handed)?;
    Ok(handed)
}

fn walk(folder: &OwnedFd, old: &Stat, new: Owner, depth: usize, handed: &mut Handed) -> rustix::io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let file = match rustix::fs::openat(folder, entry.file_name(), LOOK, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        let stat = rustix::fs::fstat(&file)?;
        // What is mounted there is none of the workspace.
        if stat.st_dev != old.st_dev {
            continue;
        }
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_folder && depth < DEPTH_MAX {
            let below = rustix::fs::openat(&file, ".", FOLDER, Mode::empty())?;
            walk(&below, old, new, depth + 1, handed)?;
        }
        if stat.st_uid != old.st_uid {
            continue;
        }
        if (is_folder && depth >= DEPTH_MAX) || (!is_folder && stat.st_nlink > 1) {
            handed.left += 1;
            continue;
        }
        let (uid, gid) = (Uid::from_raw(new.uid), Gid::from_raw(new.gid));
        rustix::fs::chownat(&file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        handed.handed += 1;
    }
    Ok(())
}

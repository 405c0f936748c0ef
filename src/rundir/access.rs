//! Who may look into a run folder and read its logs: scripts print secrets.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Gid, Mode, XattrFlags, fchmod, fchown, fsetxattr};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::model::settings::RUNS_MODE_DEFAULT;

/// What entering a folder and listing it takes off a mode that its logs don't need.
const LOG_BITS: u32 = 0o666;
/// What is left of a mode if the group can't be set: the bits were meant for another group than the file has.
const WITHOUT_GROUP: u32 = 0o707;
/// The extended attribute with a file's access control list, acl(5).
const ACL: &str = "system.posix_acl_access";
/// The first four bytes of [`ACL`].
const ACL_VERSION: u32 = 2;
/// The number in an entry that needs none.
const ACL_NO_ID: u32 = u32::MAX;

/// Who may enter a run folder and read its logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The folder's mode. Its logs have the same one, without the right to execute.
    pub mode: u32,
    /// The number of the group that the folder and its logs get; none: that of whoever makes them.
    pub group: Option<u32>,
    /// The number of the script's user, if it is another than the shim's: it may enter the folder and read its logs.
    #[serde(default)]
    pub reader: Option<u32>,
}

impl Default for Access {
    fn default() -> Self {
        Self { mode: RUNS_MODE_DEFAULT, group: None, reader: None }
    }
}

impl Access {
    /// Gives a run folder its group and mode.
    pub fn apply_to_folder(self, folder: impl AsFd) -> rustix::io::Result<()> {
        let mode = self.apply(folder.as_fd(), self.mode)?;
        match self.reader.map(|reader| grant(folder.as_fd(), mode, reader, 0o5)) {
            None | Some(Ok(())) => Ok(()),
            // Without access control lists everybody may pass through to `io/`, and nobody but owner and group may
            // list.
            Some(Err(_)) => forgive(fchmod(folder, Mode::from_raw_mode(mode | 0o111))),
        }
    }

    /// Gives a log its group and mode.
    pub fn apply_to_log(self, log: impl AsFd) -> rustix::io::Result<()> {
        let mode = self.apply(log.as_fd(), self.mode & LOG_BITS)?;
        // Without access control lists the script's user can't read its own log while it runs.
        if let Some(reader) = self.reader {
            let _ = grant(log.as_fd(), mode, reader, 0o4);
        }
        Ok(())
    }

    /// The mode that was set: without the group's bits if the file can't be given to the group.
    fn apply(self, file: BorrowedFd<'_>, mode: u32) -> rustix::io::Result<u32> {
        let given = self.group.map_or(Ok(()), |group| fchown(file, None, Some(Gid::from_raw(group))));
        let mode = if given.is_ok() { mode } else { mode & WITHOUT_GROUP };
        forgive(fchmod(file, Mode::from_raw_mode(mode)))?;
        Ok(mode)
    }
}

/// A file system without modes (vfat, some network file systems) has its own rules for who may read what.
fn forgive(set: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match set {
        Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
        set => set,
    }
}

/// Lets one user more read a file of this mode, by an access control list.
fn grant(file: BorrowedFd<'_>, mode: u32, reader: u32, rights: u16) -> rustix::io::Result<()> {
    fsetxattr(file, ACL, &acl(mode, reader, rights), XattrFlags::empty())
}

/// The bytes of [`ACL`]: entries of tag, rights and number, in the order of their tags.
fn acl(mode: u32, reader: u32, rights: u16) -> Vec<u8> {
    let [owner, group, others] = [6, 3, 0].map(|shift| (mode >> shift & 0o7) as u16);
    let entries = [
        (0x01, owner, ACL_NO_ID),
        (0x02, rights, reader),
        (0x04, group, ACL_NO_ID),
        (0x10, group | rights, ACL_NO_ID),
        (0x20, others, ACL_NO_ID),
    ];
    let mut bytes = ACL_VERSION.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

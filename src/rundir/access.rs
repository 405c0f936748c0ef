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
/// The bits of the group.
const GROUP_BITS: u32 = 0o070;
/// The group may pass through a folder.
const GROUP_PASSES: u32 = 0o010;
/// Everybody may: also one who is in the group, since then only the group's bits count.
const ALL_PASS: u32 = 0o011;
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
    /// The script's user, if it is another than the shim's: it may enter the folder and read its logs.
    #[serde(default)]
    pub reader: Option<Reader>,
}

/// The user of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reader {
    /// Its number.
    pub uid: u32,
    /// The number of its first group.
    pub gid: u32,
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
        match self.reader {
            Some(reader) if grant(folder.as_fd(), mode, reader.uid, 0o5).is_err() => {
                self.let_pass(folder, mode, reader)
            }
            _ => Ok(()),
        }
    }

    /// Without access control lists, lets the script's user pass through the folder to `io/`, but not list it: as a member of
    /// its group, or as anybody if the folder must have another group.
    fn let_pass(self, folder: impl AsFd, mode: u32, reader: Reader) -> rustix::io::Result<()> {
        if mode & ALL_PASS == ALL_PASS {
            return Ok(());
        }
        let is_groups = self.group.is_none() && fchown(&folder, None, Some(Gid::from_raw(reader.gid))).is_ok();
        let mode = if is_groups { mode & !GROUP_BITS | GROUP_PASSES } else { mode | ALL_PASS };
        forgive(fchmod(folder, Mode::from_raw_mode(mode)))
    }

    /// Gives a log its group and mode.
    pub fn apply_to_log(self, log: impl AsFd) -> rustix::io::Result<()> {
        let mode = self.apply(log.as_fd(), self.mode & LOG_BITS)?;
        // Without access control lists the script's user can't read its own log while it runs.
        if let Some(reader) = self.reader {
            let _ = grant(log.as_fd(), mode, reader.uid, 0o4);
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    use std::path::Path;

    use rustix::thread::set_thread_res_uid;

    use super::*;
    use crate::root::is_root;

    /// A user who owns nothing on the host, and is in no group of it.
    const STRANGER: u32 = 54_321;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// Does `act` with the rights of [`STRANGER`]: the system call changes this thread alone.
    fn as_stranger(act: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let changed = scope.spawn(|| {
                let uid = Some(rustix::process::Uid::from_raw(STRANGER));
                set_thread_res_uid(uid, uid, uid).unwrap();
                act();
            });
            changed.join().unwrap();
        });
    }

    #[test]
    fn without_the_group_its_bits_are_for_nobody() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["run", "run/log"] {
            if name == "run" {
                fs::create_dir(path(name)).unwrap()
            } else {
                drop(File::create(path(name)).unwrap())
            }
            chown(path(name), Some(STRANGER), None).unwrap();
        }
        let (run, log) = (File::open(path("run")).unwrap(), File::open(path("run/log")).unwrap());
        // A group that the user is not in: only root could give it the file.
        for (set, of_folder, of_log) in [(0o750, 0o700, 0o600), (0o775, 0o705, 0o604)] {
            as_stranger(|| {
                let access = Access { mode: set, group: Some(1), ..Access::default() };
                access.apply_to_folder(&run).unwrap();
                access.apply_to_log(&log).unwrap();
            });
            assert_eq!((mode(&path("run")), mode(&path("run/log"))), (of_folder, of_log));
        }
        assert_eq!(fs::metadata(path("run")).unwrap().gid(), rustix::process::getegid().as_raw());
    }

    #[test]
    fn where_no_mode_can_be_set_the_file_system_decides() {
        if !is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let before = mode(&folder.path().join("log"));
        // It is root's: as on a file system without modes, the answer is EPERM.
        as_stranger(|| Access { mode: 0o755, ..Access::default() }.apply_to_log(&log).unwrap());
        assert_eq!(mode(&folder.path().join("log")), before);
        assert_eq!(forgive(Err(Errno::OPNOTSUPP)), Ok(()));
        // Whatever else is wrong is said.
        let flags = rustix::fs::OFlags::PATH;
        let only_a_name = rustix::fs::open(folder.path(), flags, Mode::empty()).unwrap();
        assert_eq!(Access::default().apply_to_folder(&only_a_name), Err(Errno::BADF));
    }
}

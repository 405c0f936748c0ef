//! How file systems differ: which of them are network file systems, renames that replace nothing where the file system
//! refuses the kernel's flag for that, names of temporary files that no process on another host has, and folders that are
//! still there after a power cut.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, FileType, RenameFlags, StatFs, linkat, renameat, renameat_with, statat, unlinkat};
use rustix::io::{Errno, Result};
use rustix::process::{Pid, getpid, test_kill_process};

/// File systems on which locks and shared memory don't reach everybody who opens a file, and on which another host sees
/// what was written only after a sync: `f_type` of statfs(2), linux/magic.h.
const NETWORK_FILE_SYSTEMS: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9P"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "CODA"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
];

/// The kind of network file system that statfs(2) describes; `None` if the file system is local.
pub fn network_file_system(found: &StatFs) -> Option<&'static str> {
    // The field has another type on some processors; all numbers have 32 bits.
    let magic = found.f_type as u32;
    NETWORK_FILE_SYSTEMS.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

/// Whether an open file is on a network file system. Where the system doesn't say, it counts as local.
pub fn is_on_network(file: impl AsFd) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| network_file_system(&found).is_some())
}

/// Renames `from` to `to`, each in its folder, unless something is there already: then the error is `EXIST`.
///
/// On a file system that refuses the flag for this (NFS), a folder replaces an empty folder, which loses nothing.
pub fn rename_to_free(
    from_folder: impl AsFd,
    from: impl AsRef<Path>,
    to_folder: impl AsFd,
    to: impl AsRef<Path>,
) -> Result<()> {
    let (from_folder, from, to_folder, to) = (from_folder.as_fd(), from.as_ref(), to_folder.as_fd(), to.as_ref());
    match renameat_with(from_folder, from, to_folder, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL) => rename_without_flag(from_folder, from, to_folder, to),
        result => result,
    }
}

/// [`rename_to_free`] where the file system refuses flags. A kill in between leaves a file under both names.
fn rename_without_flag(from_folder: impl AsFd, from: &Path, to_folder: impl AsFd, to: &Path) -> Result<()> {
    let (from_folder, to_folder) = (from_folder.as_fd(), to_folder.as_fd());
    let stat = statat(from_folder, from, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        link_to_free(from_folder, from, to_folder, to)?;
        return unlinkat(from_folder, from, AtFlags::empty());
    }
    match renameat(from_folder, from, to_folder, to) {
        // What is there is a folder with something in it, or a file.
        Err(Errno::NOTEMPTY) => Err(Errno::EXIST),
        Err(Errno::NOTDIR) if statat(to_folder, to, AtFlags::SYMLINK_NOFOLLOW).is_ok() => Err(Errno::EXIST),
        result => result,
    }
}

/// Gives the file `from` the second name `to`, unless something is there already: then the error is `EXIST`.
pub fn link_to_free(
    from_folder: impl AsFd,
    from: impl AsRef<Path>,
    to_folder: impl AsFd,
    to: impl AsRef<Path>,
) -> Result<()> {
    let (from_folder, from, to_folder, to) = (from_folder.as_fd(), from.as_ref(), to_folder.as_fd(), to.as_ref());
    match linkat(from_folder, from, to_folder, to, AtFlags::empty()) {
        Err(Errno::EXIST) => {
            // If the first answer of a server got lost, the client asks again, and then finds its own link.
            let look = |folder, name| statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
            let (ours, theirs) = (look(from_folder, from)?, look(to_folder, to)?);
            let same = (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino);
            if same { Ok(()) } else { Err(Errno::EXIST) }
        }
        result => result,
    }
}

/// Makes a folder that is there after a power cut, and those above it that are missing, each with this mode.
///
/// The name of one that is there already is synced as well: who made it may have been killed before it was.
pub fn make_durable_folder(path: &Path, mode: u32) -> io::Result<()> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !above.exists() {
        make_durable_folder(above, mode)?;
    }
    let is_new = match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => false,
        Err(error) => return Err(error),
    };
    match File::open(above).and_then(|above| above.sync_all()) {
        // Who may not read the folder above has not made this one.
        Err(error) if !is_new && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        // A file system that knows no sync of a folder: where others are mounted, such as autofs.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::ReadOnlyFilesystem) => Ok(()),
        synced => synced,
    }
}

/// The name of this process, which no other process has while this one lives, on this host or another, in this container or
/// another: `HOST-PID`. For temporary files; a process makes one of each kind at a time.
pub fn process_name() -> String {
    format!("{}-{}", host_name(), getpid())
}

/// Whether the process that [`process_name`] named has ended; `None` if that can't be known here.
pub fn has_ended(process: &str) -> Option<bool> {
    let (host, pid) = process.rsplit_once('-')?;
    let pid = Pid::from_raw(pid.parse().ok()?)?;
    (host == host_name()).then(|| test_kill_process(pid) == Err(Errno::SRCH))
}

/// The boot of the host and the pid namespace: in these, no two processes have the same pid. A forked process inherits
/// both, so that it has no need to look for them.
fn host_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|boot| boot.trim().replace('-', ""));
        let namespace = statat(CWD, "/proc/self/ns/pid", AtFlags::empty()).map(|stat| stat.st_ino);
        match (boot, namespace) {
            (Ok(boot), Ok(namespace)) => format!("{boot}-{namespace}"),
            // Without /proc. It is as unique, but nobody can tell whose it was.
            _ => random_name(),
        }
    })
}

fn random_name() -> String {
    let mut bytes = [0; 16];
    // Without that too, names are as unique as pids are.
    let _ = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    type Rename = fn(&Path, &Path) -> Result<()>;

    /// With the flag where the file system of the tests' folder takes it, and without.
    const RENAMES: [Rename; 2] =
        [|from, to| rename_to_free(CWD, from, CWD, to), |from, to| rename_without_flag(CWD, from, CWD, to)];

    fn folder() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        (folder, move |name: &str| path.join(name))
    }

    #[test]
    fn a15_files_and_folders_are_renamed_and_replace_nothing() {
        for rename in RENAMES {
            let (_home, path) = folder();
            fs::write(path("file"), "new").unwrap();
            fs::create_dir_all(path("folder/in")).unwrap();
            std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
            for name in ["file", "folder", "link"] {
                let (from, to) = (path(name), path(&format!("{name}.2")));
                rename(&from, &to).unwrap();
                assert!(fs::symlink_metadata(&from).is_err() && fs::symlink_metadata(&to).is_ok(), "{name}");
            }
            assert_eq!(fs::read_to_string(path("file.2")).unwrap(), "new");
            fs::create_dir_all(path("full/in")).unwrap();
            fs::write(path("other"), "old").unwrap();
            for from in ["file.2", "folder.2", "link.2"] {
                for to in ["full", "other", "file.2", "folder.2"] {
                    if from != to {
                        assert_eq!(rename(&path(from), &path(to)), Err(Errno::EXIST), "{from} to {to}");
                    }
                }
            }
            assert_eq!(fs::read_to_string(path("other")).unwrap(), "old");
            assert_eq!(rename(&path("none"), &path("free")), Err(Errno::NOENT));
        }
    }

    #[test]
    fn a15_a_link_whose_answer_got_lost_was_made() {
        let (_home, path) = folder();
        fs::write(path("claim.1"), "mine").unwrap();
        fs::hard_link(path("claim.1"), path("claim")).unwrap();
        assert_eq!(link_to_free(CWD, path("claim.1"), CWD, path("claim")), Ok(()));
        fs::write(path("claim.2"), "theirs").unwrap();
        assert_eq!(link_to_free(CWD, path("claim.2"), CWD, path("claim")), Err(Errno::EXIST));
    }

    #[test]
    fn a15_names_of_processes_are_unique_across_hosts() {
        let own = process_name();
        assert_eq!(own, process_name());
        assert_eq!(has_ended(&own), Some(false));
        let (host, _) = own.rsplit_once('-').unwrap();
        // Larger than any pid, proc(5).
        assert_eq!(has_ended(&format!("{host}-4194305")), Some(true));
        let boot = host.split_once('-').unwrap().0;
        assert_eq!(has_ended(&format!("{boot}-1-4194305")), None, "another container");
        assert_eq!(has_ended(&format!("{}-{host}-4194305", "0".repeat(32))), None, "another host");
        assert_eq!(has_ended("4194305"), None, "an earlier batchd");
        // In a pid namespace of its own, a process of the same host and with the same pid has another name.
        let name = "stat -Lc %i /proc/self/ns/pid";
        let unshare = std::process::Command::new("unshare").args(["-rpf", "sh", "-c", name]).output().unwrap();
        let theirs = String::from_utf8(unshare.stdout).unwrap();
        assert!(unshare.status.success() && !theirs.is_empty() && !own.contains(theirs.trim()), "{own}: {theirs}");
    }

    #[test]
    fn e15_network_file_systems() {
        let kind = |magic| {
            let mut found = rustix::fs::statfs("/").unwrap();
            found.f_type = magic;
            network_file_system(&found)
        };
        assert_eq!(kind(0x6969), Some("NFS"));
        assert_eq!(kind(0xff53_4d42_u32 as _), Some("CIFS"));
        assert_eq!(kind(0xef53), None, "ext4");
        assert_eq!(kind(0x0102_1994), None, "tmpfs");
        assert!(!is_on_network(fs::File::open("/proc").unwrap()));
    }

    #[test]
    fn folders_are_made_with_all_above_them_and_may_be_there() {
        let (_home, path) = folder();
        let mode = |name: &str| fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
        for _ in 0..2 {
            make_durable_folder(&path("a/b/c"), 0o710).unwrap();
            assert_eq!(["a", "a/b", "a/b/c"].map(mode), [0o710; 3]);
        }
        fs::write(path("a/file"), "").unwrap();
        let refused = |name: &str| make_durable_folder(&path(name), 0o710).unwrap_err().kind();
        assert_eq!(refused("a/file"), io::ErrorKind::AlreadyExists);
        assert_eq!(refused("a/file/in"), io::ErrorKind::NotADirectory);
        std::os::unix::fs::symlink("a/b", path("link")).unwrap();
        make_durable_folder(&path("link"), 0o700).unwrap();
        assert_eq!(mode("link"), 0o710);
        // Where nothing can be synced.
        make_durable_folder(Path::new("/proc/self"), 0o700).unwrap();
    }
}

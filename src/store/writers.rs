//! Who has a file open for writing: what is half written must not be taken for a definition.
//!
//! It asks the kernel about files; what follows from the answer is the caller's affair.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::fstatfs;

use crate::model::text::shown;
use crate::model::time::Instant;

/// Where the kernel doesn't say who writes a file, and no events tell, one that was modified within this time may still be
/// written: programs that write a file in pieces pause for less.
pub const RECENT: Duration = Duration::from_secs(2);

/// The signal that the kernel sends to whoever holds a lease that somebody else wants to break. SIGIO, its own choice, would
/// end the process; SIGURG does nothing unless somebody asks for it, so no disposition that scripts inherit has to change.
const LEASE_SIGNAL: libc::c_int = libc::SIGURG;
/// Chooses the signal of a lease (fcntl(2)); `libc` lacks it on this target.
const F_SETSIG: libc::c_int = 10;
/// File systems whose leases are a server's to give (NFS, CIFS, SMB2): a refusal says nothing about writers.
const LEASES_ARE_A_SERVERS: [u32; 3] = [0x6969, 0xff53_4d42, 0xfe53_4d42];

/// What the kernel says about a file's writers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writers {
    /// Nobody on this host has the file open for writing.
    #[default]
    None,
    /// Somebody has.
    Some,
    /// The kernel doesn't say: another owner's file, or a network file system.
    Unknown {
        /// When the file was last modified, by the file system's clock.
        modified_at: Instant,
    },
}

impl Writers {
    /// Whether the file may still be written, as far as can be known without events.
    pub fn may_go_on(self, now: Instant) -> bool {
        match self {
            Self::None => false,
            Self::Some => true,
            Self::Unknown { modified_at } => modified_at <= now && now < modified_at + RECENT,
        }
    }
}

/// Whether anybody has `file`, which is open for reading, open for writing. The kernel refuses a read lease while there is a
/// writer; one that is given is handed back at once, since a writer who comes meanwhile waits for it.
pub fn writers_of(file: &File) -> Writers {
    let unknown = || {
        let modified = file.metadata().map_or((0, 0), |found| (found.mtime(), found.mtime_nsec() / 1_000_000));
        Writers::Unknown { modified_at: Instant::from_ms(modified.0.saturating_mul(1000).saturating_add(modified.1)) }
    };
    let kind = fstatfs(file).map_or(0, |found| found.f_type as u32);
    if LEASES_ARE_A_SERVERS.contains(&kind) {
        return unknown();
    }
    let fcntl = |command: libc::c_int, argument: libc::c_int| {
        // SAFETY: the descriptor is open, and these commands take an integer and touch no memory of ours.
        unsafe { libc::fcntl(file.as_raw_fd(), command, argument) }
    };
    if fcntl(F_SETSIG, LEASE_SIGNAL) < 0 {
        return unknown();
    }
    if fcntl(libc::F_SETLEASE, libc::F_RDLCK as libc::c_int) == 0 {
        fcntl(libc::F_SETLEASE, libc::F_UNLCK as libc::c_int);
        return Writers::None;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Writers::Some,
        _ => unknown(),
    }
}

/// The sentence that `path` is open for writing, or may be, and by which process.
pub fn still_open(path: &Path) -> String {
    match writer_of(path) {
        Some(writer) => {
            format!("process {} (`{}`) still has this file open for writing", writer.pid, shown(&writer.name))
        }
        None => "a process that batchd can't see may still have this file open for writing".to_owned(),
    }
}

/// A process that has a file open for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// Its process id.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
}

/// A process that has `path` open for writing, as far as `/proc` shows it: other users' processes may be hidden.
pub fn writer_of(path: &Path) -> Option<Writer> {
    let wanted = std::fs::metadata(path).ok()?;
    let is_wanted = |link: &Path| {
        // The name first: to look at what a link leads to may hang on a network file system that is gone.
        let has_name = std::fs::read_link(link).is_ok_and(|target| target.file_name() == path.file_name());
        has_name
            && std::fs::metadata(link).is_ok_and(|found| found.dev() == wanted.dev() && found.ino() == wanted.ino())
    };
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let process = entry.path();
        let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else { continue };
        for link in descriptors.flatten() {
            if is_wanted(&link.path()) && is_for_writing(&process.join("fdinfo").join(link.file_name())) {
                let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
                return Some(Writer { pid, name: name.trim_end().to_owned() });
            }
        }
    }
    None
}

/// Whether the descriptor that this file of `/proc/PID/fdinfo` describes was opened for writing.
fn is_for_writing(info: &Path) -> bool {
    let text = std::fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| libc::c_int::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_seen_and_named_until_it_closes_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script.sh");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(writers_of(&reader), Writers::Some);
        assert_eq!(writer_of(&path).map(|writer| writer.pid), Some(std::process::id()));
        drop(writer);
        assert_eq!(writers_of(&reader), Writers::None);
        assert_eq!(writer_of(&path), None, "a reader is no writer");
    }
}

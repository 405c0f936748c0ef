//! What can go wrong with the journal, sorted by what the daemon has to do about it.

use std::path::PathBuf;

use rusqlite::{ErrorCode, ffi};

use crate::model::id::RunId;
use crate::model::time::Instant;

/// Why a journal can't be opened. Each says what is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The SQLite that is linked can lose committed pages.
    #[error(
        "batchd is linked with SQLite {found}, and versions before 3.51.3 can lose committed data: build batchd with its bundled SQLite"
    )]
    OldLibrary {
        /// Its version.
        found: &'static str,
    },
    /// It lies where SQLite's locks and shared memory can't be relied on.
    #[error(
        "{path} is on a network file system ({kind}), where SQLite's locks are unreliable. Keep `state` on a local disk; `batches.d` and `runs` may stay: `batchd daemon --state /var/lib/batchd`, or `state = \"/var/lib/batchd\"` in batchd.toml"
    )]
    NetworkFileSystem {
        /// The folder.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// It was made by a newer batchd.
    #[error(
        "{path} was written by a newer batchd (journal version {found}, this batchd supports up to {known}): start the newer batchd, or restore a copy from before the upgrade"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest that this batchd knows.
        known: u32,
    },
    /// It was made by an older batchd, and only a daemon may bring it up to date.
    #[error(
        "{path} was written by an older batchd (journal version {found}, this batchd reads {known}): start the daemon once to upgrade the journal"
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The one that this batchd reads.
        known: u32,
    },
    /// It is a copy from an earlier moment.
    #[error(
        "{path} is a backup made at {at}: a daemon started with it would repeat runs that have been done since. Move it elsewhere and restore it with `batchd restore FILE`"
    )]
    Backup {
        /// The file.
        path: PathBuf,
        /// When it was made.
        at: Instant,
    },
    /// It is something else.
    #[error(
        "{path} is not a journal of batchd ({what}): move it away, or name the right state folder with `--state DIR`"
    )]
    NotAJournal {
        /// The file.
        path: PathBuf,
        /// What is there instead.
        what: String,
    },
    /// It is a journal, but what is in it can't be right.
    #[error(
        "{path} is damaged ({what}): restore a backup with `batchd restore FILE`, or rebuild the journal from the run folders with `batchd doctor --rebuild FILE` (see docs/backup.md)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// It can be read, but not written.
    #[error(
        "{path} is not writable ({what}): the daemon's user must own the file and its folder, and the disk must not be mounted read-only"
    )]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What said so.
        what: String,
    },
    /// There is none, and a reader makes none.
    #[error(
        "{path} does not exist: no daemon has run with this state folder yet. Start one with `batchd daemon`, or name the right folder with `--state DIR`"
    )]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// This user may not read it, or what SQLite keeps beside it.
    #[error(
        "permission denied to read {path}: run the command as the daemon's user, or join the group that `socket_group` names in the settings"
    )]
    Forbidden {
        /// The file.
        path: PathBuf,
    },
    /// The daemon was killed, and who reads may not do what SQLite needs to read what it left.
    #[error(
        "{path} has a `-wal` file that a killed daemon left, and reading it requires write permission for its folder: start the daemon, or run the command as the daemon's user"
    )]
    NeedsRecovery {
        /// The file.
        path: PathBuf,
    },
    /// Another program holds it.
    #[error("{path} is locked by another program ({what}), perhaps a `sqlite3` shell: end that program and try again")]
    Busy {
        /// The file.
        path: PathBuf,
        /// What said so.
        what: String,
    },
    /// There is no room for it, or for what SQLite keeps beside it.
    #[error("can't open {path}: its disk is full ({what}). Free some space and start the daemon again")]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// What said so.
        what: String,
    },
    /// Anything else that the file system or SQLite says.
    #[error("can't open {path}: {what}")]
    Other {
        /// The file.
        path: PathBuf,
        /// What was said.
        what: String,
    },
}

impl OpenError {
    /// Sorts what SQLite says of `path`.
    pub(super) fn of(path: &std::path::Path, error: &rusqlite::Error) -> Self {
        let (path, what) = (path.to_owned(), error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::NoRoom { path, what },
            Some(ErrorCode::NotADatabase) => Self::NotAJournal { path, what },
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path, what },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::ReadOnly { path, what },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path, what },
            // A value that no batchd writes.
            None => Self::Damaged { path, what },
            Some(_) => Self::Other { path, what },
        }
    }

    /// As [`Self::of`]; `errno` is what the system said to SQLite, if it is the system's fault.
    pub(super) fn of_system(path: &std::path::Path, error: &rusqlite::Error, errno: i32) -> Self {
        match (error.sqlite_error_code(), errno) {
            (Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure), libc::ENOSPC | libc::EDQUOT | libc::EROFS) => {
                Self::io(path, "write it", &std::io::Error::from_raw_os_error(errno))
            }
            (_, _) => Self::of(path, error),
        }
    }

    /// What the file system says of `path`.
    pub(super) fn io(path: &std::path::Path, doing: &str, error: &std::io::Error) -> Self {
        let (path, what) = (path.to_owned(), format!("{doing}: {error}"));
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::NoRoom { path, what },
            Some(libc::EROFS) => Self::ReadOnly { path, what },
            Some(_) | None => Self::Other { path, what },
        }
    }
}

/// Why records were not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written: the disk is full. The same records are to be committed again before anything else is handled.
    #[error("the journal can't be written ({0}): free space on its disk; batchd tries again every second")]
    Full(String),
    /// Nothing was written: another program holds the journal, its disk is mounted read-only, or the system is short of
    /// something else. As [`Self::Full`].
    #[error(
        "the journal can't be written ({0}): end the program that locks it, or fix the error that the system reports; batchd tries again every second"
    )]
    Retry(String),
    /// Whether it was written is not known, or what is there can't be trusted. The daemon exits, and the next one recovers.
    #[error(
        "the journal is no longer reliable ({0}): check the disk and the kernel's log; the next daemon recovers all committed records"
    )]
    Fatal(String),
    /// Its file is not at its place any more: what is written goes to a file that nobody will find. The daemon exits.
    #[error("the journal {path} was removed or replaced while the daemon was running, so the daemon stops: {saved}")]
    Gone {
        /// Where it was.
        path: PathBuf,
        /// What became of what it held, and what to do.
        saved: String,
    },
    /// The records break a rule of the journal: a mistake of batchd. Nothing was written.
    #[error("the journal refuses a record of {run}: {rule}; this is a mistake in batchd, please report it")]
    Violation {
        /// The run.
        run: RunId,
        /// The rule.
        rule: &'static str,
    },
}

impl CommitError {
    /// Sorts what SQLite says; `errno` is what the system said to it, if it is the system's fault.
    ///
    /// Only what was refused may be tried again. After a failed fsync the kernel may have dropped what it could not write, so
    /// trying again would "succeed"; and of another IO error nobody knows what it left. If a commit that was refused is on
    /// the disk all the same, the same records are written over it, or a daemon that is killed meanwhile finds them: nothing
    /// was done because of them.
    pub(super) fn of(error: &rusqlite::Error, errno: i32) -> Self {
        let system = || std::io::Error::from_raw_os_error(errno).to_string();
        // SQLite's own number says which call failed.
        let code = error.sqlite_error().map_or(0, |error| error.extended_code);
        let of_fsync = [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC].contains(&code);
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OutOfMemory) => {
                Self::Retry(error.to_string())
            }
            Some(ErrorCode::SystemIoFailure) if code == ffi::SQLITE_IOERR_NOMEM => Self::Retry(error.to_string()),
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if !of_fsync => match errno {
                libc::ENOSPC | libc::EDQUOT => Self::Full(system()),
                libc::EROFS | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN => Self::Retry(system()),
                _ => Self::Fatal(format!("{error} {code}: {}", system())),
            },
            _ => Self::Fatal(format!("{error} {code}")),
        }
    }
}

/// Why the journal could not be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} can't be read ({source}): if it is damaged, restore it, with its `-wal` file, from a backup, or write a new one from the run folders with `batchd doctor --rebuild` (docs/backup.md says how)"
)]
pub struct QueryError {
    path: PathBuf,
    source: rusqlite::Error,
}

impl QueryError {
    /// What SQLite says of `path`.
    pub(super) fn new(path: &std::path::Path, source: rusqlite::Error) -> Self {
        Self { path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e3_e4_g5_what_was_refused_may_be_tried_again() {
        let kind = |code, errno| {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            match CommitError::of(&error, errno) {
                CommitError::Full(_) => "full",
                CommitError::Retry(_) => "retry",
                CommitError::Fatal(_) => "fatal",
                CommitError::Gone { .. } | CommitError::Violation { .. } => "another",
            }
        };
        let check = |code, errno, expected| assert_eq!(kind(code, errno), expected, "{code} {errno}");
        check(ffi::SQLITE_FULL, 0, "full");
        check(ffi::SQLITE_BUSY, 0, "retry");
        check(ffi::SQLITE_NOMEM, 0, "retry");
        check(ffi::SQLITE_IOERR_NOMEM, libc::EIO, "retry");
        // G5: SQLite knows a full disk, and no quota.
        check(ffi::SQLITE_IOERR_WRITE, libc::EDQUOT, "full");
        check(ffi::SQLITE_IOERR_SHMSIZE, libc::ENOSPC, "full");
        check(ffi::SQLITE_IOERR_WRITE, libc::EROFS, "retry");
        check(ffi::SQLITE_CANTOPEN, libc::EMFILE, "retry");
        // E3, E4: nobody knows what is on the disk.
        check(ffi::SQLITE_IOERR_WRITE, libc::EIO, "fatal");
        check(ffi::SQLITE_IOERR_FSYNC, libc::EIO, "fatal");
        check(ffi::SQLITE_IOERR_FSYNC, libc::ENOSPC, "fatal");
        check(ffi::SQLITE_CORRUPT, 0, "fatal");
        check(ffi::SQLITE_READONLY, 0, "fatal");
    }
}

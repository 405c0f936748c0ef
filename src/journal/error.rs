//! What can go wrong with the journal, sorted by what the daemon has to do about it.

use std::path::PathBuf;

use rusqlite::ErrorCode;

use crate::model::id::RunId;
use crate::model::time::Instant;

/// Why a journal can't be opened. Each says what is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The SQLite that is linked can lose committed pages.
    #[error(
        "SQLite {found} is linked, and versions before 3.51.3 can lose committed pages: build batchd with the SQLite that comes with it"
    )]
    OldLibrary {
        /// Its version.
        found: &'static str,
    },
    /// It lies where SQLite's locks and shared memory can't be relied on.
    #[error(
        "{path} is on a network file system ({kind}), where SQLite's locks can't be relied on: put the folder `state` on a local disk"
    )]
    NetworkFileSystem {
        /// The folder.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// It was made by a newer batchd.
    #[error(
        "{path} was written by a newer batchd (version {found} of its tables, this one knows {known}): start that batchd, or restore a copy from before the upgrade"
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
        "{path} was written by an older batchd (version {found} of its tables, this one reads {known}): start the daemon once, it brings the journal up to date"
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
        "{path} is a backup, made at {at}: a daemon that began with it would do again what has been done since; move it elsewhere, and put it in force with `batchd restore FILE`"
    )]
    Backup {
        /// The file.
        path: PathBuf,
        /// When it was made.
        at: Instant,
    },
    /// It is something else.
    #[error("{path} is not a journal of batchd ({what}): move it away, or say with `--state` where the journal is")]
    NotAJournal {
        /// The file.
        path: PathBuf,
        /// What is there instead.
        what: String,
    },
    /// It is a journal, but what is in it can't be right.
    #[error(
        "{path} is damaged ({what}): restore it, with `batchd restore FILE`, from a backup, or write a new one with `batchd doctor --rebuild FILE`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// It can be read, but not written.
    #[error(
        "{path} can't be written ({what}): the daemon's user must own it and its folder, and the disk must not be mounted read-only"
    )]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What said so.
        what: String,
    },
    /// There is none, and a reader makes none.
    #[error(
        "{path} is not there: no daemon has run with this `state` folder yet; start one, or say with `--state` where it is"
    )]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// This user may not read it, or what SQLite keeps beside it.
    #[error("{path} can't be read by this user: read as the daemon's user, or have it give you the right to")]
    Forbidden {
        /// The file.
        path: PathBuf,
    },
    /// The daemon was killed, and who reads may not do what SQLite needs to read what it left.
    #[error(
        "{path} has a `-wal` file that a killed daemon left, and this user may not write beside it, which reading it takes: start the daemon, or read as the daemon's user"
    )]
    NeedsRecovery {
        /// The file.
        path: PathBuf,
    },
    /// Another program holds it.
    #[error("{path} is locked by another program ({what}): end it, perhaps a `sqlite3` shell, and try again")]
    Busy {
        /// The file.
        path: PathBuf,
        /// What said so.
        what: String,
    },
    /// Anything else that the file system or SQLite says.
    #[error("{path} can't be opened: {what}")]
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
            Some(ErrorCode::NotADatabase) => Self::NotAJournal { path, what },
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path, what },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::ReadOnly { path, what },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path, what },
            // A value that no batchd writes.
            None => Self::Damaged { path, what },
            Some(_) => Self::Other { path, what },
        }
    }

    /// What the file system says of `path`.
    pub(super) fn io(path: &std::path::Path, doing: &str, error: &std::io::Error) -> Self {
        Self::Other { path: path.to_owned(), what: format!("{doing}: {error}") }
    }
}

/// Why records were not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written: the disk is full, or another program holds the journal. The same records are to be committed
    /// again before anything else is handled.
    #[error(
        "the journal can't be written now ({0}): make room on its disk, or end the program that locks it; batchd tries again"
    )]
    Retry(String),
    /// Whether it was written is not known, or what is there can't be trusted. The daemon exits, and the next one recovers.
    #[error(
        "the journal can't be relied on ({0}): look at the disk and at the kernel's log; the next daemon recovers what was committed"
    )]
    Fatal(String),
    /// The records break a rule of the journal: a mistake of batchd. Nothing was written.
    #[error("the journal refuses a record of {run}: {rule}; this is a mistake in batchd, please report it")]
    Violation {
        /// The run.
        run: RunId,
        /// The rule.
        rule: &'static str,
    },
}

impl From<rusqlite::Error> for CommitError {
    /// Only what SQLite promises to have left undone may be tried again. An IO error may come after the commit reached the
    /// disk, and after a failed fsync the kernel may have dropped what it could not write: trying again would "succeed".
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull) => {
                Self::Retry(error.to_string())
            }
            _ => Self::Fatal(error.to_string()),
        }
    }
}

/// Why the journal could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{path} can't be read ({source}): if it is damaged, restore it, with its `-wal` file, from a backup")]
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

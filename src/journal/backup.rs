//! Copies of a journal: [`back_up`] makes one while the daemon goes on writing, [`Journal::take_back`] makes a journal of
//! one again.
//!
//! A copy is marked as one. It is older than the run folders as soon as a run has begun behind it, so no daemon opens it as
//! it is: it would do again what has been done since.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use rustix::fs::CWD;

use super::error::OpenError;
use super::open::{beside, exists, folder_of, version_of};
use super::query::{Reader, open_as};
use super::schema::VERSION;
use super::{Journal, TRANSACTIONS_OF_OPENING, private};
use crate::model::id::JournalId;
use crate::model::time::Instant;
use crate::os::rename_to_free;

/// The key in `meta` that makes a journal a backup, with the instant at which it was made.
const BACKED_UP_AT: &str = "backed_up_at";

/// The key in `meta` for the first transaction that proves anything: what was decided before it, and what has been since the
/// backup, nobody knows any more.
pub(super) const PROVEN_FROM: &str = "proven_from";

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The journal that it is a copy of.
    pub journal: JournalId,
    /// Rows of runs in it.
    pub runs: u64,
    /// Its length.
    pub bytes: u64,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The journal can't be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file is there.
    #[error("{path} exists, and a backup never overwrites a file: choose another name")]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// What a backup is written to before it is whole is there.
    #[error("{path} exists: another backup is running, or one was killed. If none is running, remove the file")]
    Unfinished {
        /// The file.
        path: PathBuf,
    },
    /// SQLite can't read the journal without being allowed to write beside it.
    #[error("this user can't read {path} safely while a daemon starts: run the backup as the daemon's user")]
    Unlocked {
        /// The journal.
        path: PathBuf,
    },
    /// Anything else.
    #[error(
        "no backup was written to {path} ({what}). The journal is unchanged: fix the error, or choose another place"
    )]
    Failed {
        /// The file.
        path: PathBuf,
        /// What was said.
        what: String,
    },
}

/// Writes a copy of the journal at `path` to `file`, whole and on the disk or not at all, and never over anything.
///
/// `VACUUM INTO` and not SQLite's page-by-page backup: it reads the journal in one transaction, beside which the writer
/// goes on (a page-by-page one begins anew with each commit of somebody else), it reads every row, so that a damaged journal
/// is noticed instead of copied, and what it writes has no holes.
pub fn back_up(path: &Path, file: &Path, at: Instant) -> Result<Backup, BackupError> {
    let failed = |error: &dyn std::fmt::Display| BackupError::Failed { path: file.to_owned(), what: error.to_string() };
    let reader = Reader::open(path)?;
    if reader.is_immutable() {
        return Err(BackupError::Unlocked { path: path.to_owned() });
    }
    if exists(file)? {
        return Err(BackupError::Taken { path: file.to_owned() });
    }
    let part = beside(file, ".part");
    match private::create(&part) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(BackupError::Unfinished { path: part }),
        Err(error) => return Err(failed(&error)),
        Ok(()) => {}
    }
    let written = copy(reader.connection(), &part)
        .and_then(|()| mark(&part, at).map_err(|error| error.to_string()))
        .map_err(|what| failed(&what))
        .and_then(|runs| Ok((runs, put_beside_all(&part, file).map_err(|error| taken(file, error))?)));
    match written {
        Ok((runs, bytes)) => {
            let journal = reader.journal_id().map_err(|error| failed(&error))?;
            Ok(Backup { journal, runs, bytes })
        }
        Err(error) => {
            // What is said is why there is no backup; that a part of one can't be removed either adds nothing to it.
            let _ = fs::remove_file(&part);
            Err(error)
        }
    }
}

impl Journal {
    /// Makes a journal at `path` of a backup, or of any other copy of a journal, and opens it. Whoever asks for it has to see
    /// to what has been done since the copy was made.
    pub fn take_back(backup: &Path, path: &Path) -> Result<Self, OpenError> {
        let of = |error: &rusqlite::Error| OpenError::of(backup, error);
        if !exists(backup)? {
            let what = "there is no such file".to_owned();
            return Err(OpenError::Other { path: backup.to_owned(), what });
        }
        let connection = open_as(backup, "mode=ro").map_err(|error| of(&error))?;
        let found = version_of(&connection, backup)?;
        if found > VERSION {
            return Err(OpenError::Newer { path: backup.to_owned(), found, known: VERSION });
        }
        private::create(path).map_err(|error| OpenError::io(path, "create it", &error))?;
        copy(&connection, path).map_err(|what| OpenError::Other { path: path.to_owned(), what })?;
        unmark(path).map_err(|error| OpenError::of(path, &error))?;
        Self::open(path)
    }
}

/// When the journal was made as a backup; none if it was not.
pub(super) fn backed_up_at(connection: &Connection) -> rusqlite::Result<Option<Instant>> {
    let sql = "SELECT value FROM meta WHERE key = ?";
    connection.query_row(sql, [BACKED_UP_AT], |row| row.get(0)).optional()
}

/// Copies what the connection sees to an empty file.
fn copy(connection: &Connection, to: &Path) -> Result<(), String> {
    let target = to.to_str().ok_or("its path is not UTF-8")?;
    connection.execute("VACUUM INTO ?", [target]).map(drop).map_err(|error| error.to_string())
}

/// Says in the copy that it is one; gives the number of runs in it.
fn mark(copy: &Path, at: Instant) -> rusqlite::Result<u64> {
    let connection = open_copy(copy)?;
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", rusqlite::params![BACKED_UP_AT, at])?;
    connection.query_row("SELECT count(*) FROM run", [], |row| row.get(0))
}

fn unmark(copy: &Path) -> rusqlite::Result<()> {
    let connection = open_copy(copy)?;
    connection.execute("DELETE FROM meta WHERE key = ?", [BACKED_UP_AT])?;
    // One of a version that does not count its openings has nothing that could be proven.
    let sql = "INSERT OR REPLACE INTO meta SELECT ?, (value + 1) * ? FROM meta WHERE key = 'opening'";
    connection.execute(sql, rusqlite::params![PROVEN_FROM, TRANSACTIONS_OF_OPENING]).map(drop)
}

/// A copy that nobody else knows yet: it needs no journal of its own, since it is thrown away unless all of it worked.
fn open_copy(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update_and_check(None, "journal_mode", "MEMORY", |_| Ok(()))?;
    Ok(connection)
}

/// Brings what was written to the disk, and gives it its name, unless something has that name by now. Its length.
fn put_beside_all(part: &Path, file: &Path) -> io::Result<u64> {
    let written = File::open(part)?;
    written.sync_all()?;
    rename_to_free(CWD, part, CWD, file)?;
    File::open(folder_of(file))?.sync_all()?;
    Ok(written.metadata()?.len())
}

fn taken(file: &Path, error: io::Error) -> BackupError {
    let path = file.to_owned();
    match error.kind() {
        ErrorKind::AlreadyExists => BackupError::Taken { path },
        _ => BackupError::Failed { path, what: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> (tempfile::TempDir, PathBuf, Journal) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let journal = Journal::open(&path).unwrap();
        (folder, path, journal)
    }

    #[test]
    fn a_backup_is_never_opened_as_the_journal_and_can_be_taken_back() {
        let (folder, path, journal) = journal();
        let file = folder.path().join("copy.db");
        let at = Instant::from_ms(1_700_000_000_000);
        let backup = back_up(&path, &file, at).unwrap();
        assert_eq!((&backup.journal, backup.runs), (journal.id(), 0));
        assert_eq!(backup.bytes, fs::metadata(&file).unwrap().len());
        let refused = Journal::open(&file).unwrap_err().to_string();
        assert!(refused.contains("batchd restore") && refused.contains("2023-11-14T22:13:20"), "{refused}");
        let back = Journal::take_back(&file, &folder.path().join("back.db")).unwrap();
        assert_eq!(back.id(), journal.id());
    }

    #[test]
    fn nothing_is_written_over_and_nothing_left_behind() {
        let (folder, path, _journal) = journal();
        let file = folder.path().join("copy.db");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        back_up(&path, &file, Instant::from_ms(0)).unwrap();
        let before = (fs::read(&file).unwrap(), names());
        assert!(matches!(back_up(&path, &file, Instant::from_ms(1)), Err(BackupError::Taken { .. })));
        let elsewhere = folder.path().join("no-such-folder/copy.db");
        assert!(matches!(back_up(&path, &elsewhere, Instant::from_ms(1)), Err(BackupError::Failed { .. })));
        let other = folder.path().join("other.db");
        fs::write(beside(&other, ".part"), "of another").unwrap();
        assert!(matches!(back_up(&path, &other, Instant::from_ms(1)), Err(BackupError::Unfinished { .. })));
        assert_eq!((fs::read(&file).unwrap(), names()), (before.0, before.1 + 1));
    }
}

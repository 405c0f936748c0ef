//! Makes or opens the file of the journal, and sets the connection up.
//!
//! A new journal is made beside its place and moved there when it is complete, so a file that lies there and is not a
//! whole journal is never one that was interrupted: it is refused, and nothing starts clean over it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::backup::backed_up_at;
use super::error::OpenError;
use super::schema::{APPLICATION_ID, MIGRATIONS, VERSION};
use super::write::{file_at, system_error};
use super::{Journal, TRANSACTIONS_OF_OPENING, migrate, private};
use crate::model::id::JournalId;
use crate::os::network_file_system;

/// The first SQLite without the WAL-reset bug, which can lose committed pages (sqlite.org/wal.html).
const LIBRARY_VERSION_MIN: i32 = 3_051_003;

/// How long a commit waits for a lock that another program holds; then the daemon is told, and tries again.
const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// The page cache. The writer touches a few pages at the end of each index; a start reads each page once.
const CACHE_KIB: u32 = 512;

/// What a WAL file is cut down to after it has grown, in bytes: what SQLite's own checkpoint every 1000 pages leaves.
const WAL_BYTES_KEPT: u32 = 4 * 1024 * 1024;

/// The key in `meta` for the daemon's own time zone.
pub(super) const DAEMON_ZONE: &str = "daemon_zone";

impl Journal {
    /// Opens the journal at `path`; makes one, with a random name, if there is none; brings an older one up to date, and
    /// keeps a copy of it as it was. The folder must be there.
    ///
    /// Refuses whatever it can't rely on: see [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        check_library()?;
        check_file_system(path)?;
        if !exists(path)? {
            let id = random_name().map_err(|error| OpenError::io(path, "get random bytes for its name", &error))?;
            create(path, &id)?;
        }
        check_own_name(path)?;
        let connection = open_existing(path)?;
        let found = version_of(&connection, path)?;
        if found > VERSION {
            return Err(OpenError::Newer { path: path.to_owned(), found, known: VERSION });
        }
        let failed = |error| OpenError::of_system(path, &error, system_error(&connection));
        if let Some(at) = backed_up_at(&connection).map_err(failed)? {
            return Err(OpenError::Backup { path: path.to_owned(), at });
        }
        set_up(&connection).map_err(failed)?;
        migrate::migrate(&connection, path, MIGRATIONS)?;
        let (id, queue_position_next) = read_meta(&connection).map_err(failed)?;
        let sql = "SELECT value + 1 FROM meta WHERE key = 'opening'";
        let opening: u64 = connection.query_row(sql, [], |row| row.get(0)).map_err(failed)?;
        let transaction = opening * TRANSACTIONS_OF_OPENING;
        let gone = || OpenError::io(path, "look at it", &ErrorKind::NotFound.into());
        let file = file_at(path).ok_or_else(gone)?;
        let is_counted = false;
        Ok(Self { connection, path: path.to_owned(), file, id, queue_position_next, transaction, is_counted })
    }
}

impl Journal {
    /// Makes a journal at `path` that goes by the name of one that was lost, so that its run folders stay its own.
    pub fn create_named(path: &Path, id: &JournalId) -> Result<Self, OpenError> {
        if exists(path)? {
            let what = "the file exists, and a new journal never replaces another".to_owned();
            return Err(OpenError::Other { path: path.to_owned(), what });
        }
        check_file_system(path)?;
        create(path, &id.0)?;
        Self::open(path)
    }
}

/// The name and the next queue position.
pub(super) fn read_meta(connection: &Connection) -> rusqlite::Result<(JournalId, u64)> {
    let id = connection.query_row("SELECT value FROM meta WHERE key = 'journal_id'", [], |row| row.get(0))?;
    let next =
        connection.query_row("SELECT value FROM meta WHERE key = 'queue_position_next'", [], |row| row.get(0))?;
    Ok((JournalId(id), next))
}

/// The version of the tables of a file that is a journal of batchd.
pub(super) fn version_of(connection: &Connection, path: &Path) -> Result<u32, OpenError> {
    let header = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    // The first look makes what SQLite keeps beside the file, for which there may be no room.
    let failed = |error| OpenError::of_system(path, &error, system_error(connection));
    let application = header("application_id").map_err(failed)?;
    let version = header("user_version").map_err(failed)?;
    match (application, u32::try_from(version)) {
        (APPLICATION_ID, Ok(version)) if version > 0 => Ok(version),
        _ => {
            let what = "an SQLite database of another program, or an empty file".to_owned();
            Err(OpenError::NotAJournal { path: path.to_owned(), what })
        }
    }
}

/// By a link, two daemons with a lock each could come to one journal; and SQLite keeps what belongs to a file beside the
/// name by which it was opened.
fn check_own_name(path: &Path) -> Result<(), OpenError> {
    let metadata = fs::symlink_metadata(path).map_err(|error| OpenError::io(path, "look at it", &error))?;
    let what = if metadata.is_symlink() {
        "it is a symbolic link: put the file itself there, or name the right folder with `--state DIR`"
    } else if metadata.is_file() && metadata.nlink() > 1 {
        "it has a second hard link, through which it could be opened twice: remove that link, or put a copy here"
    } else {
        return Ok(());
    };
    Err(OpenError::Other { path: path.to_owned(), what: what.to_owned() })
}

fn check_library() -> Result<(), OpenError> {
    if rusqlite::version_number() < LIBRARY_VERSION_MIN {
        return Err(OpenError::OldLibrary { found: rusqlite::version() });
    }
    Ok(())
}

/// Looks at the folder: the file may not be there yet.
fn check_file_system(path: &Path) -> Result<(), OpenError> {
    let folder = folder_of(path);
    let found =
        rustix::fs::statfs(folder).map_err(|error| OpenError::io(folder, "look at the folder", &error.into()))?;
    match network_file_system(&found) {
        Some(kind) => Err(OpenError::NetworkFileSystem { path: folder.to_owned(), kind }),
        None => Ok(()),
    }
}

/// The folder that a file lies in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn exists(path: &Path) -> Result<bool, OpenError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::io(path, "look for it", &error)),
    }
}

/// Makes an empty journal beside `path` and moves it there.
fn create(path: &Path, id: &str) -> Result<(), OpenError> {
    let wal = beside(path, "-wal");
    if exists(&wal)? {
        let what = format!("{} exists without it", wal.display());
        return Err(OpenError::Damaged { path: path.to_owned(), what });
    }
    let new = beside(path, ".new");
    for leftover in [new.clone(), beside(path, ".new-journal")] {
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(OpenError::io(&leftover, "remove what an interrupted start left", &error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    private::create(&new).map_err(|error| OpenError::io(&new, "create it", &error))?;
    fill(&new, id).map_err(|error| OpenError::of(&new, &error))?;
    put_in_place(&new, path).map_err(|error| OpenError::io(path, "put it in place", &error))
}

/// A journal with its tables and its name, closed again. In one transaction and with a rollback journal: it is one file.
fn fill(path: &Path, id: &str) -> rusqlite::Result<()> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for migration in MIGRATIONS {
        connection.execute_batch(migration.sql)?;
    }
    connection.execute("INSERT INTO meta VALUES ('journal_id', ?), ('queue_position_next', 1)", [id])?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", VERSION)?;
    connection.execute_batch("COMMIT")?;
    connection.close().map_err(|(_, error)| error)
}

/// Renames `new` to `path` so that it is there after a power cut, whole.
pub(super) fn put_in_place(new: &Path, path: &Path) -> std::io::Result<()> {
    File::open(new)?.sync_all()?;
    fs::rename(new, path)?;
    File::open(folder_of(path))?.sync_all()
}

/// 128 random bits in hexadecimal.
fn random_name() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `path` with something behind its name: how SQLite names its files, and we ours.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens what is there for writing, and makes nothing.
fn open_existing(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| OpenError::of(path, &error))?;
    let error = |error| OpenError::of(path, &error);
    connection.busy_timeout(BUSY_TIMEOUT).map_err(error)?;
    // SQLite opens what it may not write for reading, and says nothing.
    if connection.is_readonly("main").map_err(error)? {
        let what = "no permission, or a file system mounted read-only".to_owned();
        return Err(OpenError::ReadOnly { path: path.to_owned(), what });
    }
    Ok(connection)
}

/// The settings of the writer's connection.
fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Each commit is on the disk before it returns; NORMAL may lose the last ones in a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    set_up_any(connection)
}

/// The settings that reading and writing have in common.
pub(super) fn set_up_any(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "cache_size", -i64::from(CACHE_KIB))?;
    // A stray write through a mapping would reach the file.
    connection.pragma_update(None, "mmap_size", 0)?;
    // Damage is found where it is, not where it leads.
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders() {
        assert_eq!(folder_of(Path::new("journal.db")), Path::new("."));
        assert_eq!(folder_of(Path::new("state/journal.db")), Path::new("state"));
    }
}

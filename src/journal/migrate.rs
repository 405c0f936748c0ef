//! Brings a journal of an older version up to date.
//!
//! Before anything changes, a copy of the journal as it is comes to lie beside it: `journal.db.version-1`. All steps are
//! one transaction: after a crash the journal is of the old version or of the new one.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rusqlite::Connection;

use super::error::OpenError;
use super::open::{beside, put_in_place, version_of};
use super::private;
use super::schema::Migration;

/// Behind the journal's name and before a number: a copy of it in that version.
pub(super) const VERSION_COPY: &str = ".version-";

/// Applies to the open journal at `path` those of `migrations` that its version lacks.
pub(super) fn migrate(connection: &Connection, path: &Path, migrations: &[Migration]) -> Result<(), OpenError> {
    let found = version_of(connection, path)?;
    let missing: Vec<&Migration> = migrations.iter().filter(|migration| migration.version > found).collect();
    if missing.is_empty() {
        return Ok(());
    }
    keep_copy(connection, path, found)?;
    apply(connection, &missing).map_err(|error| OpenError::of(path, &error))
}

/// A copy that was kept before is the same one: a crash came between it and the migration. It is made anew all the same.
fn keep_copy(connection: &Connection, path: &Path, version: u32) -> Result<(), OpenError> {
    let copy = beside(path, &format!("{VERSION_COPY}{version}"));
    let part = beside(&copy, ".part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(OpenError::io(&part, "remove what an interrupted start left", &error));
        }
        Ok(()) | Err(_) => {}
    }
    let target = part.to_str().ok_or_else(|| {
        let what = "its path is not UTF-8, so no copy can be kept before the upgrade: move the state folder".to_owned();
        OpenError::Other { path: path.to_owned(), what }
    })?;
    private::create(&part).map_err(|error| OpenError::io(&part, "keep a copy of the journal", &error))?;
    connection.execute("VACUUM INTO ?", [target]).map_err(|error| OpenError::of(&part, &error))?;
    put_in_place(&part, &copy).map_err(|error| OpenError::io(&copy, "keep a copy of the journal", &error))
}

fn apply(connection: &Connection, missing: &[&Migration]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for migration in missing {
        transaction.execute_batch(migration.sql)?;
        transaction.pragma_update(None, "user_version", migration.version)?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::journal::Journal;
    use crate::journal::schema::{MIGRATIONS, VERSION};

    /// A version that no batchd knows yet.
    const VERSION_AFTER: u32 = VERSION + 1;

    #[test]
    fn e12_migrates_and_keeps_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let journal = Journal::open(&path).unwrap();
        let column = Migration { version: VERSION_AFTER, sql: "ALTER TABLE batch ADD COLUMN colour TEXT" };
        let all = [Migration { version: VERSION, sql: "this one is not applied again" }, column];
        migrate(&journal.connection, &path, &all).unwrap();
        assert_eq!(version_of(&journal.connection, &path).unwrap(), VERSION_AFTER);
        journal.connection.execute("UPDATE batch SET colour = 'red'", []).unwrap();

        let copy = beside(&path, &format!(".version-{VERSION}"));
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        let copied = Journal::open(&copy).unwrap();
        assert_eq!(copied.id(), journal.id());
        drop(journal);
        let refused = Journal::open(&path).unwrap_err().to_string();
        assert!(refused.contains("newer batchd"), "{refused}");
    }

    #[test]
    fn e12_a_step_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let journal = Journal::open(&path).unwrap();
        let sql = "CREATE TABLE left_over (a TEXT); nonsense";
        assert!(migrate(&journal.connection, &path, &[Migration { version: VERSION_AFTER, sql }]).is_err());
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        assert!(journal.connection.prepare("SELECT * FROM left_over").is_err());
    }

    #[test]
    fn versions_rise() {
        assert!(MIGRATIONS.is_sorted_by(|a, b| a.version < b.version));
    }
}

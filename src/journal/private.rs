//! Who may read a journal: in it stand arguments and variables of runs, which may be secrets.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::migrate::VERSION_COPY;
use super::open::{beside, folder_of};
use super::write::SAVED;

/// A journal, and every copy of one.
pub(super) const PRIVATE_MODE: u32 = 0o600;
/// The journal in force, if a group may use the daemon's socket.
const GROUP_MODE: u32 = 0o640;

/// Makes the empty file that SQLite then fills: one that SQLite makes is readable for everybody. SQLite gives its other
/// files the mode of this one. An error if anything of that name is there.
pub(super) fn create(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(PRIVATE_MODE).open(path).map(drop)
}

/// Lets the daemon's user read the journal at `path`, and the members of `group`, and nobody else.
pub fn protect(path: &Path, group: Option<u32>) -> io::Result<()> {
    let mode = if group.is_some() { GROUP_MODE } else { PRIVATE_MODE };
    for suffix in ["", "-wal", "-shm"] {
        let file = beside(path, suffix);
        let set = std::os::unix::fs::chown(&file, None, group)
            .and_then(|()| fs::set_permissions(&file, Permissions::from_mode(mode)));
        match set {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Closes the copies beside the journal at `path` that earlier versions made readable for everybody.
pub fn protect_copies(path: &Path) -> io::Result<()> {
    let Some(journal) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { return Ok(()) };
    for entry in fs::read_dir(folder_of(path))? {
        let entry = entry?;
        let name = entry.file_name();
        let suffix = name.to_str().and_then(|name| name.strip_prefix(&journal));
        let is_copy = suffix.is_some_and(|suffix| [VERSION_COPY, SAVED].iter().any(|copy| suffix.starts_with(copy)));
        // Not through a link.
        if is_copy && entry.file_type()?.is_file() && entry.metadata()?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(entry.path(), Permissions::from_mode(PRIVATE_MODE))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a1_a_journal_is_private_from_its_first_moment_and_earlier_copies_become_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let _journal = Journal::open(&path).unwrap();
        assert_eq!([mode(&path), mode(&beside(&path, "-wal"))], [0o600, 0o600]);
        let open = |name: &str| {
            let file = folder.path().join(name);
            fs::write(&file, "secret").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
            file
        };
        let copies = ["journal.db.version-1", "journal.db.saved-7"].map(open);
        let other = open("journal.db.notes");
        std::os::unix::fs::symlink(&other, folder.path().join("journal.db.saved-8")).unwrap();
        protect_copies(&path).unwrap();
        assert_eq!(copies.map(|copy| mode(&copy)), [0o600, 0o600]);
        assert_eq!(mode(&other), 0o644, "it is not batchd's");
    }
}

//! Owners, modes and names in the state folder.

use super::Violation;
use crate::model::id::BatchName;
use crate::model::input::InputId;

/// What is at a path below the state folder.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Below the state folder; empty: itself.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// The permission bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
}

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A socket.
    Socket,
    /// A symbolic link.
    Link,
    /// Anything else.
    Other,
}

/// Of a journal and its copies: variables of runs stand in it. The second is that of a `socket_group`.
const JOURNAL_MODES: &[u32] = &[0o600, 0o640];

/// What may be there: the path, what it is, and the modes that it may have; none: any in which others can't write.
const KNOWN: &[(&str, Kind, &[u32])] = &[
    ("", Kind::Folder, &[0o711]),
    ("journal.db", Kind::File, JOURNAL_MODES),
    ("journal.db-wal", Kind::File, JOURNAL_MODES),
    ("journal.db-shm", Kind::File, JOURNAL_MODES),
    ("daemon.lock", Kind::File, &[0o600]),
    ("reserve", Kind::File, &[0o600]),
    ("definitions", Kind::Folder, &[0o700]),
    ("inputs", Kind::Folder, &[0o700]),
    ("made-private", Kind::File, &[0o600]),
    ("modes", Kind::Folder, &[0o700]),
    ("socket", Kind::Folder, &[0o700, 0o750]),
    // Whoever comes through its folder may use it.
    ("socket/batchd.sock", Kind::Socket, &[0o666]),
    ("workspaces", Kind::Folder, &[0o711]),
    // The state folder may be a disk of its own.
    ("lost+found", Kind::Folder, &[]),
];

/// Copies that the daemon keeps: before it brings a journal up to date, and of one that was removed under it.
const COPIES: [&str; 2] = ["journal.db.version-", "journal.db.saved-"];

/// Checks one entry; `owner` is the owner of the state folder. With `moving`, a daemon may be at work.
pub fn check(entry: &Entry, owner: u32, moving: bool) -> Vec<Violation> {
    let known = KNOWN.iter().find(|(path, _, _)| *path == entry.path);
    let below = entry.path.split_once('/');
    let mut all = Vec::new();
    let expected: Option<(Kind, &[u32])> = match (known, below) {
        (Some((_, kind, modes)), _) => Some((*kind, modes)),
        (None, Some(("definitions", name))) if is_hash(name) => Some((Kind::Folder, &[])),
        (None, Some(("inputs", name))) if name.parse::<InputId>().is_ok() => Some((Kind::File, &[0o600])),
        // What is left of a definition without a file that must not be kept.
        (None, Some(("definitions", name))) if name.strip_suffix(".json").is_some_and(is_hash) => {
            Some((Kind::File, &[]))
        }
        (None, Some(("modes", name))) if name.strip_suffix(".json").is_some_and(is_of_definition) => {
            Some((Kind::File, &[0o600]))
        }
        (None, Some(("workspaces", name))) => return workspace(entry, name, moving),
        (None, None) if COPIES.iter().any(|copy| entry.path.strip_prefix(copy).is_some_and(is_number)) => {
            Some((Kind::File, JOURNAL_MODES))
        }
        (None, _) => None,
    };
    let shown = format!("state/{}", entry.path);
    let Some((kind, modes)) = expected else {
        if !moving {
            let hint =
                "start the daemon, which removes unfinished files of a killed one; any others do not belong to batchd";
            all.push(Violation::new("stray-file", format!("{shown} does not belong there"), hint).file(shown));
        }
        return all;
    };
    let wrong = |what: String, hint: String| Violation::new("state-mode", what, hint).file(shown.clone());
    if entry.kind != kind {
        all.push(wrong(format!("{shown} is a {:?}, but must be a {kind:?}", entry.kind), "move it away".to_owned()));
    } else if (modes.is_empty() && entry.mode & 0o002 != 0) || (!modes.is_empty() && !modes.contains(&entry.mode)) {
        let right = modes.first().copied().unwrap_or(entry.mode & !0o002);
        all.push(wrong(format!("{shown} has mode {:04o}", entry.mode), format!("`chmod {right:o} {shown}`")));
    }
    if entry.uid != owner {
        let what = format!("{shown} is owned by uid {}, but the state folder by uid {owner}", entry.uid);
        all.push(wrong(what, format!("`chown {owner} {shown}`")));
    }
    all
}

/// A workspace may belong to a user of its own, and what is in it is its script's; beside it lies what was deployed.
fn workspace(entry: &Entry, name: &str, moving: bool) -> Vec<Violation> {
    let shown = format!("state/{}", entry.path);
    let manifest = name.strip_prefix('.').and_then(|name| name.strip_suffix(".json"));
    let expected = match manifest {
        Some(name) => is_workspace(name).then_some(Kind::File),
        None => is_workspace(name).then_some(Kind::Folder),
    };
    match expected {
        None if moving => Vec::new(),
        None => {
            let hint =
                "start the daemon, which removes unfinished files of a killed run; any others do not belong to batchd";
            vec![Violation::new("stray-file", format!("{shown} does not belong there"), hint).file(shown)]
        }
        Some(kind) if kind != entry.kind => {
            let what = format!("{shown} is a {:?}, but must be a {kind:?}", entry.kind);
            vec![Violation::new("state-mode", what, "move it away").file(shown)]
        }
        Some(_) if entry.mode & 0o002 != 0 => {
            let what = format!("{shown} has mode {:04o} and is writable by everybody", entry.mode);
            vec![Violation::new("state-mode", what, format!("`chmod o-w {shown}`")).file(shown)]
        }
        Some(_) => Vec::new(),
    }
}

fn is_workspace(name: &str) -> bool {
    is_of_definition(name) || BatchName::new(name).is_ok()
}

/// `<batch>@<hash>`: of one definition of a batch.
fn is_of_definition(name: &str) -> bool {
    name.split_once('@').is_some_and(|(batch, hash)| BatchName::new(batch).is_ok() && is_hash(hash))
}

fn is_hash(name: &str) -> bool {
    name.parse::<crate::model::id::DefinitionHash>().is_ok()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed mends what is complained about.
    #[test]
    fn hints() {
        let check = |path: &str, kind: Kind, mode: u32, expected: Option<&str>| {
            let entry = Entry { path: path.to_owned(), kind, mode, uid: 7 };
            let found = super::check(&entry, 7, false);
            let hints: Vec<&str> = found.iter().map(|violation| violation.hint.as_str()).collect();
            assert_eq!(hints, expected.into_iter().collect::<Vec<_>>(), "{path} {kind:?} {mode:o}");
        };
        check("workspaces/load", Kind::Folder, 0o755, None);
        check("workspaces/load", Kind::Folder, 0o757, Some("`chmod o-w state/workspaces/load`"));
        check("workspaces/load", Kind::File, 0o644, Some("move it away"));
        check("workspaces/.load.json", Kind::File, 0o646, Some("`chmod o-w state/workspaces/.load.json`"));
        let note = format!("modes/load@{}.json", "ab".repeat(32));
        check(&note, Kind::File, 0o600, None);
        check(&note, Kind::File, 0o644, Some(&format!("`chmod 600 state/{note}`")));
        check("made-private", Kind::File, 0o644, Some("`chmod 600 state/made-private`"));
        check("journal.db", Kind::Folder, 0o755, Some("move it away"));
        check("journal.db", Kind::File, 0o640, None);
        check("journal.db", Kind::File, 0o644, Some("`chmod 600 state/journal.db`"));
        check("journal.db.version-2", Kind::File, 0o644, Some("`chmod 600 state/journal.db.version-2`"));
        check("daemon.lock", Kind::File, 0o644, Some("`chmod 600 state/daemon.lock`"));
        check("workspaces", Kind::Folder, 0o755, Some("`chmod 711 state/workspaces`"));
    }
}

//! Who may write definitions: they decide what code runs, so it is checked as cron and sshd do (design 4.5).
//!
//! It knows owners and mode bits. What is in the files, and which of them are read, it does not know.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rustix::fs::{FileType, Stat};

use super::descent::Descent;
use super::users;
use crate::model::diagnostic::Diagnostic;
use crate::model::text::{quoted, shell_path, shown};

/// The mode bit that lets the group write.
const GROUP_WRITES: u32 = 0o020;
/// The mode bit that lets everybody write.
const OTHERS_WRITE: u32 = 0o002;
/// The mode bit that lets only the owner of an entry remove it.
const STICKY: u32 = 0o1000;

/// Whose files are believed. Made anew with the settings, since it keeps what the host's users and groups were then.
#[derive(Clone, Debug)]
pub struct Trust {
    /// None: everybody is believed.
    rules: Option<Rules>,
    /// Whoever asks is not the daemon, and may be kept from reading what the daemon reads.
    by_another: bool,
}

#[derive(Clone, Debug)]
struct Rules {
    daemon_uid: u32,
    /// The owners who are believed, each with its private group.
    owners: BTreeMap<u32, Option<u32>>,
}

/// Why there is no [`Trust`].
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A name in `trusted_owners` that the host does not know.
    #[error("`trusted_owners` names `{}`, but this host has no such user; remove the name, or create the user", quoted(.0))]
    UnknownOwner(String),
    /// The host's user database does not answer.
    #[error("can't look up the user or group `{0}`: {source}; see whether `getent passwd {0}` answers", quoted(name))]
    Lookup {
        /// Who was looked up, as a name or number.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// What a file is to a definition: a parent may be sticky.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `batches.d` itself or a folder above it.
    Parent,
    /// A batch's folder or something in it.
    Definition,
}

impl Trust {
    /// Root, the daemon's user and `trusted_owners`, which are names.
    pub fn new(daemon_uid: u32, trusted_owners: &[String]) -> Result<Self, TrustError> {
        let mut uids = vec![0, daemon_uid];
        for name in trusted_owners {
            let uid = users::uid_of(name).map_err(lookup_failed(name))?;
            uids.push(uid.ok_or_else(|| TrustError::UnknownOwner(name.clone()))?);
        }
        let mut owners = BTreeMap::new();
        for uid in uids {
            // A user without a name (a container's) has no private group.
            let name = users::user_name(uid).map_err(lookup_failed(&uid.to_string()))?;
            let group = match name {
                Some(name) => users::private_group(&name).map_err(lookup_failed(&name))?,
                None => None,
            };
            owners.insert(uid, group);
        }
        Ok(Self { rules: Some(Rules { daemon_uid, owners }), by_another: false })
    }

    /// Believes everybody: `--insecure-permissions`, for trying out.
    pub fn insecure() -> Self {
        Self { rules: None, by_another: false }
    }

    /// The same, where another user than the daemon's asks: what this user can't read is unknown, and not wrong.
    pub fn asked_by_another(self) -> Self {
        Self { by_another: true, ..self }
    }

    pub(super) fn is_asked_by_another(&self) -> bool {
        self.by_another
    }

    /// Checks `path` and all folders above it, links on the way included: who can write to a folder in which a link stands, or
    /// owns the link, decides too. `path` is absolute.
    pub(super) fn check_parents(&self, path: &Path) -> io::Result<Vec<Diagnostic>> {
        let mut diagnostics = Vec::new();
        if self.rules.is_none() {
            return Ok(diagnostics);
        }
        let mut descent = Descent::from_root(path)?;
        while let Some(step) = descent.next()? {
            let Some(distrust) = self.distrust(&step.stat, Role::Parent) else { continue };
            // Who made the folder of batches with a wide umask made all that is in it so.
            let whole_tree = step.is_last && FileType::from_raw_mode(step.stat.st_mode) == FileType::Directory;
            let (what, hint) = (distrust.what("this"), distrust.hint(&step.path, whole_tree));
            diagnostics.push(Diagnostic::of_file(None, shown(&step.path.display().to_string()), what).with_hint(hint));
        }
        diagnostics.sort();
        diagnostics.dedup();
        Ok(diagnostics)
    }

    /// Whether this user is root or the daemon's. All are, if everybody is believed.
    pub(super) fn is_own(&self, uid: u32) -> bool {
        self.rules.as_ref().is_none_or(|rules| uid == 0 || uid == rules.daemon_uid)
    }

    /// Whether anybody but root and the daemon's user is believed, and not everybody.
    pub(super) fn believes_others(&self) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.owners.keys().any(|uid| !self.is_own(*uid)))
    }

    /// What is wrong with who can write the file of this `stat`.
    pub(super) fn distrust(&self, stat: &Stat, role: Role) -> Option<Distrust> {
        let rules = self.rules.as_ref()?;
        let Some(private_group) = rules.owners.get(&stat.st_uid) else {
            let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
            return Some(Distrust::Owner { uid: stat.st_uid, daemon_uid: rules.daemon_uid, is_link });
        };
        let mode = stat.st_mode;
        let is_sticky_parent = role == Role::Parent
            && FileType::from_raw_mode(mode) == FileType::Directory
            && mode & STICKY != 0
            && stat.st_uid == 0;
        // Nobody can write a link, whatever its mode says.
        if is_sticky_parent || FileType::from_raw_mode(mode) == FileType::Symlink {
            return None;
        }
        let private = rules.daemon_uid != 0 && *private_group == Some(stat.st_gid);
        let group = mode & GROUP_WRITES != 0 && !private;
        let others = mode & OTHERS_WRITE != 0;
        (group || others).then_some(Distrust::Mode { group, others })
    }
}

/// Why a file is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distrust {
    /// A stranger owns it.
    Owner {
        /// The owner.
        uid: u32,
        /// Who should own it.
        daemon_uid: u32,
        /// It is a symbolic link.
        is_link: bool,
    },
    /// These can write it.
    Mode {
        /// Its group.
        group: bool,
        /// Everybody.
        others: bool,
    },
}

impl Distrust {
    /// Of two files together; of two owners the first.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Mode { group, others }, Self::Mode { group: other_group, others: other_others }) => {
                Self::Mode { group: group || other_group, others: others || other_others }
            }
            (first, _) => first,
        }
    }

    /// What is wrong with `subject`: `this`, or several files.
    pub(super) fn what(self, subject: &str) -> String {
        let (is, its, belongs) = if subject == "this" { ("is", "its", "belongs") } else { ("are", "their", "belong") };
        match self {
            Self::Owner { uid, .. } => {
                format!("{subject} {belongs} to {}, who is not trusted to write what batchd runs", user_shown(uid))
            }
            Self::Mode { group: true, others: false } => format!("{subject} {is} writable by {its} group"),
            Self::Mode { group: false, .. } => format!("{subject} {is} writable by everybody"),
            Self::Mode { group: true, others: true } => format!("{subject} {is} writable by {its} group and everybody"),
        }
    }

    /// What ends it, for `path` alone or for all that is in it.
    pub(super) fn hint(self, path: &Path, whole_tree: bool) -> String {
        let command = self.command(path, whole_tree);
        match self {
            Self::Owner { .. } => format!("{command}, or add its owner to `trusted_owners` in the settings"),
            Self::Mode { .. } => command,
        }
    }

    /// The command that ends it, for `path` alone or for all that is in it.
    pub(super) fn command(self, path: &Path, whole_tree: bool) -> String {
        let recursive = if whole_tree { "-R " } else { "" };
        let path = shell_path(&path.display().to_string());
        match self {
            Self::Owner { daemon_uid, is_link, .. } => {
                let (user, link) = (user_argument(daemon_uid), if is_link { "-h " } else { "" });
                format!("run `chown {recursive}{link}{user} {path}`")
            }
            Self::Mode { group, others } => {
                let who = match (group, others) {
                    (true, true) => "go",
                    (true, false) => "g",
                    (false, _) => "o",
                };
                format!("run `chmod {recursive}{who}-w {path}`")
            }
        }
    }
}

fn lookup_failed(name: &str) -> impl FnOnce(io::Error) -> TrustError {
    let name = name.to_owned();
    move |source| TrustError::Lookup { name, source }
}

/// Whether anybody may make entries in a folder that [`Trust`] accepts: it is sticky, as `/tmp`.
pub(super) fn in_which_all_make_entries(folder: &Stat) -> bool {
    folder.st_mode & OTHERS_WRITE != 0
}

/// A user as an argument of `chown`. One that can't be looked up is a number.
fn user_argument(uid: u32) -> String {
    users::user_name(uid).ok().flatten().unwrap_or_else(|| uid.to_string())
}

fn user_shown(uid: u32) -> String {
    match users::user_name(uid) {
        Ok(Some(name)) => format!("`{name}`"),
        Ok(None) | Err(_) => format!("user {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    use super::*;
    use crate::root::is_root;
    use crate::store::users::own_uid;

    /// Stands for a host where users 7 (private group 70) and 8 (none) are trusted.
    fn trust(daemon_uid: u32) -> Trust {
        let owners = BTreeMap::from([(0, Some(0)), (7, Some(70)), (8, None)]);
        Trust { rules: Some(Rules { daemon_uid, owners }), by_another: false }
    }

    fn stat(uid: u32, gid: u32, mode: u32) -> Stat {
        let mut stat = rustix::fs::stat("/").unwrap();
        (stat.st_uid, stat.st_gid, stat.st_mode) = (uid, gid, mode);
        stat
    }

    #[test]
    fn owners_and_bits() {
        const FILE: u32 = 0o100_000;
        const FOLDER: u32 = 0o040_000;
        let check = |daemon, (uid, gid, mode), role, expected: Option<&str>| {
            let found = trust(daemon).distrust(&stat(uid, gid, mode), role);
            let found = found.map(|it| (it.what("this"), it.hint(Path::new("/b/it's"), false)));
            assert_eq!(
                found.as_ref().map(|(_, hint)| hint.as_str()),
                expected,
                "{daemon} {uid}:{gid} {mode:o} {role:?}"
            );
        };
        let of = Role::Definition;
        check(7, (0, 0, FILE | 0o644), of, None);
        check(7, (7, 70, FILE | 0o644), of, None);
        check(7, (7, 70, FILE | 0o664), of, None);
        check(0, (7, 70, FILE | 0o664), of, Some(r"run `chmod g-w '/b/it'\''s'`"));
        check(7, (7, 71, FILE | 0o664), of, Some(r"run `chmod g-w '/b/it'\''s'`"));
        check(7, (8, 70, FILE | 0o664), of, Some(r"run `chmod g-w '/b/it'\''s'`"));
        check(7, (7, 70, FILE | 0o646), of, Some(r"run `chmod o-w '/b/it'\''s'`"));
        check(7, (7, 71, FOLDER | 0o777), of, Some(r"run `chmod go-w '/b/it'\''s'`"));
        check(0, (9, 0, FILE | 0o600), of, {
            Some(r"run `chown root '/b/it'\''s'`, or add its owner to `trusted_owners` in the settings")
        });
        check(7, (0, 0, FOLDER | 0o1777), Role::Parent, None);
        check(0, (0, 0, FOLDER | 0o1777), of, Some(r"run `chmod go-w '/b/it'\''s'`"));
        check(7, (7, 70, FOLDER | 0o1777), Role::Parent, Some(r"run `chmod o-w '/b/it'\''s'`"));
        assert_eq!(Trust::insecure().distrust(&stat(9, 9, FILE | 0o666), of), None);
    }

    #[test]
    fn unknown_owners_are_errors() {
        assert!(Trust::new(7, &["root".to_owned()]).is_ok());
        let error = Trust::new(7, &["no-such-user-here".to_owned()]).unwrap_err();
        assert!(matches!(error, TrustError::UnknownOwner(name) if name == "no-such-user-here"));
    }

    #[test]
    fn a_link_is_as_safe_as_the_folder_it_stands_in() {
        let root = tempfile::tempdir().unwrap();
        let open = root.path().join("open");
        let safe = root.path().join("safe");
        fs::create_dir(&open).unwrap();
        fs::create_dir_all(safe.join("batches.d")).unwrap();
        symlink("../safe/batches.d", open.join("link")).unwrap();
        let trust = Trust::new(own_uid(), &[]).unwrap();
        assert_eq!(trust.check_parents(&open.join("link")).unwrap(), []);
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let found = trust.check_parents(&open.join("link")).unwrap();
        let files: Vec<&str> = found.iter().map(|diagnostic| diagnostic.file.as_str()).collect();
        assert_eq!(files, [open.to_str().unwrap()]);
        assert_eq!(trust.check_parents(&safe.join("batches.d")).unwrap(), []);
        assert_eq!(Trust::insecure().check_parents(&open.join("link")).unwrap(), []);
    }

    /// As in `/tmp`, where everybody may make links, and point them elsewhere the next moment.
    #[test]
    fn a_link_of_a_stranger_is_not_followed() {
        if !is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let (shared, link) = (root.path().join("shared"), root.path().join("shared/link"));
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        fs::create_dir(root.path().join("batches.d")).unwrap();
        symlink("../batches.d", &link).unwrap();
        let trust = Trust::new(own_uid(), &[]).unwrap();
        assert_eq!(trust.check_parents(&link).unwrap(), []);
        lchown(&link, Some(54_321), None).unwrap();
        let found = trust.check_parents(&link).unwrap();
        let link = link.to_str().unwrap();
        let hint = format!("run `chown -h root {link}`, or add its owner to `trusted_owners` in the settings");
        let found: Vec<_> = found.iter().map(|found| (found.file.as_str(), found.hint.as_deref())).collect();
        assert_eq!(found, [(link, Some(hint.as_str()))]);
    }

    #[test]
    fn a_loop_of_links_ends() {
        let root = tempfile::tempdir().unwrap();
        symlink("b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        let error = Trust::new(own_uid(), &[]).unwrap().check_parents(&root.path().join("a")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }
}

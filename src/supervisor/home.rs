//! The folder of all runs: what to do when somebody removes it, replaces it or unmounts it while the daemon runs.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use tracing::warn;

use crate::model::text::shell_word;
use crate::shim::shortage;
use crate::shim::user::User;

/// Of a folder of runs that nobody knows: as that of other logs below /var/log. Run folders have a mode of their own.
const MODE_DEFAULT: u32 = 0o755;

/// The folder of all runs, and how it was when the daemon started.
pub(super) struct Home {
    path: PathBuf,
    /// None: it was not there, or nobody could tell.
    was: Option<Was>,
    /// Somebody was told how to make it again: what is there then is meant.
    is_awaited: bool,
    /// What was said last.
    told: Option<String>,
}

struct Was {
    folder: Metadata,
    parent: Metadata,
    /// It is the root of a mount, or on another file system than its parent.
    is_mounted: bool,
    /// It was a symbolic link to here.
    target: Option<PathBuf>,
}

impl Was {
    fn look(path: &Path) -> io::Result<Self> {
        let (folder, parent) = (fs::metadata(path)?, fs::metadata(parent(path))?);
        // A bind mount has the device of its parent.
        let is_mount = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
            .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
        let is_mounted = is_mount || folder.dev() != parent.dev();
        Ok(Self { folder, parent, is_mounted, target: fs::read_link(path).ok() })
    }
}

impl Home {
    /// Remembers how it is now.
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), was: Was::look(path).ok(), is_awaited: false, told: None }
    }

    /// Sees to it that it is the folder that it was. Makes it again if it is missing and that is safe. The error says what is
    /// wrong and what to do: until then nothing can be begun, and nothing is known of what runs.
    pub(super) fn ensure(&mut self) -> Result<(), String> {
        let checked = self.check();
        if let Err(reason) = &checked
            && self.told.as_ref() != Some(reason)
        {
            warn!("{reason}");
        }
        self.told = checked.as_ref().err().cloned();
        checked
    }

    fn check(&mut self) -> Result<(), String> {
        let path = self.path.display();
        match fs::metadata(&self.path) {
            Ok(folder) if !folder.is_dir() => Err(format!("{path} is a file, not a folder; move it away")),
            Ok(folder) if self.was.as_ref().is_some_and(|was| id(&was.folder) == id(&folder)) => Ok(()),
            Ok(_) => self.accept(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_again().inspect_err(|_| self.is_awaited = true)?;
                warn!("{path} was removed and is made again: the logs of earlier runs are gone");
                self.was = Was::look(&self.path).ok();
                Ok(())
            }
            Err(error) => Err(format!("can't open {path}: {}", said(&self.path, &error))),
        }
    }

    /// Another folder is there: takes it for the one of all runs if nothing that was in the former one is hidden by it.
    fn accept(&mut self) -> Result<(), String> {
        let (path, quoted) = (self.path.display(), shell_word(&self.path.to_string_lossy()));
        let now = Was::look(&self.path).map_err(|error| format!("can't open {path}: {}", said(&self.path, &error)))?;
        if let Some(was) = &self.was {
            match (was.is_mounted, now.is_mounted) {
                (true, false) => {
                    return Err(format!("{path} is not mounted any more: mount it again with `mount {quoted}`"));
                }
                _ if self.is_awaited => {}
                (false, true) => {
                    return Err(format!(
                        "another file system is mounted on {path}: `umount {quoted}`, or restart the daemon to use it"
                    ));
                }
                (false, false) if was.folder.dev() != now.folder.dev() => {
                    return Err(format!(
                        "{path} is on another file system than when the daemon started: mount that one again, or restart \
                         the daemon to use this one"
                    ));
                }
                // A network file system that is mounted again has another device.
                (true, true) => warn!("{path} was mounted again; logs of earlier runs that are missing are elsewhere"),
                (false, false) => warn!("{path} was replaced: the logs of earlier runs are in the former folder"),
            }
        }
        (self.was, self.is_awaited) = (Some(now), false);
        Ok(())
    }

    /// Makes it again if it is missing and was an ordinary folder in the one that is still there, with the owner and the mode
    /// that it had. Anything else might put the runs on another disk than the one that was meant. The error says what to do.
    fn make_again(&self) -> Result<(), String> {
        let path = self.path.display();
        let quoted = shell_word(&self.path.to_string_lossy());
        let missing = |remedy: String| Err(format!("the folder of the runs, {path}, is missing; {remedy}"));
        let by_hand = || missing(format!("create it again with `{}`", self.command(&self.path)));
        let Some(was) = &self.was else { return by_hand() };
        if let Some(target) = &was.target {
            let target = parent(&self.path).join(target);
            let (make, target) = (self.command(&target), shell_word(&target.to_string_lossy()));
            return missing(format!(
                "it was a symbolic link; create it again with `{make} && ln -sfn {target} {quoted}`"
            ));
        }
        if was.is_mounted {
            return missing(format!("it was a separate mount: `mkdir -p {quoted} && mount {quoted}`"));
        }
        if !fs::metadata(parent(&self.path)).is_ok_and(|parent| id(&parent) == id(&was.parent)) {
            return by_hand();
        }
        self.make(&was.folder).or_else(|error| {
            missing(format!("it can't be created ({error}); create it with `{}`", self.command(&self.path)))
        })
    }

    fn make(&self, like: &Metadata) -> io::Result<()> {
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // Who is not root has made it as before, but for a group.
        let _ = std::os::unix::fs::chown(&self.path, Some(like.uid()), Some(like.gid()));
        fs::set_permissions(&self.path, fs::Permissions::from_mode(like.mode() & 0o7777))
    }

    /// The command that makes the folder as it was, whoever enters it: one of another owner would be of no use.
    fn command(&self, folder: &Path) -> String {
        let like = self.was.as_ref().map(|was| &was.folder);
        let owner = user(like.map_or_else(daemon_uid, |like| like.uid()));
        let mode = like.map_or(MODE_DEFAULT, |like| like.mode() & 0o7777);
        // The group counts if it may do more than others.
        let group = like.filter(|_| mode >> 3 & 0o7 != mode & 0o7).map(|like| format!(" -g {}", like.gid()));
        let folder = shell_word(&folder.to_string_lossy());
        format!("install -d -o {owner}{} -m {mode:04o} {folder}", group.unwrap_or_default())
    }
}

/// An error about a path, and what to do about it.
pub fn said(path: &Path, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return format!("{error}; {}", remedy(path));
    }
    shortage::said(error)
}

/// What to do when the daemon's user may not do something at a path.
fn remedy(path: &Path) -> String {
    let daemon = daemon_uid();
    if daemon == 0 {
        return "root itself is refused: on NFS, see `root_squash`".to_owned();
    }
    let user = user(daemon);
    let found = match fs::metadata(path) {
        // It is to be made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::metadata(parent(path)).map(|at| (parent(path), at))
        }
        found => found.map(|at| (path, at)),
    };
    let Ok((path, metadata)) = found else {
        let path = shell_word(&path.to_string_lossy());
        return format!("a folder above is closed to the daemon's user {user}: see `namei -l {path}`");
    };
    let (shown, path) = (path.display(), shell_word(&path.to_string_lossy()));
    let command = if metadata.uid() == daemon { format!("chmod u+rwx {path}") } else { format!("chown {user} {path}") };
    format!("{shown} is not writable for the daemon's user {user}: `{command}`")
}

fn daemon_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The name of a user, as commands take it; the number of one without a name.
fn user(uid: u32) -> String {
    let name = User::by_uid(uid).ok().flatten().map(|user| user.name);
    name.unwrap_or_else(|| uid.to_string())
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a12_it_is_made_again_where_that_is_safe_and_else_the_command_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        let mut home = Home::of(&path);
        fs::remove_dir(&path).unwrap();
        home.ensure().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o750);

        // Its parent is another folder now: of an image that is mounted elsewhere, of a disk that is not there.
        let (inner, deep) = (folder.path().join("disk"), folder.path().join("disk/my runs"));
        fs::create_dir_all(&deep).unwrap();
        let mut home = Home::of(&deep);
        fs::rename(&inner, folder.path().join("away")).unwrap();
        fs::create_dir(&inner).unwrap();
        let reason = home.ensure().unwrap_err();
        assert!(reason.contains(&format!(" -m 0755 '{}'`", deep.display())), "{reason}");
        assert!(!deep.exists());

        let link = folder.path().join("link");
        std::os::unix::fs::symlink("runs", &link).unwrap();
        let mut home = Home::of(&link);
        fs::remove_dir(&path).unwrap();
        let reason = home.ensure().unwrap_err();
        assert!(reason.contains("ln -sfn") && reason.contains(&path.display().to_string()), "{reason}");
    }
}

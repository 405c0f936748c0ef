//! The folder of all runs: what to do when somebody removes it while the daemon runs.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::model::text::shell_word;
use crate::shim::shortage::said;

/// The folder of all runs, and how it was when the daemon started.
pub(super) struct Home {
    path: PathBuf,
    /// None: it was not there, or nobody could tell.
    was: Option<Was>,
}

struct Was {
    folder: Metadata,
    parent: Metadata,
    /// It was a symbolic link to here.
    target: Option<PathBuf>,
}

impl Home {
    /// Remembers how it is now.
    pub(super) fn of(path: &Path) -> Self {
        let was = || -> io::Result<Was> {
            let parent = fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
            Ok(Was { folder: fs::metadata(path)?, parent, target: fs::read_link(path).ok() })
        };
        Self { path: path.to_owned(), was: was().ok() }
    }

    /// Makes it again if it is missing and was an ordinary folder in the one that is still there, with the owner and the mode
    /// that it had. Anything else might put the runs on another disk than the one that was meant. The error says what to do.
    pub(super) fn make_again(&self) -> Result<(), String> {
        let path = self.path.display();
        let quoted = shell_word(&self.path.to_string_lossy());
        let missing = |remedy: String| Err(format!("the folder of the runs, {path}, is missing; {remedy}"));
        let by_hand = || missing(format!("create it again with `mkdir -p {quoted}`"));
        let Some(was) = &self.was else { return by_hand() };
        if let Some(target) = &was.target {
            let target = shell_word(&self.path.parent().unwrap_or(Path::new("/")).join(target).to_string_lossy());
            return missing(format!(
                "it was a symbolic link; create it again with `mkdir -p {target} && ln -sfn {target} {quoted}`"
            ));
        }
        if was.folder.dev() != was.parent.dev() {
            return missing(format!("it was a separate mount: `mkdir -p {quoted} && mount {quoted}`"));
        }
        let parent = fs::metadata(self.path.parent().unwrap_or(Path::new("/")));
        if !parent.is_ok_and(|parent| (parent.dev(), parent.ino()) == (was.parent.dev(), was.parent.ino())) {
            return by_hand();
        }
        self.make(&was.folder).or_else(|error| {
            missing(format!("it can't be created ({}); create it with `mkdir -p {quoted}`", said(&error)))
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
        let home = Home::of(&path);
        fs::remove_dir(&path).unwrap();
        home.make_again().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o750);

        // Its parent is another folder now: of an image that is mounted elsewhere, of a disk that is not there.
        let (inner, deep) = (folder.path().join("disk"), folder.path().join("disk/my runs"));
        fs::create_dir_all(&deep).unwrap();
        let home = Home::of(&deep);
        fs::rename(&inner, folder.path().join("away")).unwrap();
        fs::create_dir(&inner).unwrap();
        let reason = home.make_again().unwrap_err();
        assert!(reason.contains(&format!("`mkdir -p '{}'`", deep.display())), "{reason}");
        assert!(!deep.exists());

        let link = folder.path().join("link");
        std::os::unix::fs::symlink("runs", &link).unwrap();
        let home = Home::of(&link);
        fs::remove_dir(&path).unwrap();
        let reason = home.make_again().unwrap_err();
        assert!(reason.contains("ln -sfn") && reason.contains(&path.display().to_string()), "{reason}");
    }
}

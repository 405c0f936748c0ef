//! Folders and zips to bytes, and back to the disk: who may write them, `definitions/`, `modes/`, `workspaces/`; `env_file`s.
//!
//! It knows files, owners and limits. It does not know what a `batch.toml` means, what is in force, or which run needs a
//! workspace; it prints nothing, reads no clock, and starts no thread.

pub mod definitions;
mod descent;
pub mod env_file;
pub mod modes;
pub mod read;
pub mod trust;
pub mod unpack;
pub mod upgrade;
pub mod users;
mod walk;
pub mod workspace;
pub mod writers;
pub mod zip;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::model::files::Files;

/// How deep the folders of a definition may be nested: each level holds a descriptor and a stack frame while it is read.
pub const FOLDER_DEPTH_MAX: usize = 32;

/// Something on a file that the system refused to do.
#[derive(Debug)]
pub struct FileError {
    /// The act, as a verb: `read`, `write`, `rename`.
    pub act: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't {} `{}`: {}{}", self.act, self.path.display(), self.source, advice(self.source.kind()))
    }
}

// Without a source: the message says it already, and a chain of causes would say it twice.
impl std::error::Error for FileError {}

/// Makes a system's answer a [`FileError`], for `map_err`.
fn cannot<E: Into<io::Error>>(act: &'static str, path: &Path) -> impl FnOnce(E) -> FileError {
    let path = path.to_owned();
    move |source| FileError { act, path, source: source.into() }
}

/// What to do about the answers that an operator can do something about.
fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => "; give the daemon's user access",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space on the file system",
        io::ErrorKind::ReadOnlyFilesystem => "; mount the file system read-write",
        _ => "",
    }
}

/// True for names that are no part of a definition, wherever in it they stand (design 3.2): what version control and
/// editors keep beside the files. `.#*` are the links that Emacs plants while a buffer is unsaved; they point nowhere.
fn is_left_out(name: &str) -> bool {
    const NAMES: [&str; 10] = [".git", ".hg", ".svn", ".jj", ".bzr", "CVS", "_darcs", ".pijul", ".DS_Store", "4913"];
    let swap_file = || {
        let mut end = name.rsplit('.');
        let extension = end.next().unwrap_or("");
        name.starts_with('.') && end.next().is_some_and(|stem| !stem.is_empty()) && is_swap_extension(extension)
    };
    NAMES.contains(&name)
        || name.ends_with('~')
        || name.starts_with(".#")
        || (name.len() > 1 && name.starts_with('#') && name.ends_with('#'))
        || swap_file()
}

/// `sw` and one more character, as in vim's `.name.swp`, `.swo`, `.swx`.
fn is_swap_extension(extension: &str) -> bool {
    extension.strip_prefix("sw").is_some_and(|last| last.chars().count() == 1)
}

/// All folders that the files lie in, the root left out; a folder comes before what is in it.
fn folders_of(files: &Files) -> BTreeSet<&str> {
    files.0.keys().flat_map(|path| path.match_indices('/').map(|(end, _)| &path[..end])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers() {
        for name in [".git", ".DS_Store", "4913", "a~", "~", ".script.sh.swp", ".a.swx", "#a#", "##", ".#script.sh"] {
            assert!(is_left_out(name), "{name}");
        }
        for name in ["git", "49130", "a~b", "script.swp", ".swp", ".a.sw", ".a.swap", "#", "#a", ".env", "__MACOSX"] {
            assert!(!is_left_out(name), "{name}");
        }
    }
}

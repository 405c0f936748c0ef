//! The content of a batch folder as bytes: what [`crate::store`] reads, [`crate::load`] checks and the hash is made of.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::id::DefinitionHash;

/// The most bytes of a file's name that Linux takes (NAME_MAX).
pub const FILE_NAME_BYTES_MAX: usize = 255;
/// The most bytes of a path (PATH_MAX, without the zero byte at the end).
pub const PATH_BYTES_MAX: usize = 4095;
/// The most bytes of all files of a definition together.
pub const DEFINITION_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The most files of a definition.
pub const DEFINITION_FILES_MAX: usize = 4096;

/// The permission bits that are copied: no set-user-id, no set-group-id, no sticky bit.
pub const MODE_MASK: u32 = 0o777;
/// The mode bit that lets the owner execute.
const OWNER_EXECUTES: u32 = 0o100;

/// The files of a definition by their path in it: `/` between the parts, no part empty, `.` or `..`, no `/` at either end.
///
/// A zip's entries and included folders are already in place here: a folder and a zip of the same files are the same `Files`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(pub BTreeMap<String, FileContent>);

/// One file of a definition.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContent {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// The permission bits of its source, [`MODE_MASK`] at most. The hash has only the owner's execute bit, as in git.
    pub mode: u32,
}

impl FileContent {
    /// Whether its owner can execute it.
    pub fn is_executable(&self) -> bool {
        self.mode & OWNER_EXECUTES != 0
    }
}

impl std::fmt::Debug for FileContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes{}", self.bytes.len(), if self.is_executable() { ", executable" } else { "" })
    }
}

impl Files {
    /// The SHA-256 of all paths, executable bits and bytes, in the order of the paths, each with its length before it, so
    /// that no two contents are written alike.
    pub fn hash(&self) -> DefinitionHash {
        let mut hasher = Sha256::new();
        hasher.update(b"batchd definition 1\n");
        for (path, file) in &self.0 {
            hasher.update((path.len() as u64).to_be_bytes());
            hasher.update(path.as_bytes());
            hasher.update([u8::from(file.is_executable())]);
            hasher.update((file.bytes.len() as u64).to_be_bytes());
            hasher.update(&file.bytes);
        }
        DefinitionHash(hasher.finalize().into())
    }

    /// All bytes of all files.
    pub fn bytes_total(&self) -> u64 {
        self.0.values().map(|file| file.bytes.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str, bool)]) -> Files {
        let file = |bytes: &str, executable| FileContent {
            bytes: bytes.as_bytes().to_vec(),
            mode: if executable { 0o755 } else { 0o644 },
        };
        Files(entries.iter().map(|(path, bytes, executable)| ((*path).to_owned(), file(bytes, *executable))).collect())
    }

    #[test]
    fn the_hash_sees_paths_bytes_and_executable_bits() {
        let all = [
            files(&[]),
            files(&[("a", "", false)]),
            files(&[("a", "", true)]),
            files(&[("a", "b", false)]),
            files(&[("ab", "", false)]),
            files(&[("a", "", false), ("b", "", false)]),
        ];
        for (i, left) in all.iter().enumerate() {
            for (j, right) in all.iter().enumerate() {
                assert_eq!(left.hash() == right.hash(), i == j, "{left:?} {right:?}");
            }
        }
    }
}

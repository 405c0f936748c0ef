//! A zip archive to files, or the reason why not: [`unzip`], the walker over hostile bytes.
//!
//! It believes no size that an archive declares, and writes nothing. It runs in a child with a memory limit (see
//! [`super::unpack`]), because the archive's own directory is parsed by a crate before anything here can bound it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};

use serde::{Deserialize, Serialize};
use zip::CompressionMethod;
use zip::read::{ZipArchive, ZipFileEntry};

use super::{FOLDER_DEPTH_MAX, is_left_out};
use crate::model::diagnostic::Diagnostic;
use crate::model::files::{DEFINITION_BYTES_MAX, DEFINITION_FILES_MAX, FileContent, Files, MODE_MASK};
use crate::model::id::BatchName;
use crate::model::text::quoted;

/// The most entries of an archive, folders included (design 4.5).
pub const ZIP_ENTRIES_MAX: usize = DEFINITION_FILES_MAX;
/// The most bytes that each byte of an archive may unpack to, on average (design 4.5): text packs to a tenth, a bomb to a
/// thousandth.
pub const ZIP_RATIO_MAX: u64 = 200;
/// The most bytes of an entry's path (design 4.5).
pub const ZIP_PATH_BYTES_MAX: usize = 255;
/// The file that an archive must have at its root (design 3.1).
pub const ZIP_SCRIPT: &str = "script.sh";

/// What the kind of a file is in the upper bits of a mode.
const KIND_MASK: u32 = 0o170_000;
/// The kind of a regular file.
const KIND_REGULAR: u32 = 0o100_000;
/// The kind of a folder.
const KIND_FOLDER: u32 = 0o040_000;
/// The permission bits of an entry from a system that has none. Its archive's own mode restricts it further.
const MODE_WITHOUT_UNIX: u32 = 0o644;

/// Why an archive is not unpacked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ZipError {
    /// Its bytes are not those of an archive, or are damaged.
    #[error("not a valid zip archive: {0}")]
    Damaged(String),
    /// One entry can't be read.
    #[error("entry `{}` is damaged: {what}", entry(name))]
    DamagedEntry {
        /// The entry.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// More than [`ZIP_ENTRIES_MAX`].
    #[error("the archive has more than {ZIP_ENTRIES_MAX} entries")]
    TooManyEntries,
    /// More than [`DEFINITION_BYTES_MAX`].
    #[error("the archive unpacks to more than {} MiB", DEFINITION_BYTES_MAX / (1024 * 1024))]
    TooManyBytes,
    /// More than [`ZIP_RATIO_MAX`].
    #[error("the archive unpacks to more than {ZIP_RATIO_MAX} times its size")]
    RatioTooHigh,
    /// An entry's path is not one that a definition can have.
    #[error("can't unpack entry `{}`: {what}", entry(name))]
    BadPath {
        /// The entry.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// Two entries for one path.
    #[error("two entries have the same name")]
    DuplicateNames,
    /// Two entries that are one on some systems.
    #[error("entries `{}` and `{}` differ only in case", entry(one), entry(other))]
    CaseTwins {
        /// The one.
        one: String,
        /// The other.
        other: String,
    },
    /// A file below a file.
    #[error("entry `{}` is both a file and a folder", entry(.0))]
    FileAndFolder(String),
    /// A link, a device, a FIFO.
    #[error("entry `{}` is {kind}", entry(name))]
    NotRegular {
        /// The entry.
        name: String,
        /// What it is.
        kind: String,
    },
    /// It wants a password.
    #[error("entry `{}` is encrypted", entry(.0))]
    Encrypted(String),
    /// Packed by a method other than stored and deflate.
    #[error("entry `{}` is compressed with `{method}`", entry(name))]
    Method {
        /// The entry.
        name: String,
        /// The method.
        method: String,
    },
    /// No [`ZIP_SCRIPT`] at its root.
    #[error("the archive has no `{ZIP_SCRIPT}`{}", below(top_folder.as_deref()))]
    NoScript {
        /// The one folder that has everything in it, if there is one.
        top_folder: Option<String>,
    },
    /// The child that unpacks could not be started, or its answer not be read.
    #[error("can't unpack the archive now: {0}")]
    NoChild(String),
    /// The child did not come back with an answer.
    #[error("unpacking the archive failed, or took too much memory or time ({0})")]
    ChildDied(String),
}

fn below(top_folder: Option<&str>) -> String {
    top_folder
        .map_or_else(|| " at its root".to_owned(), |folder| format!(" in `{}/`, its only top folder", entry(folder)))
}

impl ZipError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Damaged(_) | Self::DamagedEntry { .. } | Self::DuplicateNames | Self::ChildDied(_) => {
                "create the archive again; `unzip -t` tests an archive".to_owned()
            }
            Self::TooManyEntries | Self::TooManyBytes | Self::RatioTooHigh => {
                "keep data and dependencies elsewhere; a batch holds the script and the files that it needs".to_owned()
            }
            Self::BadPath { .. } | Self::CaseTwins { .. } | Self::FileAndFolder(_) => {
                "rename the entry, and create the archive again with `zip -r` in the script's folder".to_owned()
            }
            Self::NotRegular { .. } => "replace the entry with a regular file".to_owned(),
            Self::Encrypted(_) => {
                "create the archive without a password, and put secrets into an `env_file`".to_owned()
            }
            Self::Method { .. } => "create the archive with the default method, deflate".to_owned(),
            Self::NoScript { top_folder: Some(_) } => {
                format!("add the script to that folder as `{ZIP_SCRIPT}`, and create the archive again")
            }
            Self::NoScript { top_folder: None } => format!("add the script to the archive as `{ZIP_SCRIPT}`"),
            Self::NoChild(_) => {
                "batchd tries again at the next reload; check the host's memory and processes".to_owned()
            }
        }
    }

    /// The complaint about the archive `file` of `batch`, a path below `batches.d`.
    pub fn diagnostic(&self, batch: Option<BatchName>, file: impl Into<String>) -> Diagnostic {
        Diagnostic::of_file(batch, file, self.to_string()).with_hint(self.hint())
    }
}

/// The files in an archive, without the leftovers of version control, editors and macOS, with the permission bits of their
/// entries. If everything lies below one folder, as forges and file managers pack it, that folder is the root.
pub fn unzip(bytes: &[u8]) -> Result<Files, ZipError> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| ZipError::Damaged(error.to_string()))?;
    if archive.len() > ZIP_ENTRIES_MAX {
        return Err(ZipError::TooManyEntries);
    }
    if archive.has_duplicate_names() {
        return Err(ZipError::DuplicateNames);
    }
    let mut collector = Collector::default();
    let bytes_max_by_ratio = (bytes.len() as u64).saturating_mul(ZIP_RATIO_MAX);
    for index in 0..archive.len() {
        let entry = archive.by_index_data(index).map_err(|error| ZipError::Damaged(error.to_string()))?;
        let Some(file) = entry_to_unpack(&entry)? else { continue };
        // One more than allowed, so that the limit shows.
        let bytes_left = DEFINITION_BYTES_MAX.min(bytes_max_by_ratio).saturating_sub(collector.bytes_total);
        let content = read_entry(&mut archive, index, &file.path, bytes_left + 1)?;
        if content.len() as u64 > bytes_left {
            let ratio = bytes_max_by_ratio < DEFINITION_BYTES_MAX;
            return Err(if ratio { ZipError::RatioTooHigh } else { ZipError::TooManyBytes });
        }
        collector.add(file.path, FileContent { bytes: content, mode: file.mode })?;
    }
    collector.finish()
}

/// What an entry says of itself, once it is checked.
struct EntryToUnpack {
    path: String,
    mode: u32,
}

/// Checks all that an entry says of itself; none if it is a folder or left out.
fn entry_to_unpack(entry: &ZipFileEntry<'_>) -> Result<Option<EntryToUnpack>, ZipError> {
    let raw = entry.name_raw();
    let Ok(name) = std::str::from_utf8(raw) else {
        let name = String::from_utf8_lossy(raw).into_owned();
        return Err(ZipError::BadPath { name, what: "the name is not UTF-8".to_owned() });
    };
    let path = name.strip_suffix('/').unwrap_or(name);
    check_path(path)?;
    let top = path.split('/').next().unwrap_or(path);
    if top == "__MACOSX" || path.split('/').any(is_left_out) {
        return Ok(None);
    }
    let is_folder = path.len() < name.len();
    // The system that made the archive may know no modes: then the kind is that of the name.
    let mode = entry.unix_mode().unwrap_or(0);
    match (mode & KIND_MASK, is_folder) {
        (0 | KIND_FOLDER, true) => return Ok(None),
        (0 | KIND_REGULAR, false) => {}
        (kind, _) => return Err(ZipError::NotRegular { name: name.to_owned(), kind: kind_shown(kind).to_owned() }),
    }
    if entry.encrypted() {
        return Err(ZipError::Encrypted(name.to_owned()));
    }
    match entry.compression() {
        CompressionMethod::Stored | CompressionMethod::Deflated => {}
        method => return Err(ZipError::Method { name: name.to_owned(), method: format!("{method}") }),
    }
    let permissions = if mode == 0 { MODE_WITHOUT_UNIX } else { mode & MODE_MASK };
    Ok(Some(EntryToUnpack { path: path.to_owned(), mode: permissions }))
}

/// The bytes of an entry, at most `bytes_max` of them.
fn read_entry(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    index: usize,
    path: &str,
    bytes_max: u64,
) -> Result<Vec<u8>, ZipError> {
    let damaged = |what: String| ZipError::DamagedEntry { name: path.to_owned(), what };
    let entry = archive.by_index(index).map_err(|error| damaged(error.to_string()))?;
    let declared = entry.size();
    // Grows with what comes; the length that the entry declares reserves nothing.
    let mut content = Vec::new();
    entry.take(bytes_max).read_to_end(&mut content).map_err(|error| damaged(error.to_string()))?;
    let length = content.len() as u64;
    if length < bytes_max && length != declared {
        return Err(damaged(format!("the entry has {length} bytes, but declares {declared}")));
    }
    Ok(content)
}

/// An entry's name for a message: it may have 65,535 bytes, and its beginning is enough to find it.
fn entry(name: &str) -> String {
    quoted(name)
}

fn kind_shown(kind: u32) -> &'static str {
    match kind {
        0o120_000 => "a link",
        0o010_000 => "a FIFO",
        0o140_000 => "a socket",
        0o020_000 | 0o060_000 => "a device",
        KIND_FOLDER => "a folder without a trailing `/`",
        _ => "not a regular file",
    }
}

/// Checks a path in an archive against the grammar of [`Files`] and the limits.
fn check_path(path: &str) -> Result<(), ZipError> {
    let bad = |what: &str| Err(ZipError::BadPath { name: path.to_owned(), what: what.to_owned() });
    if path.len() > ZIP_PATH_BYTES_MAX {
        return bad("the path is longer than 255 bytes");
    }
    if path.starts_with('/') {
        return bad("the path is absolute");
    }
    if path.contains('\\') {
        return bad("the path has a backslash; use `/` to separate its parts");
    }
    if path.contains('\0') {
        return bad("the path has a NUL byte");
    }
    if path.split('/').any(|part| part == "..") {
        return bad("the path leads out of the archive");
    }
    if path.split('/').any(|part| part.is_empty() || part == ".") {
        return bad("a part of the path is empty or `.`");
    }
    if path.split('/').count() > FOLDER_DEPTH_MAX {
        return bad("the path is nested too deeply");
    }
    Ok(())
}

/// Puts files together, and holds them to all that the paths and sizes of an archive's files must keep.
#[derive(Default)]
pub(super) struct Collector {
    files: Files,
    bytes_total: u64,
    /// All paths in lower case, as they are written.
    lower: BTreeMap<String, String>,
    /// All folders that a file lies below, in lower case.
    folders: BTreeSet<String>,
}

impl Collector {
    /// Adds a file.
    pub(super) fn add(&mut self, path: String, file: FileContent) -> Result<(), ZipError> {
        check_path(&path)?;
        let lower = path.to_lowercase();
        if let Some(other) = self.lower.get(&lower) {
            let twins = *other != path;
            return Err(if twins {
                ZipError::CaseTwins { one: other.clone(), other: path }
            } else {
                ZipError::DuplicateNames
            });
        }
        if self.folders.contains(&lower) {
            return Err(ZipError::FileAndFolder(path));
        }
        for (end, _) in lower.match_indices('/') {
            if let Some(file) = self.lower.get(&lower[..end]) {
                return Err(ZipError::FileAndFolder(file.clone()));
            }
            self.folders.insert(lower[..end].to_owned());
        }
        self.bytes_total += file.bytes.len() as u64;
        if self.bytes_total > DEFINITION_BYTES_MAX {
            return Err(ZipError::TooManyBytes);
        }
        if self.files.0.len() == ZIP_ENTRIES_MAX {
            return Err(ZipError::TooManyEntries);
        }
        self.lower.insert(lower, path.clone());
        self.files.0.insert(path, file);
        Ok(())
    }

    /// All files, if the script is among them: at the root, or in the one folder that everything lies in, which then is the
    /// root.
    pub(super) fn finish(self) -> Result<Files, ZipError> {
        let files = self.files;
        if files.0.contains_key(ZIP_SCRIPT) {
            return Ok(files);
        }
        let Some(top) = only_top_folder(&files) else { return Err(ZipError::NoScript { top_folder: None }) };
        if !files.0.contains_key(&format!("{top}/{ZIP_SCRIPT}")) {
            return Err(ZipError::NoScript { top_folder: Some(top) });
        }
        Ok(Files(files.0.into_iter().map(|(path, file)| (path[top.len() + 1..].to_owned(), file)).collect()))
    }
}

/// The folder that all files lie in, if there is one.
fn only_top_folder(files: &Files) -> Option<String> {
    let mut tops = files.0.keys().map(|path| path.split_once('/').map(|(top, _)| top));
    let first = tops.next()??;
    tops.all(|top| top == Some(first)).then(|| first.to_owned())
}

#[cfg(test)]
mod tests;

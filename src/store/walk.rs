//! One walk over a batch's folder, from its descriptor downwards: what is in it, how it looks, and what must not be there.
//!
//! It does not know of other folders, and what the files mean.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::read::{Fingerprint, ReadError, Unfinished, link_instead_of_folder};
use super::trust::{Distrust, Role, Trust};
use super::writers::{Writers, writers_of};
use super::{FOLDER_DEPTH_MAX, is_left_out};
use crate::model::diagnostic::Diagnostic;
use crate::model::files::{DEFINITION_BYTES_MAX, DEFINITION_FILES_MAX, FileContent, Files, MODE_MASK};
use crate::model::id::BatchName;
use crate::model::text::{counted, shell_path, shown};
use crate::model::time::Instant;

/// The most complaints about one folder: more of the same help nobody.
const DIAGNOSTICS_MAX: usize = 20;
/// The most names that one complaint about many files lists.
const NAMES_SHOWN_MAX: usize = 3;
/// The complaint to a user who is not the daemon, and whom the system keeps from reading what the daemon may well read.
const NOT_READABLE_FOR_YOU: &str = "this is not readable for you, so the batch was not checked";
/// How much room a file's claim of its size may reserve before it is read.
const BYTES_RESERVED_MAX: usize = 64 * 1024;

/// How a folder is opened: links and what is no folder are refused.
pub(super) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How a file is opened. `NONBLOCK`: a FIFO that was put in its place since it was looked at must not block the daemon.
pub(super) const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// One walk over a folder: with a trust it reads and checks, without it only looks.
pub(super) struct Walk<'a> {
    batches: &'a Path,
    name: &'a str,
    trust: Option<&'a Trust>,
    digest: Sha256,
    newest_change_ns: i128,
    /// All that was looked at, each path with a zero byte behind it; none once a link was among it.
    paths: Option<String>,
    /// What was read.
    pub(super) files: Files,
    /// Those of them that may still be written.
    pub(super) unfinished: Vec<Unfinished>,
    files_seen: usize,
    folders_seen: usize,
    bytes_left: u64,
    /// Files and folders that others could write, each with its place on the disk.
    distrusted: Vec<(String, PathBuf, Distrust)>,
    diagnostics: Vec<Diagnostic>,
    diagnostics_dropped: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(batches: &'a Path, name: &'a str, trust: Option<&'a Trust>) -> Self {
        Self {
            batches,
            name,
            trust,
            digest: Sha256::new(),
            newest_change_ns: i128::MIN,
            paths: Some(String::new()),
            files: Files::default(),
            unfinished: Vec::new(),
            files_seen: 0,
            folders_seen: 0,
            bytes_left: DEFINITION_BYTES_MAX,
            distrusted: Vec::new(),
            diagnostics: Vec::new(),
            diagnostics_dropped: 0,
        }
    }

    /// Walks the folder of that name in `batches_folder`. Complaints do not end it; what has no end does.
    pub(super) fn run(&mut self, batches_folder: &OwnedFd) -> Result<(), ReadError> {
        match rustix::fs::openat(batches_folder, self.name, FOLDER, Mode::empty()) {
            Ok(folder) => self.folder(&folder, &folder, "", 0),
            // A link may have been put in the folder's place since it was listed.
            Err(Errno::NOTDIR) if is_link(batches_folder, self.name) => {
                Err(ReadError::Refused(vec![link_instead_of_folder(self.name)]))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Err(ReadError::Gone),
            Err(error) => Err(ReadError::Refused(vec![self.unreadable("", error)])),
        }
    }

    /// Looks at what an earlier walk has looked at, and at nothing else. What was put into a folder, or taken away, shows in
    /// the folder's own times.
    pub(super) fn retrace(&mut self, batches_folder: &OwnedFd, paths: &str) -> Result<(), ReadError> {
        for path in paths.split_terminator('\0') {
            let on_disk = if path.is_empty() { self.name.to_owned() } else { format!("{}/{path}", self.name) };
            let stat = rustix::fs::statat(batches_folder, on_disk, AtFlags::SYMLINK_NOFOLLOW);
            self.note(path, &stat.map_err(|_| ReadError::Changed)?);
        }
        Ok(())
    }

    /// Walks `folder`, which is at `path` (empty, or with a `/` at its end) below `top`.
    fn folder(&mut self, top: &OwnedFd, folder: &OwnedFd, path: &str, depth: usize) -> Result<(), ReadError> {
        let stat = rustix::fs::fstat(folder).map_err(|_| ReadError::Changed)?;
        self.note(path, &stat);
        self.check_owner(path, &stat);
        self.folders_seen += 1;
        if self.folders_seen > DEFINITION_FILES_MAX {
            return self.over_limit(path, format!("this batch has more than {DEFINITION_FILES_MAX} folders"));
        }
        if depth > FOLDER_DEPTH_MAX {
            return self.over_limit(path, format!("folders are nested more than {FOLDER_DEPTH_MAX} deep"));
        }
        let Some(names) = self.names(folder, path)? else { return Ok(()) };
        for (name, on_disk) in names {
            let path = format!("{path}{name}");
            let stat = match rustix::fs::statat(folder, &on_disk, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => return Err(ReadError::Changed),
                Err(error) => {
                    self.refuse_unreadable(&path, error);
                    continue;
                }
            };
            self.note(&path, &stat);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    if path == "batch.toml" {
                        self.refuse(
                            &path,
                            "this is a folder, not a file".to_owned(),
                            Some("replace it with a file".to_owned()),
                        );
                    }
                    match rustix::fs::openat(folder, &on_disk, FOLDER, Mode::empty()) {
                        Ok(below) => self.folder(top, &below, &format!("{path}/"), depth + 1)?,
                        Err(error) => self.after_race(&path, error)?,
                    }
                }
                FileType::RegularFile if self.trust.is_none() => self.count_file()?,
                FileType::RegularFile => {
                    match rustix::fs::openat(folder, &on_disk, FILE | OFlags::NOFOLLOW, Mode::empty()) {
                        Ok(file) => self.file(&path, file, Some(&stat))?,
                        Err(error) => self.after_race(&path, error)?,
                    }
                }
                FileType::Symlink => {
                    // What it leads to can't be looked at by a path alone: that might lead out of the folder.
                    self.paths = None;
                    self.link(top, &path)?;
                }
                kind => self.refuse_special(&path, kind),
            }
        }
        Ok(())
    }

    /// The names in a folder that are part of a definition, in their order; none if there are too many.
    fn names(&mut self, folder: &OwnedFd, path: &str) -> Result<Option<BTreeMap<String, CString>>, ReadError> {
        let mut names = BTreeMap::new();
        let dir = match Dir::read_from(folder) {
            Ok(dir) => dir,
            Err(error) => {
                self.refuse_unreadable(path, error);
                return Ok(None);
            }
        };
        for entry in dir {
            let Ok(entry) = entry else { return Err(ReadError::Changed) };
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) if is_left_out(name) => {}
                Ok(name) => {
                    names.insert(name.to_owned(), entry.file_name().to_owned());
                }
                Err(_) => {
                    let path = format!("{path}{}", entry.file_name().to_string_lossy());
                    let hint = "rename the file".to_owned();
                    self.refuse(&path, "this file's name is not UTF-8".to_owned(), Some(hint));
                }
            }
            if names.len() > DEFINITION_FILES_MAX {
                self.over_limit(path, format!("this batch has more than {DEFINITION_FILES_MAX} files"))?;
                return Ok(None);
            }
        }
        Ok(Some(names))
    }

    /// A link: the file that it leads to, if that is inside the folder.
    fn link(&mut self, top: &OwnedFd, path: &str) -> Result<(), ReadError> {
        match rustix::fs::openat2(top, path, FILE, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
            Ok(file) => self.file(path, file, None),
            Err(Errno::XDEV) => {
                if let Some(environment) = environment_of(path) {
                    return self.refuse_environment(&environment);
                }
                let hint = "replace the link with the file; to share files between batches, use `include`";
                self.refuse(path, "this link leads out of the folder".to_owned(), Some(hint.to_owned()));
                Ok(())
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {
                let hint = format!("remove it: `rm {}`", self.on_disk(path));
                self.refuse(path, "this link is broken: its target doesn't exist".to_owned(), Some(hint));
                Ok(())
            }
            // What it led through was renamed meanwhile.
            Err(Errno::AGAIN) => Err(ReadError::Changed),
            // A socket or a device without a driver.
            Err(Errno::NXIO | Errno::NODEV) => {
                self.refuse_special(path, FileType::Unknown);
                Ok(())
            }
            Err(error) => {
                self.refuse_unreadable(path, error);
                Ok(())
            }
        }
    }

    /// An opened file. `seen`: how it looked before it was opened.
    fn file(&mut self, path: &str, file: OwnedFd, seen: Option<&Stat>) -> Result<(), ReadError> {
        let stat = rustix::fs::fstat(&file).map_err(|_| ReadError::Changed)?;
        match seen {
            Some(seen) if traits(seen) != traits(&stat) => return Err(ReadError::Changed),
            Some(_) => {}
            None => self.note(path, &stat),
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            kind => {
                self.refuse_special(path, kind);
                return Ok(());
            }
        }
        self.check_owner(path, &stat);
        self.count_file()?;
        if self.trust.is_none() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).min(BYTES_RESERVED_MAX));
        // One more than allowed, so that the limit shows; the size that the file claims is not believed.
        let file = File::from(file);
        if let Err(error) = (&file).take(self.bytes_left + 1).read_to_end(&mut bytes) {
            self.refuse_unreadable(path, error);
            return Ok(());
        }
        let length = bytes.len() as u64;
        if length > self.bytes_left {
            let mebibytes = DEFINITION_BYTES_MAX / (1024 * 1024);
            return self.over_limit("", format!("this batch has more than {mebibytes} MiB"));
        }
        self.bytes_left -= length;
        // After the bytes: whoever wrote some of them and is not done has the file open now, or it was modified since `stat`.
        let unknown_since = match writers_of(&file) {
            Writers::None => None,
            Writers::Some => Some(None),
            Writers::Unknown { modified_at } => Some(Some(modified_at)),
        };
        let unfinished = unknown_since.map(|unknown_since| Unfinished { path: path.to_owned(), unknown_since });
        self.unfinished.extend(unfinished);
        let mode = stat.st_mode & MODE_MASK;
        self.files.0.insert(path.to_owned(), FileContent { bytes, mode });
        Ok(())
    }

    fn count_file(&mut self) -> Result<(), ReadError> {
        self.files_seen += 1;
        if self.files_seen <= DEFINITION_FILES_MAX {
            return Ok(());
        }
        self.over_limit("", format!("this batch has more than {DEFINITION_FILES_MAX} files"))
    }

    /// Stops the walk: there is no end to what else could be found.
    fn over_limit(&mut self, path: &str, what: String) -> Result<(), ReadError> {
        let hint = "keep data and dependencies in another folder; a batch has only its script and a few files";
        self.refuse(path, what, Some(hint.to_owned()));
        Err(ReadError::Refused(self.complaints()))
    }

    fn check_owner(&mut self, path: &str, stat: &Stat) {
        let on_disk = self.batches.join(format!("{}/{path}", self.name).trim_end_matches('/'));
        if let Some(distrust) = self.trust.and_then(|trust| trust.distrust(stat, Role::Definition)) {
            self.distrusted.push((path.trim_end_matches('/').to_owned(), on_disk, distrust));
        }
    }

    /// An open that failed on something that was there a moment ago.
    fn after_race(&mut self, path: &str, error: Errno) -> Result<(), ReadError> {
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::NXIO => Err(ReadError::Changed),
            error => {
                self.refuse_unreadable(path, error);
                Ok(())
            }
        }
    }

    /// `path` in the folder as one word of a command.
    fn on_disk(&self, path: &str) -> String {
        shell_path(&self.batches.join(self.name).join(path).display().to_string())
    }

    /// One complaint about a whole virtual environment, whose links lead to the interpreter.
    fn refuse_environment(&mut self, folder: &str) -> Result<(), ReadError> {
        let what = "this virtual environment has links that lead out of the folder";
        let hint = "create it in the workspace instead, from the script: `[ -d .venv ] || python3 -m venv .venv`";
        let diagnostic = self.diagnostic(folder, what.to_owned()).with_hint(hint);
        if !self.diagnostics.contains(&diagnostic) {
            self.push(diagnostic);
        }
        Ok(())
    }

    fn refuse_special(&mut self, path: &str, kind: FileType) {
        let kind = match kind {
            FileType::Directory => "this is a link to a folder",
            FileType::Fifo => "this is a FIFO",
            FileType::Socket => "this is a socket",
            FileType::CharacterDevice | FileType::BlockDevice => "this is a device",
            FileType::RegularFile | FileType::Symlink | FileType::Unknown => "this is not a regular file",
        };
        self.refuse(
            path,
            kind.to_owned(),
            Some(format!("a batch can only have regular files; remove this one: `rm {}`", self.on_disk(path))),
        );
    }

    fn refuse_unreadable(&mut self, path: &str, error: impl Into<io::Error>) {
        let diagnostic = self.unreadable(path, error);
        self.push(diagnostic);
    }

    fn refuse(&mut self, path: &str, what: String, hint: Option<String>) {
        let diagnostic = Diagnostic { hint, ..self.diagnostic(path, what) };
        self.push(diagnostic);
    }

    fn push(&mut self, diagnostic: Diagnostic) {
        if self.diagnostics.len() < DIAGNOSTICS_MAX {
            self.diagnostics.push(diagnostic);
        } else {
            self.diagnostics_dropped += 1;
        }
    }

    fn unreadable(&self, path: &str, error: impl Into<io::Error>) -> Diagnostic {
        let error = error.into();
        let diagnostic = self.diagnostic(path, format!("can't read this: {error}"));
        if error.kind() == io::ErrorKind::PermissionDenied {
            if self.trust.is_some_and(Trust::is_asked_by_another) {
                return self.diagnostic(path, NOT_READABLE_FOR_YOU.to_owned()).as_remark();
            }
            return diagnostic.with_hint("make it readable for the daemon's user with `chown` or `chmod`");
        }
        diagnostic
    }

    fn diagnostic(&self, path: &str, what: String) -> Diagnostic {
        Diagnostic::of_file(BatchName::new(self.name).ok(), self.label(path), what)
    }

    /// One complaint for each kind of distrust, with one command, however many files it is about.
    fn complain_of_distrust(&mut self) {
        let distrusted = std::mem::take(&mut self.distrusted);
        let (owners, modes): (Vec<_>, Vec<_>) =
            distrusted.into_iter().partition(|(_, _, distrust)| matches!(distrust, Distrust::Owner { .. }));
        for found in [owners, modes] {
            let Some((path, on_disk, first)) = found.first() else { continue };
            let all = found.iter().skip(1).fold(*first, |all, (_, _, distrust)| all.and(*distrust));
            let (path, what, hint) = match found.len() {
                1 => (path.clone(), all.what("this"), all.hint(on_disk, false)),
                more => {
                    let mut some: Vec<String> = found
                        .iter()
                        .take(NAMES_SHOWN_MAX)
                        .map(|(path, ..)| format!("`{}`", self.label(path)))
                        .collect();
                    if more > NAMES_SHOWN_MAX {
                        some.push("…".to_owned());
                    }
                    let what = all.what(&format!("{more} files and folders ({})", some.join(", ")));
                    (String::new(), what, all.hint(&self.batches.join(self.name), true))
                }
            };
            self.refuse(&path, what, Some(hint));
        }
    }

    fn label(&self, path: &str) -> String {
        shown(format!("{}/{path}", self.name).trim_end_matches('/'))
    }

    /// All complaints, and how many there were beside them.
    pub(super) fn complaints(&mut self) -> Vec<Diagnostic> {
        self.complain_of_distrust();
        let mut diagnostics = std::mem::take(&mut self.diagnostics);
        if self.diagnostics_dropped > 0 {
            diagnostics.push(
                self.diagnostic(
                    "",
                    counted(self.diagnostics_dropped, "more error like these", "more errors like these"),
                ),
            );
        }
        diagnostics
    }

    /// Takes how an entry looks into the fingerprint.
    fn note(&mut self, path: &str, stat: &Stat) {
        if let Some(paths) = &mut self.paths {
            paths.push_str(path);
            paths.push('\0');
        }
        self.digest.update((path.len() as u64).to_be_bytes());
        self.digest.update(path.as_bytes());
        let traits = traits(stat);
        for value in traits {
            self.digest.update(value.to_be_bytes());
        }
        // Not the time of modification: anybody can set that one, also into the future.
        let [.., changed_ns] = traits;
        self.newest_change_ns = self.newest_change_ns.max(changed_ns);
    }

    /// How all of it looked.
    pub(super) fn fingerprint(&self) -> Result<Fingerprint, ReadError> {
        let newest_change_ms =
            i64::try_from(self.newest_change_ns.div_euclid(1_000_000)).map_err(|_| ReadError::Changed)?;
        let newest_change_at = Instant::from_ms(newest_change_ms);
        let paths = self.paths.as_deref().map(Into::into);
        Ok(Fingerprint { digest: self.digest.clone().finalize().into(), newest_change_at, paths })
    }
}

/// The folder above `path` that a tool for virtual environments has made.
fn environment_of(path: &str) -> Option<String> {
    const NAMES: [&str; 3] = [".venv", "venv", "node_modules"];
    let parts: Vec<&str> = path.split('/').collect();
    let at = parts.iter().position(|part| NAMES.contains(part))?;
    (at + 1 < parts.len()).then(|| parts[..=at].join("/"))
}

fn is_link(folder: &OwnedFd, name: &str) -> bool {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// All that shows a change of a file's bytes, owner or mode from outside; the time of the last change is the last.
fn traits(stat: &Stat) -> [i128; 8] {
    let time_ns = |seconds: i128, nanoseconds: i128| seconds * 1_000_000_000 + nanoseconds;
    [
        stat.st_dev.into(),
        stat.st_ino.into(),
        stat.st_mode.into(),
        stat.st_uid.into(),
        stat.st_gid.into(),
        stat.st_size.into(),
        time_ns(stat.st_mtime.into(), stat.st_mtime_nsec.into()),
        time_ns(stat.st_ctime.into(), stat.st_ctime_nsec.into()),
    ]
}

//! Reads folders of `batches.d`: which there are, whether one has changed, and what is in it.
//!
//! Everything is opened by descriptor from `batches.d` downwards, so that a folder swapped meanwhile is never read half and
//! half. It does not know what a `batch.toml` or a zip is, and when to look again is the watcher's business.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::trust::Trust;
use super::walk::{FOLDER, Walk};
use super::{FileError, cannot};
use crate::model::diagnostic::{Diagnostic, not_a_batch_name, shell_path, shown};
use crate::model::files::Files;
use crate::model::id::BatchName;
use crate::model::time::Instant;

/// An open `batches.d`. Opened anew for each scan, it follows a link at its path that is swapped.
#[derive(Debug)]
pub struct BatchesDir {
    path: PathBuf,
    folder: OwnedFd,
}

/// Why `batches.d` can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum BatchesDirError {
    /// It is not there, now.
    #[error("there is no folder `{}`; create it, or name another one with --batches", .0.display())]
    Missing(PathBuf),
    /// It is something else.
    #[error("`{}` is not a folder; name a folder with --batches", .0.display())]
    NotAFolder(PathBuf),
    /// It can't be opened or read.
    #[error(transparent)]
    Io(#[from] FileError),
}

/// What stands in `batches.d`, in the order of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Folders whose name is a batch's.
    pub batches: Vec<BatchName>,
    /// Folders that can't be batches and are not ignored: each with what to do.
    pub diagnostics: Vec<Diagnostic>,
    /// There is nothing at all in it, not even what is ignored.
    pub is_bare: bool,
}

/// What a folder's files look like from outside. Two equal ones mean the same content if `newest_change_at` was over when
/// the first was taken: a file system stamps changes by a coarse clock (4 ms on ext4, up to 2 s over a network), and a
/// second change within one tick leaves no trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Over names, inodes, modes, owners, sizes and times of all that is in it, links' targets included.
    pub(super) digest: [u8; 32],
    /// The latest change of any of it, by the file system's clock.
    pub newest_change_at: Instant,
    /// What has to be looked at to see whether it is as it was, where that is less than a walk (`Walk::retrace`).
    pub(super) paths: Option<Box<str>>,
}

/// What is in a folder. Not checked: whether it is a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFolder {
    /// All files of it.
    pub files: Files,
    /// How it looked while they were read.
    pub fingerprint: Fingerprint,
    /// Those of the files that may still be written.
    pub unfinished: Vec<Unfinished>,
}

/// A file that somebody has open for writing, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Its path in the folder.
    pub path: String,
    /// When it was last modified, by the file system's clock, if the kernel doesn't say whether it has a writer; none: it has.
    pub unknown_since: Option<Instant>,
}

/// Why there is no [`RawFolder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// It is not there.
    Gone,
    /// It changed while it was read: read it again after a quiet period.
    Changed,
    /// This file, a path below `batches.d`, is being written: read it again when the file is closed.
    Open(String),
    /// It must not, or can't be read.
    Refused(Vec<Diagnostic>),
}

impl BatchesDir {
    /// Opens the folder at `path`, which may be a link to it.
    pub fn open(path: &Path) -> Result<Self, BatchesDirError> {
        let path = std::path::absolute(path).map_err(cannot("find", path))?;
        match rustix::fs::openat(CWD, &path, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty()) {
            Ok(folder) => Ok(Self { path, folder }),
            Err(Errno::NOENT) => Err(BatchesDirError::Missing(path)),
            Err(Errno::NOTDIR) => Err(BatchesDirError::NotAFolder(path)),
            Err(error) => Err(cannot("open", &path)(error).into()),
        }
    }

    /// What is wrong with who may write `batches.d` and the folders above it. If anything is, nothing in it is trusted.
    pub fn check_parents(&self, trust: &Trust) -> Result<Vec<Diagnostic>, FileError> {
        trust.check_parents(&self.path).map_err(cannot("check the owners of", &self.path))
    }

    /// Which folders there are. Plain files, and names that begin with `.` or `_`, are nothing to batchd (design 3.1).
    pub fn list(&self) -> Result<Listing, FileError> {
        let mut listing = Listing { is_bare: true, ..Listing::default() };
        let dir = Dir::read_from(&self.folder).map_err(cannot("read", &self.path))?;
        for entry in dir {
            let entry = entry.map_err(cannot("read", &self.path))?;
            let bytes = entry.file_name().to_bytes();
            listing.is_bare &= bytes == b"." || bytes == b"..";
            if bytes.starts_with(b".") || bytes.starts_with(b"_") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not say.
                FileType::Unknown => {
                    match rustix::fs::statat(&self.folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                        Err(Errno::NOENT) => continue,
                        Err(error) => return Err(cannot("look at", &self.path)(error)),
                    }
                }
                kind => kind,
            };
            let name = entry.file_name().to_string_lossy();
            if kind == FileType::RegularFile {
                listing.diagnostics.extend(self.file_instead_of_batch(&name));
            } else if kind == FileType::Symlink {
                listing.diagnostics.extend(self.link_instead_of_batch(entry.file_name(), &name));
            } else if kind == FileType::Directory {
                match entry.file_name().to_str().ok().and_then(|name| BatchName::new(name).ok()) {
                    Some(batch) => listing.batches.push(batch),
                    None => listing.diagnostics.push(not_a_batch_name(&self.path.display().to_string(), &name)),
                }
            }
        }
        listing.batches.sort();
        listing.diagnostics.sort();
        Ok(listing)
    }

    /// How the folder `name` looks: no file is opened for it.
    pub fn fingerprint(&self, name: &str) -> Result<Fingerprint, ReadError> {
        let mut walk = Walk::new(&self.path, name, None);
        walk.run(&self.folder)?;
        walk.fingerprint()
    }

    /// Whether the folder `name` still looks like this: for thousands of folders once a minute, so nothing is opened or listed
    /// if that can be avoided.
    pub fn looks_like(&self, name: &str, before: &Fingerprint) -> bool {
        let mut walk = Walk::new(&self.path, name, None);
        let walked = match &before.paths {
            Some(paths) => walk.retrace(&self.folder, paths),
            None => walk.run(&self.folder),
        };
        walked.and_then(|()| walk.fingerprint()).is_ok_and(|now| now == *before)
    }

    /// Reads the folder `name`, a batch's or one for `include`: all its regular files, without what version control and
    /// editors leave there. Links to regular files inside the folder are read as these files.
    pub fn read(&self, name: &str, trust: &Trust) -> Result<RawFolder, ReadError> {
        let mut walk = Walk::new(&self.path, name, Some(trust));
        walk.run(&self.folder)?;
        let fingerprint = walk.fingerprint()?;
        if self.fingerprint(name)? != fingerprint {
            return Err(ReadError::Changed);
        }
        match walk.complaints() {
            diagnostics if diagnostics.is_empty() => {
                Ok(RawFolder { files: walk.files, fingerprint, unfinished: walk.unfinished })
            }
            diagnostics => Err(ReadError::Refused(diagnostics)),
        }
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A remark on a file that is ignored, and was probably meant as a batch.
    fn file_instead_of_batch(&self, name: &str) -> Option<Diagnostic> {
        let (stem, extension) = name.rsplit_once('.')?;
        let at = |path: &str| shell_path(&self.path.join(path).display().to_string());
        let (what, hint) = if extension.eq_ignore_ascii_case("zip") {
            let hint = match BatchName::suggestion(stem) {
                Some(batch) => {
                    let (folder, toml) = (at(batch.as_str()), at(&format!("{batch}/batch.toml")));
                    format!("make it one: `mkdir -p {folder} && mv {} {folder}/ && touch {toml}`", at(name))
                }
                None => "make a folder for it, with a `batch.toml` beside it".to_owned(),
            };
            ("this zip is ignored; a batch is a folder with a `batch.toml`, and the zip belongs in that folder", hint)
        } else if matches!(name, "batch.toml" | "script.sh") {
            let hint = format!(
                "move it into the folder of its batch: `mkdir -p {0} && mv {1} {0}/`",
                at("my-batch"),
                at(name)
            );
            ("this file is ignored; a batch is a folder in `batches.d`", hint)
        } else {
            return None;
        };
        Some(Diagnostic::of_file(None, shown(name), what).with_hint(hint).as_remark())
    }

    /// What is wrong with a link that leads to a folder, or that has a batch's name and leads to none: it was meant as one.
    fn link_instead_of_batch(&self, link: &CStr, name: &str) -> Option<Diagnostic> {
        let target = rustix::fs::statat(&self.folder, link, AtFlags::empty());
        let target = target.map(|stat| FileType::from_raw_mode(stat.st_mode));
        if target == Ok(FileType::Directory) {
            return Some(link_instead_of_folder(name));
        }
        let batch = BatchName::new(name).ok()?;
        let what = match target {
            Ok(_) => "this is a link to something other than a folder",
            Err(_) => "this link leads nowhere",
        };
        let hint = "a batch is a folder; replace the link with one, or remove the link";
        Some(Diagnostic::of_file(Some(batch), shown(name), what).with_hint(hint))
    }
}

pub(super) fn link_instead_of_folder(name: &str) -> Diagnostic {
    let hint = "replace the link with the folder; `batches.d` itself can be a link, a batch can't";
    Diagnostic::of_file(BatchName::new(name).ok(), shown(name), "this is a link to a folder").with_hint(hint)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::os::unix::net::UnixListener;

    use rustix::fs::{FileType as Kind, mknodat};

    use super::*;
    use crate::model::files::{DEFINITION_BYTES_MAX, DEFINITION_FILES_MAX};
    use crate::store::FOLDER_DEPTH_MAX;

    /// A `batches.d` with an empty folder `report`.
    fn root() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let report = root.path().join("report");
        fs::create_dir(&report).unwrap();
        (root, report)
    }

    fn open(root: &tempfile::TempDir) -> BatchesDir {
        BatchesDir::open(root.path()).unwrap()
    }

    fn read(root: &tempfile::TempDir) -> Result<RawFolder, ReadError> {
        open(root).read("report", &Trust::new(&[]).unwrap())
    }

    /// The one complaint about `report`, as `file: what`.
    fn complaint(root: &tempfile::TempDir) -> String {
        match read(root).unwrap_err() {
            ReadError::Refused(diagnostics) => {
                assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
                assert_eq!(diagnostics[0].batch.as_ref().unwrap().as_str(), "report");
                format!("{}: {}", diagnostics[0].file, diagnostics[0].what)
            }
            other => panic!("{other:?}"),
        }
    }

    fn paths(folder: &RawFolder) -> Vec<&str> {
        folder.files.0.keys().map(String::as_str).collect()
    }

    #[test]
    fn lists_what_is_a_batch_and_complains_about_the_rest() {
        let (root, _) = root();
        for name in ["load", "_common", ".git", "My Report", "_", "--"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("README.md"), "").unwrap();
        symlink("README.md", root.path().join("link")).unwrap();
        symlink("README.md", root.path().join("LINK.md")).unwrap();
        symlink("nowhere", root.path().join("dangling")).unwrap();
        symlink("nowhere", root.path().join(".#lock")).unwrap();
        symlink("load", root.path().join("other")).unwrap();
        let listing = open(&root).list().unwrap();
        let names: Vec<&str> = listing.batches.iter().map(BatchName::as_str).collect();
        assert_eq!(names, ["load", "report"]);
        let found: Vec<(&str, &str)> =
            listing.diagnostics.iter().map(|d| (d.file.as_str(), d.hint.as_deref().unwrap())).collect();
        let path = root.path().display();
        let my_report = format!(
            "rename it: `mv '{path}/My Report' {path}/my-report`; if it is not a batch, put `_` before its name"
        );
        let expected = [
            ("--", "rename it; if it is not a batch, put `_` before its name"),
            ("My Report", my_report.as_str()),
            ("dangling", "a batch is a folder; replace the link with one, or remove the link"),
            ("link", "a batch is a folder; replace the link with one, or remove the link"),
            ("other", "replace the link with the folder; `batches.d` itself can be a link, a batch can't"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_root_that_is_missing_a_file_or_a_link() {
        let (root, _) = root();
        let at = |name| root.path().join(name);
        assert!(matches!(BatchesDir::open(&at("none")), Err(BatchesDirError::Missing(_))));
        fs::write(at("file"), "").unwrap();
        assert!(matches!(BatchesDir::open(&at("file")), Err(BatchesDirError::NotAFolder(_))));
        symlink(root.path(), at("link")).unwrap();
        assert_eq!(BatchesDir::open(&at("link")).unwrap().list().unwrap().batches.len(), 1);
    }

    #[test]
    fn reads_files_without_leftovers() {
        let (root, report) = root();
        fs::create_dir_all(report.join("lib/.git")).unwrap();
        for path in ["batch.toml", "script.sh", "lib/a", "lib/.git/config", "script.sh~", ".DS_Store", ".script.sh.swp"]
        {
            fs::write(report.join(path), path).unwrap();
        }
        symlink("user@host.1", report.join(".#script.sh")).unwrap();
        symlink("lib/a", report.join("b")).unwrap();
        fs::set_permissions(report.join("script.sh"), fs::Permissions::from_mode(0o744)).unwrap();
        let folder = read(&root).unwrap();
        assert_eq!(paths(&folder), ["b", "batch.toml", "lib/a", "script.sh"]);
        assert_eq!(folder.files.0["b"].bytes, b"lib/a");
        assert!(folder.files.0["script.sh"].executable);
        assert!(!folder.files.0["batch.toml"].executable);
        assert_eq!(open(&root).fingerprint("report"), Ok(folder.fingerprint));
        assert_eq!(open(&root).read("gone", &Trust::insecure()), Err(ReadError::Gone));
    }

    #[test]
    fn refuses_what_is_no_file_of_the_folder() {
        let check = |make: &dyn Fn(&Path), expected: &str| {
            let (root, report) = root();
            fs::write(root.path().join("secret"), "secret").unwrap();
            fs::write(report.join("script.sh"), "").unwrap();
            make(&report);
            assert_eq!(complaint(&root), expected);
        };
        let leads_out = "report/batch.toml: this link leads out of the folder";
        check(&|r| symlink("../secret", r.join("batch.toml")).unwrap(), leads_out);
        check(&|r| symlink("/etc/passwd", r.join("batch.toml")).unwrap(), leads_out);
        check(&|r| symlink("../report/script.sh", r.join("batch.toml")).unwrap(), leads_out);
        check(&|r| symlink("/proc/self/fd/0", r.join("batch.toml")).unwrap(), leads_out);
        let nowhere = "report/batch.toml: this link leads nowhere";
        check(&|r| symlink("none", r.join("batch.toml")).unwrap(), nowhere);
        check(&|r| symlink("batch.toml", r.join("batch.toml")).unwrap(), nowhere);
        check(&|r| symlink(".", r.join("loop")).unwrap(), "report/loop: this is a link to a folder");
        check(&|r| fs::create_dir(r.join("batch.toml")).unwrap(), "report/batch.toml: this is a folder, not a file");
        let fifo = |path: &Path| mknodat(CWD, path, Kind::Fifo, Mode::RUSR, 0).unwrap();
        check(&|r| fifo(&r.join("batch.toml")), "report/batch.toml: this is a FIFO");
        check(&|r| (fifo(&r.join(".f~")), symlink(".f~", r.join("l")).unwrap()).1, "report/l: this is a FIFO");
        check(&|r| drop(UnixListener::bind(r.join("s")).unwrap()), "report/s: this is a socket");
        check(&|r| fs::write(r.join(not_utf8()), "").unwrap(), "report/a\u{fffd}: this file's name is not UTF-8");
    }

    /// A file name that is not UTF-8.
    fn not_utf8() -> &'static std::ffi::OsStr {
        std::os::unix::ffi::OsStrExt::from_bytes(b"a\xff")
    }

    #[test]
    fn a_folder_swapped_for_a_link_is_refused() {
        let (root, report) = root();
        fs::rename(&report, root.path().join("elsewhere")).unwrap();
        symlink("elsewhere", &report).unwrap();
        assert_eq!(complaint(&root), "report: this is a link to a folder");
    }

    #[test]
    fn refuses_what_others_may_write() {
        let (root, report) = root();
        fs::write(report.join("script.sh"), "").unwrap();
        fs::set_permissions(report.join("script.sh"), fs::Permissions::from_mode(0o646)).unwrap();
        assert_eq!(complaint(&root), "report/script.sh: this is writable by everybody");
        assert!(open(&root).read("report", &Trust::insecure()).is_ok());
        fs::set_permissions(report.join("script.sh"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&root).is_ok());
        fs::set_permissions(&report, fs::Permissions::from_mode(0o1757)).unwrap();
        assert_eq!(complaint(&root), "report: this is writable by everybody");
    }

    #[test]
    fn a_tree_that_others_may_write_is_one_complaint_with_one_command() {
        let (root, report) = root();
        fs::create_dir(report.join("lib")).unwrap();
        for name in ["script.sh", "lib/a", "lib/b", "batch.toml"] {
            fs::write(report.join(name), "").unwrap();
            fs::set_permissions(report.join(name), fs::Permissions::from_mode(0o666)).unwrap();
        }
        let Err(ReadError::Refused(diagnostics)) = read(&root) else { panic!() };
        let said: Vec<(&str, &str)> =
            diagnostics.iter().map(|one| (one.what.as_str(), one.hint.as_deref().unwrap())).collect();
        let group = if crate::root::is_root() { ("their group and everybody", "go") } else { ("everybody", "o") };
        let what = format!(
            "4 files and folders (`report/batch.toml`, `report/lib/a`, `report/lib/b`, …) are writable by {}",
            group.0
        );
        let hint = format!("run `chmod -R {}-w {}`", group.1, report.display());
        assert_eq!(said, [(what.as_str(), hint.as_str())]);
        let command = hint.trim_start_matches("run `").trim_end_matches('`');
        assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success());
        assert!(read(&root).is_ok());
    }

    #[test]
    fn files_that_were_meant_as_batches_are_remarked_on() {
        let (root, _) = root();
        for name in ["My Load.zip", "batch.toml", "script.sh", "notes.txt", "README.md"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let listing = open(&root).list().unwrap();
        let files: Vec<&str> = listing.diagnostics.iter().map(|one| one.file.as_str()).collect();
        assert_eq!(files, ["My Load.zip", "batch.toml", "script.sh"]);
        assert!(listing.diagnostics.iter().all(|one| !one.is_error()));
        let hint = listing.diagnostics[0].hint.as_deref().unwrap();
        let command = hint.trim_start_matches("make it one: `").trim_end_matches('`');
        assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
        assert!(root.path().join("my-load/My Load.zip").exists() && root.path().join("my-load/batch.toml").exists());
    }

    #[test]
    fn refuses_what_belongs_to_strangers() {
        if !crate::root::is_root() {
            return;
        }
        let (root, report) = root();
        fs::write(report.join("script.sh"), "").unwrap();
        chown(report.join("script.sh"), Some(54_321), None).unwrap();
        let expected = "report/script.sh: this belongs to user 54321, who is not trusted to write what batchd runs";
        assert_eq!(complaint(&root), expected);
        chown(&report, Some(54_321), None).unwrap();
        let Err(ReadError::Refused(diagnostics)) = read(&root) else { panic!() };
        assert_eq!(diagnostics.len(), 1, "one command for the whole tree");
        let path = report.display();
        let expected = format!("run `chown -R root {path}`, or add its owner to `trusted_owners` in the settings");
        assert_eq!(diagnostics[0].hint.as_ref().unwrap(), &expected);
    }

    #[test]
    fn refuses_more_than_a_definition_may_have() {
        let (root, report) = root();
        // Sparse: it has no block on the disk, and no byte of it is read beyond the limit.
        fs::File::create(report.join("big")).unwrap().set_len(DEFINITION_BYTES_MAX + 1).unwrap();
        assert_eq!(complaint(&root), "report: this batch has more than 64 MiB");
        fs::remove_file(report.join("big")).unwrap();
        (0..=DEFINITION_FILES_MAX).for_each(|n| fs::write(report.join(n.to_string()), "").unwrap());
        assert_eq!(complaint(&root), "report: this batch has more than 4096 files");
        fs::remove_file(report.join("0")).unwrap();
        assert!(read(&root).is_ok());
        fs::remove_file(report.join("1")).unwrap();
        fs::create_dir_all(report.join("d/".repeat(FOLDER_DEPTH_MAX + 1))).unwrap();
        assert!(complaint(&root).ends_with("folders are nested more than 32 deep"));
    }

    #[test]
    fn many_complaints_are_cut_short() {
        let (root, report) = root();
        (0..30).for_each(|n| symlink("none", report.join(n.to_string())).unwrap());
        let Err(ReadError::Refused(diagnostics)) = read(&root) else { panic!() };
        assert_eq!(diagnostics.len(), 21);
        assert_eq!(diagnostics[20].what, "10 more errors like these");
    }

    #[test]
    fn the_fingerprint_sees_every_kind_of_change() {
        let (root, report) = root();
        let script = report.join("script.sh");
        fs::write(&script, "one").unwrap();
        let mut last = open(&root).fingerprint("report").unwrap();
        let mut differs = |what: &str| {
            let now = open(&root).fingerprint("report").unwrap();
            assert_ne!(now, last, "{what}");
            assert!(now.newest_change_at >= last.newest_change_at);
            last = now;
        };
        fs::write(&script, "three").unwrap();
        differs("size");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        differs("mode");
        fs::write(report.join("new"), "").unwrap();
        differs("a new file");
        fs::write(report.join("beside"), "three").unwrap();
        differs("another new file");
        fs::rename(report.join("beside"), &script).unwrap();
        differs("renamed over");
        assert_eq!(open(&root).fingerprint("report").unwrap(), last);
    }

    #[test]
    fn a_folder_that_changes_all_the_time_is_never_read_half() {
        let (root, report) = root();
        let (a, b) = (report.join("a"), report.join("b"));
        let read_often = || {
            for _ in 0..300 {
                match read(&root) {
                    // What is read was there at one moment.
                    Ok(folder) => {
                        let length = |name| folder.files.0.get(name).map_or(0, |file| file.bytes.len());
                        assert!([length("b"), length("b") + 1].contains(&length("a")), "{:?}", folder.files);
                    }
                    Err(ReadError::Changed) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        };
        std::thread::scope(|scope| {
            let reader = scope.spawn(read_often);
            // `a` is renewed first, then `b`; each is one byte longer than before.
            for length in (1..DEFINITION_BYTES_MAX / 2).take_while(|_| !reader.is_finished()) {
                for path in [&a, &b] {
                    let beside = root.path().join("beside");
                    fs::File::create(&beside).unwrap().set_len(length).unwrap();
                    fs::rename(&beside, path).unwrap();
                }
            }
        });
    }
}

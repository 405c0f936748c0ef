//! Reading real folders: what is read, what is refused, and in which words.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;

use rustix::fs::{FileType as Kind, mknodat};

use super::*;
use crate::model::files::{DEFINITION_BYTES_MAX, DEFINITION_FILES_MAX};
use crate::store::FOLDER_DEPTH_MAX;
use crate::store::users::own_uid;

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
    open(root).read("report", &Trust::new(own_uid(), &[]).unwrap())
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
        "rename it: `mv -T '{path}/My Report' {path}/my-report`; if it is not a batch, put `_` before its name"
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
    for path in ["batch.toml", "script.sh", "lib/a", "lib/.git/config", "script.sh~", ".DS_Store", ".script.sh.swp"] {
        fs::write(report.join(path), path).unwrap();
    }
    symlink("user@host.1", report.join(".#script.sh")).unwrap();
    symlink("lib/a", report.join("b")).unwrap();
    fs::set_permissions(report.join("script.sh"), fs::Permissions::from_mode(0o744)).unwrap();
    let folder = read(&root).unwrap();
    assert_eq!(paths(&folder), ["b", "batch.toml", "lib/a", "script.sh"]);
    assert_eq!(folder.files.0["b"].bytes, b"lib/a");
    assert!(folder.files.0["script.sh"].is_executable());
    assert!(!folder.files.0["batch.toml"].is_executable());
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
    let nowhere = "report/batch.toml: this link is broken: its target doesn't exist";
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

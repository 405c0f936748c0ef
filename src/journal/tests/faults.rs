//! A journal that can't be opened, can't be written, or whose daemon is killed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rusqlite::Connection;

use super::*;
use crate::journal::{CommitError, OpenError};

/// Names the journal to a test that is a child process of another test.
const CHILD: &str = "BATCHD_TEST_JOURNAL";

/// This very test program, as a child that runs one test on the journal at `path`.
fn child(test: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = format!("journal::tests::faults::{test}");
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).env(CHILD, path);
    command
}

fn child_path() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

#[test]
fn e2_a_full_disk_is_to_be_tried_again() {
    let (_folder, _path, mut journal) = new_journal();
    let pages: u32 = journal.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    journal.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    let runs: Vec<Record> = (1..200).map(|number| record(&run(&format!("a.{number}")))).collect();
    for _ in 0..2 {
        let error = journal.commit(&runs).unwrap_err();
        assert!(matches!(error, CommitError::Full(_)), "{error}");
        let empty = Recovered::empty(journal.id().clone());
        assert_eq!(journal.recover().unwrap(), empty, "nothing of it was written");
    }
    journal.connection.pragma_update_and_check(None, "max_page_count", 1_000_000, |_| Ok(())).unwrap();
    journal.commit(&runs).unwrap();
    assert_eq!(journal.recover().unwrap().runs.len(), 199);
}

/// Else two openings had the same numbers, and nobody could tell what was decided before what.
#[test]
fn e2_an_opening_is_counted_with_its_first_commit_and_not_without() {
    let (_folder, path, journal) = new_journal();
    drop(journal);
    let made_in = |number: u64, has_room: bool| {
        let mut journal = Journal::open(&path).unwrap();
        if !has_room {
            let pages: u32 = journal.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
            journal.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
            let runs: Vec<Record> = (1000..1200).map(|number| record(&run(&format!("a.{number}")))).collect();
            assert!(matches!(journal.commit(&runs), Err(CommitError::Full(_))));
            journal.connection.pragma_update_and_check(None, "max_page_count", 1_000_000, |_| Ok(())).unwrap();
        }
        journal.commit(&[record(&run(&format!("a.{number}")))]).unwrap();
        let sql = "SELECT made_in FROM run WHERE number = ?";
        journal.connection.query_row(sql, [number], |row| row.get::<_, u64>(0)).unwrap()
    };
    let made = [made_in(1, true), made_in(2, false), made_in(3, true)];
    assert!(made[0] >> 32 < made[1] >> 32 && made[1] >> 32 < made[2] >> 32, "{made:?}");
}

#[test]
fn e9_a_lock_is_to_be_tried_again() {
    let (_folder, path, mut journal) = new_journal();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = journal.commit(&[record(&run("a.1"))]).unwrap_err();
    assert!(matches!(error, CommitError::Retry(_)), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    journal.commit(&[record(&run("a.1"))]).unwrap();
}

#[test]
fn e10_a_reader_holds_nobody_up() {
    let (_folder, path, mut journal) = new_journal();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN; SELECT * FROM runs").unwrap();
    journal.commit(&[record(&run("a.1"))]).unwrap();
}

/// Commits one run after the other, and says each time how far it has come; until it is killed.
#[test]
fn child_commits() {
    let Some(path) = child_path() else { return };
    let mut journal = Journal::open(&path).unwrap();
    for number in 1.. {
        let queued = run(&format!("a.{number}"));
        journal.commit(&[record(&queued)]).unwrap();
        let ended =
            [record(&ended(&queued, Outcome::Succeeded)), Record::Event { at: at(number), text: "ended".to_owned() }];
        journal.commit(&ended).unwrap();
        println!("committed {number}");
    }
}

#[test]
fn e1_what_was_committed_survives_kill() {
    for kill_after in [1, 7, 40] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let mut child = child("child_commits", &path).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        // The first one stands behind the name of the test, which the harness prints without a line end.
        let words = lines.filter_map(|line| line.find("committed").map(|at| line[at..].to_owned()));
        let committed = words.into_iter().nth(kill_after - 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(committed, Some(format!("committed {kill_after}")));

        let reader = Reader::open(&path).unwrap();
        let ended = reader.events(Instant::MIN).unwrap().len();
        let mut journal = Journal::open(&path).unwrap();
        let live = journal.recover().unwrap().runs;
        assert!(ended >= kill_after && live.len() <= 1, "{ended} ended, live: {live:?}");
        let next = RunId { batch: name("a"), number: (ended + live.len()) as u64 + 1 };
        for number in 1..next.number {
            assert!(reader.run(&next.batch.run(number)).unwrap().is_some(), "{number} of {next} is a prefix");
        }
        assert_eq!(reader.run(&next).unwrap(), None);
        journal.commit(&[record(&run(&next.to_string()))]).unwrap();
    }
}

/// Checks what is said when a journal is opened over what `prepare` made at its path; nothing may have changed there.
fn check_refused(prepare: impl Fn(&Path), expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    prepare(&path);
    let before = fs::read(&path).ok();
    let error = Journal::open(&path).unwrap_err().to_string();
    assert!(error.contains(expected) && error.contains("journal.db"), "{error}");
    assert_eq!(fs::read(&path).ok(), before);
}

#[test]
fn e7_what_is_no_journal_is_refused() {
    check_refused(|path| fs::write(path, "hello, this is no database at all").unwrap(), "not a journal");
    check_refused(|path| fs::write(path, "").unwrap(), "not a journal");
    check_refused(|path| fs::create_dir(path).unwrap(), "can't open");
    let other = |path: &Path| Connection::open(path).unwrap().execute_batch("CREATE TABLE a (b)").unwrap();
    check_refused(other, "not a journal");
    check_refused(|path| fs::write(path.with_extension("db-wal"), "left alone").unwrap(), "damaged");
    let newer = |path: &Path| Journal::open(path).unwrap().connection.pragma_update(None, "user_version", 99).unwrap();
    check_refused(newer, "newer batchd (journal version 99");
    check_refused(|path| std::os::unix::fs::symlink("nowhere", path).unwrap(), "can't open");
}

#[test]
fn e7_damage_is_refused() {
    let cut = |path: &Path| {
        drop(Journal::open(path).unwrap());
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(5000).unwrap();
    };
    check_refused(cut, "damaged");
    let nameless = |path: &Path| {
        drop(Journal::open(path).unwrap());
        Connection::open(path).unwrap().execute_batch("DELETE FROM meta; PRAGMA wal_checkpoint").unwrap();
    };
    check_refused(nameless, "damaged");
}

#[test]
fn e7_a_zeroed_page_is_found_when_it_is_read() {
    let (_folder, path, mut journal) = new_journal();
    journal.commit(&[record(&run("a.1"))]).unwrap();
    let root: u64 = journal
        .connection
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'run'", [], |row| row.get(0))
        .unwrap();
    drop(journal);
    let mut bytes = fs::read(&path).unwrap();
    let start = (root as usize - 1) * 4096;
    bytes[start..start + 4096].fill(0);
    fs::write(&path, bytes).unwrap();
    let error = Journal::open(&path).unwrap().recover().unwrap_err().to_string();
    assert!(error.contains("malformed") && error.contains("backup"), "{error}");
}

#[test]
fn an_interrupted_beginning_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    fs::write(folder.path().join("journal.db.new"), "half").unwrap();
    fs::write(folder.path().join("journal.db.new-journal"), "half").unwrap();
    Journal::open(&path).unwrap();
    assert!(!folder.path().join("journal.db.new").exists());
}

/// As a user who may not write in the journal's folder: what is in it can be read, at rest and beside a daemon.
#[test]
fn child_reads_without_rights() {
    let Some(path) = child_path() else { return };
    assert!(matches!(Journal::open(&path), Err(OpenError::ReadOnly { .. })));
    match Reader::open(&path) {
        Ok(reader) => println!("read {}", reader.live().unwrap().len()),
        Err(error) => println!("refused {error}"),
    }
}

#[test]
fn reading_takes_no_right_to_write() {
    let (folder, path, mut journal) = new_journal();
    journal.commit(&[record(&run("a.1"))]).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let read = || {
        for file in ["db", "db-wal", "db-shm"].map(|ending| path.with_extension(ending)).iter().filter(|p| p.exists()) {
            mode(file, 0o444);
        }
        mode(folder.path(), 0o555);
        let mut child = child("child_reads_without_rights", &path);
        if rustix::process::geteuid().is_root() {
            // Root may write whatever the mode says: so somebody else reads, who has the test program by its descriptor.
            child.uid(65534);
        }
        let output = child.output().unwrap();
        mode(folder.path(), 0o755);
        mode(&path, 0o644);
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let beside = read();
    assert!(beside.contains("read 1"), "{beside}");
    let left = folder.path().join("left.db");
    fs::copy(&path, &left).unwrap();
    fs::copy(path.with_extension("db-wal"), left.with_extension("db-wal")).unwrap();
    drop(journal);
    let at_rest = read();
    assert!(at_rest.contains("read 1"), "{at_rest}");
    fs::rename(left.with_extension("db-wal"), path.with_extension("db-wal")).unwrap();
    let killed = read();
    assert!(killed.contains("refused") && killed.contains("start the daemon"), "{killed}");
}

#[test]
fn a_reader_makes_no_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    assert!(matches!(Reader::open(&path), Err(OpenError::Absent { .. })));
    assert!(!path.exists());
}

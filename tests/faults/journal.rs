//! Journals that are gone, old, damaged, held by somebody else, or not to be opened at all.

use std::fs;
use std::path::PathBuf;

use rusqlite::Connection;
use rustix::process::Signal;

use crate::world::{World, exits};

/// A world in which `quick.1` has run, without a daemon.
fn with_past() -> World {
    let mut world = World::new();
    world.batch("quick", "", "echo quick");
    run_once(&mut world);
    world
}

/// A daemon comes, runs `quick`, and goes; the run's id.
fn run_once(world: &mut World) -> String {
    world.start();
    let run = run_by(world);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    run
}

/// The daemon runs `quick`; the run's id.
fn run_by(world: &World) -> String {
    let run = world.batchd(&["start", "quick"]).expect(0).line().to_owned();
    world.end(&run);
    run
}

fn journal(world: &World) -> PathBuf {
    world.path("state/journal.db")
}

/// A daemon does not begin, says all of this, and makes no journal where there is none.
#[track_caller]
fn assert_refused(world: &mut World, words: &[&str]) {
    let before = journal(world).exists();
    world.spawn(&[], &[]);
    words.iter().for_each(|word| drop(world.daemon().says(0, word)));
    assert_eq!(world.daemon_ends(), 1);
    assert_eq!(journal(world).exists(), before);
}

/// All that the journal has, in one file: what was committed last may stand in its `-wal` file only.
fn whole(world: &World) -> Vec<u8> {
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    Connection::open(journal(world)).unwrap().query_row(checkpoint, [], |_| Ok(())).unwrap();
    fs::read(journal(world)).unwrap()
}

#[test]
fn e6_a_journal_that_is_gone_is_not_begun_anew() {
    let mut world = with_past();
    let kept = whole(&world);
    fs::remove_file(journal(&world)).unwrap();
    assert_refused(&mut world, &["is missing, but", "the folder of quick.1", "doctor --rebuild", "move "]);
    // Without run folders there is still what it named.
    fs::rename(world.path("runs"), world.path("elsewhere")).unwrap();
    assert_refused(&mut world, &["is missing, but", "still has definitions of its batches"]);
    fs::rename(world.path("state"), world.path("old-state")).unwrap();
    assert_eq!(run_once(&mut world), "quick.1", "moved away, they are no obstacle");
    fs::remove_dir_all(world.path("state")).unwrap();
    fs::remove_dir_all(world.path("runs")).unwrap();
    fs::rename(world.path("old-state"), world.path("state")).unwrap();
    fs::rename(world.path("elsewhere"), world.path("runs")).unwrap();
    fs::write(journal(&world), kept).unwrap();
    assert_eq!(run_once(&mut world), "quick.2");
}

#[test]
fn e6_a_journal_that_goes_under_its_daemon_is_saved() {
    let mut world = with_past();
    world.start();
    world.bash("rm state/journal.db*");
    assert_ne!(world.batchd(&["start", "quick"]).code, 0);
    world.daemon().says(0, "was removed or replaced while the daemon was running");
    assert_eq!(world.daemon_ends(), 1);
    assert!(!world.path("runs/quick.2").exists(), "nothing was done that is not recorded");
    assert_refused(&mut world, &["is missing, but"]);
    world.bash("mv state/journal.db.saved-* state/journal.db");
    assert_eq!(run_once(&mut world), "quick.2");
    world.batchd(&["doctor"]).expect(0);
}

#[test]
fn e6_a_journal_without_its_last_commits_is_not_gone_on_with() {
    let mut world = with_past();
    whole(&world);
    world.start();
    assert_eq!(world.batchd(&["start", "quick"]).expect(0).line(), "quick.2");
    world.end("quick.2");
    assert_eq!(world.end_daemon(Signal::KILL), -9);
    world.bash("rm state/journal.db-*");
    assert_refused(&mut world, &["the folder of quick.2", "has lost its last records"]);
}

/// The header of a `-wal` file, and that of a frame in it: <https://www.sqlite.org/fileformat2.html#walformat>.
const WAL_HEADER_BYTES: usize = 32;
const WAL_FRAME_HEADER_BYTES: usize = 24;

/// What is missing is noticed, or it is what the run folders tell too: no script runs for a second time.
#[test]
fn e5_a_wal_that_is_cut_or_changed_runs_nothing_twice() {
    let mut world = World::new();
    world.batch("quick", "retries = 1\nretry_delay = '10ms'", "echo $BATCHD_RUN >> $W/witness; exit 1");
    world.batch("next", "after = 'quick'", "true");
    world.start();
    world.batchd(&["start", "quick"]).expect(0);
    world.rest();
    assert_eq!(world.end_daemon(Signal::KILL), -9);
    world.bash("mkdir kept; mv state runs witness kept");
    let page: usize = Connection::open(world.path("kept/state/journal.db"))
        .unwrap()
        .query_row("PRAGMA page_size", [], |row| row.get(0))
        .unwrap();
    let wal = fs::read(world.path("kept/state/journal.db-wal")).unwrap();
    let frames: Vec<usize> = (WAL_HEADER_BYTES..wal.len()).step_by(WAL_FRAME_HEADER_BYTES + page).collect();
    let mut changed = wal.clone();
    changed[*frames.last().unwrap() + WAL_FRAME_HEADER_BYTES + page / 2] ^= 1;
    let cut = frames.iter().map(|length| wal[..*length].to_vec());
    let (mut refused, mut went_on) = (0, 0);
    for damaged in cut.chain([changed]) {
        world.bash("rm -rf state runs witness; cp -a kept/* .");
        fs::write(world.path("state/journal.db-wal"), &damaged).unwrap();
        world.spawn(&[], &[]);
        if world.daemon().ready_or_ended() {
            world.rest();
            assert_eq!(world.end_daemon(Signal::TERM), 0);
            world.batchd(&["doctor"]).expect(0);
            went_on += 1;
        } else {
            world.daemon().says(0, "has lost its last records");
            assert_eq!(world.daemon_ends(), 1);
            refused += 1;
        }
        assert_eq!(world.read("witness"), "quick.1\nquick.2\n", "{} of {} bytes", damaged.len(), wal.len());
    }
    assert!(refused > 0 && went_on > 0, "{refused} refused, {went_on} went on");
}

#[test]
fn e8_an_older_copy_runs_nothing_again() {
    let mut world = with_past();
    world.batch("other", "", "echo other");
    world.start();
    world.batchd(&["disable", "other", "--reason", "a long weekend"]).expect(0);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    let older = whole(&world);
    assert_eq!(run_once(&mut world), "quick.2");
    world.bash("rm state/journal.db*");
    fs::write(journal(&world), older).unwrap();
    assert_refused(&mut world, &["the folder of quick.2", "restored from an older copy", "batchd restore FILE"]);
    // What the copy still knew, and no folder does.
    fs::remove_dir_all(world.path("runs/quick.1")).unwrap();
    world.bash("mkdir older && mv state/journal.db* older");
    world.batchd(&["restore", "older/journal.db"]).expect(0);
    let run = run_once(&mut world);
    let number: u64 = run.strip_prefix("quick.").unwrap().parse().unwrap();
    assert!(number > 2, "no number comes back: {run}");
    let known: Vec<String> = world.runs().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(known, ["quick.1", "quick.2", &run]);
    assert!(world.batchd(&["list"]).expect(0).out.contains("a long weekend"));
}

#[test]
fn e8_what_waited_in_an_older_copy_does_not_begin_again() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("slow", "overlap = 'queue'", "echo up > $W/up\nread -r word < $W/go");
    world.start();
    world.batchd(&["start", "slow"]).expect(0);
    up.hear();
    world.batchd(&["start", "slow", "--queue"]).expect(0);
    // Made while the first run is under way and the second waits.
    let copy = format!("VACUUM INTO '{}'", world.path("copy.db").display());
    Connection::open(journal(&world)).unwrap().execute_batch(&copy).unwrap();
    for _ in 0..2 {
        go.tell();
    }
    up.hear();
    assert_eq!(world.end("slow.2")["outcome"], "succeeded");
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.bash("rm state/journal.db*");
    world.batchd(&["restore", "copy.db"]).expect(0);
    let ends: Vec<String> = world.runs().iter().map(|run| format!("{} {}", run["id"], run["outcome"])).collect();
    assert_eq!(ends, [r#""slow.1" "succeeded""#, r#""slow.2" "succeeded""#]);
    world.batchd(&["doctor"]).expect(0);
}

#[test]
fn e7_a_damaged_journal_is_refused_with_a_way_back() {
    let mut world = with_past();
    let mut bytes = whole(&world);
    bytes[4096..].fill(0);
    fs::write(journal(&world), bytes).unwrap();
    assert_refused(&mut world, &["doctor --rebuild", "backup"]);
    world.bash("rm -f state/journal.db-*");
    fs::write(journal(&world), "no database at all").unwrap();
    assert_refused(&mut world, &["is not a journal of batchd"]);
}

#[test]
fn e9_a_journal_that_somebody_holds_is_waited_for() {
    let mut world = with_past();
    world.start();
    let holder = Connection::open(journal(&world)).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut command = world.command(env!("CARGO_BIN_EXE_batchd"));
    let mut start = command.args(["start", "quick"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let line = world.daemon().says(0, "the journal can't be written (");
    assert!(line.to_string().contains("end the program that locks it"), "{line}");
    holder.execute_batch("ROLLBACK").unwrap();
    world.daemon().says(0, "the journal is writable again");
    assert!(exits(&start, crate::world::PATIENCE) && start.wait().unwrap().success());
    assert_eq!(world.end("quick.2")["outcome"], "succeeded");
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    // A daemon that begins waits too, before it is ready.
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    world.spawn(&[], &[]);
    world.daemon().says(0, "the journal can't be written (");
    holder.execute_batch("ROLLBACK").unwrap();
    world.daemon().says(0, "is ready");
    assert_eq!(run_by(&world), "quick.3");
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    drop(holder);
    // Held so that it can't even be read.
    let holder = Connection::open(journal(&world)).unwrap();
    holder.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; COMMIT").unwrap();
    world.spawn(&[], &[]);
    world.daemon().says(0, "is locked by another program");
    assert_eq!(world.daemon_ends(), 1);
}

#[test]
fn e12_a_journal_of_a_newer_batchd_is_refused() {
    let mut world = with_past();
    Connection::open(journal(&world)).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert_refused(&mut world, &["was written by a newer batchd", "start the newer batchd, or restore a copy"]);
}

#[test]
fn e16_a_journal_behind_a_link_is_refused() {
    let mut world = with_past();
    fs::hard_link(journal(&world), world.path("second.db")).unwrap();
    assert_refused(&mut world, &["hard link"]);
    fs::remove_file(journal(&world)).unwrap();
    std::os::unix::fs::symlink(world.path("second.db"), journal(&world)).unwrap();
    assert_refused(&mut world, &["symbolic link"]);
}

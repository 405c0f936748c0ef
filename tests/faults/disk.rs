//! Disks that are full, out of inodes, or read-only.

use std::fs;

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;

use crate::host::Disk;
use crate::world::root::is_root;
use crate::world::{Pipe, World};

/// Room for the journal, its reserve, and what must be free beside it.
const STATE: &str = "size=32m";
/// What a run waits for while the reserve is given up.
const FULL: &str = "/state is full (0 MiB free): nothing starts until 2 MiB are free";

/// Makes the journal twice as many bytes longer.
const EVENT: &str = "INSERT INTO event (at, text) VALUES (0, hex(zeroblob(?)))";

/// A world whose state is on a small disk: `quick` ends at once, `slow` waits for a word, and `next` follows it.
fn small() -> (World, Disk, [Pipe; 2]) {
    let world = World::new();
    let disk = Disk::new(&world, "state", STATE);
    let pipes = [world.pipe("up"), world.pipe("go")];
    world.batch("quick", "", "echo quick");
    world.batch("slow", "", "echo up > $W/up\nread -r word < $W/go\necho $word");
    world.batch("next", "after = 'slow'\nuse_previous_output = true", "tr a-z A-Z");
    (world, disk, pipes)
}

/// Whether the daemon has said that this run waits, for this reason.
fn waits(line: &Value, run: &str, reason: &str) -> bool {
    let said = line["reason"].as_str().unwrap_or_default();
    line["message"] == "the run waits to be started" && line["run"] == run && said.contains(reason)
}

#[track_caller]
fn sees_wait(world: &World, run: &str, reason: &str) {
    world.daemon().line(&format!("{run} waits: {reason}"), |line| waits(line, run, reason));
}

/// The daemon says something a moment before it is recorded; an act is recorded behind it.
#[track_caller]
fn is_recorded(world: &World) {
    world.batchd(&["enable", "quick"]).expect(0);
}

#[track_caller]
fn assert_well(world: &mut World) {
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.batchd(&["doctor"]).expect(0);
}

#[test]
fn e2_on_a_full_disk_starts_wait_and_all_else_is_recorded() {
    if !is_root() {
        return;
    }
    let (mut world, disk, [up, go]) = small();
    world.start();
    world.batchd(&["start", "slow"]).expect(0);
    up.hear();
    disk.fill_but(0);
    assert_eq!(world.batchd(&["start", "quick"]).expect(0).line(), "quick.1");
    sees_wait(&world, "quick.1", FULL);
    is_recorded(&world);
    let run = world.run("quick.1");
    assert_eq!((&run["state"], &run["attempt"]), (&Value::from("starting"), &Value::from(1)));
    assert!(run["remark"].as_str().unwrap().contains(FULL), "{run}");
    assert!(!world.path("state/reserve").exists(), "it is given up first");
    // What runs goes on, its end is recorded, and what follows it is decided.
    go.tell();
    assert_eq!(world.end("slow.1")["outcome"], "succeeded");
    sees_wait(&world, "next.1", FULL);
    disk.free();
    assert_eq!(world.end("quick.1")["outcome"], "succeeded");
    assert_eq!(world.end("next.1")["outcome"], "succeeded");
    assert_eq!(world.stdout("next.1"), "GO\n");
    assert!(fs::metadata(world.path("state/reserve")).unwrap().len() > 0, "it is made again");
    let said = world.daemon().log_text();
    let lines = said.lines().filter(|line| line.contains("quick.1") && line.contains("waits to be started"));
    assert_eq!(lines.count(), 1, "it is said once: {said}");
    assert_well(&mut world);
}

#[test]
fn e2_the_room_that_is_given_up_is_the_journals_alone() {
    if !is_root() {
        return;
    }
    let (mut world, disk, _) = small();
    world.start();
    disk.fill_but(0);
    world.batchd(&["start", "quick"]).expect(0);
    sees_wait(&world, "quick.1", FULL);
    // Nobody else finds room, and the journal does.
    assert!(fs::write(world.path("state/another"), [1; 4096]).is_err());
    fs::remove_file(world.path("state/another")).unwrap();
    world.batchd(&["disable", "quick"]).expect(0);
    disk.free();
    assert_eq!(world.end("quick.1")["outcome"], "succeeded");
    assert_well(&mut world);
}

/// A world whose state is so small that only what the journal holds makes it heal.
fn tight() -> (World, Disk) {
    let mut world = World::new();
    let disk = Disk::new(&world, "state", "size=24m");
    world.batch("quick", "", "echo quick");
    world.batch("big", "", "echo big");
    world.write("batches.d/big/data", vec![7; 12 * 1024 * 1024]);
    world.start();
    world.batchd(&["start", "quick", "--wait"]).expect(0);
    disk.fill_but(0);
    world.batchd(&["start", "quick"]).expect(0);
    sees_wait(&world, "quick.2", FULL);
    (world, disk)
}

#[test]
fn a3_a_full_disk_heals_when_as_much_is_free_as_before() {
    if !is_root() {
        return;
    }
    let (mut world, disk) = tight();
    // What is recorded meanwhile makes the `-wal` file longer, up to what it may keep for good.
    let journal = Connection::open(world.path("state/journal.db")).unwrap();
    journal.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    for _ in 0..80 {
        journal.execute(EVENT, [20_000]).unwrap();
        journal.execute("DELETE FROM event WHERE at = 0", []).unwrap();
    }
    drop(journal);
    disk.free();
    assert_eq!(world.end("quick.2")["outcome"], "succeeded");
    assert_well(&mut world);
}

#[test]
fn a3_what_the_journal_holds_counts_at_a_start_too() {
    if !is_root() {
        return;
    }
    let (mut world, disk) = tight();
    assert_eq!(world.end_daemon(Signal::KILL), -9);
    disk.free();
    world.start();
    assert_eq!(world.end("quick.2")["outcome"], "succeeded");
    assert!(!world.daemon().log_text().contains("nothing starts until"), "{}", world.daemon().log_text());
    assert_well(&mut world);
}

#[test]
fn a3_a_start_on_a_full_disk_says_how_much_is_free_and_how_much_is_needed() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let disk = Disk::new(&world, "state", STATE);
    world.batch("quick", "", "echo quick");
    disk.fill_but(5 * 1024 * 1024 + 4096);
    world.start();
    let reason = "/state is full (4 MiB free): nothing starts until 10 MiB are free";
    world.daemon().says(0, reason);
    world.batchd(&["start", "quick"]).expect(0);
    sees_wait(&world, "quick.1", reason);
    disk.free();
    assert_eq!(world.end("quick.1")["outcome"], "succeeded");
    assert_well(&mut world);
}

#[test]
fn e2_scripts_are_stopped_although_nothing_can_be_recorded() {
    if !is_root() {
        return;
    }
    let (mut world, disk, [up, _go]) = small();
    world.batch("tick", "cron = '* * * * * *'\noverlap = 'queue'", "true");
    world.start_with(&["--stop-runs"], &[]);
    world.batchd(&["start", "slow"]).expect(0);
    up.hear();
    disk.fill_but(0);
    world.daemon().says(0, FULL);
    // Somebody uses up what the reserve has given.
    let journal = Connection::open(world.path("state/journal.db")).unwrap();
    while journal.execute(EVENT, [2000]).is_ok() {}
    world.daemon().says(0, "the journal can't be written (");
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.all_gone();
    drop(journal);
    disk.free();
    world.start();
    let end = world.end("slow.1");
    assert_eq!(
        (end["outcome"].as_str(), end["reason"].as_str()),
        (Some("failed"), Some("stopped together with the daemon or the host"))
    );
}

#[test]
fn e2_a_daemon_begins_on_a_full_disk() {
    if !is_root() {
        return;
    }
    let (mut world, disk, _) = small();
    world.start();
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    disk.fill_but(0);
    world.start();
    world.batchd(&["start", "quick"]).expect(0);
    sees_wait(&world, "quick.1", "nothing starts until");
    disk.free();
    assert_eq!(world.end("quick.1")["outcome"], "succeeded");
    assert_well(&mut world);
}

#[test]
fn e2_a_workspace_that_finds_no_room_leaves_nothing_behind() {
    if !is_root() {
        return;
    }
    let (mut world, disk, _) = small();
    world.write("batches.d/quick/data", vec![7; 3 * 1024 * 1024]);
    world.start();
    disk.fill_but(1024 * 1024);
    world.batchd(&["start", "quick"]).expect(0);
    sees_wait(&world, "quick.1", "can't update the workspace");
    let workspaces = fs::read_dir(world.path("state/workspaces")).unwrap();
    let names: Vec<String> = workspaces.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.contains(".new-")), "{names:?}");
    disk.free();
    assert_eq!(world.end("quick.1")["outcome"], "succeeded");
    assert_well(&mut world);
}

#[test]
fn f2_the_end_of_a_script_waits_for_room_to_be_written_down() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let disk = Disk::new(&world, "runs", "size=1m");
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    let mut world = world;
    world.batch("slow", "", "echo up > $W/up\nread -r word < $W/go\nhead -c 100000 /dev/zero\nexit 3");
    world.start();
    world.batchd(&["start", "slow"]).expect(0);
    up.hear();
    disk.fill_but(0);
    go.tell();
    // The script has written what fits into its pipe and waits; then there is room for the rest, and for its end.
    disk.free();
    let end = world.end("slow.1");
    assert_eq!((end["outcome"].as_str(), end["exit_code"].as_u64()), (Some("failed"), Some(3)));
    assert_eq!(fs::metadata(world.run_file("slow.1", "stdout.log")).unwrap().len(), 100_000);
    assert_well(&mut world);
}

/// Of each number of inodes that are left, the shim gets to another step.
#[test]
fn g4_out_of_inodes_is_as_a_full_disk() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let disk = Disk::new(&world, "runs", "size=4m,nr_inodes=64");
    world.batch("quick", "retries = 3", "echo quick");
    world.start();
    for left in 0..=8 {
        let mark = world.daemon().mark();
        disk.use_up_inodes_but(left);
        let run = world.batchd(&["start", "quick"]).expect(0).line().to_owned();
        let line = world.daemon().line_after(mark, &format!("{run} waits"), |line| waits(line, &run, ""));
        let reason = line["reason"].as_str().unwrap();
        assert!(reason.contains("No space left on device") && reason.contains("df -i"), "{left}: {reason}");
        // It does not hold what it waits for.
        let names = world.bash(&format!("ls -A runs/{run} 2>/dev/null || true"));
        assert!(names.split_whitespace().all(|name| name == "run.json"), "{left}: {names}");
        disk.free_inodes();
        let end = world.end(&run);
        assert_eq!((end["outcome"].as_str(), end["attempt"].as_u64()), (Some("succeeded"), Some(1)), "{left}");
        assert!(!world.run_file(&run, "aside.1").exists());
        fs::remove_dir_all(world.path("runs").join(&run)).unwrap();
    }
    assert_eq!(world.runs().len(), 9, "nothing was charged as a retry");
    assert_well(&mut world);
}

#[test]
fn e15_a_read_only_disk_is_refused_at_the_start_and_waited_for_later() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    world.batch("quick", "", "echo quick");
    let _runs = Disk::new(&world, "runs", "size=4m");
    world.start();
    world.bash("mount -o remount,ro runs");
    world.batchd(&["start", "quick"]).expect(0);
    sees_wait(&world, "quick.1", "mount that disk for writing");
    world.bash("mount -o remount,rw runs");
    assert_eq!(world.end("quick.1")["outcome"], "succeeded");
    assert_well(&mut world);
    let _state = Disk::new(&world, "state", "ro");
    world.spawn(&[], &[]);
    world.daemon().says(0, "mount that disk for writing");
    assert_eq!(world.daemon_ends(), 1);
}

#[test]
fn an_input_leaves_room_for_the_journal_on_its_disk() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let _disk = Disk::new(&world, "state", "size=64m");
    world.batch("load", "", "wc -c\n");
    world.start();
    for mebibytes in [64, 40, 8] {
        let batchd = env!("CARGO_BIN_EXE_batchd");
        let mut start = world.command("bash");
        start.args(["-c", &format!("head -c {mebibytes}M /dev/zero | '{batchd}' start load --input - --wait")]);
        let started = world.output(start);
        if mebibytes == 8 {
            started.expect(0);
            continue;
        }
        let refused = started.expect(1);
        let told = "the disk of the state folder has no space for the input: 32 MiB must stay free";
        assert!(refused.err.contains(told) && refused.err.contains("free some space"), "{}", refused.err);
        assert_eq!(fs::read_dir(world.path("state/inputs")).unwrap().count(), 0);
    }
    assert_eq!(world.stdout("load.1").trim(), (8 << 20).to_string());
    assert_well(&mut world);
}

//! Each invariant broken by hand, in one world after the other's mending: doctor finds that, and nothing else.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::made::{self, by_hand, found};
use crate::world::World;

/// A fresh copy of the same past for each fault: the folders may be moved as they are.
struct Faults {
    made: World,
}

impl Faults {
    fn new() -> Self {
        Self { made: made::world() }
    }

    /// Breaks something in a copy, and compares what doctor finds; `run` is the run that each of it is about.
    #[track_caller]
    fn check(&self, break_it: impl FnOnce(&World), invariants: &[&str], run: Option<&str>) {
        let copy = World::new();
        copy.bash(&format!("cp -a {0}/state {0}/runs .", self.made.path("").display()));
        break_it(&copy);
        let found = found(&copy);
        let mut names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        names.dedup();
        assert_eq!(names, invariants, "{found:?}");
        if let Some(run) = run {
            assert!(found.iter().all(|(_, of)| of.as_deref() == Some(run)), "{found:?}");
        }
    }

    #[track_caller]
    fn row(&self, sql: &str, invariants: &[&str], run: Option<&str>) {
        self.check(|world| by_hand(world, sql), invariants, run);
    }
}

const TICK_2: &str = "batch = 'tick' AND number = 2";

#[test]
fn rows_that_were_changed() {
    let faults = Faults::new();
    let set = |what: &str| format!("UPDATE run SET {what} WHERE {TICK_2}");
    faults.check(|_| {}, &[], None);
    faults.row(&set("outcome = 'failed', reason = NULL"), &["reason-given"], Some("tick.2"));
    faults.row(&set("outcome = 'lost', reason = 'x'"), &["lost-without-code"], Some("tick.2"));
    faults.row(&set("exit_code = 7"), &["exit-record"], Some("tick.2"));
    faults.row(&set("stdout_bytes = 1"), &["exit-record", "log-size"], Some("tick.2"));
    faults.row(&set("ended_at = ended_at + 1"), &["exit-record"], Some("tick.2"));
    faults.row(&set("started_at = started_at - 60000"), &["exit-record"], Some("tick.2"));
    faults.row(&set("definition = NULL"), &["row-whole", "run-record"], Some("tick.2"));
    faults.row(&set("due_at = due_at - 500"), &["occurrence-extra", "run-record", "occurrence-missing"], None);
    faults.row(&set("queued_at = due_at - 1"), &["decided-before-due", "token"], Some("tick.2"));
    faults.row(
        &format!("DELETE FROM run WHERE {TICK_2}"),
        &["number-gap", "occurrence-missing", "chain-head", "upstream-exists", "folder-unknown"],
        None,
    );
    faults.row(
        "UPDATE run SET outcome = 'skipped', reason = 'x' WHERE batch = 'mend'",
        &["never-started"],
        Some("mend.1"),
    );
}

#[test]
fn what_follows_and_what_was_before() {
    let faults = Faults::new();
    faults.row(
        "DELETE FROM run WHERE batch = 'join' AND number = 2",
        &["number-gap", "downstream-missing", "folder-unknown"],
        None,
    );
    faults.row("DELETE FROM run WHERE batch = 'mend'", &["error-branch-missing", "folder-unknown"], None);
    faults.row(
        "UPDATE run SET attempt = 3 WHERE batch = 'bad' AND number = 2",
        &["run-record", "attempts"],
        Some("bad.2"),
    );
    faults.row("UPDATE run SET made_in = made_in - 1 WHERE batch = 'bad' AND number = 2", &["attempts"], Some("bad.2"));
    faults.row(
        "UPDATE run SET upstreams = '[\"tick.99\"]' WHERE batch = 'right' AND number = 1",
        &["run-record", "upstream-exists"],
        Some("right.1"),
    );
}

#[test]
fn limits_and_cursors() {
    let faults = Faults::new();
    faults.row(
        "UPDATE limit_change SET json = json_set(json, '$.max_running', 0), began_in = 1",
        &["max-running"],
        None,
    );
    faults.row(
        "UPDATE run SET written_in = (SELECT max(written_in) FROM run) + 1 WHERE batch = 'right' AND number = 1",
        &["overlap"],
        None,
    );
    faults.row("UPDATE batch SET next_number = 2 WHERE name = 'tick'", &["number-not-reused"], None);
    faults.row("UPDATE batch SET next_number = 99 WHERE name = 'mend'", &["number-gap"], None);
    faults.row("UPDATE definition SET held = 1 WHERE batch = 'mend'", &["period-open"], None);
    faults.row("DROP INDEX run_occurrence", &["journal-guarded"], None);
    faults.row(
        "UPDATE run SET pool = 'one' WHERE batch = 'tick' AND number = 2;
         UPDATE limit_change SET json = json_set(json, '$.pools.one', 0), began_in = 1",
        &["pool-limit"],
        Some("tick.2"),
    );
    faults.row(
        "UPDATE edge SET cursor = 0 WHERE downstream = 'both' AND upstream = 'two'",
        &["edge-cursor"],
        Some("both.1"),
    );
    faults.row(
        "UPDATE batch SET cursor = (SELECT decides_after FROM period WHERE batch = 'off') WHERE name = 'off'",
        &["cursor-behind"],
        Some("off.1"),
    );
}

/// Of a batch that is off: each second a row, and nothing else.
#[test]
fn rows_that_stand_for_many() {
    let faults = Faults::new();
    faults.row(
        "UPDATE run SET range_from = due_at, range_count = 2, range_at_least = 0 WHERE batch = 'off' AND number = 2",
        &["occurrence-count"],
        Some("off.2"),
    );
    // The first row stands for the second instant, and has to have been there before: for the first, another has a row.
    faults.row(
        "CREATE TEMP TABLE was AS SELECT number, due_at, queued_at FROM run WHERE batch = 'off' AND number < 3;
         UPDATE run SET due_at = -1000 WHERE batch = 'off' AND number = 2;
         UPDATE run SET due_at = (SELECT due_at FROM was WHERE number = 2),
             queued_at = (SELECT queued_at FROM was WHERE number = 2),
             range_from = due_at, range_count = 1, range_at_least = 0 WHERE batch = 'off' AND number = 1;
         UPDATE run SET due_at = (SELECT due_at FROM was WHERE number = 1) WHERE batch = 'off' AND number = 2",
        &["occurrence-twice"],
        Some("off.2"),
    );
}

#[test]
fn a_file_that_is_damaged() {
    let faults = Faults::new();
    // An index that has not what its table has.
    faults.row(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = replace(sql, '(at)', '(seq)') WHERE name = 'event_at'",
        &["journal-sound"],
        None,
    );
    let page = |world: &World| {
        // What is in the WAL would stand in for it.
        by_hand(world, "");
        let mut bytes = fs::read(world.path("state/journal.db")).unwrap();
        bytes[..100].fill(0);
        fs::write(world.path("state/journal.db"), bytes).unwrap();
    };
    faults.check(page, &["journal-sound"], None);
}

#[test]
fn folders_and_files() {
    let faults = Faults::new();
    let file = |name: &'static str| move |world: &World| world.path("runs/tick.2").join(name);
    let remove = |name: &'static str| move |world: &World| fs::remove_file(file(name)(world)).unwrap();
    let write = |path: &'static str| move |world: &World| fs::write(world.path(path), "x").unwrap();
    faults.check(remove("exit.json"), &["exit-record"], Some("tick.2"));
    faults.check(|world| fs::write(file("stdout.log")(world), "").unwrap(), &["log-size"], Some("tick.2"));
    faults.check(|world| fs::write(file("run.json")(world), "{").unwrap(), &["run-record"], Some("tick.2"));
    faults.check(write("runs/tick.2/lock"), &["leftover"], Some("tick.2"));
    faults.check(write("runs/tick.2/claim.77"), &["leftover"], Some("tick.2"));
    faults.check(write("runs/tick.2/mine"), &["stray-file"], Some("tick.2"));
    faults.check(write("runs/mine"), &["stray-file"], None);
    faults.check(|world| fs::create_dir(world.path("runs/tick.9999")).unwrap(), &["folder-unknown"], None);
    let foreign = |world: &World| {
        let other = fs::read(world.path("runs/tick.1/run.json")).unwrap();
        fs::write(file("run.json")(world), other).unwrap();
    };
    faults.check(foreign, &["token"], Some("tick.2"));
    let again = |world: &World| {
        fs::create_dir(file("aside.1")(world)).unwrap();
        fs::write(file("aside.1/started.json")(world), "{}").unwrap();
    };
    faults.check(again, &["leftover", "started-twice"], Some("tick.2"));
}

/// The host did not go down: somebody wrote to it.
#[test]
fn a_log_that_has_grown_is_told_from_one_that_was_cut() {
    let world = made::world();
    let length = world.stdout("tick.2").len();
    world.bash("echo more >> runs/tick.2/stdout.log");
    let said = world.batchd(&["doctor"]).expect(1).out;
    assert!(said.contains(&format!("its script wrote the first {length} bytes")), "{said}");
    assert!(!said.contains("the host may have gone down"), "{said}");
    world.bash("printf '' > runs/tick.2/stdout.log");
    let said = world.batchd(&["doctor"]).expect(1).out;
    assert!(said.contains("the host may have gone down"), "{said}");
}

#[test]
fn definitions_and_the_state_folder() {
    let faults = Faults::new();
    let definition = |world: &World| {
        let entries = fs::read_dir(world.path("state/definitions")).unwrap();
        entries.map(|entry| entry.unwrap().path()).min().unwrap()
    };
    let mode = |path: &'static str, mode| move |world: &World| set_mode(&world.path(path), mode);
    faults.check(|world| fs::remove_dir_all(definition(world)).unwrap(), &["definition-missing"], None);
    faults.check(|world| fs::write(definition(world).join("more"), "").unwrap(), &["definition-damaged"], None);
    faults.check(mode("state", 0o755), &["state-mode"], None);
    faults.check(mode("state/daemon.lock", 0o644), &["state-mode"], None);
    faults.check(mode("state/socket", 0o755), &["state-mode"], None);
    faults.check(mode("state/journal.db", 0o666), &["state-mode"], None);
    faults.check(mode("state/workspaces/tick", 0o777), &["state-mode"], None);
    faults.check(|world| fs::write(world.path("state/mine"), "").unwrap(), &["stray-file"], None);
    faults.check(|world| fs::create_dir(world.path("state/definitions/.new-1")).unwrap(), &["stray-file"], None);
    let link = |world: &World| {
        fs::remove_file(world.path("state/daemon.lock")).unwrap();
        symlink("/dev/null", world.path("state/daemon.lock")).unwrap();
    };
    faults.check(link, &["state-mode"], None);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

//! A copy of the journal, the way back, and the way to another host: nothing runs twice, and nothing of another host is touched.

use std::collections::BTreeMap;
use std::fs;

use batchd::shim::tree;
use rustix::process::Signal;

use crate::lifecycle::Slow;
use crate::world::World;
use crate::world::root::is_root;

/// Never, as far as a test is concerned.
const NEVER: &str = "cron = '0 0 29 2 *'\n";
/// Each second, and whatever is late runs all the same.
const EACH_SECOND: &str = "cron = '* * * * * *'\ncatch_up = 'all'\noverlap = 'queue'\n";
/// Tells the witness that it begins.
const WITNESSED: &str = "echo \"$BATCHD_BATCH $BATCHD_DUE_AT\" >> $W/witness\n";

/// A world in which a chain begins each second, and each of its runs leaves a line.
fn ticking() -> World {
    let mut world = World::new();
    world.write("witness", "");
    world.batch("tick", EACH_SECOND, WITNESSED);
    world.batch("after", "after = 'tick'\n", WITNESSED);
    world.start();
    world
}

/// Waits until one more run of the end of the chain has succeeded.
fn one_more(world: &World) {
    let mark = world.daemon().mark();
    world.daemon().run_line(mark, "after", "succeeded");
}

/// Each line of the witness is there once.
#[track_caller]
fn nothing_ran_twice(world: &World) -> usize {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    world.read("witness").lines().for_each(|line| *counts.entry(line.to_owned()).or_default() += 1);
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    counts.len()
}

/// Moves the journal away; where it is then.
fn lose(world: &World, to: &str) -> String {
    world.bash(&format!("mkdir {to} && mv state/journal.db* {to}/"));
    format!("{to}/journal.db")
}

/// As a person would: no more occurrences, all at rest, all as it should be.
#[track_caller]
fn comes_to_rest(world: &mut World) {
    world.batch("tick", NEVER, WITNESSED);
    world.batchd(&["reload"]).expect(0);
    world.rest();
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.all_gone();
    world.batchd(&["doctor"]).expect(0);
}

#[test]
fn a_backup_is_made_beside_a_daemon_and_without_one() {
    let mut world = World::new();
    world.batchd(&["backup", "none.db"]).expect(1);
    assert!(!world.path("none.db").exists() && !world.path("none.db.part").exists());
    world.batch("one", "", "echo one\n");
    world.start();
    world.batchd(&["start", "one", "--wait"]).expect(0);
    let said = world.batchd(&["backup", "beside.db"]).expect(0);
    assert!(said.line().starts_with("beside.db: 1 run of journal "), "{said:?}");
    // It goes on.
    world.batchd(&["start", "one", "--wait"]).expect(0);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.batchd(&["backup", "without.db"]).expect(0);
    let rows = |file: &str| -> u32 {
        let journal = rusqlite::Connection::open(world.path(file)).unwrap();
        journal.query_row("SELECT count(*) FROM runs WHERE outcome = 'succeeded'", [], |row| row.get(0)).unwrap()
    };
    assert_eq!((rows("beside.db"), rows("without.db")), (1, 2));
    let again = world.batchd(&["backup", "beside.db"]).expect(1);
    assert!(again.err.contains("never overwrites a file"), "{again:?}");
    assert_eq!(world.bash("stat -c %a beside.db without.db"), "600\n600\n");
}

/// A journal holds variables of runs, which may be secrets.
#[test]
fn a1_what_is_made_of_a_journal_is_as_private_as_the_journal() {
    let mut world = World::new();
    world.batch("one", "", "echo one\n");
    world.start();
    world.batchd(&["start", "one", "--env", "PASSWORD=tiger", "--wait"]).expect(0);
    world.batchd(&["backup", "copy.db"]).expect(0);
    // Removed under the daemon, which saves what it has.
    world.bash("mkdir lost && mv state/journal.db lost/");
    world.batchd(&["start", "one"]).expect(1);
    assert_eq!(world.daemon_ends(), 1);
    world.bash("rm state/journal.db-*; mv state/journal.db.saved-* saved.db");
    let batchd = env!("CARGO_BIN_EXE_batchd");
    world.bash(&format!("umask 022; {batchd} restore copy.db; {batchd} doctor --rebuild new.db"));
    assert_eq!(world.bash("stat -c %a saved.db new.db state/journal.db"), "600\n600\n600\n");
    world.batchd(&["doctor"]).expect(0);
}

/// E13: the backup's disk is full. The journal's is not.
#[test]
fn e13_a_backup_without_room_is_none_and_the_journal_is_unharmed() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    world.batch("one", "", "echo one\n");
    world.start();
    world.batchd(&["start", "one", "--wait"]).expect(0);
    let failed =
        "mkdir small && mount -t tmpfs -o size=64k tmpfs small && ! batchd backup small/copy.db && ls -A small";
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_batchd")).parent().unwrap();
    let left = world.bash(&format!("PATH={}:$PATH\nunshare -m bash -ec '{failed}'", folder.display()));
    assert_eq!(left, "", "a part of one stays");
    world.batchd(&["start", "one", "--wait"]).expect(0);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.batchd(&["doctor"]).expect(0);
}

/// E8: an older backup in the journal's place. No daemon begins with it, marked or not.
#[test]
fn e8_a_journal_that_is_older_than_the_run_folders_is_refused() {
    let mut world = ticking();
    one_more(&world);
    world.batchd(&["backup", "marked.db"]).expect(0);
    one_more(&world);
    comes_to_rest(&mut world);
    let rows = world.runs().len();
    let newest = lose(&world, "lost");
    world.bash("cp marked.db state/journal.db");
    world.spawn(&[], &[]);
    let log = world.daemon_log_at_its_end(1);
    assert!(log.contains("is a backup") && log.contains("batchd restore"), "{log}");
    // A copy that somebody made by other means has no mark, and the folders tell.
    world.bash("rm state/journal.db*; cp marked.db state/journal.db");
    let journal = rusqlite::Connection::open(world.path("state/journal.db")).unwrap();
    journal.execute("DELETE FROM meta WHERE key = 'backed_up_at'", []).unwrap();
    drop(journal);
    world.spawn(&[], &[]);
    let log = world.daemon_log_at_its_end(1);
    assert!(log.contains("was restored from an older copy") && log.contains("batchd restore"), "{log}");
    // The newest is still the best one: with it nothing is lost.
    world.bash(&format!("rm state/journal.db*; mv {newest}* state/"));
    world.start();
    assert_eq!(world.runs().len(), rows);
    nothing_ran_twice(&world);
}

#[test]
fn e8_a_restored_journal_knows_what_ran_since_and_runs_nothing_again() {
    let mut world = ticking();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("slow", "", &format!("{WITNESSED}echo up > $W/up\nread -r word < $W/go\n"));
    world.batch("behind", "after = 'slow'\n", WITNESSED);
    world.batchd(&["reload"]).expect(0);
    one_more(&world);
    // Under way when the backup is made; it ends behind it, and what follows it has run by then.
    world.batchd(&["start", "slow"]).expect(0);
    assert_eq!(up.hear(), "up");
    world.batchd(&["disable", "after", "--reason", "for the test"]).expect(0);
    world.batchd(&["backup", "copy.db"]).expect(0);
    world.batchd(&["enable", "after"]).expect(0);
    go.tell();
    world.end("slow.1");
    world.end("behind.1");
    one_more(&world);
    assert_eq!(world.end_daemon(Signal::KILL), -9);
    world.all_gone();
    let ran = nothing_ran_twice(&world);
    let before: BTreeMap<String, String> =
        ends(&world).into_iter().filter(|(_, outcome)| outcome == "succeeded").collect();

    // Not over a journal, not beside a daemon.
    world.batchd(&["restore", "copy.db"]).expect(1);
    lose(&world, "lost");
    let said = world.batchd(&["restore", "copy.db"]).expect(0);
    assert!(said.line().contains("4 runs with an outcome from the run folder"), "{said:?}");
    assert!(!world.path("state/restore.new").exists());
    let restored = ends(&world);
    for (run, outcome) in &before {
        assert_eq!(restored.get(run), Some(outcome), "{run}");
    }
    assert_eq!(nothing_ran_twice(&world), ran);
    // As it was when the backup was made.
    world.start();
    world.batchd(&["enable", "after"]).expect(0);
    one_more(&world);
    let behind = world.runs().iter().filter(|run| run["batch"] == "behind").count();
    assert_eq!(behind, 1, "what followed the run that was under way has run already");
    comes_to_rest(&mut world);
    nothing_ran_twice(&world);
    let numbers: Vec<u64> = world.runs().iter().filter_map(|run| run["number"].as_u64()).collect();
    assert!(numbers.iter().any(|number| *number > 1000), "numbers go on behind all that may have been given");
}

/// Every run that has ended, with its outcome.
fn ends(world: &World) -> BTreeMap<String, String> {
    let text = |run: &serde_json::Value, key: &str| run[key].as_str().unwrap_or_default().to_owned();
    world.runs().iter().map(|run| (text(run, "id"), text(run, "outcome"))).collect()
}

#[test]
fn a_run_that_lives_is_waited_for_before_a_journal_is_restored() {
    let mut slow = Slow::new();
    slow.begin();
    slow.world.batchd(&["backup", "copy.db"]).expect(0);
    let refused = slow.world.batchd(&["restore", "copy.db"]).expect(1);
    assert!(refused.err.contains("a daemon is running on"), "{refused:?}");
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    lose(&slow.world, "lost");
    let refused = slow.world.batchd(&["restore", "copy.db"]).expect(1);
    assert!(refused.err.contains("slow.1 is still running"), "{refused:?}");
    slow.go.tell();
    slow.world.all_gone();
    slow.world.batchd(&["restore", "copy.db"]).expect(0);
    assert_eq!(slow.world.run("slow.1")["outcome"], "succeeded");
}

/// K6: state and runs are copied to another host while the old one still works. The pids of the old host's processes are alive
/// on the new one, as those of strangers may be.
#[test]
fn k6_nothing_of_the_old_host_is_adopted_or_signalled() {
    let mut slow = Slow::new();
    slow.world.batch("slow", "on_error = 'tell'\n", crate::lifecycle::WAITS);
    slow.world.batch("tell", "", "echo told\n");
    slow.begin();
    assert_eq!(slow.world.end_daemon(Signal::KILL), -9);
    let living = slow.world.processes();
    assert!(living.len() >= 2, "a shim and its script: {living:?}");
    let stats: Vec<_> = living.iter().map(|pid| tree::stat(*pid).unwrap().start_time).collect();

    let mut moved = World::new();
    let old = slow.world.path("");
    moved.bash(&format!("cp -a {0}state {0}runs .; cp -a {0}batches.d/* batches.d/", old.display()));
    moved.start_in_boot("5d2f1a3c-0000-4000-8000-000000000001");
    moved.rest();
    let run = moved.run("slow.1");
    assert_eq!(run["outcome"], "lost", "{run}");
    assert!(run["reason"].as_str().unwrap().contains("the host went down or restarted"), "{run}");
    assert_eq!(moved.run("tell.1")["outcome"], "succeeded");
    assert_eq!(moved.end_daemon(Signal::TERM), 0);
    moved.all_gone();
    moved.batchd(&["doctor"]).expect(0);

    for (pid, started) in living.iter().zip(stats) {
        assert_eq!(tree::stat(*pid).map(|stat| stat.start_time), Some(started), "{pid} lives on");
    }
    // And it has not been told anything, either: it ends as it would have.
    slow.world.start();
    slow.go.tell();
    slow.check_end();
}

/// K5: the folders are moved under a run that lives. Nothing in them says where they are.
#[test]
fn k5_folders_that_are_moved_work_where_they_are() {
    let mut slow = Slow::new();
    slow.begin();
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    slow.world.bash("mkdir elsewhere && mv state runs batches.d elsewhere/");
    let paths = ["--state", "elsewhere/state", "--runs", "elsewhere/runs", "--batches", "elsewhere/batches.d"];
    slow.world.start_with(&paths, &[]);
    slow.go.tell();
    slow.world.daemon().run_line(0, "next", "succeeded");
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    let runs = slow.world.batchd(&[&paths[..], &["runs", "--json"]].concat()).expect(0).json();
    let ends: Vec<_> = runs["runs"].as_array().unwrap().iter().map(|run| run["outcome"].as_str().unwrap()).collect();
    assert_eq!(ends, ["succeeded", "succeeded"]);
    assert_eq!(fs::read_to_string(slow.world.path("elsewhere/runs/next.1/stdout.log")).unwrap(), "GO\n");
}

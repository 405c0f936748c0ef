//! What is done to the folder of all runs while a daemon works: A12 of the catalogue of what users hit.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::host::Disk;
use crate::world::World;
use crate::world::root::is_root;

/// Another user than root, whom every host has.
const NOBODY: u32 = 65_534;

/// A world with a daemon, whose batch `quick` has run once.
fn world() -> World {
    let mut world = World::new();
    world.batch("quick", "", "echo quick");
    world.batch("other", "", "echo other");
    world.start();
    world.batchd(&["start", "quick", "--wait"]).expect(0);
    world
}

/// Starts `quick`, and waits until the daemon says why it waits: the run's id.
#[track_caller]
fn waits(world: &World, reason: &str) -> String {
    let mark = world.daemon().mark();
    let run = world.batchd(&["start", "quick"]).expect(0).line().to_owned();
    let is_it = |line: &Value| line["run"] == run.as_str() && line["message"] == "the run waits to be started";
    let line = world.daemon().line_after(mark, reason, is_it);
    assert!(line["reason"].as_str().unwrap_or_default().contains(reason), "{line}");
    run
}

#[track_caller]
fn succeeds(world: &World, run: &str) {
    let end = world.end(run);
    assert_eq!((&end["outcome"], &end["id"]), (&"succeeded".into(), &run.into()), "{end}");
    assert_eq!(world.stdout(run), "quick\n");
}

#[test]
fn a12_what_is_in_the_way_of_the_runs_is_named_and_waited_for() {
    let world = world();
    for (way, reason) in [
        ("echo > runs", "/runs is a file, not a folder; move it away"),
        ("ln -s runs runs", "/runs: Too many levels of symbolic links"),
    ] {
        world.bash(&format!("mv runs former; {way}"));
        let run = waits(&world, reason);
        let other = world.batchd(&["start", "other"]).expect(0).line().to_owned();
        world.batchd(&["stop", &other]).expect(0);
        assert_eq!(world.end(&other)["outcome"], "cancelled");
        world.bash("rm runs; mv former runs");
        succeeds(&world, &run);
    }
}

#[test]
fn a12_a_daemon_says_at_its_start_what_is_in_the_way() {
    let mut world = World::new();
    world.write("runs", "");
    world.spawn(&[], &[]);
    let log = world.daemon_log_at_its_end(1);
    assert!(log.contains("/runs is a file, not a folder; move it away"), "{log}");
}

/// Root does what is said, and the daemon's user can use it.
#[test]
fn a12_the_hint_of_a_daemon_with_few_rights_leads_to_a_folder_of_its_own() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    world.batch("quick", "", "echo quick");
    fs::copy(env!("CARGO_BIN_EXE_batchd"), world.path("batchd")).unwrap();
    world.bash("mkdir runs state; chown nobody batches.d batches.d/quick batches.d/quick/* runs state; chmod 755 .");
    world.spawn_as(NOBODY);
    world.daemon().says(0, "is ready");
    let run = waits_after(&world, "rm -r runs", "");
    let command = format!("install -d -o nobody -m 0755 {}", world.path("runs").display());
    assert!(run.1.contains(&format!("`{command}`")), "{}", run.1);
    world.bash(&command);
    succeeds(&world, &run.0);
    // Each remedy is a command.
    for (harm, remedy) in [("chown root", "chown nobody"), ("chmod a-w", "chmod u+rwx")] {
        let runs = world.path("runs").display().to_string();
        let (run, reason) = waits_after(&world, &format!("{harm} runs"), "Permission denied");
        let command = format!("{remedy} {runs}");
        assert!(reason.contains(&format!("user nobody: `{command}`")), "{reason}");
        world.bash(&command);
        succeeds(&world, &run);
    }
    let (run, reason) = waits_after(&world, "mkdir -m 700 shut; mv runs shut/; ln -s shut/runs runs", "namei -l");
    assert!(reason.contains("/runs: Permission denied"), "{reason}");
    world.bash("chmod 711 shut");
    succeeds(&world, &run);
}

/// Does something to the runs and starts `quick`: the run and why it waits.
#[track_caller]
fn waits_after(world: &World, act: &str, reason: &str) -> (String, String) {
    world.bash(act);
    let run = waits(world, reason);
    // The daemon says it a moment before it is recorded; an act is recorded behind it.
    world.batchd(&["enable", "quick"]).expect(0);
    let remark = world.run(&run)["remark"].as_str().unwrap_or_default().to_owned();
    (run, remark)
}

#[test]
fn a12_nothing_begins_in_the_folder_below_a_mount_that_is_gone() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("quick", "", "echo quick");
    world.batch("slow", "", "echo up > $W/up\nread -r word < $W/go\necho $word");
    let _disk = Disk::new(&world, "disk", "size=4m");
    // By a bind mount of the same file system, too: its device does not change.
    for (place, bind) in
        [("other", "mkdir -p disk/r runs; mount --bind disk/r runs"), ("same", "mkdir plain; mount --bind plain runs")]
    {
        world.bash(bind);
        world.start();
        world.batchd(&["start", "slow"]).expect(0);
        up.hear();
        world.bash("umount -l runs");
        let reason =
            format!("/runs is not mounted any more: mount it again with `mount {}`", world.path("runs").display());
        let (run, _) = waits_after(&world, "true", &reason);
        // What had begun goes on where it is, and its end is not taken for lost.
        go.tell();
        assert_eq!(world.bash("ls -A runs"), "", "{place}");
        world.daemon().line(&format!("slow waits: {place}"), |line| {
            line["message"] == "the run waits" && line["reason"].to_string().contains("is not mounted any more")
        });
        world.bash(bind.rsplit("; ").next().unwrap());
        succeeds(&world, &run);
        let slow = run.replace("quick", "slow");
        assert_eq!(world.end(&slow)["outcome"], "succeeded", "{place}");
        let warnings = world.daemon().log_text();
        let once = warnings
            .lines()
            .filter(|line| line.contains("\"message\":\"") && line.contains(&format!("{reason}\",\"target")));
        assert_eq!(once.count(), 1, "{warnings}");
        assert_eq!(world.end_daemon(Signal::TERM), 0);
        world.bash("umount runs");
    }
}

#[test]
fn a12_what_is_mounted_over_the_runs_is_not_used_and_another_folder_is() {
    if !is_root() {
        return;
    }
    let world = world();
    let disk = Disk::new(&world, "runs", "size=4m");
    let run = waits(&world, "another file system is mounted on");
    drop(disk);
    succeeds(&world, &run);
    let mark = world.daemon().mark();
    world.bash("mv runs former; mkdir runs");
    let run = world.batchd(&["start", "quick", "--wait"]).expect(0);
    world.daemon().says(mark, "was replaced: the logs of earlier runs are in the former folder");
    succeeds(&world, run.line());
}

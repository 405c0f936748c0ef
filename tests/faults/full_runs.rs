//! A disk of run folders that fills up while a script writes: A3 of the catalogue of what users hit.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::host::Disk;
use crate::world::World;
use crate::world::root::is_root;

/// A world whose runs are on a disk of this size, with a batch `fill` that writes more than that in lines.
fn small(toml: &str, megabytes: u64) -> (World, Disk) {
    let mut world = World::new();
    let disk = Disk::new(&world, "runs", &format!("size={megabytes}m"));
    world.batch("fill", toml, "for ((n = 0; n < 20000; n++)); do printf 'line %0995d\\n' $n; done");
    world.batch("quick", "", "echo quick");
    world.start();
    world.batchd(&["start", "fill"]).expect(0);
    (world, disk)
}

/// The exact output of `fill`.
fn whole() -> String {
    (0..20_000).map(|n| format!("line {n:0995}\n")).collect()
}

fn is_wait(line: &Value) -> bool {
    line["level"] == "WARN" && line["run"] == "fill.1" && reason(line).contains("waits for disk space: can't write")
}

fn reason(line: &Value) -> &str {
    line["reason"].as_str().unwrap_or_default()
}

/// A daemon has said what the run waits for, and whoever looks is told too.
#[track_caller]
fn sees_wait(world: &World, who: &str) {
    let said = world.daemon().line("fill.1 waits", |line| is_wait(line) && reason(line).starts_with(who));
    assert!(reason(&said).contains("stdout.log: No space left on device"), "{said}");
    // The daemon says something a moment before it is recorded; an act is recorded behind it.
    world.batchd(&["enable", "quick"]).expect(0);
    let list = world.batchd(&["list"]).expect(0).out;
    assert!(list.contains(&format!("fill.1: {who} waits for disk space")), "{list}");
    let show = world.batchd(&["show", "fill.1"]).expect(0).out;
    assert!(show.contains("waits for disk space"), "{show}");
    assert_eq!(world.run("fill.1")["waits_for"]["what"], "end");
}

#[track_caller]
fn assert_well(world: &mut World) {
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.all_gone();
    world.batchd(&["doctor"]).expect(0);
}

#[test]
fn a3_a_log_that_is_removed_makes_room_and_the_timeout_ends_the_run() {
    if !is_root() {
        return;
    }
    let (mut world, _disk) = small("timeout = '3s'\nstop_grace = '1s'", 8);
    sees_wait(&world, "the script");
    fs::remove_file(world.run_file("fill.1", "stdout.log")).unwrap();
    let end = world.end("fill.1");
    // It fills the disk again before its time is over, or has written the rest of its 20 MB by then.
    assert_eq!(end["outcome"], "timed_out", "{end}");
    let exit = &end["exit"];
    let length = fs::metadata(world.run_file("fill.1", "stdout.log")).unwrap().len();
    assert_eq!(exit["stdout_bytes"].as_u64(), Some(length), "{exit}");
    assert!(exit["stdout_dropped_bytes"].as_u64().unwrap() > 1_000_000, "{exit}");
    let remarks = exit["remarks"].to_string();
    assert!(remarks.contains("another program removed the file"), "{remarks}");
    fs::remove_file(world.run_file("fill.1", "stdout.log")).unwrap();
    world.batchd(&["start", "quick"]).expect(0);
    assert_eq!(world.end("quick.1")["outcome"], "succeeded");
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.all_gone();
}

#[test]
fn a3_a_full_disk_never_costs_a_run_that_succeeds_a_line() {
    if !is_root() {
        return;
    }
    let (mut world, disk) = small("", 30);
    disk.fill_but(1_000_000);
    sees_wait(&world, "the script");
    assert!(!world.run_file("fill.1", "exit.json").exists());
    disk.free();
    let end = world.end("fill.1");
    assert_eq!((&end["outcome"], &end["exit"]["stdout_dropped_bytes"]), (&"succeeded".into(), &0.into()), "{end}");
    assert!(world.stdout("fill.1") == whole(), "it is not what was written");
    assert!(end["remark"].is_null() && end["exit"]["remarks"].as_array().is_none_or(Vec::is_empty), "{end}");
    assert_well(&mut world);
}

/// A world with a full disk for `runs`, on which the end of `fill.1` waits: its script has ended with `commands`.
#[track_caller]
fn world_that_waits_for_room(toml: &str, commands: &str) -> (World, Disk) {
    let mut world = World::new();
    let disk = Disk::new(&world, "runs", "size=2m");
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("fill", toml, &format!("echo up > $W/up\nread -r word < $W/go\n{commands}"));
    world.batch("quick", "", "echo quick");
    world.start();
    world.batchd(&["start", "fill"]).expect(0);
    up.hear();
    disk.fill_but(0);
    go.tell();
    sees_wait(&world, "the end of the run");
    (world, disk)
}

#[test]
fn a3_a_script_that_has_ended_keeps_its_output_until_there_is_room() {
    if !is_root() {
        return;
    }
    let (mut world, disk) = world_that_waits_for_room("", "seq 1 10000\necho end >&2");
    assert_eq!(world.run("fill.1")["state"], "running");
    // Another daemon learns of it too.
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.start();
    sees_wait(&world, "the end of the run");
    disk.free();
    let end = world.end("fill.1");
    assert_eq!(end["outcome"], "succeeded", "{end}");
    assert_eq!(world.stdout("fill.1"), (1..=10_000).map(|n| format!("{n}\n")).collect::<String>());
    assert_eq!(fs::read_to_string(world.run_file("fill.1", "stderr.log")).unwrap(), "end\n");
    assert_well(&mut world);
}

#[test]
fn a3_a_stop_ends_a_run_whose_output_finds_no_room_and_it_has_not_succeeded() {
    if !is_root() {
        return;
    }
    let (mut world, disk) = world_that_waits_for_room("stop_grace = '1s'", "seq 1 10000");
    world.batchd(&["stop", "fill.1"]).expect(0);
    let end = world.end("fill.1");
    assert_eq!(end["outcome"], "cancelled", "{end}");
    assert_eq!(
        end["exit"]["stdout_dropped_bytes"].as_u64().unwrap() + len(&world.run_file("fill.1", "stdout.log")),
        48_894
    );
    let remarks = end["exit"]["remarks"].to_string();
    assert!(remarks.contains("bytes of stdout.log are missing: the file could not be written"), "{end}");
    // Its time is that of the script, and not that of the disk.
    assert!(remarks.contains("when the script had ended, its output waited 1 second"), "{end}");
    let took = at(&end["ended_at"]) - at(&end["started_at"]);
    assert!(took < chrono::TimeDelta::seconds(1), "{took}: {end}");
    disk.free();
    assert_well(&mut world);
}

/// Once with a script that ends in time and whose output then finds no room; once with one that ends at its timeout.
#[test]
fn a3_a_timeout_whose_output_finds_no_room_is_one_whatever_the_scripts_exit_code() {
    if !is_root() {
        return;
    }
    for script in ["seq 1 10000", "trap 'seq 1 10000; exit 0' TERM\nwhile :; do sleep 0.1; done"] {
        let mut world = World::new();
        let disk = Disk::new(&world, "runs", "size=2m");
        let (up, go) = (world.pipe("up"), world.pipe("go"));
        let script = format!("echo up > $W/up\nread -r word < $W/go\n{script}");
        world.batch("fill", "timeout = '2s'\nstop_grace = '1s'", &script);
        world.start();
        world.batchd(&["start", "fill"]).expect(0);
        up.hear();
        disk.fill_but(0);
        go.tell();
        let end = world.end("fill.1");
        assert_eq!(end["outcome"], "timed_out", "{script}: {end}");
        assert_eq!(end["exit_code"], 0, "{script}: {end}");
        assert!(end["exit"]["stdout_dropped_bytes"].as_u64().unwrap() > 0, "{script}: {end}");
        let logs = world.batchd(&["logs", "fill.1"]).expect(0).err;
        assert!(logs.contains("could not be written") && !logs.contains("log_bytes_max"), "{logs}");
        disk.free();
        assert_well(&mut world);
    }
}

#[test]
fn a3_a_term_ends_a_shim_on_a_full_disk() {
    if !is_root() {
        return;
    }
    let (mut world, disk) = small("stop_grace = '1s'", 4);
    sees_wait(&world, "the script");
    // A host that goes down.
    let claim: Value = serde_json::from_str(&world.read("runs/fill.1/claim")).unwrap();
    let shim = Pid::from_raw(i32::try_from(claim["shim"]["pid"].as_i64().unwrap()).unwrap()).unwrap();
    kill_process(shim, Signal::TERM).unwrap();
    let end = world.end("fill.1");
    assert_eq!(
        (&end["outcome"], &end["reason"]),
        (&"failed".into(), &"stopped together with the daemon or the host".into()),
        "{end}"
    );
    drop(disk);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.all_gone();
}

fn at(text: &Value) -> chrono::DateTime<chrono::FixedOffset> {
    chrono::DateTime::parse_from_rfc3339(text.as_str().unwrap()).unwrap()
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

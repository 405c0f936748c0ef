//! What has to be there after a power cut: the names of folders, too, not only what is in them.

use std::path::Path;

use rustix::process::Signal;

use crate::start::typed;
use crate::world::World;

const CALLS: &str = "trace=mkdir,mkdirat,fsync";

/// Whether the folder is made, and its name brought to the disk after that, by the calls that strace saw.
#[track_caller]
fn is_durable(trace: &str, folder: &Path) {
    let (name, parent) = (format!("\"{}\"", folder.display()), format!("<{}>", folder.parent().unwrap().display()));
    let is_made = |line: &&str| line.contains("mkdir") && line.contains(&name);
    let mut behind = trace.lines().skip_while(|line| !is_made(line));
    assert!(behind.next().is_some(), "{name} is never made");
    assert!(behind.any(|line| line.contains("fsync(") && line.contains(&parent)), "the name {name} is never synced");
}

#[test]
fn folders_of_the_state_outlive_a_power_cut() {
    let mut world = World::new();
    world.batch("load", "", "cat\n");
    world.settings("state = \"deep/er/state\"");
    world.start_under(&["strace", "-D", "-f", "-y", "-qq", "-o", "trace", "-e", CALLS]);
    typed(&world, "echo x | batchd start load --input - --wait").expect(0);
    world.end_daemon(Signal::TERM);
    let trace = world.read("trace");
    for folder in ["deep", "deep/er", "deep/er/state", "deep/er/state/definitions", "deep/er/state/inputs"] {
        is_durable(&trace, &world.path(folder));
    }
}

#[test]
fn the_folder_of_a_restored_journal_outlives_a_power_cut() {
    let mut world = World::new();
    world.batch("load", "", "true\n");
    world.start();
    world.batchd(&["backup", "copy.db"]).expect(0);
    world.end_daemon(Signal::TERM);
    let mut restore = world.command("strace");
    restore.args(["-f", "-y", "-qq", "-o", "trace", "-e", CALLS]);
    restore.args([env!("CARGO_BIN_EXE_batchd"), "--state", "new/state", "restore", "copy.db"]);
    world.output(restore).expect(0);
    let trace = world.read("trace");
    for folder in ["new", "new/state"] {
        is_durable(&trace, &world.path(folder));
    }
}

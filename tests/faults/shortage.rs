//! Processes and descriptors that can't be had.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::host::{children, limit, next_descriptor, ticks};
use crate::world::World;
use crate::world::root::is_root;

/// Of the one and only user who has these processes: limits count all of a user's.
const USER: u32 = 54_321;
/// As many as anybody needs here.
const PLENTY: u64 = 1024;

/// A daemon of a user's own (to root, limits of processes do not apply), whose launcher is there.
fn of_user() -> World {
    let mut world = World::new();
    world.batch("quick", "retries = 3", "echo quick");
    std::fs::copy(env!("CARGO_BIN_EXE_batchd"), world.path("batchd")).unwrap();
    world.bash(&format!("chown -R {USER}:{USER} ."));
    world.spawn_as(USER);
    world.daemon().says(0, "is ready");
    assert_eq!(start(&world), "quick.1");
    world.end("quick.1");
    world
}

fn launcher(world: &World) -> i32 {
    children(world.daemon().pid(), "batchd-launcher")[0]
}

#[track_caller]
fn start(world: &World) -> String {
    world.batchd(&["start", "quick"]).expect(0).line().to_owned()
}

#[track_caller]
fn sees_wait(world: &World, run: &str, reason: &str) {
    world.daemon().line(&format!("{run} waits: {reason}"), |line| {
        let said = line["reason"].as_str().unwrap_or_default();
        line["message"] == "the run waits to be started" && line["run"] == run && said.contains(reason)
    });
}

#[track_caller]
fn succeeds_at_once(world: &World, run: &str) {
    let end = world.end(run);
    assert_eq!((end["outcome"].as_str(), end["attempt"].as_u64()), (Some("succeeded"), Some(1)), "{end}");
}

#[test]
fn g1_a_launcher_that_can_t_fork_is_asked_again() {
    if !is_root() {
        return;
    }
    let world = of_user();
    let launcher = launcher(&world);
    limit(&world, USER, launcher, "nproc", 1);
    // The shim that was forked ahead takes this one.
    let ahead = start(&world);
    succeeds_at_once(&world, &ahead);
    let run = start(&world);
    sees_wait(&world, &run, "can't fork a process");
    // Recorded behind what was said, as all acts are.
    world.batchd(&["enable", "quick"]).expect(0);
    assert!(world.run(&run)["remark"].as_str().unwrap().contains("ulimit -u"));
    limit(&world, USER, launcher, "nproc", PLENTY);
    succeeds_at_once(&world, &run);
    assert_eq!(world.runs().len(), 3, "nothing was charged as a retry");
}

#[test]
fn g1_a_shim_that_can_t_fork_its_script_leaves_it_to_another() {
    if !is_root() {
        return;
    }
    let world = of_user();
    let ahead = children(launcher(&world), "batchd-shim")[0];
    limit(&world, USER, ahead, "nproc", 1);
    let run = start(&world);
    sees_wait(&world, &run, "can't fork the script's process");
    succeeds_at_once(&world, &run);
    assert_eq!(world.runs().len(), 2, "nothing was charged as a retry");
}

#[test]
fn g1_an_exec_that_is_refused_for_now_is_no_failure() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    world.batch("quick", &format!("user = '{}'", nobody(&world)), "echo quick");
    world.start();
    assert_eq!(start(&world), "quick.1");
    world.end("quick.1");
    // Who changes to a user that has too many processes learns it from exec: execve(2), EAGAIN.
    let mut another = world.command("sleep").arg("60").uid(NOBODY).spawn().unwrap();
    let ahead = children(launcher(&world), "batchd-shim")[0];
    limit(&world, 0, ahead, "nproc", 0);
    let run = start(&world);
    sees_wait(&world, &run, "can't execute interpreter `bash`");
    succeeds_at_once(&world, &run);
    another.kill().unwrap();
    another.wait().unwrap();
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.batchd(&["doctor"]).expect(0);
}

/// On every system of ours.
const NOBODY: u32 = 65_534;

fn nobody(world: &World) -> String {
    world.bash(&format!("getent passwd {NOBODY} | cut -d: -f1")).trim_end().to_owned()
}

#[test]
fn g2_a_daemon_without_descriptors_waits_and_does_not_spin() {
    let mut world = World::new();
    world.batch("tick", "cron = '* * * * * *'\noverlap = 'queue'", "true");
    world.start();
    world.daemon().run_line(0, "tick", "succeeded");
    let (pid, uid) = (world.daemon().pid(), rustix::process::geteuid().as_raw());
    limit(&world, uid, pid, "nofile", next_descriptor(pid));
    let before = ticks(pid);
    let mark = world.daemon().mark();
    world.daemon().line("a run waits", |line| {
        line["message"] == "the run waits to be started" && line.to_string().contains("Too many open files")
    });
    let knocks = UnixStream::connect(world.path("state/socket/batchd.sock")).unwrap();
    world.daemon().says(mark, "can't accept connections");
    // Three more fall due meanwhile, and are recorded.
    let mut queued = world.daemon().mark();
    for _ in 0..3 {
        world.daemon().run_line(queued, "tick", "queued");
        queued = world.daemon().mark();
    }
    let said = world.daemon().log_text();
    assert_eq!(said.matches("can't accept connections").count(), 1, "it is said once: {said}");
    // A hundred a second would be all of a processor.
    assert!(ticks(pid) - before < 100, "{} ticks", ticks(pid) - before);
    let mark = world.daemon().mark();
    limit(&world, uid, pid, "nofile", PLENTY);
    drop(knocks);
    let run = world.daemon().run_line(mark, "tick", "succeeded");
    assert_eq!(world.run(&run)["attempt"], Value::from(1));
    // What could not be tidied meanwhile is tidied a minute later, or by the next daemon.
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.all_gone();
    world.start();
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.batchd(&["doctor"]).expect(0);
}

//! Hosts that go down in order, and programs that are replaced under what runs.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::lifecycle::{Slow, WAITS};
use crate::world::World;

/// The next boot of the host.
const NEXT_BOOT: &str = "5d2f1a3c-0000-4000-8000-000000000002";

/// Waits at its first attempt; fails at its second.
const FIRST_WAITS: &str = "[[ $BATCHD_ATTEMPT == 2 ]] && exit 3\n";

/// The host goes down: the daemon is told, then everybody else, shims and scripts alike.
fn shut_down(world: &mut World) {
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    for pid in world.processes() {
        // One may have ended with another.
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM);
    }
    world.all_gone();
}

#[test]
fn k2_what_ran_when_the_host_went_down_has_failed_and_its_consequences_come_after_the_boot() {
    let mut slow = Slow::new();
    let waits = format!("{FIRST_WAITS}{WAITS}");
    slow.world.batch("slow", "retries = 1\nretry_delay = '10ms'\non_error = 'tell'\n", &waits);
    slow.world.batch("tell", "", "echo $BATCHD_UPSTREAM_RUN $BATCHD_UPSTREAM_OUTCOME\n");
    slow.begin();
    shut_down(&mut slow.world);
    let rows: Vec<_> = slow.world.runs().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(rows, ["slow.1"], "nothing is decided before the boot");
    assert_ne!(slow.world.run("slow.1")["state"], "ended");

    slow.world.start_in_boot(NEXT_BOOT);
    slow.world.rest();
    let run = slow.world.run("slow.1");
    assert_eq!(
        (run["outcome"].as_str(), run["reason"].as_str()),
        (Some("failed"), Some("stopped together with the daemon or the host")),
        "{run}"
    );
    let retry = slow.world.run("slow.2");
    assert_eq!((retry["trigger"].as_str(), retry["exit_code"].as_u64()), (Some("retry"), Some(3)), "{retry}");
    assert_eq!(slow.world.stdout("tell.1"), "slow.2 failed\n");
    assert_eq!(slow.world.runs().iter().filter(|run| run["outcome"] == "aborted").count(), 1, "what follows it");
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    slow.world.batchd(&["doctor"]).expect(0);
}

/// The power is cut instead: nobody could write anything down.
#[test]
fn b18_what_ran_when_the_power_was_cut_is_lost() {
    let mut slow = Slow::new();
    slow.begin();
    assert_eq!(slow.world.end_daemon(Signal::KILL), -9);
    for pid in slow.world.processes() {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
    slow.world.all_gone();
    slow.world.start_in_boot(NEXT_BOOT);
    slow.world.rest();
    assert_eq!(slow.world.run("slow.1")["outcome"], "lost");
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    slow.world.batchd(&["doctor"]).expect(0);
}

/// B20, K3: the program is replaced while a run lives and while the daemon does, as a package manager replaces it.
#[test]
fn b20_a_run_of_the_program_before_is_adopted_by_the_one_behind() {
    let mut slow = Slow::new();
    slow.world.batch("other", "", "echo other\n");
    slow.world.bash("mkdir bin");
    let program = slow.world.path("bin/batchd");
    let install = |world: &World| {
        fs::copy(env!("CARGO_BIN_EXE_batchd"), world.path("bin/new")).unwrap();
        fs::rename(world.path("bin/new"), world.path("bin/batchd")).unwrap();
    };
    install(&slow.world);
    slow.world.start_program(&program);
    slow.world.batchd(&["start", "slow"]).expect(0);
    assert_eq!(slow.up.hear(), "slow.1");
    install(&slow.world);
    // The old daemon goes on with its own program, also for a launcher that it has to replace.
    slow.world.batchd(&["start", "other", "--wait"]).expect(0);
    for pid in slow.world.processes() {
        if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "batchd-launcher\n") {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        }
    }
    slow.world.batchd(&["start", "other", "--wait"]).expect(0);
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    slow.world.start_program(&program);
    slow.go.tell();
    slow.world.rest();
    assert_eq!(slow.world.run("slow.1")["outcome"], "succeeded");
    assert_eq!(slow.world.stdout("next.1"), "GO\n");
}

//! Processes where none is expected, and scripts that turn against what holds them.

use std::fs;

use batchd::model::launch::Report;
use batchd::model::run::State;
use batchd::rundir::RunDir;
use batchd::rundir::records::{Claim, ExitRecord, ProcessIdentity, Record as _, Started, VERSION};

use crate::world::{World, boot, go_on, is_alive};

/// Two supervisors ask for the same run, and both their shims have the order before either goes on: the script runs once.
#[test]
fn a7_of_two_shims_one_gets_past_the_claim() {
    for _ in 0..20 {
        let (mut one, mut other) = (World::new(), World::new());
        let witness = one.path("witness");
        let launch = one.plan("job", &format!("echo ran >> {}", witness.display()), |_, _| {});
        other.share(&one);
        let held = [one.hold_shim("first"), other.hold_shim("second")];
        one.launch(&launch);
        one.order_is_given();
        other.find(&launch);
        other.order_is_given();
        held.into_iter().for_each(go_on);
        for world in [&mut one, &mut other] {
            assert!(matches!(world.end(&launch), Report::Exited { success: true, .. }));
        }
        assert_eq!(fs::read_to_string(&witness).unwrap(), "ran\n");
    }
}

/// The claim of the stop is all that is in its way: nobody holds the lock, and no exit is recorded.
#[test]
fn a7_a_shim_that_comes_after_a_stop_does_not_run_its_script() {
    let mut world = World::new();
    let witness = world.path("witness");
    let launch = world.plan("job", &format!("echo ran > {}", witness.display()), |_, _| {});
    let shim = world.hold_shim("first");
    world.launch(&launch);
    world.order_is_given();
    world.stop(&launch);
    assert!(matches!(world.end(&launch), Report::StoppedBeforeStart { .. }));
    go_on(shim);
    world.until(|_| !is_alive(shim));
    assert!(!witness.exists());
    assert_eq!(world.folder(&launch).length(ExitRecord::FILE), None, "it says nothing of a run that is not its own");
}

/// This process has the pid that the files name, and is not the process that they mean.
#[test]
fn b11_a_pid_that_a_stranger_has_now_is_never_signalled() {
    let mut world = World::new();
    let launch = world.plan("job", "echo never", |_, launch| launch.run.state = State::Running);
    let run = RunDir::create(&world.file(&launch, "")).unwrap();
    let stranger = ProcessIdentity { pid: std::process::id() as i32, start_time: 1, boot: boot() };
    let token = launch.token.clone();
    assert!(run.claim(&Claim { version: VERSION, token: token.clone(), shim: Some(stranger.clone()) }).unwrap());
    let at = launch.run.queued_at;
    run.write(&Started { version: VERSION, token, script: stranger, at }).unwrap();
    world.find(&launch);
    match world.end(&launch) {
        Report::Lost { reason, .. } => assert!(reason.contains("shim was killed"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn b16_a_script_that_kills_its_shim_is_ended_and_lost() {
    let mut world = World::new();
    let script = "cd \"$BATCHD_RUN_DIR/io\"; echo $$ > pid; kill -KILL $PPID; sleep 600";
    let launch = world.plan("job", script, |_, _| {});
    world.launch(&launch);
    match world.end(&launch) {
        Report::Lost { reason, .. } => assert!(reason.contains("shim was killed"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let pid = fs::read_to_string(world.file(&launch, "io/pid")).unwrap().trim().parse().unwrap();
    assert!(!is_alive(pid));
}

/// The shim keeps the file that it opened, and opens none by its name again.
#[test]
fn f7_a_log_that_is_removed_or_replaced_leads_nowhere_else() {
    let mut world = World::new();
    let kept = world.path("kept");
    fs::write(&kept, "mine\n").unwrap();
    let script =
        format!("echo one; cd \"$BATCHD_RUN_DIR\"; ln -s {} link; mv link stdout.log; echo two", kept.display());
    let (_, exit) = world.run(&script);
    // On NFS nobody can tell that an open file was removed.
    assert_eq!(exit.stdout_bytes + exit.stdout_dropped_bytes, 8);
    assert_eq!(fs::read_to_string(&kept).unwrap(), "mine\n");
}

/// Nobody reads the FIFO: whoever opened it in the usual way would wait for ever.
#[test]
fn a13_a_fifo_in_the_place_of_a_file_keeps_no_shim_waiting() {
    let mut world = World::new();
    let (_, exit) = world.run("cd \"$BATCHD_RUN_DIR\"; mkfifo times fifo; echo one; mv fifo stdout.log; echo two");
    assert_eq!((exit.exit_code, exit.stdout_bytes + exit.stdout_dropped_bytes), (Some(0), 8));
}

/// A script that reads its own log reads what it has written so far, and harms nobody.
#[test]
fn f6_f8_a_script_that_opens_its_own_output_again() {
    let mut world = World::new();
    let (launch, exit) = world.run("echo one > /dev/stdout; echo two >> /dev/stdout; echo three >&2; cat \"$BATCHD_RUN_DIR/stdout.log\" > /dev/null");
    assert_eq!((exit.exit_code, exit.stdout_bytes, exit.stderr_bytes), (Some(0), 8, 6));
    assert_eq!(world.text(&launch, "stdout.log"), "one\ntwo\n");
}

//! Nobody gets away: what a script leaves behind, what ignores a polite request, and what tries to escape.

use std::fs;
use std::time::Duration;

use batchd::model::definition::Execution;
use batchd::model::launch::{ExitCause, Launch, Report};
use batchd::model::run::Exit;

use rustix::process::Signal;

use crate::root::is_root;
use crate::world::{World, go_on, is_alive, kill, signal};

/// Starts a script, waits until it says (in `io/ready`) that it is ready, stops it, and returns how that ended.
fn stopped(world: &mut World, script: &str, tweak: impl FnOnce(&mut Execution)) -> (Launch, Exit) {
    let launch = world.plan("job", script, |execution, _| tweak(execution));
    world.launch(&launch);
    world.wait_for(&world.file(&launch, "io/ready"));
    world.stop(&launch);
    match world.end(&launch) {
        Report::Exited { exit, cause: ExitCause::Stop, .. } => (launch, exit),
        other => panic!("{other:?}"),
    }
}

/// The processes that a script wrote the pids of, a line each, into `io/pids`: none is alive.
fn assert_all_gone(world: &World, launch: &Launch) {
    let text = world.text(launch, "io/pids");
    assert!(!text.is_empty());
    for pid in text.lines() {
        assert!(!is_alive(pid.parse().unwrap()), "{pid} got away");
    }
}

const READY: &str = "cd \"$BATCHD_RUN_DIR/io\"; ready() { echo yes > ready; }; note() { echo $1 >> pids; };";

#[test]
fn b14_what_is_left_running_is_ended_and_counted() {
    let mut world = World::new();
    let (launch, exit) = world.run(&format!(
        "{READY} sleep 600 >/dev/null 2>&1 & note $!
        setsid sleep 600 >/dev/null 2>&1 & note $!
        (setsid bash -c 'echo $$ >> pids; exec sleep 600' >/dev/null 2>&1 &)
        while [[ $(wc -l < pids) -lt 3 ]]; do :; done; echo done"
    ));
    assert_eq!((exit.exit_code, exit.left_running), (Some(0), 3));
    assert!(exit.remarks[0].starts_with("3 processes were still running when the script ended and were killed"));
    assert_all_gone(&world, &launch);
}

#[test]
fn b15_a_pipe_held_in_the_background_is_drained_but_not_for_ever() {
    let mut world = World::new();
    let begun = std::time::Instant::now();
    let (launch, exit) = world.run("(sleep 0.3; echo late) & echo early");
    assert_eq!((world.text(&launch, "stdout.log").as_str(), exit.left_running), ("early\nlate\n", 0));
    let (_, exit) = world.run(&format!("{READY} sleep 600 & note $!; echo early"));
    assert_eq!((exit.exit_code, exit.left_running, exit.stdout_bytes), (Some(0), 1, 6));
    assert!(exit.remarks[0].starts_with("1 process was still running when the script ended and was killed"));
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_stop_is_polite_first() {
    let mut world = World::new();
    let script = format!("{READY} trap 'echo bye; exit 7' TERM; ready; while :; do sleep 0.01; done");
    let (launch, exit) = stopped(&mut world, &script, |_| {});
    assert_eq!((exit.exit_code, exit.signal), (Some(7), None));
    assert_eq!(world.text(&launch, "stdout.log"), "bye\n");
}

#[test]
fn b13_a_stop_is_not_polite_for_ever() {
    let mut world = World::new();
    let scripts = [
        "trap '' TERM; note $$; ready; while :; do sleep 0.01; done",
        "trap '' TERM HUP INT; setsid bash -c 'echo $$ >> pids; while :; do sleep 0.01; done' & note $$; ready; wait",
        "exec >&- 2>&-; trap '' TERM; note $$; ready; while :; do sleep 0.01; done",
        "note $$; trap 'kill -STOP $$' TERM; ready; while :; do sleep 0.01; done",
    ];
    for script in scripts {
        let (launch, exit) =
            stopped(&mut world, &format!("{READY} {script}"), |e| e.stop_grace = Duration::from_millis(200));
        assert_eq!(exit.signal, Some(9), "{script}");
        assert_all_gone(&world, &launch);
        world.forget(&launch);
    }
}

#[test]
fn b13_one_that_has_stopped_itself_can_still_be_asked() {
    let mut world = World::new();
    let (_, exit) = stopped(&mut world, &format!("{READY} ready; kill -STOP $$; echo went on"), |_| {});
    assert_eq!(exit.signal, Some(15));
}

#[test]
fn b13_a_script_that_forks_as_fast_as_it_can_is_ended() {
    let mut world = World::new();
    let script = format!(
        "{READY} trap '' TERM; spread() {{ while :; do (trap '' TERM; sleep 600) & \
        [[ $(jobs -p | wc -l) -ge 100 ]] && ready; done; }}; spread"
    );
    let (launch, exit) = stopped(&mut world, &script, |e| e.stop_grace = Duration::from_millis(50));
    assert!(exit.signal == Some(9) && exit.left_running > 50, "{exit:?}");
    let folder = world.file(&launch, "io");
    let inside = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder);
    assert_eq!(batchd::shim::tree::all().into_iter().filter(inside).count(), 0);
}

/// Whoever it is that hides: it has left its session and its group, has another name, no environment and no open file, and
/// its parent is gone.
#[test]
fn b14_one_that_hides_is_ended() {
    let mut world = World::new();
    let hides = "(exec -a kworker/0:1 setsid env -i bash -c 'trap \"\" TERM HUP INT; (echo $BASHPID >> pids; \
        exec <&- >&- 2>&-; while :; do /bin/sleep 600; done) & disown' kworker/0:1 &)";
    let script =
        format!("{READY} {hides}; until [[ -s pids ]]; do :; done; note $$; ready; while :; do sleep 0.01; done");
    let (launch, exit) = stopped(&mut world, &script, |e| e.stop_grace = Duration::from_millis(100));
    assert_eq!(exit.signal, Some(15), "the script itself is polite");
    assert!(exit.left_running >= 1, "{exit:?}");
    assert_all_gone(&world, &launch);
}

/// Each process forks as fast as it can, ignores TERM, and leaves no zombies, so that each place that is free is taken at once.
/// What it can't do is have more processes than its user may: when it has them, it says so.
const BOMB: &str = r#"cd "$BATCHD_RUN_DIR/io"; ulimit -u 150; exec perl -e '
    $SIG{CHLD} = $SIG{TERM} = $SIG{HUP} = "IGNORE";
    while (1) { next if defined fork; next if -e "ready"; open my $f, ">", "ready"; print $f "full\n" }'"#;

/// How many processes work in the run's folder.
fn left_inside(world: &World, launch: &Launch) -> usize {
    let folder = world.file(launch, "io");
    let inside = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder);
    batchd::shim::tree::all().into_iter().filter(inside).count()
}

#[test]
fn b13_a_fork_bomb_within_its_limit_is_ended() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let (launch, exit) = stopped(&mut world, BOMB, |execution| {
        execution.user = Some("nobody".to_owned());
        execution.stop_grace = Duration::from_millis(50);
    });
    assert_eq!(exit.signal, Some(9), "{exit:?}");
    assert_eq!(left_inside(&world, &launch), 0);
}

/// B6: nobody is its parent any more, and nobody reaps it but the host's first process.
#[test]
fn b13_a_fork_bomb_whose_shim_was_killed_is_ended() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let launch = world.plan("orphans", BOMB, |execution, _| execution.user = Some("nobody".to_owned()));
    world.launch(&launch);
    world.wait_for(&world.file(&launch, "io/ready"));
    kill(world.shim(&launch));
    assert!(matches!(world.end(&launch), Report::Lost { .. }));
    assert_eq!(left_inside(&world, &launch), 0);
}

/// A host that goes down tells everybody at once, and the script may have ended before its shim looks.
#[test]
fn k2_a_script_that_is_told_to_end_before_its_shim_looks_was_stopped() {
    let mut world = World::new();
    let launch = world.plan("job", "echo $$ > \"$BATCHD_RUN_DIR/io/pid\"; exec sleep 600", |_, _| {});
    world.launch(&launch);
    let script = world.wait_for(&world.file(&launch, "io/pid")).trim().parse().unwrap();
    let shim = world.shim(&launch);
    signal(shim, Signal::STOP);
    signal(script, Signal::TERM);
    world.until(|_| !is_alive(script));
    signal(shim, Signal::TERM);
    go_on(shim);
    match world.end(&launch) {
        Report::Exited { exit, cause, .. } => assert_eq!((exit.signal, cause), (Some(15), ExitCause::Stop)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_timeout_ends_the_whole_tree() {
    let mut world = World::new();
    let launch = world.plan("job", &format!("{READY} setsid sleep 600 & note $!; note $$; wait"), |execution, _| {
        execution.timeout = Some(Duration::from_millis(300));
    });
    world.launch(&launch);
    let Report::Exited { exit, cause, success, .. } = world.end(&launch) else { panic!() };
    assert_eq!((exit.signal, cause, success), (Some(15), ExitCause::Timeout, false));
    assert_all_gone(&world, &launch);
}

//! A launcher or a shim killed at each named point of the start and end protocols: a script runs once, or is lost.

use std::fs;

use batchd::model::launch::Report;
use batchd::rundir::crash::CrashPoint;

use crate::world::World;

/// What must come of a run whose process was killed at a point.
#[derive(Debug, PartialEq)]
enum Expected {
    /// As if nothing had happened.
    Exited,
    /// Lost, and the script did not run.
    LostUnbegun,
    /// Lost, and the script ran.
    Lost,
    /// Lost, and nobody knows whether the script ran: it was let go a moment before.
    LostPerhaps,
}

/// A test for each point, and a list of them.
macro_rules! points {
    ($($test:ident: $point:ident => $expected:ident),* $(,)?) => {
        const POINTS: &[CrashPoint] = &[$(CrashPoint::$point),*];
        $(#[test]
        fn $test() {
            check(CrashPoint::$point, &Expected::$expected);
        })*
    };
}

points!(
    a4_a_launcher_that_has_read_a_request: LauncherRequestRead => Exited,
    a5_a_launcher_that_has_forked: LauncherForked => Exited,
    a6_a_shim_before_the_lock: ShimForked => Exited,
    a8_a_shim_with_the_lock_and_no_claim: ShimLocked => Exited,
    a9_a_shim_with_its_claim: ShimClaimed => Exited,
    a9_a_shim_that_has_deployed: ShimDeployed => Exited,
    a9_a10_a_shim_whose_script_waits_at_its_pipe: ShimScriptForked => Exited,
    a11_a_shim_that_has_written_started: ShimStartedWritten => LostUnbegun,
    a13_a_shim_that_has_let_the_script_go: ShimReleased => LostPerhaps,
    b3_a_shim_whose_script_has_ended: ShimScriptEnded => Lost,
    b3_a_shim_whose_tree_is_gone: ShimTreeGone => Lost,
    b7_a_shim_that_has_written_exit: ShimExitWritten => Exited,
);

#[test]
fn every_point_of_launcher_and_shim_has_a_test() {
    let theirs: Vec<CrashPoint> =
        CrashPoint::ALL.iter().copied().filter(|point| !point.name().starts_with("daemon_")).collect();
    assert_eq!(POINTS, theirs);
}

/// A kill at `point`: nothing runs twice.
fn check(point: CrashPoint, expected: &Expected) {
    let mut world = World::crashing_once(point.name());
    let witness = world.path("witness");
    let launch = world.plan("job", &format!("echo ran >> {}", witness.display()), |_, _| {});
    world.launch(&launch);
    let end = world.end(&launch);
    assert!(world.path("crashed").exists(), "{point:?} was not passed");
    let ran = fs::read_to_string(&witness).unwrap_or_default();
    let right = match expected {
        Expected::Exited => matches!(end, Report::Exited { success: true, .. }) && ran == "ran\n",
        Expected::LostUnbegun => matches!(end, Report::Lost { .. }) && ran.is_empty(),
        Expected::Lost => matches!(end, Report::Lost { .. }) && ran == "ran\n",
        Expected::LostPerhaps => matches!(end, Report::Lost { .. }) && (ran.is_empty() || ran == "ran\n"),
    };
    assert!(right, "{point:?}: {end:?}, {ran:?}, expected {expected:?}");
}

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

fn expected(point: CrashPoint) -> Option<Expected> {
    match point {
        CrashPoint::DaemonBeforeStartingCommitted
        | CrashPoint::DaemonStartingCommitted
        | CrashPoint::DaemonFolderMade
        | CrashPoint::DaemonRunWritten
        | CrashPoint::DaemonShimRequested
        | CrashPoint::DaemonExitRead
        | CrashPoint::DaemonEndCommitted
        | CrashPoint::DaemonSettled => None,
        CrashPoint::LauncherRequestRead
        | CrashPoint::LauncherForked
        | CrashPoint::ShimForked
        | CrashPoint::ShimLocked
        | CrashPoint::ShimClaimed
        | CrashPoint::ShimDeployed
        | CrashPoint::ShimScriptForked
        | CrashPoint::ShimExitWritten => Some(Expected::Exited),
        CrashPoint::ShimStartedWritten => Some(Expected::LostUnbegun),
        CrashPoint::ShimReleased => Some(Expected::LostPerhaps),
        CrashPoint::ShimScriptEnded | CrashPoint::ShimTreeGone => Some(Expected::Lost),
    }
}

#[test]
fn a_kill_at_any_point_runs_nothing_twice() {
    for point in CrashPoint::ALL {
        let Some(expected) = expected(*point) else { continue };
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
}

//! Deaths at the named points.

use std::path::Path;

use batchd::rundir::crash::{CRASH_POINT, CrashPoint};
use rustix::process::Signal;

use crate::load;
use crate::records;
use crate::world::{self, World};

/// Whose death it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    Daemon,
    Launcher,
    Shim,
}

fn who(point: CrashPoint) -> Dies {
    match point.name().split('_').next() {
        Some("daemon") => Dies::Daemon,
        Some("launcher") => Dies::Launcher,
        Some("shim") => Dies::Shim,
        other => panic!("{other:?}"),
    }
}

/// Whether a run is lost whose shim dies there: its script may have begun, and nobody can say how it ended.
fn loses(point: CrashPoint) -> bool {
    match point {
        CrashPoint::ShimStartedWritten
        | CrashPoint::ShimReleased
        | CrashPoint::ShimScriptEnded
        | CrashPoint::ShimTreeGone => true,
        CrashPoint::DaemonBeforeStartingCommitted
        | CrashPoint::DaemonStartingCommitted
        | CrashPoint::DaemonFolderMade
        | CrashPoint::DaemonRunWritten
        | CrashPoint::DaemonShimRequested
        | CrashPoint::LauncherRequestRead
        | CrashPoint::LauncherForked
        | CrashPoint::ShimForked
        | CrashPoint::ShimLocked
        | CrashPoint::ShimClaimed
        | CrashPoint::ShimDeployed
        | CrashPoint::ShimScriptForked
        | CrashPoint::ShimExitWritten
        | CrashPoint::DaemonExitRead
        | CrashPoint::DaemonEndCommitted
        | CrashPoint::DaemonSettled => false,
    }
}

/// Starts a daemon of which, or of whose launcher and shims, the first to come by the point dies there.
/// It leaves a file at `mark`.
fn start_crashing(world: &mut World, point: CrashPoint, mark: &Path) {
    let crash = format!("{}:{}", point.name(), mark.display());
    world.spawn(&[], &[(CRASH_POINT, &crash)]);
}

/// How often a test goes through its points: each is come by in the first hop of a chain, in a later one, and in a join.
const ROUNDS: usize = 3;

/// A daemon, or what serves it and then the daemon too, is killed again and again while a chain begins each second.
fn kill_daemon_at(points: &[CrashPoint]) {
    let mut world = World::new();
    load::write(&world);
    load::tick(&world, true);
    let mut losses = 0;
    for (turn, point) in points.iter().copied().cycle().take(points.len() * ROUNDS).enumerate() {
        let mark = world.path(format!("{turn}-{}", point.name()));
        start_crashing(&mut world, point, &mark);
        world::file(&mark);
        losses += usize::from(loses(point));
        let code = match who(point) {
            Dies::Daemon => world.daemon_ends(),
            Dies::Launcher | Dies::Shim => world.end_daemon(Signal::KILL),
        };
        assert_eq!(code, -9, "{point:?}");
    }
    let compared = records::compare_at_rest(&mut world);
    assert_eq!(compared.lost, losses, "{compared:?}");
    // Each point was come by, or a mark would still be waited for; on a fast machine within the second of one chain.
    assert!(compared.chains >= 1, "{compared:?}");
}

/// A test for each point of the daemon, and a list of them.
macro_rules! points {
    ($($test:ident: $point:ident),* $(,)?) => {
        const POINTS: &[CrashPoint] = &[$(CrashPoint::$point),*];
        $(#[test]
        fn $test() {
            kill_daemon_at(&[CrashPoint::$point]);
        })*
    };
}

points!(
    a1_a_daemon_before_the_commit_of_a_start: DaemonBeforeStartingCommitted,
    a2_a_daemon_right_after_the_commit_of_a_start: DaemonStartingCommitted,
    a3_a_daemon_that_has_made_the_folder: DaemonFolderMade,
    a3_a_daemon_that_has_written_run_json: DaemonRunWritten,
    a4_a_daemon_that_has_asked_for_a_shim: DaemonShimRequested,
    b10_h1_a_daemon_that_has_read_an_end: DaemonExitRead,
    b10_h1_a_daemon_right_after_the_commit_of_an_end: DaemonEndCommitted,
    b10_a_daemon_that_has_tidied_up: DaemonSettled,
);

#[test]
fn every_point_of_the_daemon_has_a_test() {
    let its_own: Vec<CrashPoint> =
        CrashPoint::ALL.iter().copied().filter(|point| who(*point) == Dies::Daemon).collect();
    assert_eq!(POINTS, its_own);
}

#[test]
fn a9_a_daemon_that_dies_with_its_launcher_or_a_shim() {
    let points: Vec<CrashPoint> = CrashPoint::ALL.iter().copied().filter(|point| who(*point) != Dies::Daemon).collect();
    kill_daemon_at(&points);
}

/// The daemon lives, and has to see by itself what has become of the run.
#[test]
fn a8_a9_b3_a_launcher_or_a_shim_that_dies_alone() {
    let mut world = World::new();
    load::write(&world);
    let mut losses = 0;
    for point in CrashPoint::ALL.iter().copied().filter(|point| who(*point) != Dies::Daemon) {
        let mark = world.path(point.name());
        start_crashing(&mut world, point, &mark);
        world.daemon().says(0, "is ready");
        let run = world.batchd(&["start", "tick"]).expect(0);
        world::file(&mark);
        world.end(run.line());
        world.rest();
        losses += usize::from(loses(point));
        assert_eq!(world.end_daemon(Signal::TERM), 0, "{point:?}");
    }
    world.all_gone();
    let compared = records::compare(&world);
    assert_eq!(compared.lost, losses, "{compared:?}");
}

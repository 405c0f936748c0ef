//! A place where runs live: the contract of [`batchd::supervisor::Place`].

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use batchd::model::id::{JournalId, RunId};
use batchd::model::launch::{ExitCause, Launch, Report};
use batchd::model::run::{Exit, State};

use crate::world::{World, upstream};

/// What the script of a run does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// Ends at once, with this code.
    Exit(u8),
    /// Waits until [`Place::release`].
    Wait,
    /// Nothing: it has no interpreter.
    NoInterpreter,
    /// Nothing: the output of its upstream is shorter than the journal says.
    ShortInput,
}

/// A place under test, with the daemon's side of it.
pub(crate) trait Place {
    /// A run of `batch`, ready to be launched.
    fn plan(&self, batch: &str, does: Does) -> Launch;
    fn launch(&self, launch: &Launch);
    fn find(&self, launch: &Launch);
    fn stop(&self, launch: &Launch);
    fn collect(&self, launch: &Launch);
    /// The next report, of whichever run. Panics if there is none for too long.
    fn report(&mut self) -> (RunId, Report);
    /// Lets a script that waits end with code 0.
    fn release(&self, launch: &Launch);
    /// The daemon dies; what had not been reported is lost.
    fn daemon_dies(&mut self);
    /// Another daemon comes.
    fn daemon_starts(&mut self);
    /// Returns when a run that was let go without a daemon has ended.
    fn wait_for_end(&self, launch: &Launch);
    /// Puts a run of another journal in the place of this one.
    fn occupy(&self, launch: &Launch);
}

/// Makes a test of each case of the suite, for one place.
macro_rules! place_suite {
    ($name:ident, $new:expr, [$($case:ident),* $(,)?]) => {
        mod $name {
            $(#[test]
            fn $case() {
                super::$case(&mut $new);
            })*
        }
    };
}

place_suite!(
    local,
    crate::world::World::new(),
    [
        a_script_ends,
        a_failure_is_measured,
        a_stop_ends_a_script,
        a_stop_may_come_at_once,
        a_stop_behind_the_end_is_nothing,
        a_timeout_ends_a_script,
        the_next_daemon_finds_what_runs,
        the_next_daemon_finds_what_has_ended,
        the_next_daemon_begins_what_was_not_begun,
        another_boot_has_lost_it,
        what_cannot_run_says_so,
        an_input_must_be_whole,
        a_folder_of_another_journal_is_left_alone,
        many_at_once_end_once_each,
    ]
);

place_suite!(
    simulated,
    crate::simulated::Simulated::new(),
    [
        a_script_ends,
        a_failure_is_measured,
        a_stop_ends_a_script,
        a_stop_may_come_at_once,
        a_stop_behind_the_end_is_nothing,
        a_timeout_ends_a_script,
        the_next_daemon_finds_what_runs,
        the_next_daemon_finds_what_has_ended,
        the_next_daemon_begins_what_was_not_begun,
        another_boot_has_lost_it,
        what_cannot_run_says_so,
        an_input_must_be_whole,
        a_folder_of_another_journal_is_left_alone,
        many_at_once_end_once_each,
    ]
);

fn a_script_ends(place: &mut impl Place) {
    let run = place.plan("report", Does::Wait);
    place.launch(&run);
    let Report::Started { at } = next(place, &run) else { panic!("the first report is not of its start") };
    place.release(&run);
    let (exit, success, cause) = exited(next(place, &run), at);
    assert_eq!((exit.exit_code, exit.signal, success, cause), (Some(0), None, true, ExitCause::Itself));
    place.collect(&run);
    nothing_more(place, &run);
}

fn a_failure_is_measured(place: &mut impl Place) {
    let run = place.plan("report", Does::Exit(3));
    place.launch(&run);
    match end(place, &run).end {
        Report::Exited { exit, success: false, cause: ExitCause::Itself, .. } => assert_eq!(exit.exit_code, Some(3)),
        other => panic!("{other:?}"),
    }
    nothing_more(place, &run);
}

fn a_stop_ends_a_script(place: &mut impl Place) {
    let run = place.plan("report", Does::Wait);
    place.launch(&run);
    assert!(matches!(next(place, &run), Report::Started { .. }));
    place.stop(&run);
    // Asked twice, ended once.
    place.stop(&run);
    let end = next(place, &run);
    assert!(matches!(end, Report::Exited { success: false, cause: ExitCause::Stop, .. }), "{end:?}");
    nothing_more(place, &run);
}

fn a_stop_may_come_at_once(place: &mut impl Place) {
    let run = place.plan("report", Does::Wait);
    place.launch(&run);
    place.stop(&run);
    let told = end(place, &run);
    match told.end {
        Report::StoppedBeforeStart { .. } => assert!(!told.started, "it started, and was stopped before that"),
        Report::Exited { cause, .. } => assert_eq!(cause, ExitCause::Stop),
        other => panic!("{other:?}"),
    }
    nothing_more(place, &run);
}

fn a_stop_behind_the_end_is_nothing(place: &mut impl Place) {
    let run = place.plan("report", Does::Exit(0));
    place.launch(&run);
    assert!(matches!(end(place, &run).end, Report::Exited { success: true, .. }));
    place.stop(&run);
    place.collect(&run);
    place.stop(&run);
    nothing_more(place, &run);
}

fn a_timeout_ends_a_script(place: &mut impl Place) {
    let mut run = place.plan("report", Does::Wait);
    Arc::make_mut(&mut run.definition).execution.timeout = Some(Duration::from_millis(50));
    place.launch(&run);
    let end = end(place, &run).end;
    assert!(matches!(end, Report::Exited { success: false, cause: ExitCause::Timeout, .. }), "{end:?}");
    nothing_more(place, &run);
}

fn the_next_daemon_finds_what_runs(place: &mut impl Place) {
    let run = place.plan("report", Does::Wait);
    place.launch(&run);
    let Report::Started { at } = next(place, &run) else { panic!("the first report is not of its start") };
    place.daemon_dies();
    place.daemon_starts();
    place.find(&as_recorded(&run, at));
    place.release(&run);
    assert!(matches!(end(place, &run).end, Report::Exited { success: true, .. }));
    nothing_more(place, &run);
}

fn the_next_daemon_finds_what_has_ended(place: &mut impl Place) {
    let run = place.plan("report", Does::Wait);
    place.launch(&run);
    let Report::Started { at } = next(place, &run) else { panic!("the first report is not of its start") };
    place.daemon_dies();
    place.release(&run);
    place.wait_for_end(&run);
    place.daemon_starts();
    place.find(&as_recorded(&run, at));
    let (exit, success, _) = exited(end(place, &run).end, at);
    assert_eq!((exit.exit_code, success), (Some(0), true));
    nothing_more(place, &run);
}

fn the_next_daemon_begins_what_was_not_begun(place: &mut impl Place) {
    let run = place.plan("report", Does::Exit(0));
    // Its row was committed, and nothing else happened.
    place.daemon_dies();
    place.daemon_starts();
    place.find(&run);
    // A script that is faster than the one who looks has no report of its start: its end tells when that was.
    let told = end(place, &run);
    assert!(matches!(told.end, Report::Exited { success: true, .. }), "{:?}", told.end);
    nothing_more(place, &run);
}

fn another_boot_has_lost_it(place: &mut impl Place) {
    let mut run = place.plan("report", Does::Exit(0));
    run.run.boot = Some("another boot".to_owned());
    place.find(&run);
    let told = end(place, &run);
    assert!(!told.started && matches!(told.end, Report::Lost { .. }), "{:?}", told.end);
    nothing_more(place, &run);
}

fn what_cannot_run_says_so(place: &mut impl Place) {
    let run = place.plan("report", Does::NoInterpreter);
    place.launch(&run);
    let told = end(place, &run);
    let Report::CouldNotRun { reason, .. } = told.end else { panic!("{:?}", told.end) };
    assert!(!told.started && !reason.is_empty());
    nothing_more(place, &run);
}

fn an_input_must_be_whole(place: &mut impl Place) {
    let run = place.plan("report", Does::ShortInput);
    place.launch(&run);
    let told = end(place, &run);
    let Report::InputIncomplete { reason, .. } = told.end else { panic!("{:?}", told.end) };
    assert!(!told.started && !reason.is_empty());
    nothing_more(place, &run);
}

fn a_folder_of_another_journal_is_left_alone(place: &mut impl Place) {
    let run = place.plan("report", Does::Exit(0));
    place.occupy(&run);
    place.launch(&run);
    let told = end(place, &run);
    assert!(!told.started && matches!(told.end, Report::FolderTaken), "{:?}", told.end);
    nothing_more(place, &run);
}

fn many_at_once_end_once_each(place: &mut impl Place) {
    let runs: Vec<Launch> = (0..8).map(|number| place.plan(&format!("batch-{number}"), Does::Exit(number))).collect();
    runs.iter().for_each(|run| place.launch(run));
    let mut codes = Vec::new();
    while codes.len() < runs.len() {
        if let (run, Report::Exited { exit, .. }) = place.report() {
            codes.push((run, exit.exit_code));
        }
    }
    codes.sort();
    let expected: Vec<(RunId, Option<u8>)> = (0..8).map(|n| (runs[usize::from(n)].run.id.clone(), Some(n))).collect();
    assert_eq!(codes, expected);
    runs.iter().for_each(|run| nothing_more(place, run));
}

/// What was told of a run until its end.
struct Told {
    started: bool,
    end: Report,
}

/// The next report of this run.
fn next(place: &mut impl Place, launch: &Launch) -> Report {
    loop {
        let (run, report) = place.report();
        if run == launch.run.id && !matches!(report, Report::Waiting { .. }) {
            return report;
        }
    }
}

fn end(place: &mut impl Place, launch: &Launch) -> Told {
    let mut started = false;
    loop {
        match next(place, launch) {
            Report::Started { .. } => started = true,
            end => return Told { started, end },
        }
    }
}

/// What is known of a script that ran, and that its times are in order.
fn exited(report: Report, started: batchd::model::time::Instant) -> (Exit, bool, ExitCause) {
    match report {
        Report::Exited { started_at, ended_at, exit, success, cause } => {
            assert_eq!(started_at, started);
            assert!(ended_at >= started_at);
            (exit, success, cause)
        }
        other => panic!("{other:?}"),
    }
}

/// Nothing is told of a run that has ended: not even by the time that another has run from its launch to its end.
fn nothing_more(place: &mut impl Place, ended: &Launch) {
    let other = place.plan(&format!("behind-{}", ended.run.id.batch), Does::Exit(0));
    place.launch(&other);
    loop {
        let (run, report) = place.report();
        assert_ne!(run, ended.run.id, "behind its end: {report:?}");
        if run == other.run.id && !matches!(report, Report::Started { .. } | Report::Waiting { .. }) {
            return;
        }
    }
}

/// The launch as a daemon makes it that has the row from the journal.
fn as_recorded(launch: &Launch, started: batchd::model::time::Instant) -> Launch {
    let mut launch = launch.clone();
    (launch.run.state, launch.run.started_at) = (State::Running, Some(started));
    launch
}

/// This host, with real processes.
impl Place for World {
    fn plan(&self, batch: &str, does: Does) -> Launch {
        let gate = self.path(&format!("gate-{batch}"));
        let script = match does {
            Does::Exit(code) => format!("exit {code}"),
            Does::Wait => {
                assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
                format!("read -r _ < {}", gate.display())
            }
            Does::NoInterpreter | Does::ShortInput => String::new(),
        };
        self.plan(batch, &script, |execution, launch| match does {
            Does::Exit(_) | Does::Wait => {}
            Does::NoInterpreter => execution.interpreter = vec!["/nonexistent/interpreter".to_owned()],
            Does::ShortInput => {
                let first = self.plan("first", "", |_, _| {});
                let exit = Exit { exit_code: Some(0), stdout_bytes: 7, ..Exit::default() };
                fs::create_dir_all(self.file(&first, "")).unwrap();
                fs::write(self.file(&first, "stdout.log"), "short\n").unwrap();
                launch.run.upstreams = vec![first.run.id.clone()];
                launch.upstreams = vec![upstream(&first, Some(exit))];
                Arc::make_mut(&mut launch.definition).use_previous_output = true;
            }
        })
    }

    fn launch(&self, launch: &Launch) {
        self.launch(launch);
    }

    fn find(&self, launch: &Launch) {
        self.find(launch);
    }

    fn stop(&self, launch: &Launch) {
        self.stop(launch);
    }

    fn collect(&self, launch: &Launch) {
        self.ask_to_collect(launch);
    }

    fn report(&mut self) -> (RunId, Report) {
        self.any()
    }

    fn release(&self, launch: &Launch) {
        fs::write(self.path(&format!("gate-{}", launch.run.id.batch)), "go\n").unwrap();
    }

    fn daemon_dies(&mut self) {
        self.drop_supervisor();
    }

    fn daemon_starts(&mut self) {
        self.start();
    }

    fn wait_for_end(&self, launch: &Launch) {
        let begun = Instant::now();
        while !self.file(launch, "exit.json").exists() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{} does not end", launch.run.id);
            std::thread::yield_now();
        }
    }

    fn occupy(&self, launch: &Launch) {
        let mut other = World::new();
        let theirs = other.plan(launch.run.id.batch.as_str(), "", |_, planned| {
            planned.token.journal = JournalId("another journal".to_owned());
        });
        other.launch(&theirs);
        other.end(&theirs);
        fs::rename(other.file(&theirs, ""), self.file(launch, "")).unwrap();
    }
}

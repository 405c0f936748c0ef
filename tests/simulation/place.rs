//! The stand-in for the place where runs live, in virtual time: scripts outlive daemons, and what becomes of them is reported.
//!
//! That it behaves as the real one is what `tests/contract/place.rs` shows: both pass the same suite.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use batchd::model::id::RunId;
use batchd::model::launch::{ExitCause, Report};
use batchd::model::run::{Exit, Run};
use batchd::model::time::Instant;

use crate::by_id::ById;

/// What it is about real time, in milliseconds, and by how much the clock shows more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) real: i64,
    pub(crate) offset: i64,
}

/// What a script will do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Will {
    /// It ends by itself after so many milliseconds; none: it waits for [`FakePlace::release`].
    pub(crate) ms: Option<i64>,
    pub(crate) ending: Ending,
    /// Its definition's.
    pub(crate) timeout: Option<Duration>,
    /// Something is in the way at first, and soon is not any more.
    pub(crate) is_hindered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Exit(u8),
    /// Its shim is killed, or the host goes down.
    Lost,
    TimedOut,
    /// Nothing of it begins, for the reason that the variant names.
    CouldNotRun,
    InputIncomplete,
}

/// A script, living or ended.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) started_at: i64,
    /// For ever, while it waits.
    pub(crate) ends_at: i64,
    pub(crate) ending: Ending,
    pub(crate) stopped: bool,
    pub(crate) settled: bool,
    /// Greater than that of every end that is told before its own in the same millisecond.
    pub(crate) end_order: u64,
}

/// Waits without an end.
const NEVER: i64 = i64::MAX;

#[derive(Debug)]
pub(crate) struct FakePlace {
    boot: String,
    pub(crate) scripts: ById<Script>,
    /// Folders with runs of another journal in them.
    occupied: BTreeSet<RunId>,
    /// What will be told: at a real time, in the order in which it was known.
    reports: BTreeMap<(i64, u64), (RunId, Report)>,
    report_last: u64,
}

impl Now {
    /// What the clock shows at a real time.
    pub(crate) fn at(self, real: i64) -> Instant {
        Instant::from_ms(real + self.offset)
    }
}

impl FakePlace {
    pub(crate) fn new(boot: &str) -> Self {
        Self {
            boot: boot.to_owned(),
            scripts: ById::default(),
            occupied: BTreeSet::new(),
            reports: BTreeMap::new(),
            report_last: 0,
        }
    }

    /// Begins a run. One that has begun is a violation: nothing starts twice.
    pub(crate) fn launch(&mut self, now: Now, id: &RunId, will: Will) -> Result<(), String> {
        if self.scripts.contains_key(id) {
            return Err(format!("{id} is started twice"));
        }
        if self.occupied.contains(id) {
            self.tell(now.real, id, Report::FolderTaken);
            return Ok(());
        }
        if will.is_hindered {
            self.tell(now.real, id, Report::Waiting { reason: "no space is left on the device".to_owned() });
        }
        let by_itself = will.ms.map_or(NEVER, |ms| now.real + ms);
        let timeout = will.timeout.map_or(NEVER, |timeout| now.real + timeout.as_millis() as i64);
        let ending = if timeout < by_itself { Ending::TimedOut } else { will.ending };
        let ends_at = by_itself.min(timeout);
        let script = Script { started_at: now.real, ends_at, ending, stopped: false, settled: false, end_order: 0 };
        self.scripts.insert(id, script);
        self.tell_both(now, id);
        Ok(())
    }

    /// Looks for a run whose row says `starting` or `running`: tells what became of it, or begins it, if nothing has. Whether
    /// it was begun.
    pub(crate) fn find(&mut self, now: Now, run: &Run, will: impl FnOnce() -> Will) -> Result<bool, String> {
        if self.scripts.contains_key(&run.id) {
            self.tell_both(now, &run.id);
            if run.stop.is_some() {
                self.stop(now, &run.id);
            }
        } else if run.boot.as_ref().is_some_and(|boot| *boot != self.boot) {
            let reason = "it was started in another boot of the host".to_owned();
            self.tell(now.real, &run.id, Report::Lost { at: now.at(now.real), reason });
        } else if run.stop.is_some() {
            self.tell(now.real, &run.id, Report::StoppedBeforeStart { at: now.at(now.real) });
        } else {
            self.launch(now, &run.id, will())?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Ends a script within ten seconds; one that has ended, or is ending, is left alone.
    pub(crate) fn stop(&mut self, now: Now, id: &RunId) {
        let lives = |script: &&mut Script| script.ends_at > now.real && !script.stopped && !script.settled;
        let Some(script) = self.scripts.get_mut(id).filter(lives) else { return };
        script.stopped = true;
        script.ends_at = now.real + 1 + (script.ends_at - now.real).min(10_000);
        let begun = |at: i64, report: &Report| at <= now.real && matches!(report, Report::Started { .. });
        self.reports.retain(|(at, _), (run, report)| run != id || begun(*at, report));
        self.tell_end(now, id);
    }

    /// What only the daemon wanted of a run that has ended can go.
    pub(crate) fn collect(&mut self, id: &RunId) {
        if let Some(script) = self.scripts.get_mut(id) {
            script.settled = true;
        }
    }

    /// When the next report comes.
    pub(crate) fn next_report_at(&self) -> Option<i64> {
        self.reports.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next report.
    pub(crate) fn take_report(&mut self) -> Option<(RunId, Report)> {
        self.reports.pop_first().map(|(_, told)| told)
    }

    /// The next report, if it comes by then.
    pub(crate) fn take_report_at(&mut self, real: i64) -> Option<(RunId, Report)> {
        self.next_report_at().filter(|at| *at <= real).and_then(|_| self.take_report())
    }

    /// Nobody listens any more.
    pub(crate) fn daemon_dies(&mut self) {
        self.reports.clear();
    }

    /// The host goes down, and boots anew: no script lives on, and of those that had ended only what `survives` is known.
    pub(crate) fn host_dies(&mut self, now: Now, boot: &str, mut survives: impl FnMut() -> bool) {
        self.daemon_dies();
        boot.clone_into(&mut self.boot);
        for script in self.scripts.values_mut().filter(|script| !script.settled) {
            if script.ends_at > now.real || !survives() {
                (script.ending, script.stopped) = (Ending::Lost, false);
                script.ends_at = script.ends_at.min(now.real);
            }
        }
    }

    /// What the place tells of a script, from now on.
    fn tell_both(&mut self, now: Now, id: &RunId) {
        let script = &self.scripts[id];
        let begins = !matches!(script.ending, Ending::CouldNotRun | Ending::InputIncomplete);
        // A script that is faster than the one who looks has no report of its start.
        if begins && script.ends_at > now.real {
            self.tell(now.real, id, Report::Started { at: now.at(script.started_at) });
        }
        self.tell_end(now, id);
    }

    fn tell_end(&mut self, now: Now, id: &RunId) {
        let Script { started_at, ends_at, ending, stopped, .. } = self.scripts[id].clone();
        if ends_at == NEVER {
            return;
        }
        let at = now.at(ends_at);
        // What is ended from outside is ended by TERM.
        let exited = |exit_code: Option<u8>, success, cause| Report::Exited {
            started_at: now.at(started_at),
            ended_at: at,
            exit: Exit { exit_code, signal: exit_code.is_none().then_some(15), ..Exit::default() },
            success,
            cause,
        };
        let end = match ending {
            _ if stopped => exited(None, false, ExitCause::Stop),
            Ending::Exit(code) => exited(Some(code), code == 0, ExitCause::Itself),
            Ending::TimedOut => exited(None, false, ExitCause::Timeout),
            Ending::Lost => Report::Lost { at, reason: "its shim was killed".to_owned() },
            Ending::CouldNotRun => Report::CouldNotRun { at, reason: "no interpreter".to_owned() },
            Ending::InputIncomplete => {
                Report::InputIncomplete { at, reason: "an upstream's output is short".to_owned() }
            }
        };
        self.tell(ends_at.max(now.real), id, end);
        if let Some(script) = self.scripts.get_mut(id) {
            script.end_order = self.report_last;
        }
    }

    fn tell(&mut self, at: i64, id: &RunId, report: Report) {
        self.report_last += 1;
        self.reports.insert((at, self.report_last), (id.clone(), report));
    }

    /// Puts a run of another journal in the place of this one.
    pub(crate) fn occupy(&mut self, id: &RunId) {
        self.occupied.insert(id.clone());
    }

    /// Lets a script that waits end.
    pub(crate) fn release(&mut self, now: Now, id: &RunId, is_heard: bool) {
        if let Some(script) = self.scripts.get_mut(id).filter(|script| script.ends_at == NEVER) {
            script.ends_at = now.real + 1;
            if is_heard {
                self.tell_end(now, id);
            }
        }
    }
}

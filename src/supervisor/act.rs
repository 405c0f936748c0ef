//! What is done about each run: begun, looked at, begun anew, stopped, reported.

use std::io;
use std::path::Path;

use super::classify::{Facts, Finding, Folder, Row, classify};
use super::hunt::Quarry;
use super::probe::{Known, Probed, probe};
use super::serve::Server;
use super::{home, order};
use crate::model::id::RunId;
use crate::model::launch::Report;
use crate::model::text::abridged;
use crate::model::time::Instant;
use crate::rundir::crash::{CrashPoint, crash_point};
use crate::rundir::records::{Claim, Ending, ExitRecord, Started, VERSION};
use crate::rundir::{Lock, Owner, RunDir};
use crate::shim::{clock, tree};

impl Server {
    /// Begins a run that was never begun: makes its folder and asks for a shim. If there is a folder, looks at it
    /// instead.
    pub(super) fn begin(&mut self, run: &RunId) {
        if self.runs.get(run).is_some_and(|entry| entry.stop) {
            return self.prevent(run);
        }
        if let Some(reason) = self.shortage() {
            return self.wait(run, reason);
        }
        if let Err(reason) = self.home.ensure() {
            return self.wait(run, reason);
        }
        match RunDir::create(&self.folder(run)) {
            Ok(folder) => {
                crash_point(CrashPoint::DaemonFolderMade);
                self.ask_for_shim(run, &folder);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.look(run),
            Err(error) => self.wait_for(run, "create", &error),
        }
    }

    /// Finds out what the run's folder means now, and does what follows from it.
    pub(super) fn look(&mut self, run: &RunId) {
        // A folder that can't be seen now is not one that was removed.
        if let Err(reason) = self.home.ensure() {
            return self.wait(run, reason);
        }
        let found = self.probe(run, None).and_then(|(finding, probed)| match &probed.run {
            Some(folder) if finding.needs_lock() => match folder.lock()? {
                Some(lock) => self.probe(run, Some(&lock)).map(|(finding, probed)| (finding, probed, Some(lock))),
                None => Ok((Finding::WaitForLock, probed, None)),
            },
            Some(_) | None => Ok((finding, probed, None)),
        });
        match found {
            Ok((finding, probed, lock)) => self.act(run, finding, probed, lock),
            Err(error) => self.wait_for(run, "read", &error),
        }
    }

    fn probe(&self, run: &RunId, lock: Option<&Lock>) -> io::Result<(Finding, Probed)> {
        let entry = self.runs.get(run).ok_or(io::ErrorKind::NotFound)?;
        let boot = self.around.boot.as_str();
        let known = Known { row: entry.row(), same_boot: entry.launch.run.boot.as_deref() == Some(boot), boot };
        let probed = probe(&self.folder(run), &entry.launch.token, known, lock)?;
        // Asked for in this very session, and gone: somebody removed it, and nobody knows what had run in it.
        let vanished = entry.serial != 0 && probed.facts.folder == Folder::Missing;
        let row = if vanished { Row::Running } else { probed.facts.row };
        Ok((classify(Facts { row, ..probed.facts }), probed))
    }

    /// `lock` is held if the finding needs it, and let go with what is done here.
    fn act(&mut self, run: &RunId, finding: Finding, probed: Probed, lock: Option<Lock>) {
        match finding {
            Finding::Ended => self.report_exit(run, probed.exit),
            Finding::Alive => self.follow(run, probed),
            Finding::WaitForLock => self.look_again(run),
            Finding::NothingRan => self.begin_anew(run, probed.run.zip(lock)),
            Finding::StoppedBeforeStart => self.report_end(run, Report::StoppedBeforeStart { at: clock::now() }),
            Finding::FolderTaken => self.report_end(run, Report::FolderTaken),
            Finding::PowerLost => {
                self.report_lost(run, "the host went down or restarted during the run".to_owned());
            }
            Finding::FolderGone => {
                let reason = "the run folder was removed during the run".to_owned();
                self.lose(run, &probed, false, reason);
            }
            Finding::ShimKilled => {
                let reason = "the shim was killed, so the end of the script is unknown".to_owned();
                self.lose(run, &probed, true, reason);
            }
            Finding::Damaged => self.lose_damaged(run, &probed, lock),
        }
    }

    /// The shim has told that the script runs.
    pub(super) fn import_start(&mut self, run: &RunId) {
        let Some(entry) = self.runs.get(run).filter(|entry| !entry.start_reported) else { return };
        let started = RunDir::open(&self.folder(run)).ok().and_then(|folder| folder.read(&entry.launch.token).ok()?);
        self.report_start(run, started);
    }

    /// The shim has told that it has written down how the run ended.
    pub(super) fn import(&mut self, run: &RunId) {
        let Some(entry) = self.runs.get(run) else { return };
        let exit = RunDir::open(&self.folder(run)).ok().and_then(|folder| folder.read(&entry.launch.token).ok()?);
        // If there is something wrong with it, the end of the shim brings us to the table.
        self.report_exit(run, exit);
    }

    /// The shim has told that what the run waits for has changed.
    pub(super) fn import_wait(&mut self, run: &RunId) {
        // Its end, or the removal of its folder, tells more.
        let Ok(folder) = RunDir::open(&self.folder(run)) else { return };
        self.report_wait(run, &folder);
    }

    /// Reports what the output of a living run waits for, or that it goes on.
    fn report_wait(&mut self, run: &RunId, folder: &RunDir) {
        let Some(entry) = self.runs.get_mut(run).filter(|entry| entry.start_reported) else { return };
        let waits = folder.waits();
        let has_waited = std::mem::replace(&mut entry.output_waits, waits.is_some());
        match waits {
            Some(reason) => self.report(run, Report::Waiting { reason }),
            None if has_waited => {
                let started: Option<Started> = folder.read(&entry.launch.token).ok().flatten();
                if let Some(started) = started {
                    self.report(run, Report::Started { at: started.at });
                }
            }
            None => {}
        }
    }

    /// Its shim lives, and may be another daemon's: watches it from outside.
    fn follow(&mut self, run: &RunId, probed: Probed) {
        let told = probed.started.is_some();
        self.report_start(run, probed.started);
        if let Some(folder) = &probed.run {
            self.report_wait(run, folder);
        }
        let shim = probed.claim.and_then(|claim| claim.shim);
        let stop = self.runs.get(run).is_some_and(|entry| entry.stop);
        match shim.and_then(|shim| tree::open(&shim, &self.around.boot)) {
            Some(handle) => {
                if stop {
                    terminate(&handle);
                }
                // Nobody will tell us of its start: it is looked for until it is there, and its end waited for then.
                if told { self.look_when_ended_or_later(run, handle) } else { self.look_again(run) }
            }
            None => self.look_again(run),
        }
    }

    /// No user code ran: takes what is there aside, and asks for a shim, at once or after a wait.
    fn begin_anew(&mut self, run: &RunId, found: Option<(RunDir, Lock)>) {
        let trouble = self.trouble(run, found.as_ref().map(|(folder, _)| folder));
        let shortage = self.shortage();
        let Some(entry) = self.runs.get_mut(run) else { return };
        if entry.stop {
            // What a shim that came to nothing has left would be taken for one that is on its way.
            return match found.as_ref().map_or(Ok(()), |(folder, lock)| folder.set_aside(lock)) {
                Ok(()) => self.prevent(run),
                Err(error) => self.wait_for(run, "empty", &error),
            };
        }
        if let Some(reason) = shortage {
            return self.wait(run, reason);
        }
        let at_once = trouble.is_none() && !entry.repeated;
        if !at_once && !entry.waited {
            let reason = trouble.unwrap_or_else(|| "the shim ended before the script started".to_owned());
            // What the attempt has left may take what the next one waits for.
            if let Some((folder, lock)) = found {
                self.remove(run, |path| folder.remove_attempt(path, &lock));
            }
            return self.wait(run, reason);
        }
        entry.repeated |= entry.serial != 0;
        let Some((folder, lock)) = found else { return self.begin(run) };
        match folder.set_aside(&lock) {
            Ok(()) => {
                // The next shim needs it.
                drop(lock);
                self.ask_for_shim(run, &folder);
            }
            Err(error) => self.wait_for(run, "empty", &error),
        }
    }

    /// Why the last attempt came to nothing, if its shim told.
    fn trouble(&self, run: &RunId, folder: Option<&RunDir>) -> Option<String> {
        let error = || self.runs.get(run).and_then(|entry| entry.shim_error).map(io::Error::from_raw_os_error);
        folder.and_then(RunDir::trouble).or_else(|| {
            Some(format!(
                "the shim can't prepare {}: {}",
                self.folder(run).display(),
                home::said(&self.folder(run), &error()?)
            ))
        })
    }

    /// Removes the folder of a run of which nothing has run. It is then as one that was never begun.
    fn remove(&mut self, run: &RunId, remove: impl Fn(&Path) -> io::Result<()>) {
        if remove(&self.folder(run)).is_ok()
            && let Some(entry) = self.runs.get_mut(run)
        {
            let serial = std::mem::take(&mut entry.serial);
            self.forget_order(serial);
        }
    }

    /// Writes `run.json` into a folder that holds nothing of a run, and hands an order to the launcher.
    fn ask_for_shim(&mut self, run: &RunId, folder: &RunDir) {
        let Some(entry) = self.runs.get_mut(run) else { return };
        self.serial_last += 1;
        let before = std::mem::replace(&mut entry.serial, self.serial_last);
        (entry.waited, entry.shim_error) = (false, None);
        let order = match order::order(&entry.launch, &self.around, entry.serial) {
            Ok(order) => order,
            Err(reason) => {
                return self.report_end(run, Report::CouldNotRun { at: clock::now(), reason: reason.to_owned() });
            }
        };
        if let Err(error) = folder.write(&order::run_record(&entry.launch, &order)) {
            self.forget_order(before);
            self.remove(run, RunDir::remove_empty);
            return self.wait_for(run, "write run.json in", &error);
        }
        crash_point(CrashPoint::DaemonRunWritten);
        self.forget_order(before);
        match serde_json::to_vec(&order) {
            Ok(bytes) if bytes.len() <= super::launcher::ORDER_BYTES_MAX => self.send(run, order.serial, bytes),
            Ok(_) | Err(_) => {
                let reason =
                    "arguments and variables are far too long for the system; put large values into files".to_owned();
                self.report_end(run, Report::CouldNotRun { at: clock::now(), reason });
            }
        }
        crash_point(CrashPoint::DaemonShimRequested);
    }

    /// It can't go on now. Says why, and looks again later.
    pub(super) fn wait(&mut self, run: &RunId, reason: String) {
        let Some(entry) = self.runs.get_mut(run) else { return };
        let delay = entry.retry_delay();
        entry.output_waits |= entry.start_reported;
        self.report(run, Report::Waiting { reason });
        self.look_after(run, delay);
    }

    /// As [`Self::wait`], because something can't be done to the run's folder.
    fn wait_for(&mut self, run: &RunId, what: &str, error: &io::Error) {
        let folder = self.folder(run);
        self.wait(run, format!("can't {what} {}: {}", folder.display(), home::said(&folder, error)));
    }

    fn look_again(&mut self, run: &RunId) {
        let Some(entry) = self.runs.get_mut(run) else { return };
        let delay = entry.look_delay();
        self.look_after(run, delay);
    }

    /// Ends a run, however far it has come.
    pub(super) fn stop(&mut self, run: &RunId) {
        let Some(entry) = self.runs.get_mut(run) else { return };
        entry.stop = true;
        self.prevent(run);
    }

    /// Puts a claim in place, so that no shim ever runs it; if a shim was first, that is told to end it.
    fn prevent(&mut self, run: &RunId) {
        let Some(entry) = self.runs.get(run) else { return };
        let token = entry.launch.token.clone();
        let folder = match RunDir::open(&self.folder(run)) {
            Ok(folder) => folder,
            // It was never begun (or its folder was removed, and the look finds that).
            Err(error)
                if (entry.is_new || error.kind() == io::ErrorKind::NotFound) && entry.serial == 0 && !entry.started =>
            {
                return self.report_end(run, Report::StoppedBeforeStart { at: clock::now() });
            }
            Err(_) => return self.look(run),
        };
        if entry.started {
            return self.look(run);
        }
        if folder.owner(&token).is_ok_and(|owner| owner == Owner::Foreign) {
            // Nothing of ours is in it, and nothing of ours will be.
            return self.report_end(run, Report::StoppedBeforeStart { at: clock::now() });
        }
        match folder.claim(&Claim { version: VERSION, token, shim: None }) {
            Ok(true) => self.report_end(run, Report::StoppedBeforeStart { at: clock::now() }),
            // A shim's: if it lives it is told to end, and else the table knows more.
            Ok(false) => self.look(run),
            Err(error) => self.wait_for(run, "claim", &error),
        }
    }

    fn report_start(&mut self, run: &RunId, started: Option<Started>) {
        let Some(entry) = self.runs.get_mut(run) else { return };
        if let Some(started) = started.filter(|_| !entry.start_reported) {
            (entry.started, entry.start_reported) = (true, true);
            self.report(run, Report::Started { at: started.at });
        }
    }

    fn report_exit(&mut self, run: &RunId, exit: Option<ExitRecord>) {
        let Some(record) = exit else { return };
        crash_point(CrashPoint::DaemonExitRead);
        let at = record.ended_at;
        let report = match record.end {
            Ending::Exited { cause, success, exit, .. } => {
                Report::Exited { started_at: record.started_at.unwrap_or(at), ended_at: at, exit, success, cause }
            }
            Ending::CouldNotRun { reason } => Report::CouldNotRun { at, reason: abridged(&reason).into_owned() },
            Ending::InputIncomplete { reason } => {
                Report::InputIncomplete { at, reason: abridged(&reason).into_owned() }
            }
            Ending::StoppedBeforeStart => Report::StoppedBeforeStart { at },
        };
        self.report_end(run, report);
    }

    pub(super) fn report_lost(&mut self, run: &RunId, reason: String) {
        let at: Instant = clock::now();
        self.report_end(run, Report::Lost { at, reason });
    }

    /// The files contradict each other: keeps them as evidence, and gives the run up.
    fn lose_damaged(&mut self, run: &RunId, probed: &Probed, lock: Option<Lock>) {
        let what = probed.damage.clone().unwrap_or_else(|| "started.json is missing".to_owned());
        // A folder that is not ours is left as it is, and has no lock of ours. Evidence is worth an attempt, and not
        // more.
        if let (Some(folder), Some(lock)) = (&probed.run, &lock) {
            let _ = folder.set_aside(lock);
        }
        self.lose(run, probed, true, format!("the run folder is damaged: {what}"));
    }

    fn lose(&mut self, run: &RunId, probed: &Probed, kill: bool, reason: String) {
        let Some(entry) = self.runs.get(run) else { return };
        let quarry = Quarry {
            token: order::token_text(&entry.launch),
            shim: probed.claim.as_ref().and_then(|claim| claim.shim.clone()),
            script: probed.started.as_ref().map(|started| started.script.clone()),
            boot: self.around.boot.clone(),
        };
        self.hunt(run, quarry, kill, reason);
    }
}

/// Asks a shim to end its run.
fn terminate(shim: &std::os::fd::OwnedFd) {
    // An error means that it has just ended: its end is looked at anyway.
    let _ = rustix::process::pidfd_send_signal(shim, rustix::process::Signal::TERM);
}

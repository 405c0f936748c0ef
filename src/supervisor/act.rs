//! What is done about each run: begun, looked at, begun anew, stopped, reported.

use std::io;

use super::classify::{Facts, Finding, Folder, Row, classify};
use super::hunt::Quarry;
use super::order;
use super::probe::{Probed, probe};
use super::serve::Server;
use crate::model::id::RunId;
use crate::model::launch::Report;
use crate::model::time::Instant;
use crate::rundir::RunDir;
use crate::rundir::crash::{CrashPoint, crash_point};
use crate::rundir::records::{Claim, Ending, ExitRecord, Started, VERSION};
use crate::shim::{clock, tree};

impl Server {
    /// Begins a run that was never begun: makes its folder and asks for a shim. If there is a folder, looks at it instead.
    pub(super) fn begin(&mut self, run: &RunId) {
        match RunDir::create(&self.folder(run)) {
            Ok(folder) => {
                crash_point(CrashPoint::DaemonFolderMade);
                self.ask_for_shim(run, &folder);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.look(run),
            Err(error) => self.wait(run, format!("the run folder can't be made: {error}")),
        }
    }

    /// Finds out what the run's folder means now, and does what follows from it.
    pub(super) fn look(&mut self, run: &RunId) {
        let Some(entry) = self.runs.get(run) else { return };
        let same_boot = entry.launch.run.boot.as_deref() == Some(self.around.boot.as_str());
        let token = &entry.launch.token;
        let probed = match probe(&self.folder(run), token, entry.row(), same_boot, &self.around.boot) {
            Ok(probed) => probed,
            Err(error) => return self.wait(run, format!("the run folder can't be read: {error}")),
        };
        // Asked for in this very session, and gone: somebody removed it, and nobody knows what had run in it.
        let vanished = entry.serial != 0 && probed.facts.folder == Folder::Missing;
        let row = if vanished { Row::Running } else { probed.facts.row };
        let finding = classify(Facts { row, ..probed.facts });
        self.act(run, finding, probed);
    }

    fn act(&mut self, run: &RunId, finding: Finding, probed: Probed) {
        match finding {
            Finding::Ended => self.report_exit(run, probed.exit),
            Finding::Alive => self.follow(run, probed),
            Finding::WaitForLock => self.look_again(run),
            Finding::NothingRan => self.begin_anew(run, probed.run),
            Finding::StoppedBeforeStart => self.report_end(run, Report::StoppedBeforeStart { at: clock::now() }),
            Finding::FolderTaken => self.report_end(run, Report::FolderTaken),
            Finding::PowerLost => {
                self.report_lost(run, "the host went down, or was started again, while it was under way".to_owned());
            }
            Finding::FolderGone => {
                let reason = "its folder was removed while it was under way".to_owned();
                self.lose(run, &probed, false, reason);
            }
            Finding::ShimKilled => {
                let reason = "its shim was killed: nobody knows how its script ended".to_owned();
                self.lose(run, &probed, true, reason);
            }
            Finding::Damaged => self.lose_damaged(run, &probed),
        }
    }

    /// The shim has told that the script runs.
    pub(super) fn import_start(&mut self, run: &RunId) {
        let Some(entry) = self.runs.get(run).filter(|entry| !entry.started) else { return };
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

    /// Its shim lives, and may be another daemon's: watches it from outside.
    fn follow(&mut self, run: &RunId, probed: Probed) {
        let told = probed.started.is_some();
        self.report_start(run, probed.started);
        let shim = probed.claim.and_then(|claim| claim.shim);
        let stop = self.runs.get(run).is_some_and(|entry| entry.stop);
        match shim.and_then(|shim| tree::open(&shim, &self.around.boot)) {
            Some(handle) => {
                if stop {
                    terminate(&handle);
                }
                // Nobody will tell us of its start: it is looked for until it is there, and its end waited for then.
                if told { self.look_when_ended(run, handle) } else { self.look_again(run) }
            }
            None => self.look_again(run),
        }
    }

    /// No user code ran: takes what is there aside, and asks for a shim, soon or after a wait.
    fn begin_anew(&mut self, run: &RunId, folder: Option<RunDir>) {
        let trouble = folder.as_ref().and_then(RunDir::trouble);
        let Some(entry) = self.runs.get_mut(run) else { return };
        if entry.stop {
            return self.prevent(run);
        }
        let delay = entry.retry_delay(trouble.is_some());
        if !delay.is_zero() && !entry.waited {
            let reason = trouble.unwrap_or_else(|| "its shim ended before the script was started".to_owned());
            return self.wait(run, reason);
        }
        let Some(folder) = folder else { return self.begin(run) };
        let locked = folder.lock().and_then(|lock| match lock {
            Some(lock) => folder.set_aside(&lock).map(|()| true),
            None => Ok(false),
        });
        match locked {
            Ok(true) => self.ask_for_shim(run, &folder),
            Ok(false) => self.look_again(run),
            Err(error) => self.wait(run, format!("the run folder can't be begun anew: {error}")),
        }
    }

    /// Writes `run.json` into a folder that holds nothing of a run, and hands an order to the launcher.
    fn ask_for_shim(&mut self, run: &RunId, folder: &RunDir) {
        let Some(entry) = self.runs.get_mut(run) else { return };
        self.serial_last += 1;
        let before = std::mem::replace(&mut entry.serial, self.serial_last);
        entry.attempts += 1;
        entry.waited = false;
        let Some(order) = order::order(&entry.launch, &self.around, entry.serial) else {
            let reason = "its row names no definition; this is a fault of batchd".to_owned();
            return self.report_end(run, Report::CouldNotRun { at: clock::now(), reason });
        };
        if let Err(error) = folder.write(&order::run_record(&entry.launch, &order)) {
            return self.wait(run, format!("run.json can't be written: {error}"));
        }
        crash_point(CrashPoint::DaemonRunWritten);
        self.forget_order(before);
        match serde_json::to_vec(&order) {
            Ok(bytes) if bytes.len() <= super::launcher::ORDER_BYTES_MAX => self.send(run, order.serial, bytes),
            Ok(_) | Err(_) => {
                let reason = "its arguments and variables are far longer than the system takes; use files".to_owned();
                self.report_end(run, Report::CouldNotRun { at: clock::now(), reason });
            }
        }
        crash_point(CrashPoint::DaemonShimRequested);
    }

    /// It can't go on now. Says why, and looks again later.
    pub(super) fn wait(&mut self, run: &RunId, reason: String) {
        let Some(entry) = self.runs.get_mut(run) else { return };
        entry.waited = true;
        let delay = entry.retry_delay(true);
        entry.attempts += 1;
        self.report(run, Report::Waiting { reason });
        self.look_after(run, delay);
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
            Err(error) if error.kind() == io::ErrorKind::NotFound && entry.serial == 0 && !entry.started => {
                return self.report_end(run, Report::StoppedBeforeStart { at: clock::now() });
            }
            Err(_) => return self.look(run),
        };
        if entry.started {
            return self.look(run);
        }
        match folder.claim(&Claim { version: VERSION, token, shim: None }) {
            Ok(true) => self.report_end(run, Report::StoppedBeforeStart { at: clock::now() }),
            // A shim's: if it lives it is told to end, and else the table knows more.
            Ok(false) => self.look(run),
            Err(error) => self.wait(run, format!("it can't be stopped: {error}")),
        }
    }

    fn report_start(&mut self, run: &RunId, started: Option<Started>) {
        let Some(entry) = self.runs.get_mut(run) else { return };
        if let Some(started) = started.filter(|_| !entry.started) {
            entry.started = true;
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
            Ending::CouldNotRun { reason } => Report::CouldNotRun { at, reason },
            Ending::InputIncomplete { reason } => Report::InputIncomplete { at, reason },
            Ending::StoppedBeforeStart => Report::StoppedBeforeStart { at },
        };
        self.report_end(run, report);
    }

    pub(super) fn report_lost(&mut self, run: &RunId, reason: String) {
        let at: Instant = clock::now();
        self.report_end(run, Report::Lost { at, reason });
    }

    /// The files contradict each other: keeps them as evidence, and gives the run up.
    fn lose_damaged(&mut self, run: &RunId, probed: &Probed) {
        let what = probed.damage.clone().unwrap_or_else(|| "started.json is missing from its folder".to_owned());
        if let (Folder::Ours, Some(folder)) = (probed.facts.folder, &probed.run) {
            // Evidence is worth an attempt, and not more.
            if let Ok(Some(lock)) = folder.lock() {
                let _ = folder.set_aside(&lock);
            }
        }
        self.lose(run, probed, true, format!("its files can't be believed: {what}"));
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

//! The one task of the local place: it owns all that is known, and takes one event after the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, warn};

use super::home::Home;
use super::launcher::Answer;
use super::link::Link;
use super::order::Surroundings;
use super::runs::Entry;
use super::{Request, hunt};
use crate::model::id::RunId;
use crate::model::launch::Report;
use crate::rundir::RunDir;
use crate::rundir::crash::{CrashPoint, crash_point};
use crate::shim::order::{News, Notice};
use crate::shim::shortage;

/// The most requests that a launcher has not answered: their answers carry descriptors, and only so many of these may
/// be in flight (unix(7)).
const UNANSWERED_MAX: usize = 64;
/// A launcher that died is replaced no sooner than this after it was started: something is wrong with the host.
const LAUNCHER_RESTART: Duration = Duration::from_secs(1);
/// When a folder is tidied again that could not be: nothing waits for it.
const SETTLE_AGAIN: Duration = Duration::from_secs(60);
/// Between looks at what the run of an earlier daemon waits for: soon enough for whoever wonders why it does not end.
const FOLLOW_LOOK: Duration = Duration::from_secs(10);
/// Notices taken from the pipe at once.
const NOTICES_MAX: usize = 64;

/// All of the local place.
pub(super) struct Server {
    pub(super) around: Surroundings,
    pub(super) home: Home,
    reports: UnboundedSender<(RunId, Report)>,
    pub(super) runs: BTreeMap<RunId, Entry>,
    /// The run of each order that may still be told of.
    serials: BTreeMap<u64, RunId>,
    pub(super) serial_last: u64,
    link: Option<Link>,
    link_started: Option<Instant>,
    unanswered: BTreeMap<u64, RunId>,
    /// Orders that wait for a launcher, or for answers to others.
    unsent: VecDeque<(u64, Vec<u8>)>,
    notices: AsyncFd<OwnedFd>,
    /// For launchers; kept, so that the pipe stays open between them.
    notices_in: OwnedFd,
    /// What waits for something to happen to a run.
    waits: JoinSet<Wake>,
    /// Why nothing may be begun now; none: it may.
    shortage: watch::Receiver<Option<String>>,
}

/// What a waiting task tells the server.
#[derive(Debug)]
pub(super) enum Wake {
    /// Look at the run's folder.
    Look(RunId),
    /// Nothing of the run is left; it is lost for this reason.
    Hunted(RunId, String),
    /// Try again to tidy the run's folder.
    Settle(RunId),
}

/// Which attempt to tidy a folder it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settling {
    First,
    Again,
}

impl Server {
    pub(super) fn new(
        around: Surroundings,
        reports: UnboundedSender<(RunId, Report)>,
        shortage: watch::Receiver<Option<String>>,
    ) -> io::Result<Self> {
        let (notices, notices_in) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self {
            home: Home::of(&around.runs),
            around,
            reports,
            runs: BTreeMap::new(),
            serials: BTreeMap::new(),
            serial_last: 0,
            link: None,
            link_started: None,
            unanswered: BTreeMap::new(),
            unsent: VecDeque::new(),
            notices: super::watched(notices, Interest::READABLE)?,
            notices_in,
            waits: JoinSet::new(),
            shortage,
        })
    }

    pub(super) async fn serve(mut self, mut requests: UnboundedReceiver<Request>) {
        loop {
            let restart_at = self.link_started.map_or_else(Instant::now, |started| started + LAUNCHER_RESTART);
            let restart = self.link.is_none() && !self.unsent.is_empty();
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.take_request(request),
                    None => return,
                },
                Some(waited) = self.waits.join_next() => match waited {
                    Ok(Wake::Look(run)) => {
                        // What a shim has told before it ended.
                        self.take_pending_notices();
                        self.look(&run);
                    }
                    Ok(Wake::Hunted(run, reason)) => self.report_lost(&run, reason),
                    Ok(Wake::Settle(run)) => self.settle(run, Settling::Again),
                    // Its run has something else to wait for.
                    Err(error) if error.is_cancelled() => {}
                    // Nobody would look at its run again: the daemon ends with this, and the next one finds the run.
                    Err(error) => return error!(%error, "the task that watches a run crashed; the daemon exits"),
                },
                answer = next_answer(&mut self.link) => match answer {
                    Some(answer) => self.take_answer(answer),
                    None => self.lose_launcher(),
                },
                notices = next_notices(&self.notices) => self.take_notices(&notices),
                () = sleep_until(restart_at), if restart => self.start_launcher(),
                Ok(()) = self.shortage.changed() => self.look_at_waiting(),
            }
        }
    }

    fn take_request(&mut self, request: Request) {
        match request {
            Request::Launch(launch) => {
                let run = launch.run.id.clone();
                self.runs.insert(run.clone(), Entry::new(launch, true));
                self.begin(&run);
            }
            Request::Find(launch) => {
                let run = launch.run.id.clone();
                self.runs.insert(run.clone(), Entry::new(launch, false));
                self.look(&run);
            }
            Request::Stop(run) => self.stop(&run),
            Request::Collect(run) => {
                self.settle(run, Settling::First);
                crash_point(CrashPoint::DaemonSettled);
            }
            // Who asked may not wait any more.
            Request::Tell(done) => drop(done.send(())),
        }
    }

    /// Tidies a run's folder. If the system is short of something now, that is tried again, and said once.
    fn settle(&mut self, run: RunId, settling: Settling) {
        let Err(error) = RunDir::open(&self.folder(&run)).and_then(|folder| folder.settle()) else { return };
        // One that was stopped before it started has no folder.
        if error.kind() == io::ErrorKind::NotFound {
            return;
        }
        let passes = shortage::is_shortage(&error);
        if settling == Settling::First || !passes {
            let then =
                if passes { "batchd tries again" } else { "its files `lock` and `claim` can be removed by hand" };
            warn!(%run, "can't tidy the run folder: {}; {then}", shortage::said(&error));
        }
        if passes {
            self.waits.spawn(async move {
                sleep(SETTLE_AGAIN).await;
                Wake::Settle(run)
            });
        }
    }

    fn take_answer(&mut self, answer: Answer) {
        let run = self.unanswered.remove(&answer.serial);
        self.send_orders();
        let current = |run: &RunId| self.runs.get(run).is_some_and(|entry| entry.serial == answer.serial);
        let Some(run) = run.filter(current) else { return };
        match answer.shim {
            Ok(Some(shim)) => self.look_when_ended(&run, shim),
            Ok(None) => self.look(&run),
            Err(error) => self.wait(&run, format!("can't fork a process: {}", shortage::said(&error))),
        }
    }

    /// Takes the notices that are in the pipe by now.
    fn take_pending_notices(&mut self) {
        let mut bytes = [0; NOTICES_MAX * Notice::BYTES];
        // An error: there are none.
        let count = rustix::io::read(self.notices.get_ref(), &mut bytes[..]).unwrap_or(0);
        self.take_notices(&decoded(&bytes[..count]));
    }

    fn take_notices(&mut self, notices: &[Notice]) {
        let is_end = |notice: &&Notice| notice.news == News::Ended;
        let ended: BTreeSet<u64> = notices.iter().filter(is_end).map(|notice| notice.serial).collect();
        for notice in notices {
            // An end tells of the start too: a script that is faster than we are needs one look at its folder, not two.
            if is_end(&notice) || !ended.contains(&notice.serial) {
                self.take_notice(notice);
            }
        }
    }

    fn take_notice(&mut self, notice: &Notice) {
        let Some(run) = self.serials.get(&notice.serial).cloned() else { return };
        match notice.news {
            News::Started => self.import_start(&run),
            News::Ended => self.import(&run),
            News::Waits => self.import_wait(&run),
            News::Failed(errno) => {
                if let Some(entry) = self.runs.get_mut(&run) {
                    entry.shim_error = Some(errno.into());
                }
            }
        }
    }

    /// Hands an order to the launcher, now or when there is one that has answered enough of the others.
    pub(super) fn send(&mut self, run: &RunId, serial: u64, order: Vec<u8>) {
        self.serials.insert(serial, run.clone());
        self.unsent.push_back((serial, order));
        if self.link_started.is_none() {
            self.start_launcher();
        }
        self.send_orders();
    }

    fn send_orders(&mut self) {
        let Some(link) = &mut self.link else { return };
        while self.unanswered.len() < UNANSWERED_MAX {
            let Some((serial, order)) = self.unsent.pop_front() else { return };
            // An order of a run that was stopped meanwhile is dropped.
            if let Some(run) = self.serials.get(&serial) {
                self.unanswered.insert(serial, run.clone());
                link.send(serial, &order);
            }
        }
    }

    fn start_launcher(&mut self) {
        self.link_started = Some(Instant::now());
        match Link::start(&self.around, &self.notices_in) {
            Ok(link) => self.link = Some(link),
            Err(error) => self.put_off(&format!("can't start a launcher: {}", shortage::said(&error))),
        }
        self.send_orders();
    }

    /// There is no launcher for what is unsent: these runs wait, each for its own time, and then ask again.
    fn put_off(&mut self, reason: &str) {
        for (serial, _) in std::mem::take(&mut self.unsent) {
            if let Some(run) = self.serials.get(&serial).cloned() {
                self.wait(&run, reason.to_owned());
            }
        }
    }

    /// Nothing is short any more, or something else is: those that wait need not wait for their time.
    fn look_at_waiting(&mut self) {
        if self.shortage().is_some() {
            return;
        }
        let waiting = self.runs.iter().filter(|(_, entry)| entry.waited).map(|(run, _)| run.clone());
        for run in waiting.collect::<Vec<_>>() {
            self.look(&run);
        }
    }

    /// Why nothing may be begun now; none: it may.
    pub(super) fn shortage(&self) -> Option<String> {
        self.shortage.borrow().clone()
    }

    /// The launcher has died. What it did with the requests that it has not answered, only the run folders can say.
    fn lose_launcher(&mut self) {
        self.link = None;
        warn!("the launcher has ended; batchd starts another one");
        for (_, run) in std::mem::take(&mut self.unanswered) {
            self.look(&run);
        }
    }

    /// Looks again after `delay`.
    pub(super) fn look_after(&mut self, run: &RunId, delay: Duration) {
        self.wake(run, Wake::Look(run.clone()), sleep(delay));
    }

    /// Looks again when the process has ended.
    pub(super) fn look_when_ended(&mut self, run: &RunId, process: OwnedFd) {
        self.wake(run, Wake::Look(run.clone()), ended(process));
    }

    /// Looks again when the process has ended, and from time to time before: what its run waits for, an earlier
    /// daemon's shim tells nobody.
    pub(super) fn look_when_ended_or_later(&mut self, run: &RunId, process: OwnedFd) {
        let look = async move {
            tokio::select! {
                () = ended(process) => {}
                () = sleep(FOLLOW_LOOK) => {}
            }
        };
        self.wake(run, Wake::Look(run.clone()), look);
    }

    /// Ends or awaits what is left of a run, and then reports it lost.
    pub(super) fn hunt(&mut self, run: &RunId, quarry: hunt::Quarry, kill: bool, reason: String) {
        self.wake(run, Wake::Hunted(run.clone(), reason), hunt::until_gone(quarry, kill));
    }

    fn wake(&mut self, run: &RunId, wake: Wake, when: impl Future<Output = ()> + Send + 'static) {
        let Some(entry) = self.runs.get_mut(run) else { return };
        let task = self.waits.spawn(async move {
            when.await;
            wake
        });
        entry.wake_by(task);
    }

    /// Tells what does not end a run.
    pub(super) fn report(&self, run: &RunId, report: Report) {
        // Nobody listens any more: the daemon is on its way out, and the next one finds the run.
        let _ = self.reports.send((run.clone(), report));
    }

    /// Tells what ends a run, and forgets it.
    pub(super) fn report_end(&mut self, run: &RunId, report: Report) {
        let Some(entry) = self.runs.remove(run) else { return };
        self.serials.remove(&entry.serial);
        self.report(run, report);
    }

    /// The order with this serial is of no interest any more.
    pub(super) fn forget_order(&mut self, serial: u64) {
        self.serials.remove(&serial);
    }

    pub(super) fn folder(&self, run: &RunId) -> PathBuf {
        self.around.runs.join(run.to_string())
    }
}

/// Returns when the process has ended.
async fn ended(process: OwnedFd) {
    // Without a place in the poll set, the lock tells of the end: the look waits for it.
    if let Ok(process) = super::watched(process, Interest::READABLE) {
        let _ = process.readable().await;
    }
}

/// The next answer; for ever pending without a launcher.
async fn next_answer(link: &mut Option<Link>) -> Option<Answer> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

async fn next_notices(pipe: &AsyncFd<OwnedFd>) -> Vec<Notice> {
    let mut bytes = [0; NOTICES_MAX * Notice::BYTES];
    let read = pipe.async_io(Interest::READABLE, |pipe| Ok(rustix::io::read(pipe, &mut bytes[..])?)).await;
    // The pipe has a writer, ourselves, so it has no end; an error leaves the files to say what happened.
    let count = read.unwrap_or(0);
    decoded(&bytes[..count])
}

fn decoded(bytes: &[u8]) -> Vec<Notice> {
    bytes.as_chunks().0.iter().map(|bytes| Notice::decode(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn dies() -> Wake {
        panic!("a mistake")
    }

    #[tokio::test]
    async fn k8_it_ends_when_what_waits_for_a_run_has_died() {
        let nowhere = PathBuf::new;
        let around = Surroundings {
            runs: nowhere(),
            state: nowhere(),
            batches: nowhere(),
            trusted_owners: Default::default(),
            boot: String::new(),
            environment: Default::default(),
            inherited: Default::default(),
            program: nowhere(),
            access: Default::default(),
        };
        let (reports, mut told) = tokio::sync::mpsc::unbounded_channel();
        let (_requests, receiver) = tokio::sync::mpsc::unbounded_channel();
        let mut server = Server::new(around, reports, watch::channel(None).1).unwrap();
        server.waits.spawn(dies());
        server.serve(receiver).await;
        assert!(told.recv().await.is_none(), "who waits for reports learns of it");
    }
}

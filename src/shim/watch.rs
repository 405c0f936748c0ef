//! From the moment a script is let go until nothing of it is left: its output, its `timeout`, a request to stop, its
//! status, and whoever it leaves behind.
//!
//! Whatever a script does, it can't get away: setsid, double forks and closed outputs do not change that its processes
//! descend from the shim, which is their subreaper.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use super::clock::{self, Monotonic};
use super::pump::Pump;
use super::script::Failure;
use super::sys::{self, Children};
use super::tree::{kill_descendants, signal_descendants};
use crate::model::definition::Execution;
use crate::model::launch::ExitCause;
use crate::model::run::Exit;
use crate::model::text::counted;
use crate::model::time::Instant;
use crate::rundir::RunDir;
use crate::rundir::crash::{CrashPoint, crash_point};
use crate::rundir::records::Ending;

/// How long a script that has ended is waited for by its pipes: what it started in the background may finish its
/// sentence.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Between two passes of KILL over a tree that may be forking meanwhile.
const KILL_PASS: Duration = Duration::from_millis(10);

/// What happens to a script while it is watched.
pub(super) enum Event {
    /// It has become its interpreter.
    Executed,
    /// It, or its end, waits for this; none: for nothing any more.
    Waits(Option<String>),
}

/// What a watched script came to.
pub(super) enum Watched {
    /// It ran and ended: an [`Ending::Exited`], and when nothing of it was left.
    Exited(Ending, Instant),
    /// It never became its interpreter: what its process said about that.
    NotExecuted(Failure),
}

/// The instant at which a script's whole tree had ended, which is when its run has: its output may still be waited for.
#[derive(Clone, Copy)]
struct Gone {
    at: Instant,
    clock: Monotonic,
}

/// A script that has been let go.
pub(super) struct Watch<'a> {
    run: &'a RunDir,
    execution: &'a Execution,
    /// What is to be said of how the run went.
    remarks: Vec<String>,
    signals: OwnedFd,
    pump: Pump,
    pid: i32,
    /// Open until the script's process has become its interpreter.
    control: Option<OwnedFd>,
    not_executed: Option<Failure>,
    timeout_at: Option<Monotonic>,
    cause: ExitCause,
    /// Set while a polite request to end is under way: when it stops being polite.
    kill_at: Option<Monotonic>,
    /// Who made that request.
    stop_cause: ExitCause,
    killing: bool,
    /// The script's own status, and how long its pipes are waited for.
    ended: Option<(i32, Monotonic)>,
    /// No descendant is left, since then.
    gone: Option<Gone>,
    left_running: u32,
    /// It has ended by itself, and what it left running is ended.
    abandoned: bool,
    /// How long the output was waited for when the tree had ended.
    waited: Option<Duration>,
    /// What was told last of what the output waits for.
    waits_for: Option<String>,
}

impl<'a> Watch<'a> {
    /// Of the script whose first process is `pid`.
    pub(super) fn new(
        run: &'a RunDir,
        execution: &'a Execution,
        remarks: Vec<String>,
        signals: OwnedFd,
        pump: Pump,
        pid: i32,
        control: OwnedFd,
    ) -> Self {
        Self {
            run,
            execution,
            remarks,
            signals,
            pump,
            pid,
            control: Some(control),
            not_executed: None,
            timeout_at: execution.timeout.map(|timeout| Monotonic::now().after(timeout)),
            cause: ExitCause::Itself,
            kill_at: None,
            stop_cause: ExitCause::Itself,
            killing: false,
            ended: None,
            gone: None,
            waited: None,
            left_running: 0,
            abandoned: false,
            waits_for: None,
        }
    }

    /// Returns when all of it has ended and all output is in the logs. `tell` is called with what happens meanwhile.
    pub(super) fn until_gone(mut self, tell: impl Fn(Event)) -> Watched {
        while !self.is_over() {
            self.tell_what_it_waits_for(&tell);
            self.wait();
            self.take_control(&tell);
            let asked_to_stop = sys::take_signals(self.signals.as_fd());
            self.pump.turn(self.run);
            // Before any decision: if it has ended by itself, that is how it ended.
            self.reap();
            if asked_to_stop {
                self.begin_stop(ExitCause::Stop);
            }
            self.decide(Monotonic::now());
        }
        if sys::take_signals(self.signals.as_fd()) {
            self.begin_stop(ExitCause::Stop);
        }
        self.pump.finish(self.run);
        match (self.not_executed, self.ended, self.gone) {
            (None, Some((status, _)), Some(gone)) => Watched::Exited(self.ending(status), gone.at),
            (failure, _, _) => Watched::NotExecuted(failure.unwrap_or_default()),
        }
    }

    /// All descendants have ended, and what is in the pipes is in the logs. (A stranger who was handed a pipe may hold
    /// it open for ever.) A run that has to end does not wait longer than its `stop_grace` for logs that can't be
    /// written.
    fn is_over(&mut self) -> bool {
        let Some(gone) = self.gone else { return false };
        self.pump.drain(self.run);
        if self.pump.is_blocked() && self.kill_at.is_some_and(|at| at <= Monotonic::now()) {
            // Whatever the script's status is: a run whose output was dropped is not one that has succeeded.
            if self.pump.give_up() > 0 {
                self.cause = self.stop_cause;
            }
        }
        if self.pump.is_blocked() || self.waited.is_some() {
            self.waited = Some(Monotonic::now().since(gone.clock));
        }
        !self.pump.is_blocked()
    }

    /// Tells what the output waits for if that is something else than before.
    fn tell_what_it_waits_for(&mut self, tell: &impl Fn(Event)) {
        let who = if self.gone.is_some() { "the end of the run" } else { "the script" };
        let waits_for = self.pump.waits_for().map(|what| format!("{who} waits for {what}"));
        if waits_for != self.waits_for {
            tell(Event::Waits(waits_for.clone()));
            self.waits_for = waits_for;
        }
    }

    fn wait(&self) {
        let descriptors = [Some(self.signals.as_fd()), self.control.as_ref().map(AsFd::as_fd)];
        let descriptors = descriptors.into_iter().flatten().chain(self.pump.readable());
        let mut descriptors: Vec<PollFd<'_>> =
            descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let now = Monotonic::now();
        let timeout = self.deadline(now).map(|deadline| deadline.from(now));
        // An error (out of memory) is a turn like any other: everything is looked at, and the wait tried again.
        let _ = poll(&mut descriptors, timeout.as_ref());
    }

    /// When it has to act although nothing happens.
    fn deadline(&self, now: Monotonic) -> Option<Monotonic> {
        // Only the logs are left to be written: what was to be done to the tree has been done.
        if self.gone.is_some() {
            let end = self.kill_at.or(self.timeout_at);
            return end.into_iter().chain(self.pump.deadline()).min();
        }
        let pass = self.killing.then(|| now.after(KILL_PASS));
        let kill = self.kill_at.filter(|_| !self.killing);
        let timeout = self.timeout_at.filter(|_| self.ended.is_none() && self.kill_at.is_none());
        let drained = self.ended.map(|(_, until)| until).filter(|_| self.kill_at.is_none() && !self.killing);
        [pass, kill, timeout, drained, self.pump.deadline()].into_iter().flatten().min()
    }

    /// The end of the control stream means that the exec worked; a message there, that it did not.
    fn take_control(&mut self, tell: &impl Fn(Event)) {
        let Some(control) = &self.control else { return };
        let mut failure = [0; Failure::BYTES];
        match rustix::net::recv(control, &mut failure[..], rustix::net::RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Ok((_, count)) if count == failure.len() => self.not_executed = Some(Failure::received(failure)),
            // A failure is written in one piece: anything else is the end.
            Ok(_) | Err(_) => tell(Event::Executed),
        }
        self.control = None;
    }

    /// Takes every child that has ended, the script itself among them.
    fn reap(&mut self) {
        loop {
            match sys::reap() {
                Children::Ended(child) if child.pid == self.pid => {
                    self.ended = Some((child.status, Monotonic::now().after(DRAIN_MAX)));
                    crash_point(CrashPoint::ShimScriptEnded);
                }
                Children::Ended(_) if self.ended.is_some() && (self.killing || self.kill_at.is_some()) => {
                    self.left_running += 1;
                }
                Children::Ended(_) => {}
                Children::Alive => return,
                Children::None => {
                    self.gone.get_or_insert(Gone { at: clock::now(), clock: Monotonic::now() });
                    return;
                }
            }
        }
    }

    /// Asks the whole tree to end, once.
    fn begin_stop(&mut self, cause: ExitCause) {
        if self.kill_at.is_some() {
            return;
        }
        // A host that goes down tells everybody at once, and the script may be the faster to end.
        let is_terminated = |status| libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGTERM;
        if self.ended.is_none_or(|(status, _)| is_terminated(status)) {
            self.cause = cause;
        }
        self.stop_cause = cause;
        self.kill_at = Some(Monotonic::now().after(self.execution.stop_grace));
        signal_descendants(Signal::TERM);
        // One that has stopped itself can act on TERM only when it goes on.
        signal_descendants(Signal::CONT);
    }

    fn decide(&mut self, now: Monotonic) {
        // A script that has ended in time has its whole time for what it left running, but no longer for its output.
        if (self.ended.is_none() || self.gone.is_some()) && self.timeout_at.is_some_and(|at| at <= now) {
            self.begin_stop(ExitCause::Timeout);
        }
        if self.gone.is_some() {
            return;
        }
        let impatient = self.kill_at.is_some_and(|at| at <= now);
        let drained = self.pump.has_ended() || self.ended.is_some_and(|(_, until)| until <= now);
        let abandoned = self.ended.is_some() && self.kill_at.is_none() && drained;
        self.abandoned |= abandoned;
        self.killing |= impatient || abandoned;
        if self.killing {
            kill_descendants();
        }
    }

    fn ending(&self, wait_status: i32) -> Ending {
        let exit_code = libc::WIFEXITED(wait_status).then(|| libc::WEXITSTATUS(wait_status) as u8);
        let usage = sys::children_usage();
        let [(stdout_bytes, stdout_dropped_bytes), (stderr_bytes, stderr_dropped_bytes)] = self.pump.counts();
        let exit = Exit {
            exit_code,
            signal: libc::WIFSIGNALED(wait_status).then(|| libc::WTERMSIG(wait_status)),
            stdout_bytes,
            stdout_dropped_bytes,
            stderr_bytes,
            stderr_dropped_bytes,
            cpu_user_ms: milliseconds(usage.ru_utime),
            cpu_system_ms: milliseconds(usage.ru_stime),
            // The kernel counts it in units of 1024 bytes: getrusage(2).
            memory_bytes_max: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
            left_running: self.left_running,
            remarks: self.remarks(),
        };
        let success = exit_code.is_some_and(|code| self.execution.success_exit_codes.contains(&code));
        Ending::Exited { wait_status, cause: self.cause, success, exit }
    }
}

impl Watch<'_> {
    /// What an operator should know of how the run went, and of how it was begun.
    fn remarks(&self) -> Vec<String> {
        let left = (self.abandoned && self.left_running > 0).then(|| left_behind(self.left_running));
        let waited = self.waited.map(|waited| {
            let seconds = counted(waited.as_secs().max(1), "second", "seconds");
            format!("when the script had ended, its output waited {seconds} for its logs to become writable")
        });
        self.remarks.iter().cloned().chain(left).chain(waited).chain(self.pump.remarks()).collect()
    }
}

/// What became of what a script had started in the background.
fn left_behind(count: u32) -> String {
    let were = if count == 1 { "was" } else { "were" };
    format!(
        "{} {were} still running when the script ended and {were} killed; \
         a run includes everything that its script starts",
        counted(count, "process", "processes")
    )
}

fn milliseconds(time: libc::timeval) -> u64 {
    u64::try_from(time.tv_sec * 1000 + time.tv_usec / 1000).unwrap_or(0)
}

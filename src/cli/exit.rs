//! The one place where errors become words and exit codes.

use std::fmt;
use std::io;

use super::screen;
use crate::api::RunView;
use crate::api::client::ClientError;
use crate::model::request::Refusal;
use crate::model::run::Outcome;
use crate::model::text::abridged;

/// The exit code of the process. [`HELP`] describes it for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success,
    /// Not done, or errors were found.
    Failure,
    /// The command line makes no sense, or names something that does not exist.
    Usage,
    /// The command needs a daemon, and none is running.
    NoDaemon,
    /// `--wait`: the code that the script gave.
    Script(u8),
    /// `--wait`: the signal that ended the script.
    Signal(i32),
    /// `--wait`: the run's `timeout` ended it.
    TimedOut,
    /// `--wait`: every other end.
    OtherOutcome,
}

/// `batchd help exit-codes`.
pub(super) const HELP: &str = "\
Exit codes

    0  success; `check`, `reload` and `doctor` found no errors
    1  failure, or errors were found; see the message
    2  wrong usage: unknown option, unknown batch or run, impossible request
    3  the daemon is not running, and this command needs it

`start` and `rerun` with `--wait` or `-f` wait for the last attempt, then exit with

    N      the script's exit code, even if `success_exit_codes` contains N
    128+N  if signal N ended the script
    124    if the run exceeded its `timeout`
    125    if the run did not succeed for another reason: it was cancelled, lost,
           aborted, skipped or missed, it could not be run, or the script exited
           with 0 and `success_exit_codes` does not contain 0

A run that did not succeed never exits with 0. Ctrl-C ends the waiting with SIGINT
(130 in a shell); the run continues.

Closing the pipe early (`batchd runs | head`) is not an error.";

impl Exit {
    /// The number for the kernel.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NoDaemon => 3,
            Self::Script(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::TimedOut => 124,
            Self::OtherOutcome => 125,
        }
    }

    /// The exit code of `--wait` for a run that has ended.
    pub fn of_run(run: &RunView) -> Self {
        match (run.outcome, run.exit_code, run.signal) {
            (Some(Outcome::TimedOut), _, _) => Self::TimedOut,
            (Some(Outcome::Succeeded), Some(code), _) => Self::Script(code),
            // `rerun --mark-succeeded`.
            (Some(Outcome::Succeeded), None, _) => Self::Success,
            // `start --wait && …` relies on the success of the run, so a 0 that `success_exit_codes` lacks is not 0 here.
            (Some(Outcome::Failed), Some(0), _) => Self::OtherOutcome,
            (Some(Outcome::Failed), Some(code), _) => Self::Script(code),
            (Some(Outcome::Failed), None, Some(signal)) => Self::Signal(signal),
            // A cancelled script has an exit code too, but not one that says how its work went.
            (_, _, _) => Self::OtherOutcome,
        }
    }

    /// The exit code for a refusal.
    pub fn of_refusal(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown | Refusal::Invalid => Self::Usage,
            Refusal::Busy | Refusal::Disabled | Refusal::Held | Refusal::State => Self::Failure,
        }
    }

    /// What an error comes to; none for a reader that has gone, which is nobody's fault.
    fn of_error(error: &anyhow::Error) -> Option<Self> {
        if let Some(complaint) = error.downcast_ref::<Complaint>() {
            return Some(complaint.exit);
        }
        if let Some(ClientError::NoDaemon { .. }) = error.downcast_ref() {
            return Some(Self::NoDaemon);
        }
        let is_broken_pipe = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
        let broken = error.chain().filter_map(|cause| cause.downcast_ref()).any(is_broken_pipe);
        if broken { None } else { Some(Self::Failure) }
    }
}

/// Ends a verb: says on stderr what went wrong, if something did.
pub fn conclude(result: anyhow::Result<Exit>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(error) => {
            let Some(exit) = Exit::of_error(&error) else { return Exit::Success };
            // Nobody can be told that nobody reads stderr.
            let _ = screen::aside(&abridged(&format!("batchd: {error:#}\n")));
            exit
        }
    }
}

/// An error for people: what went wrong, and what to do about it.
#[derive(Debug)]
pub(super) struct Complaint {
    exit: Exit,
    what: String,
    hint: String,
}

impl Complaint {
    /// Wrong use: exit code 2.
    pub(super) fn usage(what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Self { exit: Exit::Usage, what: what.into(), hint: hint.into() }.into()
    }

    /// Not done: exit code 1.
    pub(super) fn failure(what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Self { exit: Exit::Failure, what: what.into(), hint: hint.into() }.into()
    }

    /// The daemon said no.
    pub(super) fn refusal(refusal: Refusal, what: String, hint: Option<String>) -> anyhow::Error {
        Self { exit: Exit::of_refusal(refusal), what, hint: hint.unwrap_or_default() }.into()
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  hint: {}", self.hint) }
    }
}

impl std::error::Error for Complaint {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view_tests::ended;
    use crate::model::run::Exit as Measured;

    #[test]
    fn ends_of_runs() {
        let check = |outcome, code: Option<u8>, signal: Option<i32>, expected: u8| {
            let measured = Measured { exit_code: code, signal, ..Measured::default() };
            let run = ended("a.1", outcome, Some(measured));
            assert_eq!(Exit::of_run(&RunView::from(&run)).code(), expected, "{outcome} {code:?} {signal:?}");
        };
        check(Outcome::Succeeded, Some(0), None, 0);
        check(Outcome::Succeeded, Some(3), None, 3);
        check(Outcome::Succeeded, None, None, 0);
        check(Outcome::Failed, Some(7), None, 7);
        check(Outcome::Failed, Some(0), None, 125);
        check(Outcome::Failed, None, Some(9), 137);
        check(Outcome::Failed, None, None, 125);
        check(Outcome::TimedOut, None, Some(15), 124);
        check(Outcome::Cancelled, Some(0), None, 125);
        check(Outcome::Lost, None, None, 125);
    }

    #[test]
    fn errors() {
        let check = |error: anyhow::Error, expected| assert_eq!(Exit::of_error(&error), expected, "{error:#}");
        check(anyhow::anyhow!("disk full"), Some(Exit::Failure));
        check(Complaint::usage("no batch `x`", "did you mean `y`?"), Some(Exit::Usage));
        check(ClientError::NoDaemon { state: "/s".into() }.into(), Some(Exit::NoDaemon));
        check(anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing"), None);
    }
}

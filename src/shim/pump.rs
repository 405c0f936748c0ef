//! From the script's two pipes into its two logs: raw, capped, and never in a hurry to give up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;

use super::channel::{Channel, Turn};
use super::clock::{Monotonic, now};
use super::log::Log;
use super::shortage::{is_no_space, said};
use crate::rundir::access::Access;
use crate::rundir::times::{Stream, Writer};
use crate::rundir::{RunDir, STDERR, STDOUT, TIMES};

/// How long a log that can't be written (the disk is full) is left alone: the script waits meanwhile, and loses
/// nothing.
const WRITE_RETRY: Duration = Duration::from_secs(1);
/// The most pieces moved from one pipe before anything else gets its turn.
const PIECES_MAX: usize = 16;
/// How long times are gathered before they are written: nobody looks at them sooner.
const TIMES_FLUSH: Duration = Duration::from_millis(100);

/// Both streams and their times.
pub(super) struct Pump {
    /// stdout, stderr.
    channels: [Channel; 2],
    access: Access,
    times: Writer,
    times_log: Option<Log>,
    /// What could not be written to it yet; it is bounded as the file is.
    times_unwritten: Vec<u8>,
    times_due: Option<Monotonic>,
    /// A log can't be written; all are tried again then.
    retry_at: Option<Monotonic>,
    /// Which, and why.
    blocked: Option<(&'static str, Errno)>,
}

impl Pump {
    /// Makes the logs. Without a `stderr`, both streams come by one pipe.
    pub(super) fn new(
        run: &RunDir,
        access: Access,
        stdout: OwnedFd,
        stderr: Option<OwnedFd>,
        kept_max: u64,
    ) -> io::Result<Self> {
        let log = |name| Log::create(run, name, access);
        Ok(Self {
            channels: [
                Channel::new(Stream::Stdout, Some(stdout), log(STDOUT)?, kept_max),
                Channel::new(Stream::Stderr, stderr, log(STDERR)?, kept_max),
            ],
            access,
            times: Writer::new(now()),
            times_log: None,
            times_unwritten: Vec::new(),
            times_due: None,
            retry_at: None,
            blocked: None,
        })
    }

    /// The pipes to wait for: those that are open, as long as the logs can be written.
    pub(super) fn readable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ready = self.channels.iter().filter(|_| self.retry_at.is_none());
        ready.filter_map(|channel| channel.pipe.as_ref().map(AsFd::as_fd))
    }

    /// When it wants a turn although no pipe is readable.
    pub(super) fn deadline(&self) -> Option<Monotonic> {
        self.retry_at.into_iter().chain(self.times_due).min()
    }

    /// Both streams have ended: nobody holds a pipe any more.
    pub(super) fn has_ended(&self) -> bool {
        self.channels.iter().all(|channel| channel.pipe.is_none())
    }

    /// Something waits in a pipe because a log can't be written.
    pub(super) fn is_blocked(&self) -> bool {
        self.retry_at.is_some()
    }

    /// What the output waits for, for people.
    pub(super) fn waits_for(&self) -> Option<String> {
        let (name, errno) = self.blocked?;
        let error = io::Error::from(errno);
        let what = if is_no_space(&error) { "disk space" } else { "its log" };
        Some(format!("{what}: can't write {name}: {}", said(&error)))
    }

    /// Moves what is there. Never waits.
    pub(super) fn turn(&mut self, run: &RunDir) {
        self.move_pieces(run, PIECES_MAX);
        let instant = Monotonic::now();
        match self.times_due {
            None if self.times.is_pending() => self.times_due = Some(instant.after(TIMES_FLUSH)),
            Some(due) if due <= instant => self.flush_times(run),
            Some(_) | None => {}
        }
    }

    /// Moves all that is in the pipes, and then the ends of the streams that had grown too long, until all is written
    /// or a log can't be written.
    pub(super) fn drain(&mut self, run: &RunDir) {
        self.move_pieces(run, usize::MAX);
        if !self.is_blocked() {
            self.channels.iter_mut().for_each(Channel::end);
            self.move_pieces(run, usize::MAX);
        }
        self.flush_times(run);
        if self.is_blocked() {
            self.close_logs();
        }
    }

    fn move_pieces(&mut self, run: &RunDir, pieces_max: usize) {
        if self.retry_at.is_some_and(|at| at > Monotonic::now()) {
            return;
        }
        let mut blocked = None;
        for channel in &mut self.channels {
            // A script that writes fast fills the pipe again meanwhile: it is not waited for each time.
            for _ in 0..pieces_max {
                match channel.turn(run) {
                    Turn::Moved(0) => {}
                    Turn::Moved(length) => self.times.grew(now(), channel.stream, length),
                    Turn::Empty => break,
                    Turn::LogFailed(error) => {
                        blocked = Some((channel.log.name(), error));
                        break;
                    }
                }
            }
        }
        self.blocked = blocked;
        self.retry_at = blocked.map(|_| Monotonic::now().after(WRITE_RETRY));
        if self.is_blocked() {
            self.close_logs();
        }
    }

    /// Whoever makes room removes a log, and it takes its room until nobody has it open.
    fn close_logs(&mut self) {
        let logs = self.channels.iter_mut().map(|channel| &mut channel.log);
        logs.chain(&mut self.times_log).for_each(Log::close);
    }

    /// Counts what is not written yet as dropped: the run was told to end, and its logs can't be written. How much it
    /// was.
    pub(super) fn give_up(&mut self) -> u64 {
        (self.retry_at, self.blocked) = (None, None);
        self.channels.iter_mut().map(Channel::give_up).sum()
    }

    /// Looks at the logs for the last time, and brings them to their server if they are on a network file system: who
    /// sees the run's end there sees them too.
    pub(super) fn finish(&mut self, run: &RunDir) {
        let logs = self.channels.iter_mut().map(|channel| &mut channel.log);
        logs.chain(&mut self.times_log).for_each(|log| log.finish(run));
    }

    /// Bytes kept and dropped: of stdout, then of stderr.
    pub(super) fn counts(&self) -> [(u64, u64); 2] {
        [0, 1].map(|index| self.channels[index].counts())
    }

    /// What an operator should know of the logs.
    pub(super) fn remarks(&self) -> impl Iterator<Item = String> {
        self.channels.iter().flat_map(Channel::remarks)
    }

    /// Appends the times that were gathered. What can't be written is kept for the next time, since what comes later
    /// counts from it; at the end it is given up: they serve only for show.
    fn flush_times(&mut self, run: &RunDir) {
        self.times_due = None;
        if self.times.is_pending() {
            self.times_unwritten.extend(self.times.take());
        }
        if self.times_unwritten.is_empty() || self.is_blocked() {
            return;
        }
        if self.times_log.is_none() {
            self.times_log = Log::create(run, TIMES, self.access).ok();
        }
        if let Some(log) = &mut self.times_log
            && let Ok(file) = log.at_end(run)
            && let Ok(count) = rustix::io::write(file, &self.times_unwritten)
        {
            log.grew(count as u64);
            self.times_unwritten.drain(..count);
        }
    }
}

//! From the script's two pipes into its two logs: raw, capped, and never in a hurry to give up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};

use super::clock::{Monotonic, now};
use super::sys;
use crate::rundir::times::{Stream, Writer};
use crate::rundir::{RunDir, STDERR, STDOUT, TIMES, sync_on_network};

/// How long a log that can't be written (the disk is full) is left alone: the script waits meanwhile, and loses nothing.
const WRITE_RETRY: Duration = Duration::from_secs(1);
/// The most pieces moved from one pipe before anything else gets its turn.
const PIECES_MAX: usize = 16;
/// The most bytes of a piece: the largest pipe that an ordinary user may have, pipe(7).
const PIECE_BYTES_MAX: usize = 1024 * 1024;
/// The bytes that a new pipe holds, pipe(7). One that was found full is made as large as may be: a script that writes fast
/// then waits for the shim, and the shim for it, a sixteenth as often.
const PIPE_BYTES: usize = 64 * 1024;
/// The bytes moved at once where splice(2) can't be used: an ordinary pipe's content.
const COPY_BYTES: usize = 64 * 1024;
/// How long times are gathered before they are written: nobody looks at them sooner.
const TIMES_FLUSH: Duration = Duration::from_millis(100);

/// Both streams and their times.
pub(super) struct Pump {
    /// stdout, stderr.
    channels: [Channel; 2],
    times: Writer,
    times_file: Option<OwnedFd>,
    /// What could not be written to it yet; it is bounded as the file is.
    times_unwritten: Vec<u8>,
    times_due: Option<Monotonic>,
}

/// One stream.
struct Channel {
    stream: Stream,
    /// None once it has ended.
    pipe: Option<OwnedFd>,
    /// It was found full once.
    is_large: bool,
    log: OwnedFd,
    kept: u64,
    dropped: u64,
    kept_max: u64,
    /// Read already, and not written: only where splice(2) can't be used.
    unwritten: Vec<u8>,
    /// The log could not be written; it is tried again then.
    retry_at: Option<Monotonic>,
}

/// What a turn of a [`Channel`] came to.
enum Turn {
    Moved(u64),
    Empty,
    Ended,
    LogFailed,
}

impl Pump {
    /// Makes the logs. `base` is when the script is let go.
    pub(super) fn new(run: &RunDir, stdout: OwnedFd, stderr: OwnedFd, kept_max: u64) -> io::Result<Self> {
        let channel = |stream, name, pipe| -> io::Result<Channel> {
            let log = run.create_log(name)?;
            Ok(Channel {
                stream,
                pipe: Some(pipe),
                is_large: false,
                log,
                kept: 0,
                dropped: 0,
                kept_max,
                unwritten: Vec::new(),
                retry_at: None,
            })
        };
        Ok(Self {
            channels: [channel(Stream::Stdout, STDOUT, stdout)?, channel(Stream::Stderr, STDERR, stderr)?],
            times: Writer::new(now()),
            times_file: None,
            times_unwritten: Vec::new(),
            times_due: None,
        })
    }

    /// The pipes to wait for: those that are open, and whose log can be written.
    pub(super) fn readable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ready = self.channels.iter().filter(|channel| channel.retry_at.is_none());
        ready.filter_map(|channel| channel.pipe.as_ref().map(AsFd::as_fd))
    }

    /// When it wants a turn although no pipe is readable.
    pub(super) fn deadline(&self) -> Option<Monotonic> {
        self.channels.iter().filter_map(|channel| channel.retry_at).chain(self.times_due).min()
    }

    /// Both streams have ended: nobody holds a pipe any more.
    pub(super) fn has_ended(&self) -> bool {
        self.channels.iter().all(|channel| channel.pipe.is_none())
    }

    /// Something was read by nobody yet because its log can't be written.
    pub(super) fn is_blocked(&self) -> bool {
        self.channels.iter().any(|channel| channel.retry_at.is_some())
    }

    /// Moves what is there. Never waits.
    pub(super) fn turn(&mut self, run: &RunDir) {
        let instant = Monotonic::now();
        for channel in &mut self.channels {
            if channel.retry_at.is_some_and(|at| at > instant) {
                continue;
            }
            channel.retry_at = None;
            // A script that writes fast fills the pipe again meanwhile: it is not waited for each time.
            for _ in 0..PIECES_MAX {
                match channel.turn() {
                    Turn::Moved(0) => {}
                    Turn::Moved(length) => self.times.grew(now(), channel.stream, length),
                    Turn::Empty => break,
                    Turn::Ended => channel.pipe = None,
                    Turn::LogFailed => {
                        channel.retry_at = Some(instant.after(WRITE_RETRY));
                        break;
                    }
                }
            }
        }
        match self.times_due {
            None if self.times.is_pending() => self.times_due = Some(instant.after(TIMES_FLUSH)),
            Some(due) if due <= instant => self.flush_times(run),
            Some(_) | None => {}
        }
    }

    /// Moves all that is in the pipes, until they are empty or their log can't be written.
    pub(super) fn drain(&mut self, run: &RunDir) {
        for channel in &mut self.channels {
            while channel.pipe.is_some() && channel.retry_at.is_none() {
                match channel.turn() {
                    Turn::Moved(length) => self.times.grew(now(), channel.stream, length),
                    Turn::Empty => break,
                    Turn::Ended => channel.pipe = None,
                    Turn::LogFailed => channel.retry_at = Some(Monotonic::now().after(WRITE_RETRY)),
                }
            }
        }
        self.flush_times(run);
    }

    /// Brings the logs to their server, if they are on a network file system: who sees the run's end there sees them too.
    /// Gives a remark on each log that may have lost something.
    pub(super) fn sync(&self) -> Vec<String> {
        if let Some(file) = &self.times_file {
            // It is only for display.
            let _ = sync_on_network(file.as_fd());
        }
        let sync = |(name, channel): (&str, &Channel)| match sync_on_network(channel.log.as_fd()) {
            Ok(()) => None,
            Err(error) => Some(format!("{name} may be incomplete: the file server refused a part of it: {error}")),
        };
        [STDOUT, STDERR].into_iter().zip(&self.channels).filter_map(sync).collect()
    }

    /// Bytes kept and dropped: of stdout, then of stderr.
    pub(super) fn counts(&self) -> [(u64, u64); 2] {
        [0, 1].map(|index| (self.channels[index].kept, self.channels[index].dropped))
    }

    /// Appends the times that were gathered. What can't be written is kept for the next time, since what comes later counts
    /// from it; at the end it is given up: they serve only for show.
    fn flush_times(&mut self, run: &RunDir) {
        self.times_due = None;
        if self.times.is_pending() {
            self.times_unwritten.extend(self.times.take());
        }
        if self.times_unwritten.is_empty() {
            return;
        }
        if self.times_file.is_none() {
            self.times_file = run.create_log(TIMES).ok();
        }
        if let Some(file) = &self.times_file
            && let Ok(count) = rustix::io::write(file, &self.times_unwritten)
        {
            self.times_unwritten.drain(..count);
        }
    }
}

impl Channel {
    /// Moves one piece: into the log as long as that may grow, then to nowhere, counted.
    fn turn(&mut self) -> Turn {
        if !self.unwritten.is_empty() {
            return self.write_unwritten();
        }
        let Some(pipe) = &self.pipe else { return Turn::Empty };
        let room = usize::try_from(self.kept_max - self.kept).unwrap_or(usize::MAX).min(PIECE_BYTES_MAX);
        // /dev/null takes pages by splice without a copy.
        let target = if room > 0 { self.log.as_fd() } else { sys::null() };
        let length = if room > 0 { room } else { PIECE_BYTES_MAX };
        match splice(pipe, None, target, None, length, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Err(Errno::INVAL) => self.turn_by_copy(length),
            Ok(0) => Turn::Ended,
            Ok(count) => {
                if count >= PIPE_BYTES && !self.is_large {
                    self.is_large = true;
                    // The system may refuse: it has a limit for all pipes of a user. Then it stays as it is.
                    let _ = fcntl_setpipe_size(pipe, PIECE_BYTES_MAX);
                }
                self.count(count as u64, room > 0)
            }
            Err(Errno::AGAIN | Errno::INTR) => Turn::Empty,
            Err(_) => Turn::LogFailed,
        }
    }

    /// Counts what was moved: into the log, or to nowhere.
    fn count(&mut self, length: u64, is_kept: bool) -> Turn {
        if is_kept {
            self.kept += length;
            return Turn::Moved(length);
        }
        self.dropped += length;
        Turn::Moved(0)
    }

    /// As [`Self::turn`] does it, for file systems that splice(2) can't write to.
    fn turn_by_copy(&mut self, length: usize) -> Turn {
        let Some(pipe) = &self.pipe else { return Turn::Empty };
        match read_piece(pipe.as_fd(), length) {
            Ok(piece) if piece.is_empty() => Turn::Ended,
            Ok(piece) => {
                self.unwritten = piece;
                self.write_unwritten()
            }
            Err(Errno::AGAIN | Errno::INTR) => Turn::Empty,
            Err(_) => Turn::LogFailed,
        }
    }

    /// Writes what was read and could not be written.
    fn write_unwritten(&mut self) -> Turn {
        match rustix::io::write(&self.log, &self.unwritten) {
            Ok(count) => {
                self.unwritten.drain(..count);
                self.count(count as u64, true)
            }
            Err(_) => Turn::LogFailed,
        }
    }
}

/// What splice does, for file systems that it can't write to.
fn read_piece(pipe: BorrowedFd<'_>, length: usize) -> rustix::io::Result<Vec<u8>> {
    rustix::io::ioctl_fionbio(pipe, true)?;
    let mut piece = vec![0; length.min(COPY_BYTES)];
    let count = rustix::io::read(pipe, &mut piece[..])?;
    piece.truncate(count);
    Ok(piece)
}

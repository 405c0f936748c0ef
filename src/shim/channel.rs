//! One stream of a script: from its pipe into its log; when that is as long as it may be, the end of the stream is held
//! in memory.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};

use super::log::Log;
use super::sys;
use crate::model::text::counted;
use crate::rundir::RunDir;
use crate::rundir::times::Stream;

/// The most bytes of a piece: the largest pipe that an ordinary user may have, pipe(7).
const PIECE_BYTES_MAX: usize = 1024 * 1024;
/// The bytes that a new pipe holds, pipe(7). One that was found full is made as large as may be: a script that writes
/// fast then waits for the shim, and the shim for it, a sixteenth as often.
const PIPE_BYTES: usize = 64 * 1024;
/// The bytes moved at once where splice(2) can't be used: an ordinary pipe's content.
const COPY_BYTES: usize = 64 * 1024;
/// The bytes of the end of a stream that are kept beyond `log_bytes_max`: errors stand at the end, and a shim stays
/// small.
const TAIL_BYTES_MAX: usize = 1024 * 1024;

/// One stream.
pub(super) struct Channel {
    pub(super) stream: Stream,
    /// None once it has ended.
    pub(super) pipe: Option<OwnedFd>,
    pub(super) log: Log,
    /// It was found full once.
    is_large: bool,
    kept_max: u64,
    /// Bytes that were read and are in no log, and never will be.
    dropped: u64,
    /// The end of the stream, once the log has `kept_max` bytes.
    tail: Option<VecDeque<u8>>,
    /// Read already, and not written.
    unwritten: Vec<u8>,
    /// The folder of the log is gone.
    is_homeless: bool,
}

/// What a turn of a [`Channel`] came to.
pub(super) enum Turn {
    /// So many bytes are in the log now that were not before.
    Moved(u64),
    /// Nothing is in the pipe, and perhaps nobody holds it any more.
    Empty,
    LogFailed(Errno),
}

impl Channel {
    pub(super) fn new(stream: Stream, pipe: Option<OwnedFd>, log: Log, kept_max: u64) -> Self {
        Self {
            stream,
            pipe,
            log,
            is_large: false,
            kept_max,
            dropped: 0,
            tail: None,
            unwritten: Vec::new(),
            is_homeless: false,
        }
    }

    /// Bytes in the log, and bytes that are not.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.log.length(), self.dropped + self.log.lost())
    }

    /// Moves one piece: into the log as long as that may grow, then into the tail.
    pub(super) fn turn(&mut self, run: &RunDir) -> Turn {
        if self.is_homeless {
            self.drop_piece()
        } else if !self.unwritten.is_empty() {
            self.write_unwritten(run)
        } else if self.tail.is_some() || self.log.length() >= self.kept_max {
            // Nobody who wants no log wants the end of it.
            if self.kept_max == 0 { self.drop_piece() } else { self.keep_tail() }
        } else {
            self.move_piece(run)
        }
    }

    /// Nothing more will come: what the tail holds is to be written, behind a line that says what is missing before it.
    pub(super) fn end(&mut self) {
        let Some(tail) = self.tail.take() else { return };
        if self.dropped > 0 {
            let (missing, kept_max) = (counted(self.dropped, "byte is", "bytes are"), self.kept_max);
            let line = format!("\n[batchd: {missing} missing here, beyond log_bytes_max = {kept_max}]\n");
            self.unwritten.extend(line.into_bytes());
        }
        self.unwritten.extend(tail);
    }

    /// Drops all that is not in the log. How much that was.
    pub(super) fn give_up(&mut self) -> u64 {
        let before = self.dropped;
        self.dropped += (self.unwritten.len() + self.tail.take().map_or(0, |tail| tail.len())) as u64;
        self.unwritten.clear();
        while let Turn::Moved(_) = self.drop_piece() {}
        self.dropped - before
    }

    fn move_piece(&mut self, run: &RunDir) -> Turn {
        let Some(pipe) = &self.pipe else { return Turn::Empty };
        let room = usize::try_from(self.kept_max - self.log.length()).unwrap_or(usize::MAX).min(PIECE_BYTES_MAX);
        let log = match self.log.at_end(run) {
            Ok(log) => log,
            Err(error) => return self.log_failed(error),
        };
        match splice(pipe, None, log, None, room, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Err(Errno::INVAL) => self.copy_piece(run, room),
            Err(Errno::AGAIN | Errno::INTR) => Turn::Empty,
            Err(error) => self.log_failed(error),
            Ok(count) => {
                self.log.grew(count as u64);
                self.was_read(count)
            }
        }
    }

    /// So much came through the pipe at once; nothing is its end.
    fn was_read(&mut self, count: usize) -> Turn {
        if count == 0 {
            self.pipe = None;
            return Turn::Empty;
        }
        let is_full = count >= PIPE_BYTES && !self.is_large;
        if let Some(pipe) = self.pipe.as_ref().filter(|_| is_full) {
            self.is_large = true;
            // The system may refuse: it has a limit for all pipes of a user. Then it stays as it is.
            let _ = fcntl_setpipe_size(pipe, PIECE_BYTES_MAX);
        }
        Turn::Moved(count as u64)
    }

    /// As [`Self::move_piece`] does it, for file systems that splice(2) can't write to.
    fn copy_piece(&mut self, run: &RunDir, room: usize) -> Turn {
        match self.read_piece(room) {
            Ok(Some(piece)) => {
                self.unwritten = piece;
                self.write_unwritten(run)
            }
            Ok(None) => Turn::Empty,
            Err(error) => self.log_failed(error),
        }
    }

    /// Into memory what the log has no room for; what is older than the last of it is dropped.
    fn keep_tail(&mut self) -> Turn {
        let piece = match self.read_piece(COPY_BYTES) {
            Ok(Some(piece)) => piece,
            Ok(None) => return Turn::Empty,
            // The system is short of something; nothing was read.
            Err(error) => return Turn::LogFailed(error),
        };
        let tail = self.tail.get_or_insert_default();
        tail.extend(piece);
        let excess = tail.len().saturating_sub(TAIL_BYTES_MAX);
        tail.drain(..excess);
        self.dropped += excess as u64;
        Turn::Moved(0)
    }

    /// To nowhere, counted.
    fn drop_piece(&mut self) -> Turn {
        self.dropped += std::mem::take(&mut self.unwritten).len() as u64;
        let Some(pipe) = &self.pipe else { return Turn::Empty };
        // /dev/null takes pages by splice without a copy.
        match splice(pipe, None, sys::null(), None, PIECE_BYTES_MAX, SpliceFlags::NONBLOCK) {
            Err(_) => Turn::Empty,
            Ok(count) => {
                self.dropped += count as u64;
                match self.was_read(count) {
                    Turn::Moved(_) => Turn::Moved(0),
                    other => other,
                }
            }
        }
    }

    /// Reads a piece of at most this length. None: there is nothing, or the stream has ended.
    fn read_piece(&mut self, length: usize) -> rustix::io::Result<Option<Vec<u8>>> {
        let Some(pipe) = &self.pipe else { return Ok(None) };
        match read(pipe.as_fd(), length) {
            Ok(piece) => match self.was_read(piece.len()) {
                Turn::Moved(_) => Ok(Some(piece)),
                Turn::Empty | Turn::LogFailed(_) => Ok(None),
            },
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes what was read and could not be written.
    fn write_unwritten(&mut self, run: &RunDir) -> Turn {
        match self.log.at_end(run).and_then(|log| rustix::io::write(log, &self.unwritten)) {
            Ok(count) => {
                self.unwritten.drain(..count);
                self.log.grew(count as u64);
                Turn::Moved(count as u64)
            }
            Err(error) => self.log_failed(error),
        }
    }

    fn log_failed(&mut self, error: Errno) -> Turn {
        // The script must not wait for a log that can never be written.
        if error == Errno::NOENT {
            self.is_homeless = true;
            return Turn::Moved(0);
        }
        Turn::LogFailed(error)
    }
}

/// What splice does, for what it can't do.
fn read(pipe: BorrowedFd<'_>, length: usize) -> rustix::io::Result<Vec<u8>> {
    rustix::io::ioctl_fionbio(pipe, true)?;
    let mut piece = vec![0; length.min(COPY_BYTES)];
    let count = rustix::io::read(pipe, &mut piece[..])?;
    piece.truncate(count);
    Ok(piece)
}

//! The logs of one run, and how much of them has been shown: [`Tail`].

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::Result;

use super::CHUNK_BYTES;
use super::interleave::{Piece, pieces};
use super::last::{LastLines, begins_at};
use super::print::Printer;
use crate::rundir::times::{self, TIMES_BYTES_MAX};
use crate::rundir::{STDERR, STDOUT, TIMES};

/// The logs of a run and how much of them has been shown.
pub(super) struct Tail {
    pub(super) folder: PathBuf,
    /// Of stdout and stderr.
    pub(super) wanted: [bool; 2],
    /// How many lines of what is there at first are shown.
    last: Option<usize>,
    /// Bytes of stdout and stderr.
    shown: [u64; 2],
    printer: Printer,
}

impl Tail {
    pub(super) fn new(folder: PathBuf, wanted: [bool; 2], last: Option<usize>, printer: Printer) -> Self {
        Self { folder, wanted, last, shown: [0; 2], printer }
    }

    /// Whether there was anything to show.
    pub(super) fn has_shown(&self) -> bool {
        self.shown != [0; 2]
    }

    /// Goes on with the logs in another folder.
    pub(super) fn turn_to(&mut self, folder: PathBuf) {
        self.folder = folder;
        self.last = None;
        self.shown = [0; 2];
    }

    /// Shows what is new, in the order in which it came. While the run goes on, what the times do not tell yet is left for
    /// later; they are at most a tenth of a second behind.
    pub(super) fn show(&mut self, is_over: bool, out: &mut impl std::io::Write) -> Result<()> {
        // The lengths first: the times then cover them, or soon will.
        let open = |name: &str| File::open(self.folder.join(name)).ok();
        let logs = [open(STDOUT), open(STDERR)];
        let length = |log: &Option<File>| log.as_ref().and_then(|log| log.metadata().ok()).map_or(0, |data| data.len());
        let lengths = [length(&logs[0]), length(&logs[1])];
        let Some(lines) = self.last.take() else { return self.show_pieces(&logs, lengths, is_over, out) };
        for ((log, length), shown) in logs.iter().zip(lengths).zip(&mut self.shown) {
            if let Some(log) = log {
                *shown = begins_at(log, length, lines)?;
            }
        }
        let mut kept = LastLines::new(lines);
        self.show_pieces(&logs, lengths, is_over, &mut kept)?;
        Ok(kept.print(out)?)
    }

    fn show_pieces(
        &mut self,
        logs: &[Option<File>; 2],
        lengths: [u64; 2],
        is_over: bool,
        out: &mut impl std::io::Write,
    ) -> Result<()> {
        let times = std::fs::read(self.folder.join(TIMES)).unwrap_or_default();
        let times_end = is_over || times.len() as u64 >= TIMES_BYTES_MAX;
        for Piece { stream, at, from, to } in pieces(times::read(&times), &mut self.shown, lengths, times_end) {
            let (true, Some(log)) = (self.wanted[stream as usize], &logs[stream as usize]) else { continue };
            let mut chunk = [0; CHUNK_BYTES];
            let mut from = from;
            while from < to {
                let most = CHUNK_BYTES.min(usize::try_from(to - from).unwrap_or(CHUNK_BYTES));
                let count = log.read_at(&mut chunk[..most], from)?;
                // Another program has truncated the log: there is no more of it.
                if count == 0 {
                    break;
                }
                self.printer.feed(stream, at, &chunk[..count], out)?;
                from += count as u64;
            }
        }
        if is_over {
            self.printer.finish(out)?;
        }
        Ok(())
    }
}

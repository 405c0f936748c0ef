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
use crate::rundir::{STDERR, STDOUT, open_file};

/// The logs of a run and how much of them has been shown.
pub(super) struct Tail {
    pub(super) folder: PathBuf,
    /// Of stdout and stderr.
    pub(super) wanted: [bool; 2],
    /// How many lines of what is there at first are shown.
    last: Option<usize>,
    /// Bytes of stdout and stderr.
    shown: [u64; 2],
    /// Whether there was anything to show.
    has_shown: bool,
    printer: Printer,
}

impl Tail {
    pub(super) fn new(folder: PathBuf, wanted: [bool; 2], last: Option<usize>, printer: Printer) -> Self {
        Self { folder, wanted, last, shown: [0; 2], has_shown: false, printer }
    }

    /// Whether there was anything to show.
    pub(super) fn has_shown(&self) -> bool {
        self.has_shown
    }

    /// Goes on with the logs in another folder.
    pub(super) fn turn_to(&mut self, folder: PathBuf) {
        self.folder = folder;
        self.last = None;
        (self.shown, self.has_shown) = ([0; 2], false);
    }

    /// Shows what is new, in the order in which it came. While the run goes on, what the times do not tell yet is left for
    /// later; they are at most a tenth of a second behind.
    pub(super) fn show(&mut self, is_over: bool, out: &mut impl std::io::Write) -> Result<()> {
        // The lengths first: the times then cover them, or soon will.
        let open = |name: &str| open_file(&self.folder.join(name)).ok();
        let logs = [open(STDOUT), open(STDERR)];
        let lengths = [length(&logs[0]), length(&logs[1])];
        for (shown, length) in self.shown.iter_mut().zip(lengths) {
            // Another program has cut the log since the last time: all that is in it is new.
            if length < *shown {
                *shown = 0;
            }
        }
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
        let times = times::load(&self.folder);
        let times_end = is_over || times.len() as u64 >= TIMES_BYTES_MAX;
        let mut told = [0; 2];
        times::read(&times).for_each(|growth| told[growth.stream as usize] = growth.to_offset);
        // Without a cut a log has at least what the times tell of.
        let ahead = [0, 1].map(|index| u64::saturating_sub(told[index], length(&logs[index])));
        let growths = times::read(&times).map(|growth| growth.moved_back(ahead[growth.stream as usize]));
        for Piece { stream, at, from, to } in pieces(growths, &mut self.shown, lengths, times_end) {
            self.has_shown = true;
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

fn length(log: &Option<File>) -> u64 {
    log.as_ref().and_then(|log| log.metadata().ok()).map_or(0, |metadata| metadata.len())
}

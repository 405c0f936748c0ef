//! Writes pieces of logs: raw, harmless for a terminal, or by lines with their times: [`Printer`].

use std::io::{self, Write};
use std::sync::Arc;

use crate::cli::{escape, moment};
use crate::model::time::Instant;
use crate::model::zone::Zone;
use crate::rundir::times::Stream;

/// A longer line is broken where lines have to be in memory until their ends come.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;

/// How logs are written, and what of them waits for more.
pub(super) struct Printer {
    /// Control characters are written out.
    is_terminal: bool,
    /// Lines get their times in this zone.
    zone: Option<Arc<Zone>>,
    /// Of stdout and stderr: with times a line without its end, else a character without its end.
    pending: [Vec<u8>; 2],
    /// When the pending line began.
    began_at: [Option<Instant>; 2],
}

impl Printer {
    pub(super) fn new(is_terminal: bool, zone: Option<Arc<Zone>>) -> Self {
        Self { is_terminal, zone, pending: [Vec::new(), Vec::new()], began_at: [None; 2] }
    }

    /// Writes the next bytes of a stream, which came at `at`.
    pub(super) fn feed(
        &mut self,
        stream: Stream,
        at: Option<Instant>,
        bytes: &[u8],
        out: &mut impl Write,
    ) -> io::Result<()> {
        if self.zone.is_some() {
            for part in bytes.split_inclusive(|byte| *byte == b'\n') {
                self.feed_line(stream, at, part, out)?;
            }
            return Ok(());
        }
        if !self.is_terminal {
            return out.write_all(bytes);
        }
        let pending = &mut self.pending[stream as usize];
        pending.extend(bytes);
        let mut text = String::new();
        let used = escape::log(pending, &mut text);
        pending.drain(..used);
        out.write_all(text.as_bytes())
    }

    /// Writes what still waits: nothing more will come.
    pub(super) fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.pending[stream as usize].is_empty() {
                continue;
            }
            if self.zone.is_some() {
                self.write_line(stream, out)?;
            } else {
                let mut text = String::new();
                escape::push_bytes(&mut text, &std::mem::take(&mut self.pending[stream as usize]));
                out.write_all(text.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Takes a part of a line, and writes the line if that was its end.
    fn feed_line(&mut self, stream: Stream, at: Option<Instant>, part: &[u8], out: &mut impl Write) -> io::Result<()> {
        let pending = &mut self.pending[stream as usize];
        if pending.is_empty() {
            self.began_at[stream as usize] = at;
        }
        pending.extend(part);
        if pending.ends_with(b"\n") || pending.len() >= LINE_BYTES_MAX {
            return self.write_line(stream, out);
        }
        Ok(())
    }

    fn write_line(&mut self, stream: Stream, out: &mut impl Write) -> io::Result<()> {
        let line = std::mem::take(&mut self.pending[stream as usize]);
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let at = match (self.began_at[stream as usize], &self.zone) {
            (Some(at), Some(zone)) => {
                format!("{}.{:03}", moment::civil(at, zone), at.as_ms().rem_euclid(1000))
            }
            (None, _) | (_, None) => "-".to_owned(),
        };
        let word = match stream {
            Stream::Stdout => "out",
            Stream::Stderr => "err",
        };
        write!(out, "{at:23} {word} ")?;
        if self.is_terminal {
            let mut text = String::new();
            let used = escape::log(line, &mut text);
            escape::push_bytes(&mut text, &line[used..]);
            out.write_all(text.as_bytes())?;
        } else {
            out.write_all(line)?;
        }
        out.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed of pieces: millisecond, stream, bytes.
    fn print(is_terminal: bool, with_times: bool, pieces: &[(i64, Stream, &[u8])]) -> Vec<u8> {
        let mut printer = Printer::new(is_terminal, with_times.then(Zone::utc));
        let mut out = Vec::new();
        for (at_ms, stream, bytes) in pieces {
            printer.feed(*stream, Some(Instant::from_ms(*at_ms)), bytes, &mut out).unwrap();
        }
        printer.finish(&mut out).unwrap();
        out
    }

    #[test]
    fn forms() {
        use Stream::{Stderr, Stdout};
        let pieces: [(i64, Stream, &[u8]); 4] = [
            (1005, Stdout, b"a\x1b[1m \xc3"),
            (2050, Stderr, b"oops\n"),
            (3000, Stdout, b"\xa4\nrest"),
            (4999, Stderr, b"\xff"),
        ];
        let check = |is_terminal, with_times, expected: &[u8]| {
            let printed = print(is_terminal, with_times, &pieces);
            assert_eq!(String::from_utf8_lossy(&printed), String::from_utf8_lossy(expected));
        };
        check(false, false, b"a\x1b[1m \xc3oops\n\xa4\nrest\xff");
        check(true, false, "a\\x1b[1m oops\nä\nrest\\xff".as_bytes());
        let timed = "\
1970-01-01 00:00:02.050 err oops
1970-01-01 00:00:01.005 out a\\x1b[1m ä
1970-01-01 00:00:03.000 out rest
1970-01-01 00:00:04.999 err \\xff
";
        check(true, true, timed.as_bytes());
    }

    #[test]
    fn endless_lines_are_broken() {
        let long = vec![b'x'; LINE_BYTES_MAX];
        let printed = print(false, true, &[(1, Stream::Stdout, &long), (2, Stream::Stdout, b"y\n")]);
        assert_eq!(printed.iter().filter(|byte| **byte == b'\n').count(), 2);
    }
}

//! The last lines of logs: where they begin ([`begins_at`]), and the last ones of both together ([`LastLines`]).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;

use super::CHUNK_BYTES;
use super::print::LINE_BYTES_MAX;

/// Where the last `lines` lines of the first `length` bytes of a log begin. A line without an end counts, and of endless
/// ones no more is looked at than a printer would show as lines.
pub(super) fn begins_at(log: &File, length: u64, lines: usize) -> io::Result<u64> {
    let least = length.saturating_sub((lines as u64).saturating_mul(LINE_BYTES_MAX as u64));
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut end, mut found) = (length, 0);
    while end > least {
        let begin = end.saturating_sub(CHUNK_BYTES as u64).max(least);
        // A chunk's length fits: the chunk was allocated.
        let count = log.read_at(&mut chunk[..(end - begin) as usize], begin)?;
        for at in (0..count).rev().filter(|at| chunk[*at] == b'\n') {
            // The end of the last line begins no other.
            let next = begin + at as u64 + 1;
            if next < length {
                found += 1;
            }
            if found == lines {
                return Ok(next);
            }
        }
        end = begin;
    }
    Ok(least)
}

/// Keeps the last lines that are written to it.
pub(super) struct LastLines {
    most: usize,
    lines: VecDeque<Vec<u8>>,
}

impl LastLines {
    pub(super) fn new(most: usize) -> Self {
        Self { most, lines: VecDeque::new() }
    }

    /// Hands on what was kept.
    pub(super) fn print(self, out: &mut impl Write) -> io::Result<()> {
        self.lines.iter().try_for_each(|line| out.write_all(line))
    }
}

impl Write for LastLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            match self.lines.back_mut().filter(|line| line.last() != Some(&b'\n') && line.len() < LINE_BYTES_MAX) {
                Some(line) => line.extend(part),
                None => self.lines.push_back(part.to_vec()),
            }
            if self.lines.len() > self.most {
                self.lines.pop_front();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_the_last_lines() {
        let check = |text: &str, lines: usize, expected: &str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let at = begins_at(&file, text.len() as u64, lines).unwrap();
            assert_eq!(&text[at as usize..], expected, "{lines} of {text:?}");
            let mut last = LastLines::new(lines);
            // In pieces, as logs come.
            for piece in text.as_bytes().chunks(3) {
                last.write_all(piece).unwrap();
            }
            let mut out = Vec::new();
            last.print(&mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{lines} of {text:?}");
        };
        check("", 2, "");
        check("one\n", 2, "one\n");
        check("one\ntwo\nthree\n", 2, "two\nthree\n");
        check("one\ntwo\nthree", 2, "two\nthree");
        check("\n\n\n", 2, "\n\n");
        let long: String = (0..100_000).map(|number| format!("line {number}\n")).collect();
        check(&long, 1, "line 99999\n");
        check(&long, 200_000, &long);
    }
}

//! `times`: when which of the two streams grew, so that both can be shown in one, each line with its time.
//!
//! The file: [`MAGIC`], the base as milliseconds since 1970 (i64, little endian), then records of two numbers in
//! LEB128: `milliseconds since the last record × 2 + stream` (0 stdout, 1 stderr) and `bytes that the stream grew by`.
//! A record that is cut off at the end was being written; what follows the last whole one belongs to no record.

use std::io::Read as _;
use std::path::Path;

use super::{TIMES, open_file};
use crate::model::time::Instant;

/// The first bytes of the file: its format and version.
pub const MAGIC: &[u8; 8] = b"batchd\x001";

/// The most bytes of the file: about a million records. What the streams grow after that belongs to no record.
pub const TIMES_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Growth of one stream within this time is one record: finer than anyone reads.
pub const RECORD_SPAN_MS: i64 = 10;

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// stdout.log.
    Stdout,
    /// stderr.log.
    Stderr,
}

/// One growth of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// When it began.
    pub at: Instant,
    /// Which.
    pub stream: Stream,
    /// The offset in its log at which it began.
    pub from_offset: u64,
    /// The offset behind it.
    pub to_offset: u64,
}

impl Growth {
    /// The same growth of a log from whose beginning `count` bytes are gone.
    pub fn moved_back(self, count: u64) -> Self {
        let back = |offset: u64| offset.saturating_sub(count);
        Self { from_offset: back(self.from_offset), to_offset: back(self.to_offset), ..self }
    }
}

/// The content of [`TIMES`] in a run folder; empty if it can't be read: the logs are complete without it.
pub fn load(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = open_file(&folder.join(TIMES)).and_then(|file| file.take(TIMES_BYTES_MAX).read_to_end(&mut bytes));
    read.map(|_| bytes).unwrap_or_default()
}

/// The growths that `file` (the content of [`super::TIMES`]) records, in their order. Never fails: of a file that is
/// not ours or is damaged it yields what makes sense, at worst nothing.
pub fn read(file: &[u8]) -> impl Iterator<Item = Growth> + '_ {
    let (head, mut rest) = file.split_at(file.len().min(MAGIC.len() + 8));
    let base = head.strip_prefix(MAGIC).and_then(|base| base.try_into().ok()).map(i64::from_le_bytes);
    let mut at_ms = base;
    let mut offsets = [0u64; 2];
    std::iter::from_fn(move || {
        let (head, behind) = take_number(rest)?;
        let (length, behind) = take_number(behind)?;
        rest = behind;
        let at = at_ms?.checked_add(i64::try_from(head / 2).ok()?)?;
        at_ms = Some(at);
        let stream = if head % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
        let offset = &mut offsets[stream as usize];
        let from_offset = *offset;
        *offset = offset.checked_add(length)?;
        Some(Growth { at: Instant::from_ms(at), stream, from_offset, to_offset: *offset })
    })
}

/// Makes the file, a piece at a time: what [`Writer::take`] gives is to be appended.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    /// What the file has once `bytes` is in it.
    length: u64,
    last_ms: i64,
    open: Option<(i64, Stream, u64)>,
}

impl Writer {
    /// For a script that is let go at `base`.
    pub fn new(base: Instant) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(base.as_ms().to_le_bytes());
        Self { length: bytes.len() as u64, bytes, last_ms: base.as_ms(), open: None }
    }

    /// `stream` grew by `length` bytes at `at`.
    pub fn grew(&mut self, at: Instant, stream: Stream, length: u64) {
        match &mut self.open {
            Some((since_ms, open, sum)) if *open == stream && at.as_ms() - *since_ms < RECORD_SPAN_MS => *sum += length,
            Some(_) | None => {
                self.close();
                self.open = Some((at.as_ms(), stream, length));
            }
        }
    }

    /// Whether something waits for [`Self::take`].
    pub fn is_pending(&self) -> bool {
        self.open.is_some()
    }

    /// What is to be appended to the file now; empty if nothing is new.
    pub fn take(&mut self) -> Vec<u8> {
        self.close();
        std::mem::take(&mut self.bytes)
    }

    /// Ends the open record.
    fn close(&mut self) {
        let Some((at_ms, stream, length)) = self.open.take() else { return };
        // A clock that was set back must not make the delta negative: order is what counts.
        let delta = u64::try_from(at_ms - self.last_ms).unwrap_or(0);
        let mut record = Vec::with_capacity(8);
        put_number(&mut record, delta * 2 + stream as u64);
        put_number(&mut record, length);
        if self.length + record.len() as u64 <= TIMES_BYTES_MAX {
            self.length += record.len() as u64;
            self.last_ms = self.last_ms.max(at_ms);
            self.bytes.extend(record);
        }
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f).checked_shl(7 * index as u32)?;
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(at_ms: i64, stream: Stream, from_offset: u64, length: u64) -> Growth {
        Growth { at: Instant::from_ms(at_ms), stream, from_offset, to_offset: from_offset + length }
    }

    #[test]
    fn what_is_written_is_read_even_when_cut_off() {
        let mut writer = Writer::new(Instant::from_ms(1000));
        for (at_ms, stream, length) in [
            (1000, Stream::Stdout, 5),
            (1009, Stream::Stdout, 5),
            (1009, Stream::Stderr, 300),
            (5000, Stream::Stdout, 1 << 40),
            (4000, Stream::Stderr, 1),
            (6000, Stream::Stdout, 1),
        ] {
            writer.grew(Instant::from_ms(at_ms), stream, length);
        }
        let file = writer.take();
        let expected = [
            growth(1000, Stream::Stdout, 0, 10),
            growth(1009, Stream::Stderr, 0, 300),
            growth(5000, Stream::Stdout, 10, 1 << 40),
            growth(5000, Stream::Stderr, 300, 1),
            growth(6000, Stream::Stdout, 10 + (1 << 40), 1),
        ];
        assert_eq!(read(&file).collect::<Vec<_>>(), expected);
        for cut in 0..file.len() {
            let found: Vec<Growth> = read(&file[..cut]).collect();
            assert_eq!(found, expected[..found.len()], "{cut}");
            assert!(found.len() < expected.len());
        }
        assert!(writer.take().is_empty());
        assert_eq!(read(b"something else altogether, and long").count(), 0);
    }

    #[test]
    fn the_file_is_bounded() {
        let mut writer = Writer::new(Instant::from_ms(0));
        let mut length = 0;
        for n in 0..TIMES_BYTES_MAX as i64 {
            writer.grew(Instant::from_ms(n * RECORD_SPAN_MS), Stream::Stdout, 1);
            if n % 4096 == 0 {
                length += writer.take().len() as u64;
            }
        }
        length += writer.take().len() as u64;
        assert!((TIMES_BYTES_MAX - 8..=TIMES_BYTES_MAX).contains(&length), "{length}");
    }
}

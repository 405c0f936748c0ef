//! The daemon's log on stderr: a queue, and a thread that writes it.
//!
//! A log that can't be written must not hurt what it tells of. So no caller waits for a reader (a pipe that nobody empties,
//! a terminal that was stopped), and none sees an error: lines that can't be written are dropped, and counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

use crate::model::text::counted;

/// Lines that wait for the thread take at most this much memory: minutes of a busy daemon's log. More is dropped.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// At its end the daemon waits this long for the last lines: a reader that is there takes them in milliseconds.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// The way to the log. Clones lead to the same one.
#[derive(Clone)]
pub(super) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that were dropped, and why the last of them was, since the log said so last.
    dropped: u64,
    reason: String,
    /// The thread has taken lines and not finished with them.
    is_writing: bool,
}

impl Log {
    /// Starts the thread that writes to `target`.
    pub(super) fn start(target: OwnedFd) -> Result<Self> {
        let log = Self { shared: Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new() }) };
        let shared = log.shared.clone();
        let serve = move || shared.serve(&mut Target { file: target, is_torn: false });
        thread::Builder::new().name("log".to_owned()).spawn(serve).context("can't start the thread for the log")?;
        Ok(log)
    }

    /// Waits until all lines are written, for a moment at most.
    pub(super) fn flush(&self) {
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        let queue = self.shared.lock();
        drop(self.shared.changed.wait_timeout_while(queue, FLUSH_MAX, is_busy));
    }

    /// Waits until at least half of the queue is free: for lines that must not push out others.
    pub(super) fn wait_for_room(&self) {
        let is_full = |queue: &mut Queue| queue.bytes > WAITING_BYTES_MAX / 2;
        drop(self.shared.changed.wait_while(self.shared.lock(), is_full));
    }
}

impl Shared {
    /// A panic elsewhere leaves the queue whole: lines are only added and taken.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        if queue.bytes + line.len() > WAITING_BYTES_MAX {
            queue.dropped += 1;
            "nobody reads it".clone_into(&mut queue.reason);
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        self.changed.notify_all();
    }

    /// Writes what comes, for as long as the process lives.
    fn serve(&self, target: &mut Target) {
        loop {
            let Some(line) = self.next() else { continue };
            let written = target.write_line(&line);
            let mut queue = self.lock();
            let dropped = match written {
                Ok(()) => std::mem::take(&mut queue.dropped),
                Err(error) => {
                    queue.dropped += 1;
                    queue.reason = error.to_string();
                    0
                }
            };
            let reason = queue.reason.clone();
            drop(queue);
            if dropped > 0 {
                let lines = counted(dropped, "log line was", "log lines were");
                warn!("{lines} lost because the log could not be written: {reason}");
            }
        }
    }

    /// Waits for the next line.
    fn next(&self) -> Option<Vec<u8>> {
        let mut queue = self.lock();
        queue.is_writing = false;
        self.changed.notify_all();
        let is_idle = |queue: &mut Queue| queue.lines.is_empty();
        let mut queue = self.changed.wait_while(queue, is_idle).unwrap_or_else(PoisonError::into_inner);
        let line = queue.lines.pop_front()?;
        queue.bytes -= line.len();
        queue.is_writing = true;
        Some(line)
    }
}

/// What the thread writes to.
struct Target {
    file: OwnedFd,
    /// The last line was cut off: the next one begins on a line of its own.
    is_torn: bool,
}

impl Target {
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.write_all(b"\n").map_err(|(_, error)| error)?;
            self.is_torn = false;
        }
        self.write_all(line).map_err(|(count, error)| {
            self.is_torn = count > 0;
            error
        })
    }

    /// An error comes with the number of bytes that were written before it.
    fn write_all(&self, mut bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let length = bytes.len();
        while !bytes.is_empty() {
            match rustix::io::write(&self.file, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                // Whoever shares the file made it non-blocking.
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], None);
                }
                Err(error) => return Err((length - bytes.len(), error.into())),
            }
        }
        Ok(())
    }
}

/// One event: `tracing` writes a line whole.
pub(super) struct Line<'a> {
    shared: &'a Shared,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { shared: &self.shared }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;

    use rustix::pipe::PipeFlags;

    use super::*;

    #[test]
    fn a4_nobody_waits_for_a_reader_and_nobody_sees_an_error() {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK).unwrap();
        // Full from the beginning: no line gets through, however late the thread is.
        while rustix::io::write(&writer, b"x").is_ok() {}
        let log = Log::start(writer).unwrap();
        let line = vec![b'x'; 1023].into_iter().chain([b'\n']).collect::<Vec<u8>>();
        for _ in 0..3 * WAITING_BYTES_MAX / line.len() {
            assert_eq!(log.make_writer().write(&line).unwrap(), line.len());
        }
        let dropped = log.shared.lock().dropped;
        assert!(dropped > 1000, "{dropped}");
        drop(File::from(reader));
        log.flush();
        assert!(log.make_writer().write(b"still\n").is_ok());
    }

    #[test]
    fn a4_a_line_that_was_cut_off_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut target = Target { file: File::create(&path).unwrap().into(), is_torn: true };
        target.write_line(b"next\n").unwrap();
        let mut text = String::new();
        File::open(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "\nnext\n");
    }
}

//! The daemon's log on stderr: a queue, and a thread that writes it.
//!
//! A log that can't be written must not hurt what it tells of. So no caller waits for a reader (a pipe that nobody empties,
//! a terminal that was stopped), and none sees an error: lines that can't be written are dropped, and counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

use crate::model::text::counted;

/// Lines that wait for the thread take at most this much memory: minutes of a busy daemon's log. More is dropped.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// With less than this in the queue, writing keeps up: the other half is for a burst.
const KEEPS_UP_BYTES: usize = WAITING_BYTES_MAX / 2;
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
    /// The thread that writes.
    thread: OnceLock<ThreadId>,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    lost: Lost,
    /// What the thread that writes has to say itself.
    own: Vec<u8>,
    /// The thread has taken lines and not finished with them.
    is_writing: bool,
}

/// Lines that were dropped since the log said so last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lost {
    /// Because the queue was full.
    unread: u64,
    /// Because they could not be written, and why the last of them could not.
    unwritten: u64,
    error: String,
}

impl Lost {
    /// A sentence for each reason.
    fn sentences(&self) -> impl Iterator<Item = String> {
        let lines = |count| counted(count, "log line was", "log lines were");
        let unread = (self.unread > 0)
            .then(|| format!("{} lost because the reader of the log was too slow", lines(self.unread)));
        let unwritten = (self.unwritten > 0)
            .then(|| format!("{} lost because the log could not be written: {}", lines(self.unwritten), self.error));
        unread.into_iter().chain(unwritten)
    }

    /// Counts what was to be reported and was not.
    fn add(&mut self, other: Self) {
        self.unread += other.unread;
        self.unwritten += other.unwritten;
        if self.error.is_empty() {
            self.error = other.error;
        }
    }
}

impl Log {
    /// Starts the thread that writes to `target`.
    pub(super) fn start(target: OwnedFd) -> Result<Self> {
        let shared = Shared { queue: Mutex::default(), changed: Condvar::new(), thread: OnceLock::new() };
        let log = Self { shared: Arc::new(shared) };
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

    /// Whether there is room for lines that must not push out others.
    pub(super) fn has_room(&self) -> bool {
        self.shared.lock().keeps_up()
    }

    /// Waits until there is such room, for so long at most.
    pub(super) fn wait_for_room(&self, most: Duration) {
        let is_full = |queue: &mut Queue| !queue.keeps_up();
        drop(self.shared.changed.wait_timeout_while(self.shared.lock(), most, is_full));
    }
}

impl Queue {
    fn keeps_up(&self) -> bool {
        self.bytes <= KEEPS_UP_BYTES
    }
}

impl Shared {
    /// A panic elsewhere leaves the queue whole: lines are only added and taken.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        // It writes this at once: in the queue it could be lost, and the count that it tells with it.
        if self.thread.get() == Some(&thread::current().id()) {
            queue.own.extend(line);
            return;
        }
        if queue.bytes + line.len() > WAITING_BYTES_MAX {
            queue.lost.unread += 1;
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        self.changed.notify_all();
    }

    /// Writes what comes, for as long as the process lives.
    fn serve(&self, target: &mut Target) {
        // A thread runs this once.
        let _ = self.thread.set(thread::current().id());
        loop {
            self.write_next(target);
        }
    }

    fn write_next(&self, target: &mut Target) {
        let Some(line) = self.next() else { return };
        match target.write_line(&line) {
            Ok(()) => self.report_lost(target),
            Err(error) => {
                let lost = &mut self.lock().lost;
                lost.unwritten += 1;
                lost.error = error.to_string();
            }
        }
    }

    /// Says how many lines were lost, once writing keeps up again: as long as it does not, each report would cost the
    /// place of another line.
    fn report_lost(&self, target: &mut Target) {
        let mut queue = self.lock();
        if !queue.keeps_up() || queue.lost == Lost::default() {
            return;
        }
        let lost = std::mem::take(&mut queue.lost);
        drop(queue);
        lost.sentences().for_each(|sentence| warn!("{sentence}"));
        let own = std::mem::take(&mut self.lock().own);
        if target.write_line(&own).is_err() {
            self.lock().lost.add(lost);
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
        let lost = log.shared.lock().lost.clone();
        assert!(lost.unread > 1000, "{lost:?}");
        drop(File::from(reader));
        log.flush();
        assert!(log.make_writer().write(b"still\n").is_ok());
    }

    /// A log whose thread is this one, with a queue that overflowed by `lost` lines of 1 KiB.
    fn overflowing(lost: usize) -> Log {
        let shared = Shared { queue: Mutex::default(), changed: Condvar::new(), thread: OnceLock::new() };
        shared.thread.set(thread::current().id()).unwrap();
        let log = Log { shared: Arc::new(shared) };
        let line = vec![b'x'; 1023].into_iter().chain([b'\n']).collect::<Vec<u8>>();
        let fill = || (0..WAITING_BYTES_MAX / 1024 + lost).for_each(|_| log.shared.push(&line));
        thread::scope(|scope| scope.spawn(fill).join().unwrap());
        log
    }

    /// Does something as the thread of a log does it.
    fn logging(log: &Log, act: impl FnOnce()) {
        let logs = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(logs, act);
    }

    #[test]
    fn a4_lost_lines_are_reported_once_when_writing_keeps_up_again() {
        let log = overflowing(7);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut target = Target { file: File::create(&path).unwrap().into(), is_torn: false };
        let mut full = Target { file: File::options().write(true).open("/dev/full").unwrap().into(), is_torn: false };
        logging(&log, || {
            log.shared.write_next(&mut target);
            log.shared.write_next(&mut full);
            while !log.shared.lock().lines.is_empty() {
                log.shared.write_next(&mut target);
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let reports: Vec<(usize, &str)> = text.lines().enumerate().filter(|(_, line)| !line.starts_with('x')).collect();
        let at = (WAITING_BYTES_MAX - KEEPS_UP_BYTES) / 1024;
        assert!(
            matches!(reports[..], [(unread, _), (unwritten, _)] if unread == at - 1 && unwritten == at),
            "{reports:?}"
        );
        assert!(
            reports[0].1.ends_with(" 7 log lines were lost because the reader of the log was too slow"),
            "{reports:?}"
        );
        let unwritten =
            " 1 log line was lost because the log could not be written: No space left on device (os error 28)";
        assert!(reports[1].1.ends_with(unwritten), "{reports:?}");
    }

    #[test]
    fn a4_a_report_that_is_lost_is_made_again() {
        let log = overflowing(7);
        let (lost, full) = (log.shared.lock().lost.clone(), File::options().write(true).open("/dev/full").unwrap());
        log.shared.lock().bytes = 0;
        logging(&log, || log.shared.report_lost(&mut Target { file: full.into(), is_torn: false }));
        assert_eq!((lost.unread, log.shared.lock().lost.clone()), (7, lost));
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

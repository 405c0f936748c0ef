//! The lines of scripts in the daemon's log (`log_output`): a thread that reads the log files of runs as they grow.
//!
//! The files are the truth, and stay so: nothing between a script and its files knows of this. A daemon that takes a run over
//! goes on at the end that the files have then. Runs take turns, a chunk each, so that one that writes much delays the others
//! by a chunk. Nothing is held in memory but places in files: what the log can't take yet is read later.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tracing::{info, warn};

use super::log::Log;
use crate::clock;
use crate::model::id::RunId;
use crate::model::record::Record;
use crate::model::run::{Run, State};
use crate::model::text::{counted, is_active};
use crate::rundir::{STDERR, STDOUT, open_file};

/// Files are looked at this often: nobody who reads along notices it, and a look costs one call of pread(2).
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So much of a file is read at a turn.
const CHUNK_BYTES: usize = 64 * 1024;
/// A longer line is cut into several: docker cuts at the same length.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// So many runs that have ended may have lines that the log has not taken yet. Only a log that nobody reads comes so far,
/// and it must not cost memory for each run.
const ENDED_BEHIND_MAX: usize = 1000;
/// At its end the daemon reads for so long what scripts have written last. With the other waits of an end that is less than
/// the 20 s that containers are advised to allow (docs/containers.md).
const END_MAX: Duration = Duration::from_secs(3);

/// The way to the thread; one that does nothing if the setting is off.
pub(super) struct Output {
    thread: Option<Thread>,
}

struct Thread {
    events: Sender<Event>,
    /// Disconnected once the thread has ended.
    done: Receiver<()>,
}

enum Event {
    /// A run's files grow.
    Grows(RunId),
    /// A run of an earlier daemon goes on: what its files have was written under that one.
    GoesOn(RunId),
    /// A run has ended: its files are complete, with so many bytes.
    Ended(RunId, [u64; 2]),
}

impl Output {
    /// Starts the thread, if scripts' lines are wanted.
    pub(super) fn start(is_wanted: bool, runs: PathBuf, log: Log) -> Result<Self> {
        if !is_wanted {
            return Ok(Self { thread: None });
        }
        let (events, inlet) = channel();
        let (alive, done) = channel();
        let mut reader = Reader { runs, log, say, files: BTreeMap::new(), last: None };
        let serve = move || {
            reader.serve(&inlet);
            drop(alive);
        };
        thread::Builder::new().name("output".to_owned()).spawn(serve).context("can't start the thread for outputs")?;
        Ok(Self { thread: Some(Thread { events, done }) })
    }

    /// Notes which runs these records begin and end.
    pub(super) fn note(&self, records: &[Record]) {
        for record in records {
            let Record::Run(run) = record else { continue };
            match &run.state {
                State::Running => self.send(Event::Grows(run.id.clone())),
                State::Ended(end) if run.started_at.is_some() => {
                    let kept = end.exit.as_ref().map(|exit| [exit.stdout_bytes, exit.stderr_bytes]);
                    self.send(Event::Ended(run.id.clone(), kept.unwrap_or_default()));
                }
                State::Queued | State::Starting | State::Ended(_) => {}
            }
        }
    }

    /// Notes a run that an earlier daemon has left.
    pub(super) fn adopt(&self, run: &Run) {
        if run.state == State::Running {
            self.send(Event::GoesOn(run.id.clone()));
        }
    }

    /// Waits until the log has what scripts have written so far, or says how much it has not. Nothing is noted any more.
    pub(super) fn end(&mut self) {
        let Some(Thread { events, done }) = self.thread.take() else { return };
        drop(events);
        // The thread itself keeps to the limit, unless a file system hangs.
        if done.recv_timeout(END_MAX + LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            warn!("the last output of scripts is not in this log, because their log files can't be read in time");
        }
    }

    fn send(&self, event: Event) {
        if let Some(thread) = &self.thread {
            // The thread lives as long as this.
            let _ = thread.events.send(event);
        }
    }
}

struct Reader<S> {
    runs: PathBuf,
    log: Log,
    /// Logs a line.
    say: S,
    files: BTreeMap<RunId, Files>,
    /// Whose turn was the last one.
    last: Option<RunId>,
}

/// What is followed of a run.
#[derive(Default)]
struct Files {
    /// stdout and stderr.
    each: [Followed; 2],
    /// Nothing more will come that is to be read.
    is_complete: bool,
    /// How long the files are then, as far as that is known.
    kept: [u64; 2],
}

/// One file of a run.
#[derive(Default)]
struct Followed {
    /// Up to here its lines were logged.
    offset: u64,
    /// Device and inode.
    id: Option<(u64, u64)>,
}

/// How far a turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// To the end of what there is.
    AtEnd,
    /// Not to the end.
    More,
    /// Until the log could take no more.
    NoRoom,
}

impl<S: FnMut(&RunId, &str, &[u8])> Reader<S> {
    /// Serves until nobody can send an event any more.
    fn serve(&mut self, events: &Receiver<Event>) {
        let mut look_at = clock::monotonic();
        loop {
            let event = match self.files.is_empty() {
                true => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => events.recv_timeout(look_at.saturating_duration_since(clock::monotonic())),
            };
            match event {
                Ok(event) => {
                    if self.note(event) != Turn::AtEnd {
                        look_at = clock::monotonic();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let turn = self.round();
                    if turn == Turn::NoRoom {
                        self.log.wait_for_room(LOOK_EVERY);
                    }
                    look_at = clock::monotonic() + if turn == Turn::AtEnd { LOOK_EVERY } else { Duration::ZERO };
                }
                Err(RecvTimeoutError::Disconnected) => return self.end(END_MAX),
            }
        }
    }

    /// Takes note of an event; how far the run's output has come.
    fn note(&mut self, event: Event) -> Turn {
        match event {
            Event::Grows(run) => {
                self.files.entry(run).or_default();
                Turn::AtEnd
            }
            Event::GoesOn(run) => {
                let folder = self.runs.join(run.to_string());
                let each = [STDOUT, STDERR].map(|name| Followed::at_end(&folder.join(name)));
                self.files.entry(run).or_insert(Files { each, ..Files::default() });
                Turn::AtEnd
            }
            Event::Ended(run, kept) => {
                let files = self.files.entry(run.clone()).or_default();
                (files.is_complete, files.kept) = (true, kept);
                let turn = self.turn(&run);
                if self.files.values().filter(|files| files.is_complete).count() > ENDED_BEHIND_MAX {
                    self.close(&run);
                }
                turn
            }
        }
    }

    /// Gives each run its turn, those first who had none the last time; how far the one came that came least far.
    fn round(&mut self) -> Turn {
        let after = self.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let until = if let Bound::Excluded(last) = &after { Some(last) } else { None };
        let first = self.files.range((after.as_ref(), Bound::Unbounded));
        let then = until.into_iter().flat_map(|last| self.files.range(..=last));
        let order: Vec<RunId> = first.chain(then).map(|(run, _)| run.clone()).collect();
        let mut round = Turn::AtEnd;
        for run in order {
            let turn = self.turn(&run);
            if turn == Turn::NoRoom {
                self.last = Some(run);
                return turn;
            }
            if turn == Turn::More {
                round = turn;
            }
        }
        round
    }

    /// Logs the next lines of a run, a chunk of each file at most.
    fn turn(&mut self, run: &RunId) -> Turn {
        let Some(files) = self.files.get_mut(run) else { return Turn::AtEnd };
        let folder = self.runs.join(run.to_string());
        let mut least = Turn::AtEnd;
        for (file, name) in files.each.iter_mut().zip([STDOUT, STDERR]) {
            let turn = file.read(&folder.join(name), files.is_complete, &mut |line| {
                // A script that writes much must not push the daemon's own lines out.
                let has_room = self.log.has_room();
                if has_room {
                    (self.say)(run, name, line);
                }
                has_room
            });
            match turn {
                Turn::NoRoom => return turn,
                Turn::More => least = turn,
                Turn::AtEnd => {}
            }
        }
        if least == Turn::AtEnd && files.is_complete {
            self.close(run);
        }
        least
    }

    /// Follows a run no longer, and says what of its files was not read.
    fn close(&mut self, run: &RunId) {
        let Some(files) = self.files.remove(run) else { return };
        for ((file, kept), name) in files.each.iter().zip(files.kept).zip([STDOUT, STDERR]) {
            if file.offset < kept {
                let bytes = counted(kept - file.offset, "byte", "bytes");
                warn!(%run, "{bytes} of {name} could not be copied to this log; to see all: `batchd logs {run}`");
            }
        }
    }

    /// Logs what there is, for so long at most, and says how much there is besides.
    fn end(&mut self, most: Duration) {
        let until = clock::monotonic() + most;
        self.files.values_mut().for_each(|files| files.is_complete = true);
        while !self.files.is_empty() {
            let left = until.saturating_duration_since(clock::monotonic());
            if left.is_zero() {
                return self.say_what_is_left();
            }
            if self.round() == Turn::NoRoom {
                self.log.wait_for_room(left.min(LOOK_EVERY));
            }
        }
    }

    fn say_what_is_left(&self) {
        let mut bytes = 0;
        for (run, files) in &self.files {
            let folder = self.runs.join(run.to_string());
            for (file, name) in files.each.iter().zip([STDOUT, STDERR]) {
                bytes += Followed::at_end(&folder.join(name)).offset.saturating_sub(file.offset);
            }
        }
        let Some((run, _)) = self.files.first_key_value() else { return };
        let (bytes, runs) = (counted(bytes, "byte", "bytes"), counted(self.files.len(), "run", "runs"));
        warn!(
            "the daemon ends before this log has all output of scripts: {bytes} of {runs} are missing; \
             to see the output of one: `batchd logs {run}`"
        );
    }
}

impl Followed {
    /// A file of which nothing is wanted that is there already.
    fn at_end(path: &Path) -> Self {
        let metadata = open_file(path).and_then(|file| file.metadata());
        metadata
            .map_or_else(|_| Self::default(), |data| Self { offset: data.len(), id: Some((data.dev(), data.ino())) })
    }

    /// Gives each whole line that has come since the last time, up to a chunk of them, and if the file is complete, the
    /// beginning of a last one; `each` is false if it takes no more. What can't be opened now is there the next time, or never.
    fn read(&mut self, path: &Path, is_complete: bool, each: &mut impl FnMut(&[u8]) -> bool) -> Turn {
        let Ok((file, data)) = open_file(path).and_then(|file| file.metadata().map(|data| (file, data))) else {
            return Turn::AtEnd;
        };
        let is_another = self.id.replace((data.dev(), data.ino())).is_some_and(|id| id != (data.dev(), data.ino()));
        if is_another || data.len() < self.offset {
            // Another program has cut the log or put another in its place. The remarks of the run's end will say so.
            self.offset = 0;
        }
        let length = data.len() - self.offset;
        let mut chunk = vec![0; usize::try_from(length).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)];
        let Ok(count) = file.read_at(&mut chunk, self.offset) else { return Turn::AtEnd };
        let is_end = count as u64 == length;
        let mut rest = &chunk[..count];
        while !rest.is_empty() {
            let (text, line) = match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) if end <= LINE_BYTES_MAX => (end, end + 1),
                Some(_) | None if rest.len() > LINE_BYTES_MAX => (LINE_BYTES_MAX, LINE_BYTES_MAX),
                Some(_) | None if is_complete && is_end => (rest.len(), rest.len()),
                // Its end has not come yet.
                Some(_) | None => break,
            };
            if !each(&rest[..text]) {
                return Turn::NoRoom;
            }
            self.offset += line as u64;
            rest = &rest[line..];
        }
        if is_end { Turn::AtEnd } else { Turn::More }
    }
}

/// Logs a line of a script. What acts on a screen instead of being seen is escaped.
fn say(run: &RunId, name: &str, line: &[u8]) {
    let stream = name.trim_end_matches(".log");
    let mut text = String::new();
    for character in String::from_utf8_lossy(line).chars() {
        match character {
            '\t' => text.push(character),
            _ if is_active(character) => text.extend(character.escape_default()),
            _ => text.push(character),
        }
    }
    info!(target: "batchd::output", %run, stream, "{text}");
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;
    use std::fs::File;
    use std::io::Write as _;
    use std::sync::Arc;

    use tracing_subscriber::fmt::MakeWriter as _;

    use super::*;

    #[test]
    fn lines_come_whole_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut followed = Followed::default();
        let mut check = |written: &str, is_complete: bool, expected: &[&str]| {
            let mut lines = Vec::new();
            File::options().create(true).append(true).open(&path).unwrap().write_all(written.as_bytes()).unwrap();
            let turn = followed.read(&path, is_complete, &mut |line| {
                lines.push(String::from_utf8(line.to_vec()).unwrap());
                true
            });
            assert_eq!((lines, turn), (expected.iter().map(|line| (*line).to_owned()).collect(), Turn::AtEnd));
        };
        check("one\ntw", false, &["one"]);
        check("", false, &[]);
        check("o\n\nthree", false, &["two", ""]);
        let long = "x".repeat(LINE_BYTES_MAX);
        check(&format!("\n{long}y\n"), false, &["three", &long, "y"]);
        // Shorter than what was read, and then another file, as copytruncate and a removal leave it.
        fs::write(&path, "").unwrap();
        check("after\n", false, &["after"]);
        fs::rename(&path, folder.path().join("log.1")).unwrap();
        check("another, and longer\nend", true, &["another, and longer", "end"]);
    }

    #[test]
    fn a_run_that_writes_much_waits_for_the_others_after_each_chunk() {
        let home = tempfile::tempdir().unwrap();
        let null = File::options().write(true).open("/dev/null").unwrap();
        let said = RefCell::new(Vec::new());
        let say = |run: &RunId, _: &str, line: &[u8]| said.borrow_mut().push((run.to_string(), line.len()));
        let log = Log::start(null.into()).unwrap();
        let mut reader = Reader { runs: home.path().to_owned(), log, say, files: BTreeMap::new(), last: None };
        let write = |run: &str, bytes: &[u8]| {
            fs::create_dir_all(home.path().join(run)).unwrap();
            fs::write(home.path().join(run).join(STDOUT), bytes).unwrap();
        };
        write("chatty.1", &[&[b'x'; 1023][..], b"\n"].concat().repeat(10 * CHUNK_BYTES / 1024));
        write("quiet.1", b"quiet\n");
        for run in ["chatty.1", "quiet.1"] {
            reader.note(Event::Grows(run.parse().unwrap()));
        }
        assert_eq!(reader.round(), Turn::More);
        let at = said.borrow().iter().position(|(run, _)| run == "quiet.1");
        assert_eq!(at, Some(CHUNK_BYTES / 1024), "after one chunk of the other");
        assert_eq!(reader.note(Event::Ended("chatty.1".parse().unwrap(), [10 * CHUNK_BYTES as u64, 0])), Turn::More);
        while reader.round() == Turn::More {}
        assert_eq!(said.borrow().len(), 10 * CHUNK_BYTES / 1024 + 1);
        assert_eq!(reader.files.len(), 1, "quiet.1 has not ended");
    }

    /// What is logged meanwhile.
    fn logged(act: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let logs = tracing_subscriber::fmt().with_writer(Arc::new(file.reopen().unwrap())).with_ansi(false).finish();
        tracing::subscriber::with_default(logs, act);
        fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn what_a_log_that_nobody_reads_lacks_is_told_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let (_unread, full) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        while rustix::io::write(&full, b"x").is_ok() {}
        let log = Log::start(full).unwrap();
        // All of it that the queue takes: the thread holds one of these, and the rest is more than half.
        (0..1024).for_each(|_| log.make_writer().write_all(&[b'x'; 1024]).unwrap());
        let say = |_: &RunId, _: &str, _: &[u8]| panic!("there is no room");
        let mut reader = Reader { runs: home.path().to_owned(), log, say, files: BTreeMap::new(), last: None };
        for (run, text) in [("ends.1", "two\n"), ("goes.1", "three\n")] {
            fs::create_dir(home.path().join(run)).unwrap();
            fs::write(home.path().join(run).join(STDERR), text).unwrap();
        }
        reader.note(Event::Grows("goes.1".parse().unwrap()));
        assert_eq!(reader.note(Event::Ended("ends.1".parse().unwrap(), [0, 4])), Turn::NoRoom);
        let told = logged(|| reader.end(Duration::from_millis(10)));
        assert!(
            told.contains("10 bytes of 2 runs are missing; to see the output of one: `batchd logs ends.1`"),
            "{told}"
        );
        // As many runs as there are, the memory for them is bounded, and those beyond are named.
        let told = logged(|| {
            for number in 2..=ENDED_BEHIND_MAX + 1 {
                let run: RunId = format!("ends.{number}").parse().unwrap();
                fs::create_dir(home.path().join(run.to_string())).unwrap();
                fs::write(home.path().join(run.to_string()).join(STDOUT), "two\n").unwrap();
                reader.note(Event::Ended(run, [4, 0]));
            }
        });
        assert!(told.contains("4 bytes of stdout.log could not be copied to this log"), "{told}");
        assert_eq!(reader.files.values().filter(|files| files.is_complete).count(), ENDED_BEHIND_MAX);
    }

    #[test]
    fn what_can_not_be_read_of_a_run_that_has_ended_is_told() {
        let home = tempfile::tempdir().unwrap();
        let null = File::options().write(true).open("/dev/null").unwrap();
        let (log, say) = (Log::start(null.into()).unwrap(), |_: &RunId, _: &str, _: &[u8]| {});
        let mut reader = Reader { runs: home.path().to_owned(), log, say, files: BTreeMap::new(), last: None };
        let told = logged(|| {
            assert_eq!(reader.note(Event::Ended("gone.1".parse().unwrap(), [8, 0])), Turn::AtEnd);
        });
        assert!(
            told.contains("8 bytes of stdout.log could not be copied") && told.contains("batchd logs gone.1"),
            "{told}"
        );
        assert!(reader.files.is_empty());
    }
}

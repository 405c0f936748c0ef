//! The lines of scripts in the daemon's log (`log_output`): a thread that reads the log files of runs as they grow.
//!
//! The files are the truth, and stay so: nothing between a script and its files knows of this. A daemon that takes a run over
//! goes on at the end that the files have then.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tracing::info;

use super::log::Log;
use crate::model::id::RunId;
use crate::model::record::Record;
use crate::model::run::{Run, State};
use crate::rundir::{STDERR, STDOUT};

/// Files are looked at this often: nobody who reads along notices it, and a look costs one call of pread(2).
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So much is read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// A longer line is cut into several: docker cuts at the same length.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// The way to the thread; one that does nothing if the setting is off.
pub(super) struct Output {
    events: Option<Sender<Event>>,
}

enum Event {
    /// A run's files grow.
    Grows(RunId),
    /// A run of an earlier daemon goes on: what its files have was written under that one.
    GoesOn(RunId),
    /// A run has ended: its files are complete.
    Ended(RunId),
}

impl Output {
    /// Starts the thread, if scripts' lines are wanted.
    pub(super) fn start(is_wanted: bool, runs: PathBuf, log: Log) -> Result<Self> {
        if !is_wanted {
            return Ok(Self { events: None });
        }
        let (events, inlet) = channel();
        let mut reader = Reader { runs, log, files: BTreeMap::new() };
        let serve = move || reader.serve(&inlet);
        thread::Builder::new().name("output".to_owned()).spawn(serve).context("can't start the thread for outputs")?;
        Ok(Self { events: Some(events) })
    }

    /// Notes which runs these records begin and end.
    pub(super) fn note(&self, records: &[Record]) {
        for record in records {
            let Record::Run(run) = record else { continue };
            match &run.state {
                State::Running => self.send(Event::Grows(run.id.clone())),
                State::Ended(_) if run.started_at.is_some() => self.send(Event::Ended(run.id.clone())),
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

    fn send(&self, event: Event) {
        if let Some(events) = &self.events {
            // The thread lives as long as this.
            let _ = events.send(event);
        }
    }
}

struct Reader {
    runs: PathBuf,
    log: Log,
    /// What is followed, by run: stdout and stderr.
    files: BTreeMap<RunId, [Followed; 2]>,
}

/// One file of a run.
#[derive(Default)]
struct Followed {
    /// Up to here it was read.
    offset: u64,
    /// The beginning of a line whose end was not there yet.
    begun: Vec<u8>,
}

impl Reader {
    /// Serves until nobody can send an event any more.
    fn serve(&mut self, events: &Receiver<Event>) {
        loop {
            let event = match self.files.is_empty() {
                true => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => events.recv_timeout(LOOK_EVERY),
            };
            match event {
                Ok(Event::Grows(run)) => drop(self.files.entry(run).or_default()),
                Ok(Event::GoesOn(run)) => {
                    let at_end =
                        [STDOUT, STDERR].map(|name| Followed { offset: self.length(&run, name), begun: vec![] });
                    self.files.entry(run).or_insert(at_end);
                }
                Ok(Event::Ended(run)) => self.finish(&run),
                Err(RecvTimeoutError::Timeout) => {
                    let runs: Vec<RunId> = self.files.keys().cloned().collect();
                    runs.iter().for_each(|run| self.read(run));
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn length(&self, run: &RunId, name: &str) -> u64 {
        std::fs::metadata(self.runs.join(run.to_string()).join(name)).map_or(0, |metadata| metadata.len())
    }

    /// Reads what has come, and the beginning of a last line without an end.
    fn finish(&mut self, run: &RunId) {
        self.files.entry(run.clone()).or_default();
        self.read(run);
        for (file, name) in self.files.remove(run).into_iter().flatten().zip([STDOUT, STDERR]) {
            if !file.begun.is_empty() {
                say(run, name, &file.begun);
            }
        }
    }

    /// Reads what has come to both files. What can't be opened now is there the next time, or never.
    fn read(&mut self, run: &RunId) {
        let folder = self.runs.join(run.to_string());
        for (file, name) in self.files.entry(run.clone()).or_default().iter_mut().zip([STDOUT, STDERR]) {
            if let Ok(open) = File::open(folder.join(name)) {
                file.read(&open, &mut |line| {
                    // A script that writes much must not push the daemon's own lines out.
                    self.log.wait_for_room();
                    say(run, name, line);
                });
            }
        }
    }
}

impl Followed {
    /// Gives each whole line that has come since the last time.
    fn read(&mut self, file: &File, each: &mut impl FnMut(&[u8])) {
        let mut chunk = vec![0; CHUNK_BYTES];
        // An error here is one for whoever reads the files themselves, too.
        while let Ok(count @ 1..) = file.read_at(&mut chunk, self.offset) {
            self.offset += count as u64;
            for part in chunk[..count].split_inclusive(|byte| *byte == b'\n') {
                let text = part.strip_suffix(b"\n").unwrap_or(part);
                self.begun.extend(text);
                while self.begun.len() > LINE_BYTES_MAX {
                    each(&self.begun[..LINE_BYTES_MAX]);
                    self.begun.drain(..LINE_BYTES_MAX);
                }
                if text.len() < part.len() {
                    each(&self.begun);
                    self.begun.clear();
                }
            }
        }
    }
}

/// Logs a line of a script. What would steer a terminal is escaped.
fn say(run: &RunId, name: &str, line: &[u8]) {
    let stream = name.trim_end_matches(".log");
    let mut text = String::new();
    for character in String::from_utf8_lossy(line).chars() {
        match character {
            '\t' => text.push(character),
            _ if character.is_control() => text.extend(character.escape_default()),
            _ => text.push(character),
        }
    }
    info!(target: "batchd::output", %run, stream, "{text}");
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn lines_come_whole_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = File::create(&path).unwrap();
        let mut followed = Followed::default();
        let mut check = |written: &str, expected: &[&str]| {
            writer.write_all(written.as_bytes()).unwrap();
            let mut lines = Vec::new();
            followed
                .read(&File::open(&path).unwrap(), &mut |line| lines.push(String::from_utf8(line.to_vec()).unwrap()));
            assert_eq!(lines, expected, "{written:?}");
        };
        check("one\ntw", &["one"]);
        check("", &[]);
        check("o\n\nthree", &["two", ""]);
        let long = "x".repeat(LINE_BYTES_MAX);
        check(&format!("\n{long}y\n"), &["three", &long, "y"]);
    }
}

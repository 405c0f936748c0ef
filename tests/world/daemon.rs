//! The daemon of a world: a child with its log.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use tokio::io::unix::AsyncFd;

use super::PATIENCE;
use super::wait::exits;

/// The lines of a log so far.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<Value>>,
    /// Whoever wrote it has ended.
    ended: AtomicBool,
    grown: Condvar,
}

/// A daemon that was started, and may have ended.
pub struct Daemon {
    child: Child,
    log: Arc<Log>,
}

impl Daemon {
    pub(super) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let (stderr, written) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // What is no JSON is the last word of a daemon that could not start.
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                written.lines.lock().unwrap().push(line);
                written.grown.notify_all();
            }
            let _lines = written.lines.lock().unwrap();
            written.ended.store(true, Ordering::Relaxed);
            written.grown.notify_all();
        });
        Self { child, log }
    }

    /// Waits until scheduling has begun.
    #[track_caller]
    pub(super) fn ready(&self) {
        self.line("ready", is_ready);
    }

    /// Waits until scheduling has begun, or the daemon has ended. Whether the first.
    #[track_caller]
    pub fn ready_or_ended(&self) -> bool {
        let ended = || self.log.ended.load(Ordering::Relaxed).then_some(Value::Null);
        !self
            .wait_for(PATIENCE, "ready, or ended", |lines| {
                lines.iter().find(|line| is_ready(line)).cloned().or_else(ended)
            })
            .is_null()
    }

    /// Comes when it has ended.
    pub async fn end(&self) {
        let handle = pidfd_open(Pid::from_raw(self.pid()).unwrap(), PidfdFlags::NONBLOCK).unwrap();
        // SAFETY: the `AsyncFd` owns the descriptor: it stays open, and the same, for as long as it is registered.
        let handle = unsafe { AsyncFd::register(handle) }.unwrap();
        drop(handle.readable().await.unwrap());
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        exits(&self.child, Duration::ZERO)
    }

    /// How many lines the log has: what comes later is news to [`Self::line_after`].
    pub fn mark(&self) -> usize {
        self.log.lines.lock().unwrap().len()
    }

    /// Waits for a line of the log, from its beginning on.
    #[track_caller]
    pub fn line(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.line_after(0, what, is_it)
    }

    /// Waits for a line of the log after `mark`.
    #[track_caller]
    pub fn line_after(&self, mark: usize, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.line_within(PATIENCE, mark, what, is_it)
    }

    /// As [`Self::line_after`], for what may take longer than all else.
    #[track_caller]
    pub fn line_within(&self, patience: Duration, mark: usize, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(patience, what, |lines| lines.iter().skip(mark).find(|line| is_it(line)).cloned())
    }

    /// Waits until something is found in the lines, or the log has ended.
    #[track_caller]
    fn wait_for(&self, patience: Duration, what: &str, find: impl Fn(&[Value]) -> Option<Value>) -> Value {
        let deadline = Instant::now() + patience;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(found) = find(&lines) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(lines);
                panic!("no line said: {what}; the daemon's log:\n{}", self.log_text());
            }
            lines = self.log.grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Waits for a line after `mark` whose message contains this.
    #[track_caller]
    pub fn says(&self, mark: usize, text: &str) -> Value {
        self.line_after(mark, text, |line| line.to_string().contains(text))
    }

    /// Waits until a definition of this batch comes into force after `mark`; its short hash.
    #[track_caller]
    pub fn in_force(&self, mark: usize, batch: &str) -> String {
        let is_it = |line: &Value| line["message"] == "in force" && line["batch"] == batch;
        let line = self.line_after(mark, &format!("{batch} in force"), is_it);
        line["definition"].as_str().unwrap().to_owned()
    }

    /// Waits until a run has this word in its line after `mark`; the run's id.
    #[track_caller]
    pub fn run_line(&self, mark: usize, batch: &str, word: &str) -> String {
        let prefix = format!("{batch}.");
        let is_it =
            |line: &Value| line["message"] == word && line["run"].as_str().is_some_and(|run| run.starts_with(&prefix));
        let line = self.line_after(mark, &format!("a run of {batch} {word}"), is_it);
        line["run"].as_str().unwrap().to_owned()
    }

    pub fn log_text(&self) -> String {
        let lines = self.log.lines.lock().unwrap();
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        // One that has ended is a zombie until it is reaped, so the pid is its own.
        let _ = kill_process(Pid::from_raw(self.pid()).unwrap(), signal);
    }

    /// Waits for its end: its exit code, or minus the signal that ended it.
    #[track_caller]
    pub(super) fn wait(mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        assert!(exits(&self.child, PATIENCE), "the daemon did not end; its log:\n{}", self.log_text());
        let status = self.child.wait().unwrap();
        if !status.success() && status.signal().is_none() {
            eprintln!("a daemon ended with {status}; its log:\n{}", self.log_text());
        }
        status.code().unwrap_or_else(|| -status.signal().unwrap())
    }

    /// Takes away what is left of one that was killed.
    pub(super) fn reap(mut self) {
        let _ = self.child.wait();
    }
}

fn is_ready(line: &Value) -> bool {
    line["message"].as_str().is_some_and(|text| text.ends_with("is ready"))
}

//! Waiting for the end of a run that was just made: what the run waits for meanwhile, how it ended, what its last lines were.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::operate::Daemon;
use super::{Context, facts, interrupt, logs, screen, show, waits};
use crate::api::RunView;
use crate::checkup;
use crate::model::id::RunId;
use crate::model::run::Outcome;
use crate::rundir::{STDERR, STDOUT, open_file};

/// How often a run that is waited for is looked at. A run that starts at once has started by then, and nothing is said.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How many of the last lines of a failed run are shown: enough for a message of most programs, and no screen is filled.
const LAST_LINES_MAX: usize = 10;
/// The most bytes of these lines.
const LAST_LINES_BYTES_MAX: u64 = 4096;

/// How a run is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Say what it waits for and how it ended.
    Tell,
    /// Print its log, too.
    Follow,
    /// Say nothing: the answer is for programs.
    Quietly,
}

/// Waits for the end of the last attempt that begins with `run`.
pub(super) fn for_end(daemon: &mut Daemon, run: &RunId, manner: Manner, context: &mut Context) -> Result<RunView> {
    interrupt::announce(run);
    // The logs of a run that never starts can't be followed; then its end says all.
    let followed = if manner == Manner::Follow { logs::follow_run(run, context) } else { Ok(()) };
    let mut said = Said::default();
    let end = daemon.wait(run, || {
        if manner != Manner::Quietly {
            said.say(context, run);
        }
    })?;
    if let Err(error) = followed
        && end.started_at.is_some()
    {
        screen::aside(&format!("can't follow the log: {error:#}\n"))?;
    }
    if manner != Manner::Quietly {
        screen::aside(&format!("{}\n", show::ending(&end)))?;
        for remark in end.exit.iter().flat_map(|exit| &exit.remarks) {
            screen::aside(&format!("remark: {remark}\n"))?;
        }
    }
    let has_failed = end.outcome != Some(Outcome::Succeeded) && end.started_at.is_some();
    if manner == Manner::Tell && has_failed {
        screen::aside(&last_lines(&context.paths.runs.join(end.id.to_string()), &end.id))?;
    }
    Ok(end)
}

/// What somebody who waits has been told already: each thing is said once.
#[derive(Default)]
struct Said {
    looks: u32,
    waiting: Option<RunId>,
    no_daemon: bool,
}

impl Said {
    /// Says why nothing happens, if nothing does. Whoever may not read the journal is told nothing.
    fn say(&mut self, context: &Context, run: &RunId) {
        self.looks += 1;
        if !checkup::daemon_lives(&context.paths.state) {
            if !std::mem::replace(&mut self.no_daemon, true) {
                // Nobody can be told that nobody reads stderr.
                let _ = screen::aside("the daemon is not running; waiting for it to be started again\n");
            }
            return;
        }
        self.no_daemon = false;
        if let Ok(Some((run, text))) = waits_for(context, run, context.now + LOOK_INTERVAL * self.looks)
            && self.waiting.as_ref() != Some(&run)
        {
            let _ = screen::aside(&format!("{run} waits for {text}\n"));
            self.waiting = Some(run);
        }
    }
}

/// What the last attempt so far waits for, if it does.
fn waits_for(context: &Context, run: &RunId, now: crate::model::time::Instant) -> Result<Option<(RunId, String)>> {
    let Some(journal) = facts::open_journal(context)? else { return Ok(None) };
    let Some(last) = journal.last_attempt(run)? else { return Ok(None) };
    let views = waits::views(&journal, &[last], now)?;
    let zone = context.zones.system().zone.clone();
    let text = |view: RunView| Some((view.id, waits::text(&view.waits_for?, now, &zone)));
    Ok(views.into_iter().next().and_then(text))
}

/// The last lines that a failed run wrote to stderr, or to stdout if stderr is empty, and the command for all of them.
fn last_lines(folder: &Path, run: &RunId) -> String {
    let mut text = String::new();
    let found = [(STDERR, "stderr"), (STDOUT, "stdout")].into_iter().find_map(|(file, name)| {
        let lines = last_lines_of(&folder.join(file))?;
        Some((lines, name))
    });
    if let Some((lines, name)) = found {
        text.push_str(&format!("Last lines of {name}:\n"));
        lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text + &format!("To see the whole log: `batchd logs {run}`\n")
}

/// None if there is nothing in the file, or it can't be read.
fn last_lines_of(path: &Path) -> Option<Vec<String>> {
    let file = open_file(path).ok()?;
    let length = file.metadata().ok()?.len();
    let from = length.saturating_sub(LAST_LINES_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(length - from).ok()?];
    file.read_exact_at(&mut bytes, from).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    // The first one is cut off, unless there is no other.
    if from > 0 && lines.len() > 1 {
        lines.remove(0);
    }
    let lines = &lines[lines.len().saturating_sub(LAST_LINES_MAX)..];
    (!lines.is_empty()).then(|| lines.iter().map(|line| (*line).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_and_few() {
        let folder = tempfile::tempdir().unwrap();
        let run: RunId = "load.3".parse().unwrap();
        let command = "To see the whole log: `batchd logs load.3`\n";
        assert_eq!(last_lines(folder.path(), &run), command);
        std::fs::write(folder.path().join(STDOUT), "out\n").unwrap();
        std::fs::write(folder.path().join(STDERR), "").unwrap();
        assert_eq!(last_lines(folder.path(), &run), format!("Last lines of stdout:\n  out\n{command}"));
        let long: String = (0..2000).map(|number| format!("line {number}\n")).collect();
        std::fs::write(folder.path().join(STDERR), long).unwrap();
        let shown = last_lines(folder.path(), &run);
        assert!(shown.starts_with("Last lines of stderr:\n  line 1990\n"), "{shown}");
        assert!(shown.ends_with(&format!("  line 1999\n{command}")), "{shown}");
        std::fs::write(folder.path().join(STDERR), "x".repeat(10_000)).unwrap();
        assert_eq!(last_lines_of(&folder.path().join(STDERR)).unwrap(), ["x".repeat(4096)]);
    }
}

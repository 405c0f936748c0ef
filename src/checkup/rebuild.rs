//! A new journal from the run folders alone, for the day when a disk ate the old one and there is no copy of it; with one,
//! however old, [`super::restore`] gives more.
//!
//! What only the lost journal knew is lost: what never ran, who asked for what, who is disabled, how far joins had come. Nothing
//! fires twice all the same: cursors stand at now, and numbers go on behind all that are known.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{Places, disk};
use crate::journal::Journal;
use crate::model::id::{BatchName, JournalId, RUN_NUMBER_MAX, RunId, Token};
use crate::model::launch::ExitCause;
use crate::model::record::{BatchFacts, REBOOT_UNKNOWN, Record};
use crate::model::run::{End, Follow, Given, Outcome, Run, State};
use crate::model::text::counted;
use crate::model::time::Instant;
use crate::rundir::RunDir;
use crate::rundir::records::{Ending, ExitRecord, RunRecord};

/// So many rows are committed together: a commit costs an fsync, and a row a few hundred bytes of memory.
const ROWS_AT_ONCE: usize = 1000;

/// So many numbers are left out behind the last one that is known: those of runs that never ran have left no trace, and no
/// number may come back.
const NUMBERS_LEFT_OUT: u64 = 1000;

/// The boot in rows that were rebuilt: nobody knows which it was, and it is not this one.
pub(super) const BOOT_UNKNOWN: &str = "unknown: from the run folder";

/// What became of the journal, in the reasons of rows that come from folders.
const LOST: &str = "the journal was lost";

/// What came of it.
#[derive(Debug)]
pub struct Rebuilt {
    journal: JournalId,
    ended: u64,
    lost: u64,
    foreign: u64,
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { journal, ended, lost, foreign } = self;
        write!(
            f,
            "journal {}: {} with an outcome, {lost} lost, {} of other journals ignored",
            journal.0,
            counted(*ended, "run", "runs"),
            counted(*foreign, "folder", "folders")
        )
    }
}

/// What the folders say together.
#[derive(Default)]
pub(super) struct Known {
    /// How many folders carry the name of each journal.
    journals: BTreeMap<String, u64>,
    /// The greatest number of each batch that is named anywhere.
    pub(super) numbers: BTreeMap<BatchName, u64>,
}

/// Writes a new journal at `file`. Refuses while a daemon or a run lives, and if anything is at `file`.
pub fn rebuild(places: &Places<'_>, file: &Path, now: Instant) -> Result<Rebuilt> {
    if super::daemon_lives(places.state) {
        bail!("a daemon is running on {}. Stop the daemon first; its runs continue", places.state.display());
    }
    let known = survey(places.runs)?;
    let most = known.journals.iter().max_by_key(|(_, count)| **count);
    let Some((name, _)) = most else {
        bail!("no folder in {} belongs to a journal: there is nothing to rebuild from", places.runs.display());
    };
    let id = JournalId(name.clone());
    let mut sheet = Sheet { journal: Journal::create_named(file, &id)?, records: Vec::new() };
    let mut rebuilt = Rebuilt { journal: id.clone(), ended: 0, lost: 0, foreign: 0 };
    let mut position = 0;
    disk::names(places.runs, |name| {
        position += 1;
        let Some(run) = row_of(places.runs, name, &id, position, LOST)? else {
            rebuilt.foreign += 1;
            return Ok(());
        };
        let lost = run.outcome() == Some(Outcome::Lost);
        *(if lost { &mut rebuilt.lost } else { &mut rebuilt.ended }) += 1;
        sheet.put(Record::Run(Box::new(run)))
    })?;
    for (name, number) in known.numbers {
        let mut facts = BatchFacts { cursor: Some(now), ..unknown(name, number) };
        facts.next_number = behind(&facts)?;
        sheet.put(Record::Batch(facts))?;
    }
    let text = format!("the journal was rebuilt: {rebuilt}; occurrences that never ran have no rows before {now}");
    sheet.put(Record::Event { at: now, text })?;
    sheet.commit()?;
    Ok(rebuilt)
}

/// All that folders say of a batch: the greatest number that any of them names.
pub(super) fn unknown(name: BatchName, number: u64) -> BatchFacts {
    BatchFacts {
        name,
        next_number: number + 1,
        cursor: None,
        reboot_boot: Some(REBOOT_UNKNOWN.to_owned()),
        disabled: None,
    }
}

/// The number with which a batch goes on.
pub(super) fn behind(facts: &BatchFacts) -> Result<u64> {
    // Neither is beyond `i64`, so their sum is a number.
    let next = facts.next_number + NUMBERS_LEFT_OUT;
    if next > RUN_NUMBER_MAX {
        let (batch, number) = (&facts.name, facts.next_number - 1);
        bail!(
            "a folder or a run.json names {batch}.{number}, which is above the highest possible run number; move the folder away"
        );
    }
    Ok(next)
}

/// The new journal, and what is not committed yet.
pub(super) struct Sheet {
    pub(super) journal: Journal,
    pub(super) records: Vec<Record>,
}

impl Sheet {
    pub(super) fn put(&mut self, record: Record) -> Result<()> {
        self.records.push(record);
        if self.records.len() < ROWS_AT_ONCE { Ok(()) } else { self.commit() }
    }

    pub(super) fn commit(&mut self) -> Result<()> {
        Ok(self.journal.import(&std::mem::take(&mut self.records))?)
    }
}

/// Looks at all folders once: which journal, which numbers, and whether a run lives.
pub(super) fn survey(runs: &Path) -> Result<Known> {
    let mut known = Known::default();
    disk::names(runs, |name| {
        let Ok(id) = name.parse::<RunId>() else { return Ok(()) };
        known.note(&id);
        let path = runs.join(name);
        let folder = match RunDir::open(&path) {
            Ok(folder) => folder,
            // A run that was left out because nobody could look would run again.
            Err(error) if path.symlink_metadata().is_ok_and(|found| found.is_dir()) => {
                return Err(error).with_context(|| format!("can't open runs/{name}"));
            }
            Err(_) => return Ok(()),
        };
        if folder.is_locked().with_context(|| format!("can't look at runs/{name}"))? {
            bail!("{name} is still running: wait until it has ended, or stop it");
        }
        let Some(record) = RunDir::run_record(&path, &id) else { return Ok(()) };
        *known.journals.entry(record.token.journal.0).or_default() += 1;
        known.note(&record.chain);
        record.upstreams.iter().for_each(|upstream| known.note(&upstream.run));
        Ok(())
    })?;
    Ok(known)
}

impl Known {
    fn note(&mut self, id: &RunId) {
        let number = self.numbers.entry(id.batch.clone()).or_default();
        *number = id.number.max(*number);
    }
}

/// The row of a folder; none if it is of another journal, or nobody can tell.
pub(super) fn row_of(runs: &Path, name: &str, journal: &JournalId, position: u64, why: &str) -> Result<Option<Run>> {
    let Ok(id) = name.parse::<RunId>() else { return Ok(None) };
    let path = runs.join(name);
    let Some(record) = RunDir::run_record(&path, &id).filter(|record| record.token.journal == *journal) else {
        return Ok(None);
    };
    let folder = RunDir::open(&path).with_context(|| format!("can't open runs/{name}"))?;
    let (started_at, end) = end_of(&folder, &record.token, why);
    Ok(Some(run(record, position, started_at, end)))
}

fn run(record: RunRecord, position: u64, started_at: Option<Instant>, end: End) -> Run {
    Run {
        id: record.token.run,
        chain: record.chain,
        // All passes of a chain become one: a rerun begins another.
        pass: 1,
        follow: Follow::Chain,
        trigger: record.trigger,
        attempt: record.attempt,
        previous: None,
        state: State::Ended(end),
        due_at: record.due_at,
        start_at: None,
        joining: false,
        queued_at: record.token.queued_at,
        queue_position: position,
        caught_up: false,
        priority: 0,
        pool: None,
        upstreams: record.upstreams.into_iter().map(|upstream| upstream.run).collect(),
        definition: Some(record.definition),
        boot: Some(BOOT_UNKNOWN.to_owned()),
        starting_at: Some(started_at.unwrap_or(record.token.queued_at)),
        started_at,
        started_by: None,
        remark: None,
        stop: None,
        given: Given { input: record.input, ..Given::default() },
        range: None,
    }
}

/// How a run ended, and when its script was let go. `why` says what became of the journal that knew more.
pub(super) fn end_of(folder: &RunDir, token: &Token, why: &str) -> (Option<Instant>, End) {
    let not = |outcome, at, reason: String| (None, End { outcome, reason: Some(reason), at, exit: None });
    let record = match folder.read::<ExitRecord>(token) {
        Ok(Some(record)) => record,
        Ok(None) => {
            let reason = format!("{why}, and no exit.json says how it ended");
            return not(Outcome::Lost, token.queued_at, reason);
        }
        Err(damage) => {
            return not(Outcome::Lost, token.queued_at, format!("{why}, and {damage}"));
        }
    };
    let at = record.ended_at;
    let (exit, success, cause) = match record.end {
        Ending::Exited { cause, success, exit, .. } => (exit, success, cause),
        Ending::CouldNotRun { reason } => return not(Outcome::Failed, at, reason),
        Ending::InputIncomplete { reason } => return not(Outcome::Aborted, at, format!("input incomplete: {reason}")),
        Ending::StoppedBeforeStart => return not(Outcome::Cancelled, at, "stopped before it started".to_owned()),
    };
    let (outcome, reason) = match cause {
        ExitCause::Itself if success => (Outcome::Succeeded, None),
        ExitCause::Itself => (Outcome::Failed, Some(exit.status())),
        ExitCause::Timeout => (Outcome::TimedOut, Some("the script ran longer than its timeout".to_owned())),
        ExitCause::Stop => (Outcome::Cancelled, Some(format!("stopped by an unknown user: {why}"))),
    };
    let end = End { outcome, reason, at, exit: Some(exit) };
    (Some(record.started_at.unwrap_or(at)), end)
}

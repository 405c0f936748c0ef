//! A journal from a backup, brought up to what the run folders say has been done since.
//!
//! Never a second execution: what ran behind the backup gets its row from its folder, what was under way or waited gets an
//! end from which nothing follows, and what fell due behind it is not begun. What has been decided since and has left no
//! folder is lost; numbers go on behind all that may have been given.

use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::CWD;

use super::rebuild::{BOOT_UNKNOWN, Sheet, behind, end_of, row_of, survey, unknown};
use super::{Places, disk};
use crate::journal::Journal;
use crate::model::id::{JournalId, RunId, Token};
use crate::model::record::{BatchFacts, InForce, PeriodChange, REBOOT_UNKNOWN, Record, Recovered};
use crate::model::run::{End, Outcome, Run, State};
use crate::model::text::counted;
use crate::model::time::Instant;
use crate::os::{make_durable_folder, rename_to_free};
use crate::rundir::RunDir;
use crate::rundir::records::RunRecord;

/// The folder in the state in which the journal is made; it goes when that is in place.
pub const UNDER_WAY: &str = "restore.new";

/// Nobody but the daemon's user has any business with a journal that is being made.
const FOLDER_MODE: u32 = 0o700;

/// What became of the journal, in the reasons of rows that come from folders.
const RESTORED: &str = "the journal was restored from a backup";

/// What came of it.
#[derive(Debug, Default)]
pub struct Restored {
    /// Runs that the backup did not know, or whose end it did not know, and whose folder says how they ended.
    ended: u64,
    /// Runs that had begun, and nobody knows how they ended.
    lost: u64,
    /// Runs that waited.
    dropped: u64,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ended, lost, dropped } = self;
        write!(
            f,
            "{} with an outcome from the run folder, {lost} lost, {dropped} dropped that were waiting",
            counted(*ended, "run", "runs")
        )
    }
}

/// Puts the backup `file` in force. Refuses while a daemon or a run lives, and if a journal is in place.
pub fn restore(places: &Places<'_>, file: &Path, now: Instant) -> Result<Restored> {
    if super::daemon_lives(places.state) {
        bail!("a daemon is running on {}. Stop the daemon first; its runs continue", places.state.display());
    }
    let free = |name: &str| places.state.join(name).symlink_metadata().is_err();
    if !["journal.db", "journal.db-wal"].into_iter().all(free) {
        bail!(
            "{} has a journal: move it away first, with all files named `journal.db*`, and keep it",
            places.state.display()
        );
    }
    // Before anything is written: a run that lives is waited for by whoever restores.
    let known = survey(places.runs)?;
    let folder = places.state.join(UNDER_WAY);
    remove(&folder)?;
    make_durable_folder(&folder, FOLDER_MODE)
        .with_context(|| format!("can't create the folder {}", folder.display()))?;
    let made = folder.join("journal.db");
    let mut sheet = Sheet { journal: Journal::take_back(file, &made)?, records: Vec::new() };
    let recovered = sheet.journal.recover()?;
    let mut restored = Restored::default();
    for run in recovered.runs.iter().filter(|run| run.end().is_none()) {
        let run = settled(sheet.journal.id(), places.runs, run, now, &mut restored)?;
        sheet.put(Record::Run(Box::new(run)))?;
    }
    import_newer(&mut sheet, places.runs, &recovered, &mut restored)?;
    sheet.commit()?;
    let mut batches = recovered.batches.clone();
    for (name, number) in known.numbers {
        match batches.iter_mut().find(|facts| facts.name == name) {
            Some(facts) => facts.next_number = facts.next_number.max(number + 1),
            None => batches.push(unknown(name, number)),
        }
    }
    sheet.journal.commit(&fresh_start(&recovered, batches, now, &restored)?)?;
    drop(sheet);
    put_in_place(&made, places.journal).with_context(|| format!("can't put {} in place", places.journal.display()))?;
    remove(&folder)?;
    Ok(restored)
}

/// The row of a run that the backup says is under way or waits, with an end.
fn settled(journal: &JournalId, runs: &Path, run: &Run, now: Instant, restored: &mut Restored) -> Result<Run> {
    let token = Token { journal: journal.clone(), run: run.id.clone(), queued_at: run.queued_at };
    let folder = RunDir::open(&runs.join(run.id.to_string())).ok();
    // A waiting run of the backup may have become any other since, and ended with or without a folder.
    let begun = folder.filter(|folder| matches!(folder.read::<RunRecord>(&token), Ok(Some(_))));
    let (started_at, end) = match &begun {
        Some(folder) => end_of(folder, &token, RESTORED),
        None => {
            let (outcome, reason) = match run.state {
                State::Queued => (Outcome::Skipped, "it waited"),
                State::Starting | State::Running | State::Ended(_) => (Outcome::Lost, "it was under way"),
            };
            let reason = format!("{reason} when the backup was made from which the journal was restored");
            (None, End { outcome, reason: Some(reason), at: now, exit: None })
        }
    };
    *(match end.outcome {
        Outcome::Lost => &mut restored.lost,
        Outcome::Skipped => &mut restored.dropped,
        _ => &mut restored.ended,
    }) += 1;
    let starting_at = run.starting_at.or(started_at).or(begun.is_some().then_some(run.queued_at));
    let mut settled = Run {
        state: State::Ended(end),
        started_at: started_at.or(run.started_at),
        starting_at,
        started_by: None,
        remark: None,
        ..run.clone()
    };
    if let Some(record) = begun.and_then(|folder| folder.told_of(&run.id)) {
        settled.definition = Some(record.definition);
        settled.boot.get_or_insert_with(|| BOOT_UNKNOWN.to_owned());
    }
    Ok(settled)
}

/// Gives a row to each run of this journal that began behind the backup.
fn import_newer(sheet: &mut Sheet, runs: &Path, recovered: &Recovered, restored: &mut Restored) -> Result<()> {
    let mut position = recovered.queue_position_next;
    let id = &recovered.journal;
    disk::names(runs, |name| {
        let newer = name.parse::<RunId>().is_ok_and(|run| is_newer(&run, &recovered.batches));
        let Some(run) = newer.then(|| row_of(runs, name, id, position, RESTORED)).transpose()?.flatten() else {
            return Ok(());
        };
        *(if run.outcome() == Some(Outcome::Lost) { &mut restored.lost } else { &mut restored.ended }) += 1;
        position += 1;
        sheet.put(Record::Run(Box::new(run)))
    })
}

/// Whether the journal has not given this number yet.
fn is_newer(run: &RunId, batches: &[BatchFacts]) -> bool {
    let facts = batches.binary_search_by(|facts| facts.name.cmp(&run.batch));
    facts.map_or(true, |index| run.number >= batches[index].next_number)
}

/// Nothing is in force until a daemon has read the disk: so each batch is new to it, begins at that moment and fires
/// nothing that was before, and each join waits for new ends.
fn fresh_start(
    recovered: &Recovered,
    batches: Vec<BatchFacts>,
    now: Instant,
    restored: &Restored,
) -> Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    for InForce { batch, .. } in &recovered.in_force {
        let cursor = recovered.batches.iter().find(|facts| facts.name == *batch).and_then(|facts| facts.cursor);
        records.push(Record::Definition(InForce { batch: batch.clone(), definition: None, held: false }));
        records.push(Record::Period(PeriodChange {
            batch: batch.clone(),
            at: now,
            decided_until: cursor,
            begins: None,
        }));
    }
    records.extend(
        recovered
            .edges
            .iter()
            .map(|edge| Record::EdgeRemoved { downstream: edge.downstream.clone(), upstream: edge.upstream.clone() }),
    );
    for facts in batches {
        let cursor = facts.cursor.map_or(now, |cursor| cursor.max(now));
        let next_number = behind(&facts)?;
        let reboot_boot = Some(REBOOT_UNKNOWN.to_owned());
        records.push(Record::Batch(BatchFacts { next_number, cursor: Some(cursor), reboot_boot, ..facts }));
    }
    let text = format!(
        "the journal was restored from a backup: {restored}; later occurrences that never ran have no rows before {now}"
    );
    records.push(Record::Event { at: now, text });
    Ok(records)
}

/// Removes what a restoration leaves behind, this one or one that was killed.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn put_in_place(made: &Path, journal: &Path) -> Result<()> {
    File::open(made)?.sync_all()?;
    rename_to_free(CWD, made, CWD, journal)?;
    if let Some(folder) = journal.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

//! Gathers what [`crate::doctor`] judges: from the journal, the run folders, the state folder and the definitions.
//!
//! It changes nothing, takes no lock, and keeps no more than one chain, one folder and what is under way in memory. What
//! was in force is held whole: it grows with edits, not with runs.

mod disk;
pub mod rebuild;
pub mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::doctor::limits::Sweep;
use crate::doctor::occurrences::{Many, Occurrence};
use crate::doctor::periods::History;
use crate::doctor::{Row, Violation, chains, folders, occurrences, periods, rows};
use crate::journal::OpenError;
use crate::journal::audit::Audit;
use crate::model::id::{BatchName, DefinitionHash, RunId, Token};
use crate::model::time::Instant;
use crate::model::zone::Zone;
use crate::zones::Zones;

/// A daemon that lives tidies a folder behind the commit of its run's end: what ended within this time may still have its lock.
const TIDIED_WITHIN: Duration = Duration::from_secs(60);

/// Where everything is that is looked at.
pub struct Places<'a> {
    /// The journal's file.
    pub journal: &'a Path,
    /// The run folders.
    pub runs: &'a Path,
    /// The daemon's own.
    pub state: &'a Path,
}

/// What was found, and how much was looked at.
#[derive(Debug, Default)]
pub struct Report {
    /// What does not hold.
    pub violations: Vec<Violation>,
    /// A daemon works with the state.
    pub daemon: bool,
    /// Rows of runs.
    pub rows: u64,
    /// Those that say nothing of what led to what: of a journal before version 2, or a restored or rebuilt one.
    pub rows_unproven: u64,
    /// Folders in `runs`.
    pub folders: u64,
    /// Runs whose script ran and whose folder is not there any more.
    pub folders_gone: u64,
    /// Periods of batches whose occurrences were counted again.
    pub periods_proven: u64,
    /// Periods that could not be: their zone is not what it was, or is not there.
    pub periods_unproven: u64,
}

/// Whether a daemon works with this state folder. It is not disturbed.
pub fn daemon_lives(state: &Path) -> bool {
    disk::is_locked(&state.join("daemon.lock"))
}

/// Looks at everything. `now` is when.
pub fn examine(places: &Places<'_>, zones: &Zones, now: Instant) -> Result<Report> {
    let daemon = daemon_lives(places.state);
    let mut report = Report { daemon, ..Report::default() };
    let audit = match Audit::open(places.journal) {
        Ok(audit) => audit,
        Err(error @ (OpenError::Damaged { .. } | OpenError::NotAJournal { .. })) => {
            let hint = "`batchd doctor --rebuild FILE` writes a new journal from the run folders (see docs/backup.md)";
            let violation = Violation::new("journal-sound", error.to_string(), hint);
            report.violations.push(violation.file(places.journal.display().to_string()));
            return Ok(report);
        }
        Err(error) => return Err(error.into()),
    };
    soundness(&audit, places, &mut report)?;
    let mut history = History::default();
    audit.periods(|period| history.push(period))?;
    report.violations.extend(periods::open(&history, &audit.in_force()?));
    let mut seen = Seen::default();
    seen.definitions.extend(audit.in_force()?.iter().filter_map(|one| Some(one.definition.as_ref()?.hash)));
    each_run(&audit, &history, places, now, &mut seen, &mut report)?;
    each_batch(&audit, &history, zones, seen.many, &mut report)?;
    each_chain(&audit, &history, &mut report)?;
    sweep(&audit, &history, &mut report)?;
    strangers(&audit, places, &mut report)?;
    disk::definitions(places.state, &seen.definitions, &mut report.violations);
    disk::state(places.state, report.daemon, &mut report.violations)?;
    Ok(report)
}

fn soundness(audit: &Audit, places: &Places<'_>, report: &mut Report) -> Result<()> {
    let (said, missing) = audit.soundness()?;
    let file = places.journal.display().to_string();
    let restore = "restore the journal from a backup, or rebuild it (see docs/backup.md)";
    report.violations.extend(said.into_iter().map(|what| Violation::new("journal-sound", what, restore).file(&file)));
    let guard = |name: String| {
        let what = format!("{name} is missing from the journal: rows may have been changed unnoticed");
        Violation::new("journal-guarded", what, "restore the journal from a backup").file(&file)
    };
    report.violations.extend(missing.into_iter().map(guard));
    Ok(())
}

/// What later checks want to know of all rows.
#[derive(Default)]
struct Seen {
    /// What rows and graph name.
    definitions: BTreeSet<DefinitionHash>,
    /// The rows that stand for many occurrences: few, since each comes with a thousand others.
    many: BTreeMap<BatchName, Vec<Occurrence>>,
}

/// All that is to be said of each row, its number and its folder.
fn each_run(
    audit: &Audit,
    history: &History,
    places: &Places<'_>,
    now: Instant,
    seen: &mut Seen,
    report: &mut Report,
) -> Result<()> {
    let journal = audit.id()?;
    let mut numbers = rows::Numbers::default();
    let mut last: BTreeMap<BatchName, (u64, bool)> = BTreeMap::new();
    let mut failed = None;
    audit.rows(|row| {
        report.rows += 1;
        report.rows_unproven += u64::from(row.made_in.is_none());
        report.violations.extend(rows::check(&row.run));
        numbers.take(&row, &mut report.violations);
        last.insert(row.run.id.batch.clone(), (row.run.id.number, row.made_in.is_some()));
        report.violations.extend(occurrences::boot(&row, history));
        seen.definitions.extend(row.run.definition);
        if let Some(range) = &row.run.range {
            let many = Occurrence { run: row.run.id.clone(), due_at: row.run.due_at, range: Some(range.clone()) };
            seen.many.entry(row.run.id.batch.clone()).or_default().push(many);
        }
        if row.run.starting_at.is_none() {
            return;
        }
        let token = Token { journal: journal.clone(), run: row.run.id.clone(), queued_at: row.run.queued_at };
        let moving = report.daemon && row.run.end().is_none_or(|end| end.at + TIDIED_WITHIN > now);
        match disk::folder(&places.runs.join(row.run.id.to_string()), &token) {
            Ok(Some(folder)) => report.violations.extend(folders::check(&row, &folder, moving)),
            Ok(None) => report.folders_gone += u64::from(folders::is_gone(&row.run)),
            Err(error) => failed = Some(error),
        }
    })?;
    for batch in audit.batches()? {
        report.violations.extend(rows::facts(&batch, last.get(&batch.name).copied()));
    }
    failed
        .map_or(Ok(()), |error| Err(error.context("can't read a run folder; run `batchd doctor` as the daemon's user")))
}

/// Counts again what was due, in each period in which that can be known.
fn each_batch(
    audit: &Audit,
    history: &History,
    zones: &Zones,
    mut many: BTreeMap<BatchName, Vec<Occurrence>>,
    report: &mut Report,
) -> Result<()> {
    for facts in audit.batches()? {
        let mut spans: Vec<(Arc<Zone>, &[String], Instant, Instant)> = Vec::new();
        for (period, after, until) in periods::decided(history.of(&facts.name), facts.cursor) {
            let Some(mark) = &period.zone else { continue };
            let zone = zones
                .get(&mark.name)
                .ok()
                .or_else(|| Some(zones.system().zone.clone()).filter(|zone| zone.name == mark.name));
            match zone.filter(|zone| zone.fingerprint() == mark.fingerprint) {
                Some(zone) => spans.push((zone, &period.definition.cron, after, until)),
                None => report.periods_unproven += 1,
            }
        }
        report.periods_proven += spans.len() as u64;
        let mut many = Many::new(many.remove(&facts.name).unwrap_or_default());
        let violations = &mut report.violations;
        audit.occurrences(&facts.name, &mut |found| {
            let mut found = found.peekable();
            for (zone, cron, after, until) in &spans {
                let offset_s = |at: Instant| zone.offset_s(at);
                let span = occurrences::Span { cron, offset_s: &offset_s, after: *after, until: *until };
                occurrences::check(facts.name.as_str(), &span, &mut many, &mut found, violations);
            }
            violations.extend(occurrences::ahead(facts.cursor, history.of(&facts.name), &mut found));
        })?;
    }
    Ok(())
}

fn each_chain(audit: &Audit, history: &History, report: &mut Report) -> Result<()> {
    let edges = audit.edges()?;
    let ended = |id: &RunId| audit.ended(id);
    let around = chains::Around { history, edges: &edges, ended: &ended };
    let mut chain: Vec<Row> = Vec::new();
    audit.rows_by_chain(|row| {
        if chain.first().is_some_and(|first| first.run.chain != row.run.chain) {
            report.violations.extend(chains::check(&chain, &around));
            chain.clear();
        }
        chain.push(row);
    })?;
    report.violations.extend(chains::check(&chain, &around));
    Ok(())
}

fn sweep(audit: &Audit, history: &History, report: &mut Report) -> Result<()> {
    let limits = audit.limits()?;
    let mut sweep = Sweep::new(history, &limits);
    audit.steps(|step| sweep.take(step, &mut report.violations))?;
    sweep.close(&mut report.violations);
    Ok(())
}

/// Looks for what is in `runs` and is no run's.
fn strangers(audit: &Audit, places: &Places<'_>, report: &mut Report) -> Result<()> {
    let next: BTreeMap<BatchName, u64> =
        audit.batches()?.into_iter().map(|facts| (facts.name, facts.next_number)).collect();
    disk::names(places.runs, |name| {
        report.folders += 1;
        let Ok(id) = name.parse::<RunId>() else {
            let what = format!("runs/{name} is not the folder of a run");
            report
                .violations
                .push(Violation::new("stray-file", what, "move it elsewhere").file(format!("runs/{name}")));
            return Ok(());
        };
        // Made by the daemon after the moment at which the journal was opened.
        if report.daemon && next.get(&id.batch).is_none_or(|next| id.number >= *next) {
            return Ok(());
        }
        let row = audit.row(&id)?;
        let known = folders::known(name, row.as_ref());
        // A run that waited at that moment may have been started since.
        let moving = report.daemon && row.is_some_and(|row| row.run.end().is_none());
        report.violations.extend(known.filter(|_| !moving));
        Ok(())
    })
}

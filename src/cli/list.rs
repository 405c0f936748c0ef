//! `batchd list`.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::Json;
use super::exit::Exit;
use super::facts::{self, BatchFact, Facts};
use super::moment::Form;
use super::table::{Cell, Column, Style, Table};
use super::waits::Waiting;
use super::{Context, check, disk, moment, runs, waits, who};
use crate::api::RunView;
use crate::checkup;
use crate::journal::query::COUNTED_MAX;
use crate::load::Fitted;
use crate::model::diagnostic::{Diagnostic, errors};
use crate::model::id::BatchName;
use crate::model::record::Disabled;
use crate::model::run::{Outcome, StateWord};
use crate::model::schedule::jitter_offset;
use crate::model::text::abridged;
use crate::model::time::Instant;

/// List batches with their state, last run and next start
///
/// LAST RUN is the last run that was started, or marked as succeeded, and has ended. ZONE is the time zone of a schedule, if it is not yours; the times are shown in your
/// zone, on a terminal without the date if it is today. Works without a daemon. Errors in definitions are listed below the table.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd list
  batchd list --failed
  batchd list --json | jq -r '.batches[] | select(.held) | .batch'")]
pub struct ListArgs {
    /// Only batches whose last run failed, timed out or was lost
    #[arg(long)]
    pub failed: bool,
    #[command(flatten)]
    pub json: Json,
}

/// A batch, for programs and for people.
#[derive(Serialize)]
struct Row<'r> {
    batch: &'r BatchName,
    description: &'r str,
    tags: &'r [String],
    cron: &'r [String],
    timezone: Option<&'r str>,
    /// The zone of its schedule.
    zone: Option<String>,
    after: &'r [BatchName],
    on_error: &'r [BatchName],
    /// Whether its `batch.toml` enables it.
    enabled: bool,
    /// The `disable` that holds.
    disabled: Option<&'r Disabled>,
    /// It does not fit the others and starts nothing.
    held: bool,
    /// It is not in force any more, and still has a run.
    removed: bool,
    definition: Option<String>,
    /// How the disk differs from what is in force.
    on_disk: Option<&'static str>,
    /// Its runs that have not ended, oldest first.
    live: Vec<RunView>,
    /// Its newest run.
    latest: Option<RunView>,
    /// The last run that started and has ended.
    last_ended: Option<RunView>,
    /// How many occurrences did not start since the last run that did, by outcome.
    since: BTreeMap<Outcome, u64>,
    next_due_at: Option<Instant>,
}

/// Carries it out.
pub(super) fn run(args: &ListArgs, context: &mut Context) -> Result<Exit> {
    let facts = Facts::read(context)?;
    let (fitted, diagnostics) = match disk::fit(context, &context.paths.batches, &facts.definitions(), false) {
        Ok(fitted) => {
            let diagnostics = fitted.diagnostics.clone();
            (Some(fitted), diagnostics)
        }
        Err(error) => (None, vec![disk::complaint(context, &error)]),
    };
    let mut live: BTreeMap<BatchName, Vec<RunView>> = BTreeMap::new();
    if let Some(journal) = facts.journal() {
        let waiting = Waiting::read(journal, context.now)?;
        for run in journal.live()? {
            live.entry(run.id.batch.clone()).or_default().push(waiting.view(&run));
        }
    }
    let removed: Vec<BatchName> = live.keys().filter(|name| !facts.batches.contains_key(*name)).cloned().collect();
    let mut live_of = |name: &BatchName| live.remove(name).unwrap_or_default();
    let in_force =
        facts.batches.iter().map(|(name, fact)| row(name, fact, live_of(name), &facts, fitted.as_ref(), context));
    let mut rows: Vec<Row<'_>> = in_force.collect();
    rows.extend(removed.iter().map(|name| removed_row(name, live_of(name))));
    rows.sort_by_key(|row| row.batch);
    if args.failed {
        rows.retain(has_failed);
    }
    if args.json.json {
        let daemon = checkup::daemon_lives(&context.paths.state);
        context.screen.json(&serde_json::json!({ "batches": rows, "diagnostics": diagnostics, "daemon": daemon }))?;
        return Ok(Exit::Success);
    }
    let if_empty = match args.failed {
        true => "no batch failed in its last run".to_owned(),
        false => format!("no batch is in force; definitions go to {}", context.paths.batches.display()),
    };
    let zone = context.zones.system().zone.clone();
    let table = table(&rows, &context.screen.form(context.now, &zone));
    context.screen.table(&table, &if_empty)?;
    context.screen.flush()?;
    if let Some(footer) = footer(&rows) {
        writeln!(std::io::stderr(), "{footer}")?;
    }
    if !diagnostics.is_empty() {
        let heading = if errors(&diagnostics) > 0 { "Errors in definitions:" } else { "Remarks on definitions:" };
        writeln!(context.screen, "\n{heading}\n")?;
        check::show(context, &diagnostics)?;
    }
    context.screen.flush()?;
    facts::tell_of_daemon(context, rows.iter().any(|row| !row.live.is_empty()))?;
    Ok(Exit::Success)
}

fn row<'r>(
    batch: &'r BatchName,
    fact: &'r BatchFact,
    live: Vec<RunView>,
    facts: &Facts,
    fitted: Option<&Fitted>,
    context: &Context,
) -> Row<'r> {
    let definition = &fact.definition;
    let disabled = fact.disabled().filter(|disabled| disabled.holds_at(context.now));
    let is_newest = |run: &&RunView| fact.latest.as_ref().is_some_and(|latest| latest.id == run.id);
    let newest_live = live.last().filter(is_newest).cloned();
    // A zone that the host no longer knows is a diagnostic already, and takes nothing but the time from this row.
    let schedule = facts.times_of(definition, &context.zones).ok().and_then(|times| times.schedule);
    let zone = schedule.as_ref().map(|schedule| schedule.zone().name.clone());
    // The first start at which nothing stands in the way.
    let from = match (fact.held || !definition.enabled, disabled) {
        (true, _) | (false, Some(Disabled { until: None, .. })) => None,
        (false, Some(Disabled { until: Some(until), .. })) => Some(context.now.max(*until)),
        (false, None) => Some(context.now),
    };
    let offset = jitter_offset(batch, definition.jitter);
    let next_due_at = schedule.zip(from).and_then(|(schedule, from)| schedule.next_after(from));
    Row {
        batch,
        description: &definition.description,
        tags: &definition.tags,
        cron: &definition.cron,
        timezone: definition.timezone.as_deref(),
        zone,
        after: &definition.after,
        on_error: &definition.on_error,
        enabled: definition.enabled,
        disabled,
        held: fact.held,
        removed: false,
        definition: Some(definition.hash.to_string()),
        on_disk: fitted.and_then(|fitted| on_disk(batch, fact, fitted)),
        latest: newest_live.or_else(|| fact.latest.as_ref().map(RunView::from)),
        last_ended: fact.last_ended.as_ref().map(RunView::from),
        since: fact.since.clone(),
        live,
        next_due_at: next_due_at.map(|due_at| due_at + offset),
    }
}

/// A batch that was removed, until its last run has ended.
fn removed_row(batch: &BatchName, live: Vec<RunView>) -> Row<'_> {
    Row {
        batch,
        description: "",
        tags: &[],
        cron: &[],
        timezone: None,
        zone: None,
        after: &[],
        on_error: &[],
        enabled: false,
        disabled: None,
        held: false,
        removed: true,
        definition: None,
        on_disk: None,
        latest: live.last().cloned(),
        last_ended: None,
        since: BTreeMap::new(),
        live,
        next_due_at: None,
    }
}

/// How the disk differs from what is in force.
fn on_disk(batch: &BatchName, fact: &BatchFact, fitted: &Fitted) -> Option<&'static str> {
    match fitted.graph.get(batch) {
        None => Some("removed from the disk"),
        Some(_) if fitted.stale.contains(batch) => {
            let mut diagnostics = fitted.diagnostics.iter().filter(|one| one.batch.as_ref() == Some(batch));
            Some(match diagnostics.any(Diagnostic::is_error) {
                true => "the definition on the disk has errors",
                false => "the definition on the disk is not readable for you",
            })
        }
        Some(node) if node.definition().hash != fact.definition.hash => Some("changed on the disk, not in force yet"),
        Some(_) => None,
    }
}

fn has_failed(row: &Row<'_>) -> bool {
    let outcome = row.last_ended.as_ref().and_then(|run| run.outcome);
    matches!(outcome, Some(Outcome::Failed | Outcome::TimedOut | Outcome::Lost))
}

fn is_disabled(row: &Row<'_>) -> bool {
    !row.removed && (row.disabled.is_some() || !row.enabled)
}

/// What an operator looks for first: `3 failed, 1 held, 2 disabled`.
fn footer(rows: &[Row<'_>]) -> Option<String> {
    let count = |is_it: fn(&Row<'_>) -> bool| rows.iter().filter(|row| is_it(row)).count();
    let counts = [(count(has_failed), "failed"), (count(|row| row.held), "held"), (count(is_disabled), "disabled")];
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
    Some(counts.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty())
}

fn table(rows: &[Row<'_>], form: &Form<'_>) -> Table {
    let mut table = Table::new([
        Column::Id("BATCH"),
        Column::Whole("STATE"),
        Column::Whole("LAST RUN"),
        Column::Spare("WHEN"),
        Column::Whole("NEXT"),
        Column::Cut("STARTS"),
        Column::Spare("ZONE"),
        Column::Note("REMARK"),
    ]);
    for row in rows {
        let age = row.last_ended.as_ref().and_then(|run| run.ended_at);
        let age = age.map(|at| format!("{} ago", moment::span(form.now.since(at))));
        let zone = row.zone.as_deref().filter(|zone| *zone != form.zone.name);
        table.row([
            Cell::plain(row.batch.as_str()),
            state(row),
            row.last_ended.as_ref().map(runs::how).unwrap_or_default(),
            Cell::plain(age.unwrap_or_default()),
            Cell::plain(row.next_due_at.map(|at| form.text(at)).unwrap_or_default()),
            Cell::plain(starts(row)),
            Cell::plain(zone.unwrap_or_default()),
            Cell::styled(remark(row, form), Style::Warning),
        ]);
    }
    table
}

/// The state of a batch: what keeps it from starting, else its runs under way.
fn state(row: &Row<'_>) -> Cell {
    if row.held {
        return Cell::styled("held", Style::Bad);
    }
    let mut counts: Vec<(Cell, usize)> = Vec::new();
    // The newest first: `running, 1 queued` has what is under way in front.
    for state in [StateWord::Running, StateWord::Starting, StateWord::Queued] {
        for run in row.live.iter().filter(|run| run.state == state) {
            let word = runs::how(run);
            match counts.iter_mut().find(|(known, _)| *known == word) {
                Some((_, count)) => *count += 1,
                None => counts.push((word, 1)),
            }
        }
    }
    match counts.len() {
        0 if is_disabled(row) => Cell::styled("disabled", Style::Dim),
        0 => Cell::plain("idle"),
        1 if counts[0].1 == 1 => counts.remove(0).0,
        _ => {
            let words = counts.iter().map(|(word, count)| word.clone().with_text(|text| format!("{count} {text}")));
            let words: Vec<Cell> = words.collect();
            let text = words.iter().map(Cell::text).collect::<Vec<_>>().join(", ");
            words.into_iter().next().unwrap_or_default().with_text(|_| text)
        }
    }
}

/// What starts it.
fn starts(row: &Row<'_>) -> String {
    if !row.after.is_empty() {
        let names: Vec<&str> = row.after.iter().map(BatchName::as_str).collect();
        return format!("after {}", names.join(", "));
    }
    row.cron.join(" | ")
}

fn remark(row: &Row<'_>, form: &Form<'_>) -> String {
    let mut remarks: Vec<String> = row.on_disk.map(str::to_owned).into_iter().collect();
    if row.removed {
        remarks.push("removed; its run continues".to_owned());
    } else if !row.enabled {
        remarks.push("`enabled = false` in its batch.toml".to_owned());
    }
    if let Some(disabled) = row.disabled {
        let until = disabled.until.map(|until| format!(" until {}", form.text(until))).unwrap_or_default();
        let why = disabled.reason.as_ref().map(|reason| format!(": {}", abridged(reason))).unwrap_or_default();
        remarks.push(format!("disabled by {}{until}{why}", who::named(&disabled.by)));
    }
    let running = row.live.iter().find_map(|run| Some((run, run.started_at?)));
    if let Some((run, at)) = running {
        let stop = run.stop.as_ref().map(|stop| format!(", stopped by {}", who::named(&stop.by))).unwrap_or_default();
        remarks.push(format!("{} since {}{stop}", run.id, form.text(at)));
    }
    let waiting = row.live.iter().find_map(|run| Some((&run.id, run.waits_for.as_ref()?)));
    remarks.extend(waiting.map(|(id, it)| waits::sentence(id, it, form.now, form.zone)));
    remarks.extend(not_started(row, running.is_some()));
    // What a run under way has to say comes with its end.
    let said = row.last_ended.iter().filter(|_| running.is_none()).flat_map(|run| run.exit.iter());
    remarks.extend(said.flat_map(|exit| exit.remarks.iter().cloned()));
    remarks.join("; ")
}

/// What did not start since the last run that did: `12 skipped since`, `12 skipped, 3 missed meanwhile`.
fn not_started(row: &Row<'_>, is_running: bool) -> Option<String> {
    let count = |(outcome, count): (&Outcome, &u64)| {
        let least = if *count >= u64::from(COUNTED_MAX) { "at least " } else { "" };
        format!("{least}{count} {outcome}")
    };
    let counts = row.since.iter().map(count).collect::<Vec<_>>().join(", ");
    let when = match (is_running, &row.last_ended) {
        (true, _) => " meanwhile",
        (false, Some(_)) => " since",
        (false, None) => "",
    };
    (!counts.is_empty()).then(|| counts + when)
}

//! `batchd list`.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::Json;
use super::exit::Exit;
use super::facts::{self, BatchFact, Facts};
use super::table::{Cell, Style, Table};
use super::{Context, check, disk, moment, runs, waits, who};
use crate::api::RunView;
use crate::checkup;
use crate::load::Fitted;
use crate::model::diagnostic::{Diagnostic, errors};
use crate::model::id::BatchName;
use crate::model::record::Disabled;
use crate::model::run::StateWord;
use crate::model::schedule::jitter_offset;
use crate::model::time::Instant;
use crate::model::zone::Zone;

/// List batches with their state, last run and next start
///
/// A batch with a run that has not begun says what that waits for; `batchd show` has more. Times are shown in your zone. Needs no
/// daemon, and says so if none runs: the journal says what is in force.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd list
  batchd list --json | jq -r '.batches[] | select(.held) | .batch'")]
pub struct ListArgs {
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
    after: &'r [BatchName],
    on_error: &'r [BatchName],
    /// Whether its folder says so.
    enabled: bool,
    /// The operator's no, if it holds.
    disabled: Option<&'r Disabled>,
    /// It does not fit the others and starts nothing.
    held: bool,
    definition: String,
    /// How the disk differs from what is in force.
    on_disk: Option<&'static str>,
    /// Its runs that have not ended, oldest first.
    live: Vec<RunView>,
    /// Its newest run.
    latest: Option<RunView>,
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
        Err(error) => {
            let file = context.paths.batches.display().to_string();
            (None, vec![Diagnostic::of_file(None, file, format!("{error:#}"))])
        }
    };
    let mut live: BTreeMap<BatchName, Vec<RunView>> = BTreeMap::new();
    if let Some(journal) = facts.journal() {
        for run in waits::views(journal, &journal.live()?, context.now)? {
            live.entry(run.batch.clone()).or_default().push(run);
        }
    }
    let mut live_of = |name: &BatchName| live.remove(name).unwrap_or_default();
    let row = |(name, fact)| row(name, fact, live_of(name), fitted.as_ref(), context);
    let rows: Vec<Row<'_>> = facts.batches.iter().map(row).collect();
    if args.json.json {
        let daemon = checkup::daemon_lives(&context.paths.state);
        context.screen.json(&serde_json::json!({ "batches": rows, "diagnostics": diagnostics, "daemon": daemon }))?;
        return Ok(Exit::Success);
    }
    let shows_live = rows.iter().any(|row| !row.live.is_empty());
    let local = context.zones.system().zone.clone();
    let if_empty = format!("no batch is in force; definitions go to {}", context.paths.batches.display());
    let table = table(&rows, context.now, &local);
    context.screen.table(&table, &if_empty)?;
    if !diagnostics.is_empty() {
        let heading = if errors(&diagnostics) > 0 { "Errors in definitions:" } else { "Remarks on definitions:" };
        writeln!(context.screen, "\n{heading}\n")?;
        check::show(context, &diagnostics)?;
    }
    context.screen.flush()?;
    facts::tell_of_daemon(context, shows_live)?;
    Ok(Exit::Success)
}

fn row<'r>(
    batch: &'r BatchName,
    fact: &'r BatchFact,
    live: Vec<RunView>,
    fitted: Option<&Fitted>,
    context: &Context,
) -> Row<'r> {
    let definition = &fact.definition;
    // A zone that the host no longer knows is a diagnostic already, and takes nothing but the time from this row.
    let is_newest = |run: &&RunView| fact.latest.as_ref().is_some_and(|latest| latest.id == run.id);
    let newest_live = live.last().filter(is_newest).cloned();
    let schedule = facts::times_of(definition, &context.zones).ok().and_then(|times| times.schedule);
    let offset = jitter_offset(batch, definition.jitter);
    let next_due_at = schedule.filter(|_| !fact.held).and_then(|schedule| schedule.next_after(context.now));
    Row {
        batch,
        description: &definition.description,
        tags: &definition.tags,
        cron: &definition.cron,
        timezone: definition.timezone.as_deref(),
        after: &definition.after,
        on_error: &definition.on_error,
        enabled: definition.enabled,
        disabled: fact.disabled().filter(|disabled| disabled.holds_at(context.now)),
        held: fact.held,
        definition: definition.hash.to_string(),
        on_disk: fitted.and_then(|fitted| on_disk(batch, fact, fitted)),
        latest: newest_live.or_else(|| fact.latest.as_ref().map(RunView::from)),
        live,
        next_due_at: next_due_at.map(|due_at| due_at + offset),
    }
}

/// How the disk differs from what is in force.
fn on_disk(batch: &BatchName, fact: &BatchFact, fitted: &Fitted) -> Option<&'static str> {
    match fitted.graph.get(batch) {
        None => Some("gone from the disk"),
        Some(_) if fitted.stale.contains(batch) => Some("what is on the disk is not good"),
        Some(node) if node.definition().hash != fact.definition.hash => Some("changed on the disk, not in force yet"),
        Some(_) => None,
    }
}

fn table(rows: &[Row<'_>], now: Instant, zone: &Zone) -> Table {
    let mut table = Table::new(["BATCH", "STATE", "LAST RUN", "WHEN", "NEXT", "STARTS", "REMARK"]);
    for row in rows {
        let ended = row.latest.as_ref().filter(|run| run.state == StateWord::Ended);
        let age = ended.and_then(|run| run.ended_at).map(|at| format!("{} ago", moment::span(now.since(at))));
        table.row([
            Cell::plain(row.batch.as_str()),
            state(row),
            ended.map(runs::how).unwrap_or_default(),
            Cell::plain(age.unwrap_or_default()),
            Cell::plain(row.next_due_at.map(|at| moment::civil(at, zone)).unwrap_or_default()),
            Cell::plain(starts(row)),
            Cell::styled(remark(row, now, zone), Style::Warning),
        ]);
    }
    table
}

/// How a batch is: what keeps it from starting, else its runs under way.
fn state(row: &Row<'_>) -> Cell {
    let word = |words: &str| {
        let count = row.live.len();
        if count > 1 { format!("{words} ({count})") } else { words.to_owned() }
    };
    if row.held {
        return Cell::styled("held", Style::Bad);
    }
    if let Some(first) = row.live.iter().find(|run| run.state != StateWord::Queued) {
        return Cell::styled(word(first.state.word()), Style::Active);
    }
    if !row.live.is_empty() {
        return Cell::plain(word("queued"));
    }
    if row.disabled.is_some() || !row.enabled {
        return Cell::styled("disabled", Style::Dim);
    }
    Cell::plain("idle")
}

/// What starts it.
fn starts(row: &Row<'_>) -> String {
    if !row.after.is_empty() {
        let names: Vec<&str> = row.after.iter().map(BatchName::as_str).collect();
        return format!("after {}", names.join(", "));
    }
    row.cron.join(" | ")
}

fn remark(row: &Row<'_>, now: Instant, zone: &Zone) -> String {
    let mut remarks: Vec<String> = row.on_disk.map(str::to_owned).into_iter().collect();
    if !row.enabled {
        remarks.push("its batch.toml says enabled = false".to_owned());
    }
    if let Some(disabled) = row.disabled {
        let until = disabled.until.map(|until| format!(" until {}", moment::civil(until, zone)));
        let why = disabled.reason.as_ref().map(|reason| format!(": {reason}"));
        remarks.push(format!(
            "disabled by {}{}{}",
            who::named(&disabled.by),
            until.unwrap_or_default(),
            why.unwrap_or_default()
        ));
    }
    let waiting = row.live.iter().find_map(|run| Some((&run.id, run.waits_for.as_ref()?)));
    remarks.extend(waiting.map(|(id, it)| waits::sentence(id, it, now, zone)));
    remarks.join("; ")
}

//! `batchd runs`.

mod fold;

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Result;
use clap::Args;

pub(super) use self::fold::Line;
use self::fold::Lines;
use super::args::{Json, Target};
use super::exit::{Complaint, Exit};
use super::facts::Facts;
use super::moment::Form;
use super::table::{Cell, Column, Style, Table};
use super::waits::Waiting;
use super::{Context, facts, moment, waits, who};
use crate::api::RunView;
use crate::journal::query::{Filter, PAGE_SIZE_MAX, PageMark, Reader};
use crate::model::id::RunId;
use crate::model::run::{Outcome, StateWord, Trigger};
use crate::model::time::Instant;

/// The most lines of a table: the widths of its columns are known only when all lines are in memory.
const LINES_MAX: u64 = 1000;
/// The most rows that are read for a table. A batch with more equal rows than this gets several lines.
const ROWS_MAX: usize = 100_000;

/// A run that starts this soon after it was due has started on time: times are shown to the second.
const ON_TIME: Duration = Duration::from_secs(1);

/// List runs, newest first
///
/// Times are shown in your time zone, on a terminal without the date if it is today. DUE is empty if the run started when it was due. Three or more equal
/// skipped or missed runs in a row are one line; `--all` shows each of them.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd runs
  batchd runs report --failed --since yesterday
  batchd runs --trigger manual --since 2026-11-01 --until 2026-11-08 -n 100
  batchd runs --run-state running
  batchd runs --chain extract.42
  batchd runs --json -n 1000000 | jq -r '.runs[].id'

TIME is `2h` (ago), `today`, `yesterday`, a date (its midnight),
`2026-11-24 03:00`, or RFC 3339.")]
pub struct RunsArgs {
    /// Only runs of this batch
    #[arg(value_name = "BATCH")]
    pub batch: Option<Target>,
    /// Only runs with this outcome
    #[arg(long)]
    pub outcome: Option<Outcome>,
    /// Only runs that failed, timed out or were lost
    #[arg(long, conflicts_with = "outcome")]
    pub failed: bool,
    /// Only runs with this trigger
    #[arg(long)]
    pub trigger: Option<Trigger>,
    /// Only runs in this state
    #[arg(long)]
    pub run_state: Option<StateWord>,
    /// Only runs in the chain of this run
    #[arg(long, value_name = "RUN")]
    pub chain: Option<RunId>,
    /// Only runs that were queued at this time or later
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only runs that were queued before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Show each run, also equal ones
    #[arg(long)]
    pub all: bool,
    /// Maximum number of lines, at most 1000; with --json of runs, without a limit
    #[arg(short = 'n', long = "number", value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub number: u64,
    /// Continue after the previous page, with the mark that it printed
    #[arg(long, value_name = "MARK")]
    pub after: Option<PageMark>,
    #[command(flatten)]
    pub json: Json,
}

/// Carries it out.
pub(super) fn run(args: &RunsArgs, context: &mut Context) -> Result<Exit> {
    let local = context.zones.system().zone.clone();
    let now = context.now;
    let instant = |flag: &str, text: &Option<String>| {
        let parsed = text.as_ref().map(|text| moment::parse(text, now, &local)).transpose();
        parsed.map_err(|error| Complaint::usage(format!("{flag}: {error}"), ""))
    };
    if args.number > LINES_MAX && !args.json.json {
        let hint = "use `--json` for more, or `--after MARK` for the next page";
        return Err(Complaint::usage(format!("a table has at most {LINES_MAX} lines"), hint));
    }
    let filter = Filter {
        batch: args.batch.as_ref().map(|target| facts::batch_of(target, "runs")).transpose()?,
        chain: args.chain.as_ref().map(|run| facts::run(context, run)).transpose()?.map(|run| run.chain),
        outcome: args.outcome,
        failed: args.failed,
        trigger: args.trigger,
        state: args.run_state,
        since: instant("--since", &args.since)?,
        until: instant("--until", &args.until)?,
    };
    let Some(journal) = facts::journal_so_far(context)? else {
        if args.json.json {
            context.screen.json(&serde_json::json!({ "runs": [], "next": null }))?;
        }
        let journal = context.paths.journal();
        writeln!(io::stderr(), "nothing has run yet: there is no journal at {}", journal.display())?;
        if let Some(batch) = &filter.batch {
            Facts::read(context)?.known(batch)?;
        }
        return Ok(Exit::Success);
    };
    let pages = Pages { journal: &journal, filter: &filter, waiting: Waiting::read(&journal, now)? };
    let shown = match args.json.json {
        true => print_json(&pages, args, context)?,
        false => print_table(&pages, args, context)?,
    };
    if let (Some(batch), true) = (&filter.batch, shown.count == 0) {
        // An empty list is an answer only for a batch that exists.
        Facts::read(context)?.known(batch)?;
    }
    context.screen.flush()?;
    if shown.count == 0 && !args.json.json {
        writeln!(io::stderr(), "no matching runs")?;
    }
    if let Some(mark) = shown.next.filter(|_| !args.json.json) {
        writeln!(io::stderr(), "for older runs, add --after {mark}")?;
    }
    if shown.has_live {
        facts::tell_of_daemon(context, true)?;
    }
    Ok(Exit::Success)
}

/// The runs that were asked for.
struct Pages<'r> {
    journal: &'r Reader,
    filter: &'r Filter,
    waiting: Waiting,
}

/// What was shown.
#[derive(Default)]
struct Shown {
    count: u64,
    has_live: bool,
    next: Option<PageMark>,
}

impl Pages<'_> {
    /// Gives each run to `each`, a page in memory at a time, until it says that this was enough. Where the rest begins.
    fn each(
        &self,
        from: Option<&PageMark>,
        mut each: impl FnMut(RunView, &PageMark) -> Result<bool>,
    ) -> Result<Option<PageMark>> {
        let mut from = from.cloned();
        loop {
            let page = self.journal.runs(self.filter, from.as_ref(), PAGE_SIZE_MAX)?;
            for (run, mark) in page.runs.iter().zip(&page.marks) {
                if !each(self.waiting.view(run), mark)? {
                    return Ok(Some(mark.clone()));
                }
            }
            from = page.next;
            if from.is_none() {
                return Ok(None);
            }
        }
    }
}

/// Streams: a journal of any size is printed in constant memory.
fn print_json(pages: &Pages<'_>, args: &RunsArgs, context: &mut Context) -> Result<Shown> {
    let mut shown = Shown::default();
    let out = &mut context.screen;
    write!(out, "{{\n  \"runs\": [")?;
    let next = pages.each(args.after.as_ref(), |run, _| {
        if shown.count == args.number {
            return Ok(false);
        }
        let comma = if shown.count == 0 { "" } else { "," };
        let text = serde_json::to_string_pretty(&run)?.replace('\n', "\n    ");
        write!(out, "{comma}\n    {text}")?;
        shown.count += 1;
        shown.has_live |= run.outcome.is_none();
        Ok(true)
    })?;
    let end = if shown.count == 0 { "" } else { "\n  " };
    let mark = serde_json::to_string(&next.map(|mark| mark.to_string()))?;
    writeln!(out, "{end}],\n  \"next\": {mark}\n}}")?;
    Ok(shown)
}

fn print_table(pages: &Pages<'_>, args: &RunsArgs, context: &mut Context) -> Result<Shown> {
    let mut shown = Shown::default();
    let mut lines = Lines::new(!args.all, usize::try_from(args.number)?);
    let mut rows = 0;
    let rest = pages.each(args.after.as_ref(), |run, mark| {
        let is_live = run.outcome.is_none();
        let taken = rows < ROWS_MAX && lines.push(run, mark);
        rows += 1;
        shown.has_live |= taken && is_live;
        Ok(taken)
    })?;
    let (lines, left_over) = lines.finish();
    shown.count = lines.len() as u64;
    shown.next = left_over.or(rest);
    let zone = context.zones.system().zone.clone();
    let table = table(&lines, &context.screen.form(context.now, &zone));
    context.screen.write_all(table.show(context.screen.look()).as_bytes())?;
    Ok(shown)
}

/// Runs as rows.
pub(super) fn table(lines: &[Line], form: &Form<'_>) -> Table {
    let mut table = Table::new([
        Column::Id("RUN"),
        Column::Whole("HOW"),
        Column::Spare("TRIGGER"),
        Column::Whole("DUE"),
        Column::Whole("STARTED"),
        Column::Spare("TOOK"),
        Column::Note("WHY"),
    ]);
    for line in lines {
        let run = &line.newest;
        let took = run.started_at.map(|at| moment::span(run.ended_at.unwrap_or(form.now).since(at)));
        let id = line.oldest.as_ref().map_or(run.id.to_string(), |oldest| format!("{}–{}", oldest.id, run.id));
        let how = how(run);
        table.row([
            Cell::plain(id),
            if line.occurrences > 1 { how.with_text(|text| format!("{text} ×{}", line.occurrences)) } else { how },
            Cell::plain(trigger(run)),
            Cell::plain(due(line, form)),
            Cell::plain(run.started_at.map(|at| form.text(at)).unwrap_or_default()),
            Cell::plain(took.unwrap_or_default()),
            Cell::plain(why(run, form)),
        ]);
    }
    table
}

/// When a run was due, unless that is what STARTED says.
fn due(line: &Line, form: &Form<'_>) -> String {
    let run = &line.newest;
    let oldest = line.oldest.as_ref().unwrap_or(run);
    let from = oldest.range.as_ref().map_or(oldest.due_at, |range| range.from);
    if from != run.due_at {
        return form.range(from, run.due_at);
    }
    let on_time = |at: Instant| at >= run.due_at && at.since(run.due_at) < ON_TIME;
    if run.started_at.is_some_and(on_time) { String::new() } else { form.text(run.due_at) }
}

/// Why a run ended as it did or waits, and what an operator should know of it.
fn why(run: &RunView, form: &Form<'_>) -> String {
    let waits_for = run.waits_for.as_ref().map(|it| format!("waits for {}", waits::text(it, form.now, form.zone)));
    let reason = run.reason.as_deref().map(who::named);
    let first = reason.or(waits_for).or_else(|| run.remark.clone());
    let remarks = run.exit.iter().flat_map(|exit| exit.remarks.iter().cloned());
    first.into_iter().chain(remarks).collect::<Vec<_>>().join("; ")
}

/// The outcome, or the state.
pub(super) fn how(run: &RunView) -> Cell {
    match (run.outcome, run.state) {
        (Some(outcome), _) => Cell::styled(outcome.word(), Style::of(outcome)),
        (None, _) if run.stop.is_some() => Cell::styled("stopping", Style::Warning),
        (None, StateWord::Running) => Cell::styled("running", Style::Active),
        (None, state) => Cell::plain(state.word()),
    }
}

/// The trigger, with the attempt if it is not the first.
fn trigger(run: &RunView) -> String {
    if run.attempt > 1 { format!("{} ({})", run.trigger, run.attempt) } else { run.trigger.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view_tests::{ended, queued};
    use crate::cli::table::Look;
    use crate::model::zone::Zone;

    #[test]
    fn rows() {
        let mut failed = ended("load.3", Outcome::Failed, None);
        failed.attempt = 2;
        failed.trigger = Trigger::Retry;
        if let crate::model::run::State::Ended(end) = &mut failed.state {
            end.reason = Some("exit code 3".to_owned());
        }
        let mut on_time = queued("late.1");
        on_time.started_at = Some(Instant::from_ms(900));
        let views = [&queued("report.1"), &failed, &on_time].map(RunView::from);
        let zone = Zone::utc();
        let form = |now_s, omits_today| Form { now: Instant::from_s(now_s), zone: &zone, omits_today };
        let lines = Line::each(views);
        let shown = |form: &Form<'_>| table(&lines, form).show(Look { width: None, colour: false });
        let expected = "\
RUN       HOW     TRIGGER    DUE                  STARTED              TOOK  WHY
report.1  queued  manual     1970-01-01 00:00:00
load.3    failed  retry (2)  1970-01-01 00:00:00  1970-01-01 00:00:02  3s    exit code 3
late.1    queued  manual                          1970-01-01 00:00:00  59s
";
        assert_eq!(shown(&form(60, false)), expected);
        let expected = "\
RUN       HOW     TRIGGER    DUE       STARTED   TOOK  WHY
report.1  queued  manual     00:00:00
load.3    failed  retry (2)  00:00:00  00:00:02  3s    exit code 3
late.1    queued  manual               00:00:00  59s
";
        assert_eq!(shown(&form(60, true)), expected);
    }
}

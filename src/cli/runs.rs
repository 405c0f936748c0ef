//! `batchd runs`.

use std::io::{self, Write as _};

use anyhow::Result;
use clap::Args;

use super::args::Json;
use super::exit::{Complaint, Exit};
use super::facts::Facts;
use super::table::{Cell, Style, Table};
use super::{Context, facts, moment, waits, who};
use crate::api::RunView;
use crate::journal::query::{Filter, Page, PageMark};
use crate::model::id::{BatchName, RunId};
use crate::model::run::{Outcome, StateWord, Trigger};
use crate::model::time::Instant;
use crate::model::zone::Zone;

/// List runs, newest first
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd runs
  batchd runs report --outcome failed --since yesterday
  batchd runs --trigger manual --since 2026-11-01 --until 2026-11-08 -n 100
  batchd runs --run-state running
  batchd runs --chain extract.42
  batchd runs --json | jq -r '.runs[].id'

INSTANT is `2h` (ago), `today`, `yesterday`, a date (its midnight), `2026-11-24 03:00`, or RFC 3339.")]
pub struct RunsArgs {
    /// Only runs of this batch
    pub batch: Option<BatchName>,
    /// Only runs that ended so
    #[arg(long)]
    pub outcome: Option<Outcome>,
    /// Only runs that exist for this reason
    #[arg(long)]
    pub trigger: Option<Trigger>,
    /// Only runs that have come this far
    #[arg(long)]
    pub run_state: Option<StateWord>,
    /// Only runs of the chain that this run belongs to
    #[arg(long, value_name = "RUN")]
    pub chain: Option<RunId>,
    /// Only runs that were queued at this instant or later
    #[arg(long, value_name = "INSTANT")]
    pub since: Option<String>,
    /// Only runs that were queued before this instant
    #[arg(long, value_name = "INSTANT")]
    pub until: Option<String>,
    /// How many at most
    #[arg(short = 'n', long = "number", value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub number: u32,
    /// Go on where the last page ended, with the mark that it gave
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
    let filter = Filter {
        batch: args.batch.clone(),
        chain: args.chain.as_ref().map(|run| facts::run(context, run)).transpose()?.map(|run| run.chain),
        outcome: args.outcome,
        trigger: args.trigger,
        state: args.run_state,
        since: instant("--since", &args.since)?,
        until: instant("--until", &args.until)?,
    };
    let journal = facts::open_journal(context)?;
    let page = match &journal {
        Some(journal) => journal.runs(&filter, args.after.as_ref(), args.number)?,
        None => Page { runs: Vec::new(), next: None },
    };
    if let (Some(batch), true) = (&args.batch, page.runs.is_empty()) {
        // No runs is an answer only of a batch that could have some.
        Facts::read(context)?.known(batch)?;
    }
    let views = match &journal {
        Some(journal) => waits::views(journal, &page.runs, now)?,
        None => Vec::new(),
    };
    let next = page.next.map(|mark| mark.to_string());
    let shows_live = views.iter().any(|run| run.outcome.is_none());
    if args.json.json {
        context.screen.json(&serde_json::json!({ "runs": views, "next": next }))?;
    } else {
        let if_empty = if journal.is_some() { "no such runs" } else { "nothing has run yet: there is no journal" };
        context.screen.table(&table(&views, now, &local), if_empty)?;
    }
    context.screen.flush()?;
    if let Some(mark) = next.filter(|_| !args.json.json) {
        writeln!(io::stderr(), "there are more: the same command with --after {mark}")?;
    }
    if shows_live {
        facts::tell_of_daemon(context, true)?;
    }
    Ok(Exit::Success)
}

/// Runs as rows.
pub(super) fn table(runs: &[RunView], now: Instant, zone: &Zone) -> Table {
    let mut table = Table::new(["RUN", "HOW", "TRIGGER", "DUE", "STARTED", "TOOK", "WHY"]);
    for run in runs {
        let moment = |at: Option<Instant>| at.map(|at| moment::civil(at, zone)).unwrap_or_default();
        let waits_for = run.waits_for.as_ref().map(|it| format!("waits for {}", waits::text(it, now, zone)));
        let reason = run.reason.as_deref().map(who::named);
        let why = reason.or(waits_for).or_else(|| run.remark.clone()).unwrap_or_default();
        table.row([
            Cell::plain(run.id.to_string()),
            how(run),
            Cell::plain(trigger(run)),
            Cell::plain(moment(Some(run.due_at))),
            Cell::plain(moment(run.started_at)),
            Cell::plain(
                run.started_at.map(|at| moment::span(run.ended_at.unwrap_or(now).since(at))).unwrap_or_default(),
            ),
            Cell::plain(why),
        ]);
    }
    table
}

/// The outcome, or how far it has come.
pub(super) fn how(run: &RunView) -> Cell {
    match (run.outcome, run.state) {
        (Some(outcome), _) => Cell::styled(outcome.word(), Style::of(outcome)),
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

    #[test]
    fn rows() {
        let mut failed = ended("load.3", Outcome::Failed, None);
        failed.attempt = 2;
        failed.trigger = Trigger::Retry;
        if let crate::model::run::State::Ended(end) = &mut failed.state {
            end.reason = Some("exit code 3".to_owned());
        }
        let views = [RunView::from(&queued("report.1")), RunView::from(&failed)];
        let shown = table(&views, Instant::from_s(60), &Zone::utc()).show(Look { width: None, colour: false });
        let expected = "\
RUN       HOW     TRIGGER    DUE                  STARTED              TOOK  WHY
report.1  queued  manual     1970-01-01 00:00:00
load.3    failed  retry (2)  1970-01-01 00:00:00  1970-01-01 00:00:02  3s    exit code 3
";
        assert_eq!(shown, expected);
    }
}

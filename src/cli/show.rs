//! `batchd show`.

use std::io::Write as _;

use anyhow::Result;
use clap::Args;

use super::args::{Json, Target};
use super::exit::Exit;
use super::table::Cell;
use super::{Context, facts, moment, runs, waits, who};
use crate::api::RunView;
use crate::model::id::RunId;
use crate::model::run::{Exit as Measured, Input, Outcome, Range};
use crate::model::text::{counted, shell_word};
use crate::model::time::{Instant, format_duration};
use crate::model::zone::Zone;

/// Show a run and its chain
///
/// Times are in the time zone of the batch if it has one of its own, else in yours.
///
/// In JSON, `waits_for` says what a run waits for; it is null if the run waits for nothing. Its `what` is `time` (with `until`), `upstreams` (with
/// `batches`, and `runs` that have not ended), `batch` (busy with `run`), `pool`, `max_running` or `catch_up` (with the `limit`, the `runs`
/// that have the slots, how many runs are `ahead`, and the `pool`), `start` (failed and retried for `reason`), `held`, `removed`, or `daemon`. A run
/// whose script has ended can wait, too: `end` (for `reason`, such as a full disk).
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd show report.42
  batchd show report                   its newest run, even if it was skipped
  batchd show report.42 --json | jq .exit_code")]
pub struct ShowArgs {
    /// A run, or a batch for its newest run
    #[arg(value_name = "RUN|BATCH")]
    pub target: Target,
    #[command(flatten)]
    pub json: Json,
}

/// Carries it out.
pub(super) fn run(args: &ShowArgs, context: &mut Context) -> Result<Exit> {
    let run = facts::newest(context, &args.target)?;
    let chain = facts::chain(context, &run.id)?;
    let view = chain.iter().find(|view| view.id == run.id).cloned().unwrap_or_else(|| RunView::from(&run));
    if args.json.json {
        context.screen.json(&view)?;
        context.screen.flush()?;
        return told(context, run.end().is_none());
    }
    let zone = match facts::zone_of_run(context, &run) {
        Some(zone) => zone,
        None => context.zones.system().zone.clone(),
    };
    let lines = lines(&view, context.now, &zone);
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in lines {
        let value = Cell::plain(value).paint(context.screen.look());
        writeln!(context.screen, "{key:width$}  {value}")?;
    }
    if chain.len() > 1 {
        let local = context.zones.system().zone.clone();
        let table = runs::table(&runs::Line::each(chain.iter().cloned()), &context.screen.form(context.now, &local));
        writeln!(context.screen, "\nChain:")?;
        context.screen.table(&table, "")?;
    }
    context.screen.flush()?;
    told(context, run.end().is_none() || chain.iter().any(|run| run.outcome.is_none()))
}

/// Runs that were shown as live may have ended if no daemon is running.
fn told(context: &Context, shows_live: bool) -> Result<Exit> {
    if shows_live {
        facts::tell_of_daemon(context, true)?;
    }
    Ok(Exit::Success)
}

/// How a run ended, in a line.
pub(super) fn ending(run: &RunView) -> String {
    let how = run.outcome.map_or("has not ended", Outcome::word);
    let took = run.duration_ms.map(|ms| format!(" after {}", moment::span(std::time::Duration::from_millis(ms))));
    let why = run.reason.as_deref().map(|reason| format!(": {}", who::named(reason)));
    format!("{} {how}{}{}", run.id, took.unwrap_or_default(), why.unwrap_or_default())
}

/// The known facts, one a line.
fn lines(run: &RunView, now: Instant, zone: &Zone) -> Vec<(&'static str, String)> {
    let moment = |at: Instant| moment::full(at, zone);
    let list =
        |runs: &[RunId]| (!runs.is_empty()).then(|| runs.iter().map(RunId::to_string).collect::<Vec<_>>().join(", "));
    let took = run.started_at.map(|at| moment::span(run.ended_at.unwrap_or(now).since(at)));
    let attempt = (run.attempt > 1).then(|| run.attempt.to_string());
    let stop =
        run.stop.as_ref().map(|stop| format!("{} at {}: {}", who::named(&stop.by), moment(stop.at), stop.reason));
    let facts = [
        ("run", Some(run.id.to_string())),
        ("outcome", run.outcome.map(|outcome| outcome.to_string())),
        ("state", run.outcome.is_none().then(|| runs::how(run).text().to_owned())),
        ("why", run.reason.as_deref().map(who::named)),
        ("waits for", run.waits_for.as_ref().map(|it| waits::text(it, now, zone))),
        ("remark", run.remark.clone().filter(|_| run.waits_for.is_none())),
        ("trigger", Some(run.trigger.to_string())),
        ("started by", run.started_by.as_deref().map(who::named)),
        ("attempt", attempt),
        ("previous", run.previous.as_ref().map(RunId::to_string)),
        ("chain", Some(run.chain.to_string())),
        ("upstreams", list(&run.upstreams)),
        ("due", Some(moment(run.due_at))),
        ("stands for", run.range.as_ref().map(|range| stands_for(range, zone))),
        ("not before", run.start_at.map(moment)),
        ("queued", Some(moment(run.queued_at))),
        ("started", run.started_at.map(moment)),
        ("ended", run.ended_at.map(moment)),
        ("took", took),
        ("exit code", run.exit_code.map(|code| code.to_string())),
        ("signal", run.signal.map(|signal| signal.to_string())),
        ("stopped by", stop),
        ("pool", run.pool.clone()),
        ("arguments", (!run.given.args.is_empty()).then(|| arguments(&run.given.args))),
        ("variables", (!run.given.variables.is_empty()).then(|| run.given.variables.join(", "))),
        ("input", run.given.input.as_ref().map(input)),
        ("definition", run.definition.map(|hash| hash.to_string())),
    ];
    let known = facts.into_iter().filter_map(|(key, value)| Some((key, value?)));
    known.chain(run.exit.as_ref().map(measured).into_iter().flatten()).collect()
}

/// As one would type them.
fn arguments(args: &[String]) -> String {
    args.iter().map(|arg| shell_word(arg)).collect::<Vec<_>>().join(" ")
}

fn input(input: &Input) -> String {
    match input {
        Input::Run(run) => format!("stdout of {run}"),
        Input::File(path) => path.clone(),
        Input::Stored(_) => "stdin of `batchd start`".to_owned(),
    }
}

fn stands_for(range: &Range, zone: &Zone) -> String {
    let least = if range.at_least { "at least " } else { "" };
    format!(
        "{least}{}, the first at {}",
        counted(range.count, "occurrence", "occurrences"),
        moment::full(range.from, zone)
    )
}

/// What was measured of the script.
fn measured(exit: &Measured) -> Vec<(&'static str, String)> {
    let stream = |kept: u64, dropped: u64| {
        if dropped == 0 { bytes(kept) } else { format!("{}; {} dropped", bytes(kept), bytes(dropped)) }
    };
    let cpu = std::time::Duration::from_millis(exit.cpu_user_ms + exit.cpu_system_ms);
    let mut lines = vec![
        ("stdout", stream(exit.stdout_bytes, exit.stdout_dropped_bytes)),
        ("stderr", stream(exit.stderr_bytes, exit.stderr_dropped_bytes)),
        ("CPU", format_duration(cpu)),
        ("memory", bytes(exit.memory_bytes_max)),
    ];
    if exit.left_running > 0 {
        lines.push((
            "left running",
            format!("{}, killed by batchd", counted(exit.left_running, "process", "processes")),
        ));
    }
    lines.extend(exit.remarks.iter().map(|remark| ("remark", remark.clone())));
    lines
}

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let power = (count.ilog2() / 10).min(UNITS.len() as u32);
    format!("{:.1} {}", count as f64 / 1024_f64.powi(power as i32), UNITS[power as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view_tests::{ended, queued};
    use crate::model::run::Outcome;

    #[test]
    fn only_what_is_known_is_shown() {
        let lines = lines(&RunView::from(&queued("report.42")), Instant::from_s(60), &Zone::utc());
        let keys: Vec<&str> = lines.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["run", "state", "trigger", "chain", "due", "queued"]);
    }

    #[test]
    fn an_end_with_what_it_used() {
        let exit = Measured { exit_code: Some(3), stdout_bytes: 2048, stdout_dropped_bytes: 1, ..Measured::default() };
        let view = RunView::from(&ended("report.42", Outcome::Failed, Some(exit)));
        let lines = lines(&view, Instant::from_s(60), &Zone::utc());
        let value = |key: &str| lines.iter().find(|(one, _)| *one == key).map(|(_, value)| value.as_str());
        assert_eq!(value("outcome"), Some("failed"));
        assert_eq!(value("took"), Some("3s"));
        assert_eq!(value("stdout"), Some("2.0 KiB; 1 B dropped"));
        assert_eq!(ending(&view), "report.42 failed after 3s");
        let words = ["a b", "plain", "it's"].map(str::to_owned);
        assert_eq!(arguments(&words), "'a b' plain 'it'\\''s'");
    }

    #[test]
    fn sizes() {
        let check = |count: u64, expected: &str| assert_eq!(bytes(count), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1536, "1.5 KiB");
        check(100 << 20, "100.0 MiB");
        check(u64::MAX, "16777216.0 TiB");
    }
}

//! `batchd next`.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::{Json, Target};
use super::exit::{Complaint, Exit};
use super::facts::{self, BatchFact, Facts, Times};
use super::table::{Cell, Column, Style, Table};
use super::{Context, moment};
use crate::model::cron::Expression;
use crate::model::diagnostic::Place;
use crate::model::id::BatchName;
use crate::model::schedule::{Moved, Occurrence, Schedule, jitter_offset};
use crate::model::time::Instant;
use crate::model::zone::Zone;

/// Show upcoming starts
///
/// Without a batch, the next start of each batch; with `-n`, the next starts of all batches together. Schedules are computed in the time zone
/// of the batch, or of the daemon if the batch has none, whatever your own zone is. For a batch without a schedule, the batches that start it
/// are shown, and when its chain begins. `--cron` tries out an expression without a batch.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd next
  batchd next report -n 30
  batchd next --cron '30 2 * * *' --timezone Europe/Berlin --from 2026-03-28")]
pub struct NextArgs {
    /// Only this batch
    #[arg(value_name = "BATCH", conflicts_with = "cron")]
    pub batch: Option<Target>,
    /// Try out an expression: 5 fields as in crontab(5), 6 with seconds first, or `@daily` and the like
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true)]
    pub cron: Option<String>,
    /// Time zone of EXPR, such as Europe/Berlin [default: yours]
    #[arg(long, value_name = "ZONE", requires = "cron")]
    pub timezone: Option<String>,
    /// Only starts at this time or later: a date or a time in the zone of the batch or of EXPR, or RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Number of starts [default: 10, without a batch 1 of each]
    #[arg(short = 'n', long = "number", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=NUMBER_MAX))]
    pub number: Option<u32>,
    #[command(flatten)]
    pub json: Json,
}

/// The most starts: a year of every hour, and no mistyped number runs for minutes.
const NUMBER_MAX: i64 = 10_000;

/// How many starts of one batch or expression are shown.
const NUMBER_DEFAULT: u32 = 10;

/// One start to come.
#[derive(Debug, Serialize)]
struct Start {
    /// None for `--cron`.
    batch: Option<BatchName>,
    /// When it is due.
    due_at: Instant,
    /// The same with the jitter's offset: when it can start.
    start_at: Instant,
    /// `start_at` in the batch's zone.
    start_at_local: String,
    /// The zone's name.
    timezone: String,
    /// How a change of the clocks moves it.
    moved: Option<String>,
    /// It will be skipped, because the batch is disabled then.
    disabled: bool,
    #[serde(skip)]
    zone: Arc<Zone>,
}

/// A source of starts.
struct Source<'s> {
    batch: Option<&'s BatchName>,
    zone: &'s Arc<Zone>,
    offset: Duration,
    is_off: Box<dyn Fn(Instant) -> bool + 's>,
    occurrences: Box<dyn Iterator<Item = Occurrence> + 's>,
}

/// Carries it out.
pub(super) fn run(args: &NextArgs, context: &mut Context) -> Result<Exit> {
    let batch = args.batch.as_ref().map(|target| facts::batch_of(target, "next")).transpose()?;
    let mut explained = false;
    let starts = match &args.cron {
        Some(text) => of_expression(text, args, context)?,
        None => {
            let facts = Facts::read(context)?;
            if let Some(name) = &batch
                && let Some(origin) = Origin::of(name, &facts, args, context)?
            {
                return show_origin(name, &origin, args.json, context);
            }
            explained = batch.as_ref().map_or(Ok(false), |name| explain(name, facts.batch(name)?))?;
            of_batches(&facts, batch.as_ref(), args, context)?
        }
    };
    if args.json.json {
        context.screen.json(&serde_json::json!({ "starts": starts }))?;
        return Ok(Exit::Success);
    }
    let mut table = Table::new([
        Column::Whole("STARTS"),
        Column::Spare("IN"),
        Column::Id("BATCH"),
        Column::Spare("ZONE"),
        Column::Note("REMARK"),
    ]);
    for start in &starts {
        let ahead = start.start_at.since(context.now);
        let ahead = if ahead.is_zero() { String::new() } else { moment::span(ahead) };
        let batch = start.batch.as_ref().map_or("", BatchName::as_str);
        let style = if start.disabled { Style::Dim } else { Style::Plain };
        let zone = start.timezone.clone();
        let cells = [moment::full(start.start_at, &start.zone), ahead, batch.to_owned(), zone, remark(start)];
        table.row(cells.map(|text| Cell::styled(text, style)));
    }
    if !(explained && starts.is_empty()) {
        context.screen.table(&table, "no batch is scheduled to start")?;
    }
    Ok(Exit::Success)
}

/// The instant after which starts are shown. `--from` is inclusive, and a time in `zone`.
fn after(args: &NextArgs, context: &Context, zone: &Zone) -> Result<Instant> {
    let Some(text) = &args.from else { return Ok(context.now) };
    let from =
        moment::parse(text, context.now, zone).map_err(|error| Complaint::usage(format!("--from: {error}"), ""))?;
    Ok(from - Duration::from_millis(1))
}

fn of_expression(text: &str, args: &NextArgs, context: &Context) -> Result<Vec<Start>> {
    let zone = match &args.timezone {
        Some(name) => {
            context.zones.get(name).map_err(|error| Complaint::usage(error.what, error.hint.unwrap_or_default()))?
        }
        None => context.zones.system().zone.clone(),
    };
    let cron = match Expression::parse(text) {
        Ok(Expression::Times(cron)) => cron,
        Ok(Expression::Reboot) => {
            return Err(Complaint::usage("`@reboot` has no times to show", "it starts a batch once after each boot"));
        }
        Err(error) => {
            let characters = |to: usize| text[..to].chars().count();
            let place = Place::in_line(1, text, characters(error.span.start)..characters(error.span.end));
            let what = format!("--cron: {}\n  {}\n  {}", error.what, place.excerpt, place.marker());
            return Err(Complaint::usage(what, error.hint.unwrap_or_default()));
        }
    };
    let after = after(args, context, &zone)?;
    let schedule = Schedule::new(vec![cron], zone);
    let source = Source {
        batch: None,
        zone: schedule.zone(),
        offset: Duration::ZERO,
        is_off: Box::new(|_| false),
        occurrences: Box::new(schedule.upcoming(after)),
    };
    Ok(merge(vec![source], args.number.unwrap_or(NUMBER_DEFAULT) as usize))
}

fn of_batches(facts: &Facts, batch: Option<&BatchName>, args: &NextArgs, context: &Context) -> Result<Vec<Start>> {
    let mut schedules = Vec::new();
    for (name, fact) in facts.batches.iter().filter(|(name, fact)| batch.is_none_or(|one| one == *name) && !fact.held) {
        if let Some(schedule) = facts.times_of(&fact.definition, &context.zones)?.schedule {
            // `--from` is one instant for several batches, and a time in the zone of a single one.
            let zone = if batch.is_some() { schedule.zone().clone() } else { context.zones.system().zone.clone() };
            schedules.push((name, fact, after(args, context, &zone)?, schedule));
        }
    }
    let sources = schedules.iter().map(|(name, fact, after, schedule)| source(name, fact, schedule, *after));
    if let (None, None) = (batch, args.number) {
        let mut starts: Vec<Start> = sources.flat_map(|source| merge(vec![source], 1)).collect();
        // Stable: at the same instant in the order of their names.
        starts.sort_by_key(|start| start.start_at);
        return Ok(starts);
    }
    Ok(merge(sources.collect(), args.number.unwrap_or(NUMBER_DEFAULT) as usize))
}

fn source<'s>(name: &'s BatchName, fact: &'s BatchFact, schedule: &'s Schedule, after: Instant) -> Source<'s> {
    Source {
        batch: Some(name),
        zone: schedule.zone(),
        offset: jitter_offset(name, fact.definition.jitter),
        is_off: Box::new(|at| {
            !fact.definition.enabled || fact.disabled().is_some_and(|disabled| disabled.holds_at(at))
        }),
        occurrences: Box::new(schedule.upcoming(after)),
    }
}

/// Says on stderr why a batch with a schedule may have no times. True: there was something to say.
fn explain(name: &BatchName, fact: &BatchFact) -> Result<bool> {
    let mut err = std::io::stderr();
    if fact.held {
        writeln!(err, "{name} is held because of an error in its definition; see `batchd check`")?;
    } else if fact.definition.cron.iter().any(|text| text == "@reboot") {
        writeln!(err, "{name} starts after each boot")?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// What starts a batch that has no schedule.
#[derive(Debug, Serialize)]
struct Origin {
    /// It starts when these have ended.
    after: Vec<BatchName>,
    /// It starts when one of these has failed.
    on_error_of: Vec<BatchName>,
    /// Where the chains begin that lead to it.
    begins_with: Vec<Beginning>,
}

/// A batch where chains begin.
#[derive(Debug, Serialize)]
struct Beginning {
    batch: BatchName,
    /// None: it has no schedule either.
    next: Option<Start>,
    /// It starts after each boot of the host.
    reboot: bool,
}

impl Origin {
    /// None of a batch that has a schedule, or is held.
    fn of(name: &BatchName, facts: &Facts, args: &NextArgs, context: &Context) -> Result<Option<Self>> {
        let fact = facts.batch(name)?;
        if fact.held || !fact.definition.cron.is_empty() {
            return Ok(None);
        }
        let beginning = |name: BatchName| {
            let fact = facts.batch(&name)?;
            let Times { schedule, reboot } = facts.times_of(&fact.definition, &context.zones)?;
            let next = match schedule {
                Some(schedule) => {
                    let after = after(args, context, schedule.zone())?;
                    merge(vec![source(&name, fact, &schedule, after)], 1).pop()
                }
                None => None,
            };
            Ok(Beginning { batch: name, next, reboot })
        };
        let begins_with = beginnings(facts, name).into_iter().map(beginning).collect::<Result<Vec<_>>>()?;
        let (after, on_error_of) = (fact.definition.after.clone(), failing_to(facts, name));
        Ok(Some(Self { after, on_error_of, begins_with }))
    }
}

/// The batches whose `on_error` names this one.
fn failing_to(facts: &Facts, name: &BatchName) -> Vec<BatchName> {
    let names_it = |fact: &BatchFact| !fact.held && fact.definition.on_error.contains(name);
    facts.batches.iter().filter(|(_, fact)| names_it(fact)).map(|(name, _)| name.clone()).collect()
}

/// The batches before this one that nothing is before.
fn beginnings(facts: &Facts, name: &BatchName) -> BTreeSet<BatchName> {
    let (mut seen, mut found, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![name.clone()]);
    while let Some(one) = open.pop() {
        let Some(fact) = facts.batches.get(&one).filter(|_| seen.insert(one.clone())) else { continue };
        let before = match fact.definition.after.as_slice() {
            _ if fact.held => Vec::new(),
            [] => failing_to(facts, &one),
            after => after.to_vec(),
        };
        if before.is_empty() && one != *name {
            found.insert(one);
        }
        open.extend(before);
    }
    found
}

fn show_origin(name: &BatchName, origin: &Origin, json: Json, context: &mut Context) -> Result<Exit> {
    let out = &mut context.screen;
    if json.json {
        let Origin { after, on_error_of, begins_with } = origin;
        out.json(&serde_json::json!({
            "starts": [], "after": after, "on_error_of": on_error_of, "begins_with": begins_with,
        }))?;
        return Ok(Exit::Success);
    }
    let list = |names: &[BatchName], word: &str| names.iter().map(BatchName::as_str).collect::<Vec<_>>().join(word);
    match (origin.after.as_slice(), origin.on_error_of.as_slice()) {
        ([], []) => writeln!(out, "{name} has no schedule; to start it: `batchd start {name}`")?,
        ([], failing) => writeln!(out, "{name} starts when {} has failed", list(failing, " or "))?,
        (after, _) => writeln!(out, "{name} starts after {}", list(after, ", "))?,
    }
    for Beginning { batch, next, reboot } in &origin.begins_with {
        match next {
            Some(start) => {
                let at = format!("{} {}", moment::full(start.start_at, &start.zone), start.timezone);
                let ahead = moment::span(start.start_at.since(context.now));
                let remark = remark(start);
                let remark = if remark.is_empty() { remark } else { format!("; {remark}") };
                writeln!(out, "its chain begins with {batch}, next at {at} (in {ahead}){remark}")?;
            }
            None if *reboot => writeln!(out, "its chain begins with {batch}, after each boot")?,
            None => writeln!(
                out,
                "its chain begins with {batch}, which has no schedule; to start it: `batchd start {batch}`"
            )?,
        }
    }
    Ok(Exit::Success)
}

/// The first `number` starts of all sources together, in order of time; of the same instant, in the order of the sources.
fn merge(mut sources: Vec<Source<'_>>, number: usize) -> Vec<Start> {
    let mut heads: BinaryHeap<Reverse<Head>> =
        (0..sources.len()).filter_map(|index| head(&mut sources, index)).collect();
    let mut starts = Vec::new();
    while let Some(Reverse(Head { start_at, source: index, due_at, moved })) = heads.pop() {
        let source = &sources[index];
        starts.push(Start {
            batch: source.batch.cloned(),
            due_at,
            start_at,
            start_at_local: source.zone.local(start_at),
            timezone: source.zone.name.clone(),
            moved: moved.map(describe),
            disabled: (source.is_off)(due_at),
            zone: source.zone.clone(),
        });
        if starts.len() == number {
            break;
        }
        heads.extend(head(&mut sources, index));
    }
    starts
}

/// The next start of a source. Ordered by time, then by source.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    start_at: Instant,
    source: usize,
    due_at: Instant,
    moved: Option<Moved>,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.start_at, self.source).cmp(&(other.start_at, other.source))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn head(sources: &mut [Source<'_>], index: usize) -> Option<Reverse<Head>> {
    let source = &mut sources[index];
    let Occurrence { due_at, moved } = source.occurrences.next()?;
    Some(Reverse(Head { start_at: due_at + source.offset, source: index, due_at, moved }))
}

fn describe(moved: Moved) -> String {
    match moved {
        Moved::Skipped(civil) => format!("moved, because clocks skip {}", civil.format("%H:%M")),
        Moved::FirstPassOnly => "this time occurs twice; the first one is used".to_owned(),
    }
}

fn remark(start: &Start) -> String {
    let disabled = start.disabled.then(|| "disabled, will be skipped".to_owned());
    start.moved.iter().cloned().chain(disabled).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(cron: &str, zone: &Arc<Zone>) -> Schedule {
        let Ok(Expression::Times(cron)) = Expression::parse(cron) else { panic!("{cron}") };
        Schedule::new(vec![cron], zone.clone())
    }

    fn source_from<'s>(batch: &'s BatchName, schedule: &'s Schedule, from: &str, offset_s: u64) -> Source<'s> {
        Source {
            batch: Some(batch),
            zone: schedule.zone(),
            offset: Duration::from_secs(offset_s),
            is_off: Box::new(|at| at < Instant::parse("2026-03-29T01:00:00Z").unwrap()),
            occurrences: Box::new(schedule.upcoming(Instant::parse(from).unwrap())),
        }
    }

    #[test]
    fn starts_of_all_batches_in_order_of_time() {
        let change_s = Instant::parse("2026-03-29T01:00:00Z").unwrap().as_s();
        let zone = Arc::new(Zone::new("Test/Zone", 3600, [(change_s, 7200)], None));
        let (a, b) = (BatchName::new("a").unwrap(), BatchName::new("b").unwrap());
        let (hourly, nightly) = (schedule("0 * * * *", &zone), schedule("30 2 * * *", &zone));
        let from = "2026-03-28T23:30:00Z";
        let starts = merge(vec![source_from(&a, &hourly, from, 60), source_from(&b, &nightly, from, 0)], 4);
        let shown: Vec<String> = starts
            .iter()
            .map(|start| format!("{} {} {}", start.batch.as_ref().unwrap(), start.start_at_local, remark(start)))
            .collect();
        let expected = [
            "a 2026-03-29T01:01:00+01:00 disabled, will be skipped",
            "b 2026-03-29T03:00:00+02:00 moved, because clocks skip 02:30",
            "a 2026-03-29T03:01:00+02:00 ",
            "a 2026-03-29T04:01:00+02:00 ",
        ];
        assert_eq!(shown, expected);
    }
}

//! The daemon's log: where it goes, and which of the scheduler's records are worth a line.

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use tracing::{Event, Level, Subscriber, debug, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer, format};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::registry::LookupSpan;

use super::log::Log;
use crate::cli::LogFormat;
use crate::clock;
use crate::model::record::{InForce, Record};
use crate::model::run::{Outcome, Run, State};
use crate::model::time::format_duration;

/// What is logged without RUST_LOG. The watch library tells of watches that went with their folders: nobody's affair.
const FILTER_DEFAULT: &str = "info,notify=warn";

/// So many batches that come into force at once are named: more than a line at 80 columns holds are only counted.
const NAMED_MAX: usize = 3;

/// Begins to log to stderr. The level is RUST_LOG's, else `info`. Whoever ends the process flushes the log first.
pub(super) fn begin(format: LogFormat) -> Result<Log> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER_DEFAULT));
    let stderr = rustix::io::fcntl_dupfd_cloexec(io::stderr(), 3).context("can't open the log on stderr")?;
    let to_journal = is_stream_of_journal(&stderr);
    let log = Log::start(stderr)?;
    // no-color.org
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).log_internal_errors(false);
    // A second call, in a process that has a log already, leaves the first in place.
    let _ = match format {
        LogFormat::Json => layer.json().flatten_event(true).try_init(),
        LogFormat::Text if to_journal => layer.with_ansi(false).event_format(Prioritised).try_init(),
        LogFormat::Text => layer.with_target(false).with_timer(Seconds).with_ansi(colour).try_init(),
    };
    Ok(log)
}

/// Whether this is the stream that a service manager gave this process for its log: systemd.exec(5), `$JOURNAL_STREAM`.
fn is_stream_of_journal(stream: &OwnedFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(stream) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|value| value == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The time of day in UTC, to the second.
struct Seconds;

impl FormatTime for Seconds {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", clock::now().to_chrono().format("%Y-%m-%dT%H:%M:%SZ"))
    }
}

/// For a service manager's journal: a priority before each line, sd-daemon(3), and no time, since the journal has its own.
struct Prioritised;

impl<S, N> FormatEvent<S, N> for Prioritised
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let plain = format().without_time().with_level(false).with_target(false).with_ansi(false);
        let mut text = String::new();
        plain.format_event(context, Writer::new(&mut text), event)?;
        // To the journal each line is a message of its own.
        text.lines().try_for_each(|line| writeln!(writer, "<{priority}>{line}"))
    }
}

/// A line for each record of which people want one; batches that come into force have one together.
pub(super) fn records(records: &[Record]) {
    let in_force = records.iter().filter_map(|record| match record {
        Record::Definition(InForce { batch, definition: Some(_), held: false }) => Some(batch.as_str()),
        _ => None,
    });
    let in_force: Vec<&str> = in_force.collect();
    match in_force.split_at_checked(NAMED_MAX) {
        _ if in_force.is_empty() => {}
        Some((named, others)) if !others.is_empty() => {
            info!("new or changed: {} and {} more", named.join(", "), others.len());
        }
        Some(_) | None => info!("new or changed: {}", in_force.join(", ")),
    }
    records.iter().for_each(record);
}

fn record(record: &Record) {
    match record {
        Record::Run(run) => tell_run(run),
        Record::Event { text, .. } => warn!("{text}"),
        Record::Definition(in_force) => tell_definition(in_force),
        Record::Batch(_)
        | Record::Edge(_)
        | Record::EdgeRemoved { .. }
        | Record::Period(_)
        | Record::Limits(_)
        | Record::Zone { .. } => {}
    }
}

fn tell_definition(InForce { batch, definition, held }: &InForce) {
    let Some(definition) = definition else { return info!(%batch, "removed") };
    let definition = definition.hash.short();
    if *held {
        warn!(%batch, %definition, "held: the batch starts nothing until its definition fits the others");
    } else {
        debug!(%batch, %definition, "in force");
    }
}

fn tell_run(run: &Run) {
    let id = &run.id;
    match &run.state {
        State::Queued => debug!(run = %id, trigger = %run.trigger, due_at = %run.due_at, "queued"),
        State::Starting if run.remark.is_some() => {
            warn!(run = %id, reason = run.remark.as_deref().unwrap_or_default(), "the run waits to be started");
        }
        State::Starting => debug!(run = %id, "starting"),
        State::Running if run.remark.is_some() => {
            warn!(run = %id, reason = run.remark.as_deref().unwrap_or_default(), "the run waits");
        }
        State::Running if run.stop.is_some() => info!(run = %id, "stopping"),
        State::Running => info!(run = %id, trigger = %run.trigger, due_at = %run.due_at, "running"),
        State::Ended(end) => {
            for remark in end.exit.iter().flat_map(|exit| &exit.remarks) {
                warn!(run = %id, "{remark}");
            }
            let reason = end.reason.as_deref().unwrap_or_default();
            let took = run.started_at.map(|started| format_duration(end.at.since(started)));
            let took = took.as_deref();
            match end.outcome {
                Outcome::Succeeded => info!(run = %id, took, "succeeded"),
                Outcome::Failed | Outcome::TimedOut | Outcome::Lost => {
                    warn!(run = %id, took, reason, "{}", end.outcome);
                }
                Outcome::Cancelled | Outcome::Aborted | Outcome::Skipped | Outcome::Missed => {
                    info!(run = %id, took, reason, "{}", end.outcome);
                }
            }
        }
    }
}

//! The daemon's log: where it goes, and which of the scheduler's records are worth a line.

use std::io::{self, IsTerminal};

use tracing::{debug, info, warn};
use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;
use crate::model::record::{InForce, Record};
use crate::model::run::{Outcome, Run, State};
use crate::model::time::format_duration;

/// What is logged without RUST_LOG. The watch library tells of watches that went with their folders: nobody's affair.
const FILTER_DEFAULT: &str = "info,notify=warn";

/// So many batches that come into force at once have a line each; more have one line together.
const IN_FORCE_LINES_MAX: usize = 20;

/// Begins to log to stderr. The level is RUST_LOG's, else `info`.
pub(super) fn begin(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER_DEFAULT));
    // no-color.org
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second call, in a process that has a log already, leaves the first in place.
    let _ = match format {
        LogFormat::Text => log.with_target(false).with_ansi(colour).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

/// A line for each record of which people want one.
pub(super) fn records(records: &[Record]) {
    let good = |in_force: &&InForce| in_force.definition.is_some() && !in_force.held;
    let in_force = records.iter().filter_map(|record| match record {
        Record::Definition(in_force) => Some(in_force).filter(good),
        _ => None,
    });
    let count = in_force.count();
    let is_many = count > IN_FORCE_LINES_MAX;
    if is_many {
        info!("{count} new or edited batches are in force");
    }
    records.iter().for_each(|one| record(one, is_many));
}

/// `is_many`: what comes into force has a line already.
fn record(record: &Record, is_many: bool) {
    match record {
        Record::Run(run) => tell_run(run),
        Record::Event { text, .. } => warn!("{text}"),
        Record::Definition(in_force) => tell_definition(in_force, is_many),
        Record::Batch(_) | Record::Edge(_) | Record::EdgeRemoved { .. } | Record::Period(_) | Record::Limits(_) => {}
    }
}

fn tell_definition(InForce { batch, definition, held }: &InForce, is_many: bool) {
    let Some(definition) = definition else { return info!(%batch, "removed") };
    let definition = definition.hash.short();
    if *held {
        warn!(%batch, %definition, "held: it starts nothing until it fits");
    } else if is_many {
        debug!(%batch, %definition, "in force");
    } else {
        info!(%batch, %definition, "in force");
    }
}

fn tell_run(run: &Run) {
    let id = &run.id;
    match &run.state {
        State::Queued => debug!(run = %id, trigger = %run.trigger, due_at = %run.due_at, "queued"),
        State::Starting if run.remark.is_some() => {
            warn!(run = %id, reason = run.remark.as_deref().unwrap_or_default(), "it waits to be started");
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
            let took = took.as_deref().unwrap_or("-");
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

//! The daemon's log: where it goes, and which of the scheduler's records are worth a line.

use std::io::{self, IsTerminal};

use tracing::{debug, info, warn};
use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;
use crate::model::record::Record;
use crate::model::run::{Outcome, Run, State};
use crate::model::time::format_duration;

/// Begins to log to stderr. The level is RUST_LOG's, else `info`.
pub(super) fn begin(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // no-color.org
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second call, in a process that has a log already, leaves the first in place.
    let _ = match format {
        LogFormat::Text => log.with_target(false).with_ansi(colour).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

/// A line for a record, if people want one.
pub(super) fn record(record: &Record) {
    match record {
        Record::Run(run) => tell_run(run),
        Record::Event { text, .. } => warn!("{text}"),
        Record::Definition(in_force) => match &in_force.definition {
            Some(definition) if in_force.held => {
                warn!(batch = %in_force.batch, definition = %definition.hash.short(), "held: it starts nothing until it fits");
            }
            Some(definition) => {
                debug!(batch = %in_force.batch, definition = %definition.hash.short(), "in force");
            }
            None => info!(batch = %in_force.batch, "removed"),
        },
        Record::Batch(_) | Record::Edge(_) | Record::EdgeRemoved { .. } | Record::Period(_) | Record::Limits(_) => {}
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
        State::Running if run.stop.is_some() => info!(run = %id, "stopping"),
        State::Running => info!(run = %id, trigger = %run.trigger, due_at = %run.due_at, "running"),
        State::Ended(end) => {
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

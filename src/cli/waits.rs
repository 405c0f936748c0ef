//! What runs that have not begun wait for. This asks a scheduler that is made of the journal, as a daemon makes its own: the
//! rules are written once, and no daemon is needed.

use std::collections::BTreeMap;

use anyhow::Result;

use super::moment;
use crate::api::RunView;
use crate::journal::query::Reader;
use crate::model::graph::{Entry, Graph};
use crate::model::id::{BatchName, RunId};
use crate::model::run::{Run, State};
use crate::model::time::Instant;
use crate::model::wait::{Slots, WaitsFor};
use crate::model::zone::Zone;
use crate::scheduler::Scheduler;

/// How many holders of slots are named.
const HOLDERS_SHOWN_MAX: usize = 5;

/// What all runs of the journal wait for that have not begun.
pub(super) struct Waiting(BTreeMap<RunId, WaitsFor>);

impl Waiting {
    /// Asks once for all runs.
    pub(super) fn read(journal: &Reader, now: Instant) -> Result<Self> {
        Self::of(journal, &journal.live()?, now)
    }

    /// Asks, if one of these runs may wait.
    fn of(journal: &Reader, runs: &[Run], now: Instant) -> Result<Self> {
        let may_wait = |run: &Run| match run.state {
            State::Queued | State::Starting => true,
            State::Running => run.remark.is_some(),
            State::Ended(_) => false,
        };
        let scheduler = if runs.iter().any(may_wait) { scheduler(journal)? } else { None };
        let waiting = scheduler.map(|scheduler| scheduler.waiting(now)).unwrap_or_default();
        Ok(Self(waiting.into_iter().collect()))
    }

    /// A run as programs and people see it.
    pub(super) fn view(&self, run: &Run) -> RunView {
        RunView { waits_for: self.0.get(&run.id).cloned(), ..RunView::from(run) }
    }
}

/// Runs of the journal as programs and people see them, with what those that have not begun wait for.
pub(super) fn views(journal: &Reader, runs: &[Run], now: Instant) -> Result<Vec<RunView>> {
    let waiting = Waiting::of(journal, runs, now)?;
    Ok(runs.iter().map(|run| waiting.view(run)).collect())
}

/// What a daemon would have in memory; none if the definitions in the journal make no graph for this batchd.
fn scheduler(journal: &Reader) -> Result<Option<Scheduler>> {
    let recovered = journal.recovered()?;
    // Times make no difference to a run that is there.
    let entry = |definition, held| Entry { definition, schedule: None, reboot: false, held };
    let entries = recovered.in_force.iter().filter_map(|row| Some(entry(row.definition.clone()?, row.held))).collect();
    let graph = Graph::new(entries, recovered.limits.clone().unwrap_or_default()).ok();
    Ok(graph.map(|graph| Scheduler::recover(recovered, graph.into(), String::new())))
}

/// What this run waits for, as a sentence.
pub(super) fn sentence(run: &RunId, waits_for: &WaitsFor, now: Instant, zone: &Zone) -> String {
    match waits_for {
        WaitsFor::End { reason } => format!("{run}: {reason}"),
        other => format!("{run} waits for {}", text(other, now, zone)),
    }
}

/// As it reads behind "waits for".
pub(super) fn text(waits_for: &WaitsFor, now: Instant, zone: &Zone) -> String {
    match waits_for {
        WaitsFor::Time { until } => {
            let form = moment::Form { now, zone, omits_today: true };
            format!("{} (in {})", form.text(*until), moment::span(until.since(now)))
        }
        WaitsFor::Upstreams { batches, runs } => {
            let goes_on = if runs.is_empty() { String::new() } else { format!(": {} not ended", have(runs)) };
            format!("its {} {}{goes_on}", if batches.len() == 1 { "upstream" } else { "upstreams" }, names(batches))
        }
        WaitsFor::Batch { run } => format!("{run}, which has not ended"),
        WaitsFor::Held => {
            "its batch, which is held because of an error in its definition (see `batchd check`)".to_owned()
        }
        WaitsFor::Removed => "its batch, which was removed".to_owned(),
        WaitsFor::Pool { pool, slots } => taken(&format!("a slot of pool {pool}, which has {}", slots.limit), slots),
        WaitsFor::CatchUp(slots) => taken(&format!("one of the {} slots for late runs", slots.limit), slots),
        WaitsFor::MaxRunning(slots) => taken(&format!("a slot: max_running is {}", slots.limit), slots),
        WaitsFor::Start { reason } => format!("a retry of its failed start: {reason}"),
        WaitsFor::End { reason } => reason.clone(),
        WaitsFor::Daemon => "a daemon to start it".to_owned(),
    }
}

/// Who has the slots, and who gets one before.
fn taken(what: &str, slots: &Slots) -> String {
    let holders = match slots.runs.split_at_checked(HOLDERS_SHOWN_MAX) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} more", ids(first), rest.len()),
        _ => ids(&slots.runs),
    };
    let holders = if slots.runs.is_empty() { "nobody".to_owned() } else { holders };
    let ahead = match slots.ahead {
        0 => String::new(),
        1 => "; 1 run is ahead".to_owned(),
        count => format!("; {count} runs are ahead"),
    };
    format!("{what}, taken by {holders}{ahead}")
}

fn have(runs: &[RunId]) -> String {
    format!("{} {}", ids(runs), if runs.len() == 1 { "has" } else { "have" })
}

fn ids(runs: &[RunId]) -> String {
    runs.iter().map(RunId::to_string).collect::<Vec<_>>().join(", ")
}

fn names(batches: &[BatchName]) -> String {
    batches.iter().map(BatchName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reads_as_a_sentence() {
        let check = |waits_for: WaitsFor, expected: &str| {
            assert_eq!(text(&waits_for, Instant::from_s(0), &Zone::utc()), expected);
        };
        let runs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<RunId>>();
        let slots = |holders: &[&str], ahead| Slots { limit: 2, runs: runs(holders), ahead };
        let batches = vec![BatchName::new("left").unwrap(), BatchName::new("right").unwrap()];
        check(WaitsFor::Time { until: Instant::from_s(300) }, "00:05:00 (in 5m)");
        check(
            WaitsFor::Upstreams { batches: batches.clone(), runs: runs(&["left.3", "right.4"]) },
            "its upstreams left, right: left.3, right.4 have not ended",
        );
        check(
            WaitsFor::Upstreams { batches: batches[..1].to_vec(), runs: runs(&["top.3"]) },
            "its upstream left: top.3 has not ended",
        );
        check(WaitsFor::Batch { run: "load.4".parse().unwrap() }, "load.4, which has not ended");
        check(
            WaitsFor::Pool { pool: "db".to_owned(), slots: slots(&["a.1", "b.2"], 0) },
            "a slot of pool db, which has 2, taken by a.1, b.2",
        );
        check(
            WaitsFor::MaxRunning(slots(&["a.1", "b.2"], 1)),
            "a slot: max_running is 2, taken by a.1, b.2; 1 run is ahead",
        );
        check(
            WaitsFor::CatchUp(slots(&["a.1", "a.2", "a.3", "a.4", "a.5", "a.6"], 12)),
            "one of the 2 slots for late runs, taken by a.1, a.2, a.3, a.4, a.5 and 1 more; 12 runs are ahead",
        );
        check(WaitsFor::Start { reason: "no space".to_owned() }, "a retry of its failed start: no space");
        check(WaitsFor::Daemon, "a daemon to start it");
    }
}

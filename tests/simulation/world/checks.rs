//! What must be true of the world after each step, whatever happens in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use batchd::model::graph::{Graph, Node};
use batchd::model::id::BatchName;
use batchd::model::record::Record;
use batchd::model::run::{Outcome, Range, Run, State, Trigger};
use batchd::model::time::Instant;
use batchd::model::wait::WaitsFor;
use batchd::scheduler::ROWS_AT_ONCE_MAX;

use crate::place::Script;

use super::{Checked, Period, World};

impl World {
    pub(super) fn check_wakeup(&self) -> Checked {
        match self.scheduler().next_wakeup() {
            Some(at) if at <= self.now() => Err(format!("it wants to be woken at {at}, and it is {}", self.now())),
            Some(_) | None => Ok(()),
        }
    }

    /// What is in memory is what the journal gives back.
    pub(super) fn compare(&self) -> Checked {
        let (memory, mut recovered) = (self.scheduler().facts(), self.journal.recover());
        if memory.queue_position_next < recovered.queue_position_next {
            return Err("a queue position can come back".to_owned());
        }
        recovered.queue_position_next = memory.queue_position_next;
        if memory == recovered {
            return Ok(());
        }
        let runs = |of: &[Run]| of.iter().map(|run| format!("{run:?}")).collect::<BTreeSet<_>>();
        let (left, right) = (runs(&memory.runs), runs(&recovered.runs));
        Err(format!(
            "memory and journal differ:\nonly in memory {:#?}\nonly in journal {:#?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}",
            left.difference(&right).collect::<Vec<_>>(),
            right.difference(&left).collect::<Vec<_>>(),
            memory.batches,
            recovered.batches,
            memory.edges,
            recovered.edges,
            memory.decided_ahead,
            recovered.decided_ahead,
        ))
    }

    pub(super) fn check_start(&self, run: &Run) -> Checked {
        let row = self.journal.runs.get(&run.id).ok_or_else(|| format!("{} has no row", run.id))?;
        if row.state != State::Starting {
            return Err(format!("{} is started, and its row says {:?}", run.id, row.state));
        }
        if !self.clock_is_set && run.due_at > self.now() {
            return Err(format!("{} is started at {}, before it is due: {}", run.id, self.now(), run.due_at));
        }
        if let (Trigger::Retry, Some(previous)) = (run.trigger, &run.previous) {
            let outcome = self.journal.runs.get(previous).and_then(Run::outcome);
            if !matches!(outcome, Some(Outcome::Failed | Outcome::TimedOut | Outcome::Lost)) {
                return Err(format!("{} retries {previous}, which {outcome:?}", run.id));
            }
        }
        Ok(())
    }

    /// The run of a record that says for the first time that it is to follow its upstreams.
    pub(super) fn newly_decided<'r>(&self, record: &'r Record) -> Option<&'r Run> {
        let Record::Run(run) = record else { return None };
        let is_decided = |run: &Run| !run.joining && run.end().is_none();
        let was = self.journal.runs.get(&run.id).is_some_and(is_decided);
        (run.trigger == Trigger::Upstream && is_decided(run) && !was).then_some(run)
    }

    /// What must be true of a run that follows others, when that is decided.
    pub(super) fn check_decision(&self, run: &Run) -> Checked {
        if self.in_force.get(&run.id.batch).is_none_or(|node| node.definition().independent) {
            return Ok(());
        }
        for id in &run.upstreams {
            let upstream = self.journal.runs.get(id).ok_or_else(|| format!("{id} has no row"))?;
            if !upstream.succeeded() {
                return Err(format!("{} follows {id}, which has not succeeded", run.id));
            }
            if run.chain != run.id && upstream.chain != run.chain {
                return Err(format!(
                    "{} of the chain {} takes {id} of the chain {}",
                    run.id, run.chain, upstream.chain
                ));
            }
        }
        if run.upstreams.is_empty() { Err(format!("{} follows nothing", run.id)) } else { Ok(()) }
    }

    pub(super) fn check_limits(&self) -> Checked {
        let lives = |script: &Script| script.ends_at > self.real && !script.settled;
        let ids = self.place.scripts.iter().filter(|(_, script)| lives(script)).map(|(id, _)| id);
        let living: Vec<&Run> = ids.map(|id| &self.journal.runs[&id]).collect();
        let limits = &self.disk.limits;
        let most = |what: &str, count: usize, limit: u32| {
            if count > limit as usize { Err(format!("{count} {what} at once, {limit} may")) } else { Ok(()) }
        };
        most("runs", living.len(), limits.max_running)?;
        most("caught-up runs", living.iter().filter(|run| run.caught_up).count(), limits.catch_up_running_max)?;
        most("runs of the pool", living.iter().filter(|run| run.pool.is_some()).count(), 1)?;
        for pair in living.windows(2) {
            let [Run { id: left, .. }, Run { id: right, .. }] = pair else { continue };
            if left.batch == right.batch && self.alone.contains(left) && self.alone.contains(right) {
                return Err(format!("{left} and {right} run at once"));
            }
        }
        Ok(())
    }

    pub(super) fn check_number(&self, run: &Run) -> Checked {
        match self.journal.batches.get(&run.id.batch) {
            Some(facts) if facts.next_number > run.id.number => Ok(()),
            Some(_) | None => Err(format!("the number of {} can come back", run.id)),
        }
    }

    /// Only the last attempt decides what follows: no attempt that is tried again has a downstream.
    pub(super) fn check_follower(&self, run: &Run) -> Checked {
        if !matches!(run.trigger, Trigger::Upstream | Trigger::Error) {
            return Ok(());
        }
        for upstream in &run.upstreams {
            let mut retries = self
                .journal
                .runs
                .from(&upstream.batch, upstream.number)
                .filter(|other| other.trigger == Trigger::Retry);
            if let Some(retry) = retries.find(|other| other.previous.as_ref() == Some(upstream)) {
                return Err(format!("{} follows {upstream}, which {} tries again", run.id, retry.id));
            }
        }
        Ok(())
    }

    /// No slot is kept free: what waits, alone in its batch and for no pool, waits because all slots are taken.
    pub(super) fn check_no_slot_is_wasted(&self) -> Checked {
        let live: Vec<&Run> = self.scheduler().live().collect();
        let under_way = live.iter().filter(|run| run.is_under_way()).count();
        if !self.has_begun || under_way >= self.in_force.limits().max_running as usize {
            return Ok(());
        }
        let is_alone = |run: &Run| live.iter().all(|other| other.id == run.id || other.id.batch != run.id.batch);
        let may_start = |run: &Run| {
            let node = self.in_force.get(&run.id.batch);
            let waits_for_time = run.start_at.is_some_and(|at| at > self.now());
            !waits_for_time && !run.joining && node.is_some_and(|node| !node.entry.held)
        };
        let plain = live.iter().filter(|run| run.state == State::Queued && run.pool.is_none() && !run.caught_up);
        match plain.copied().find(|run| may_start(run) && is_alone(run)) {
            Some(run) => Err(format!("{} waits, and a slot is free", run.id)),
            None => Ok(()),
        }
    }

    /// What one event writes is bounded, whatever was missed.
    pub(super) fn check_bounds(&mut self, records: &[Record]) -> Checked {
        let of_schedule = |record: &'_ Record| match record {
            Record::Run(run) if run.trigger == Trigger::Schedule => Some(run.as_ref().clone()),
            _ => None,
        };
        let missed: Vec<Run> =
            records.iter().filter_map(of_schedule).filter(|run| run.outcome() == Some(Outcome::Missed)).collect();
        let ranges: Vec<&Range> = missed.iter().filter_map(|run| run.range.as_ref()).collect();
        for range in &ranges {
            self.count(if range.at_least { "rows for at least so many" } else { "rows for many" });
        }
        let alone = missed.len() - ranges.len();
        if alone > ROWS_AT_ONCE_MAX { Err(format!("{alone} rows of what was missed in one event")) } else { Ok(()) }
    }

    /// Each run that waits says for what; never for a daemon, since there is one.
    pub(super) fn check_waits(&self) -> Checked {
        if !self.has_begun {
            return Ok(());
        }
        let waiting = self.scheduler().waiting(self.now());
        for run in self.scheduler().live().filter(|run| run.state == State::Queued) {
            match waiting.get(&run.id) {
                None | Some(WaitsFor::Daemon) => return Err(format!("{} waits for nothing", run.id)),
                Some(WaitsFor::Upstreams { batches, runs }) if batches.is_empty() || runs.is_empty() => {
                    return Err(format!("{} waits for upstreams, and none is missing", run.id));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Remembers what is in force from now on.
    pub(super) fn note_graph(&mut self, graph: &Arc<Graph>, at_start: bool) {
        let now = self.now();
        let old = std::mem::replace(&mut self.in_force, graph.clone());
        self.note_reboots(graph, at_start);
        let same = |name: &BatchName| match (old.get(name), graph.get(name)) {
            (Some(old), Some(new)) => {
                let of = |node: &Node| (node.definition().cron.clone(), node.definition().timezone.clone());
                of(old) == of(new)
            }
            _ => false,
        };
        for period in self.periods.iter_mut().filter(|period| period.until == Instant::MAX && !same(&period.batch)) {
            period.until = now;
        }
        for (name, node) in graph.iter().filter(|(name, _)| !same(name)) {
            let schedule = node.entry.schedule.clone();
            self.periods.push(Period { batch: name.clone(), schedule, from: now, until: Instant::MAX });
        }
    }

    /// `@reboot` is due once in each boot of the host, at the start of a daemon, if the batch was not in force in it before.
    fn note_reboots(&mut self, new: &Graph, at_start: bool) {
        for (name, _) in new.iter().filter(|(_, node)| node.entry.reboot) {
            let seen = self.reboots.seen.insert(name.clone(), self.boot);
            if at_start && seen != Some(self.boot) {
                *self.reboots.due.entry(name.clone()).or_default() += 1;
                self.count("due at boot");
            }
        }
        let held = new.iter().filter(|(_, node)| node.entry.held).count();
        if held > 0 {
            self.count("graphs with held batches");
        }
    }

    pub(super) fn close_periods(&mut self) {
        let now = self.now();
        self.periods.iter_mut().filter(|period| period.until == Instant::MAX).for_each(|period| period.until = now);
    }
}

//! Overlap, and who gets a slot.

use std::collections::BTreeMap;

use super::book::{Book, Counts, QueueKey};
use super::{Effect, Scheduler};
use crate::model::definition::{CatchUp, Definition, OVERLAP_QUEUE_MAX, Overlap};
use crate::model::id::{BatchName, RunId};
use crate::model::run::{End, Outcome, Run, State, StopRequest, Trigger};
use crate::model::settings::Limits;
use crate::model::time::Instant;

/// The slots that are taken, counted from the runs that are under way. Once an event: thousands may wait, and asking each
/// of them who is under way would cost the square of their number before the last of them has run.
#[derive(Default)]
pub(super) struct Taken {
    all: u32,
    caught_up: u32,
    pools: BTreeMap<String, u32>,
}

impl Taken {
    pub(super) fn by<'r>(runs: impl Iterator<Item = &'r Run>) -> Self {
        let mut taken = Self::default();
        runs.for_each(|run| taken.add(run));
        taken
    }

    fn add(&mut self, run: &Run) {
        self.all += 1;
        self.caught_up += u32::from(run.caught_up);
        if let Some(pool) = &run.pool {
            *self.pools.entry(pool.clone()).or_default() += 1;
        }
    }

    /// The slots that a run needs and that are all taken.
    pub(super) fn none_left_for<'r>(&self, run: &'r Run, limits: &Limits) -> Option<Full<'r>> {
        if let Some(pool) = &run.pool
            && let Some(limit) = limits.pools.get(pool)
            && self.pools.get(pool).copied().unwrap_or(0) >= *limit
        {
            return Some(Full { of: SlotsOf::Pool(pool), limit: *limit });
        }
        let limit = limits.catch_up_running_max;
        if run.caught_up && self.caught_up >= limit {
            return Some(Full { of: SlotsOf::CatchUp, limit });
        }
        let limit = limits.max_running;
        (self.all >= limit).then_some(Full { of: SlotsOf::All, limit })
    }
}

/// Slots that are all taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full<'r> {
    /// Whose.
    pub(super) of: SlotsOf<'r>,
    /// How many there are.
    pub(super) limit: u32,
}

/// Whose slots they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SlotsOf<'r> {
    /// A pool's.
    Pool(&'r str),
    /// Those for what is caught up.
    CatchUp,
    /// Everybody's: `max_running`.
    All,
}

/// What keeps a run's own batch from letting it start.
#[derive(Clone, Copy, Debug)]
pub(super) enum BatchSays<'r> {
    /// It is not in force.
    Removed,
    /// It does not fit the graph.
    Held,
    /// It is busy with this run.
    Busy(&'r Run),
}

impl Scheduler {
    /// Decides overlap for a run whose time has come: it waits for its slot, or is `skipped`.
    pub(super) fn admit(&mut self, now: Instant, mut run: Run) {
        let Some(node) = self.graph.get(&run.id.batch).cloned() else {
            return self.skip(now, run, "its batch was removed");
        };
        run.caught_up |= self.joins_caught_up(&run, node.definition());
        // Each of `all` runs, one after the other, whatever `overlap` says (design 3.6).
        if run.caught_up && node.definition().catch_up == CatchUp::All {
            return self.book.put(run);
        }
        match node.definition().overlap {
            // What may run beside others waits only for a slot, and no longer queue helps anybody.
            Overlap::Allow | Overlap::Queue => self.queue_behind(now, run),
            Overlap::Skip => match self.met_by(&run.id.batch) {
                Some(other) => {
                    let what = if other.is_under_way() { "is running" } else { "waits to run" };
                    let reason = format!("overlap: {} {what}", other.id);
                    self.skip(now, run, &reason);
                }
                None => self.book.put(run),
            },
            Overlap::Replace => {
                self.replace(now, &run);
                self.book.put(run);
            }
        }
    }

    /// Whether an occurrence that is on time goes on with those before it which are still being caught up: under `all` each
    /// runs, so one that would be skipped for them, or replace them, runs behind them.
    fn joins_caught_up(&self, run: &Run, definition: &Definition) -> bool {
        let one_would_go = matches!(definition.overlap, Overlap::Skip | Overlap::Replace);
        let mut others = self.book.live_of(&run.id.batch).filter(|other| other.id != run.id);
        run.trigger == Trigger::Schedule
            && definition.catch_up == CatchUp::All
            && one_would_go
            && others.any(|other| other.caught_up)
    }

    /// As [`Self::admit`], for a run by hand that may wait for its batch: under `skip` it waits, too.
    pub(super) fn admit_patiently(&mut self, now: Instant, run: Run) {
        match self.graph.get(&run.id.batch).map(|node| node.definition().overlap) {
            Some(Overlap::Skip) => self.queue_behind(now, run),
            Some(Overlap::Queue | Overlap::Allow | Overlap::Replace) | None => self.admit(now, run),
        }
    }

    /// Lets a run wait for its batch or a slot, if not too many of the batch do.
    fn queue_behind(&mut self, now: Instant, run: Run) {
        let waiting = self.book.live_of(&run.id.batch).filter(|other| Book::is_ready(other)).count();
        if waiting >= OVERLAP_QUEUE_MAX {
            let reason = format!("overlap: {OVERLAP_QUEUE_MAX} runs of this batch wait already");
            self.skip(now, run, &reason);
        } else {
            self.book.put(run);
        }
    }

    /// The run that a new one of this batch (not yet, or no longer, in the queue) meets: one that keeps it busy, else one that waits for its slot. The second
    /// is not "busy" in the design's word, but without it a batch that waits for a slot would pile up runs under `skip`.
    pub(super) fn met_by<'a>(&'a self, batch: &'a BatchName) -> Option<&'a Run> {
        let mut live = self.book.live_of(batch);
        live.clone().find(|run| Book::keeps_busy(run)).or_else(|| live.find(|run| Book::is_ready(run)))
    }

    /// Ends what runs or waits of the batch of `new`, for it.
    fn replace(&mut self, now: Instant, new: &Run) {
        let others: Vec<Run> = self.book.live_of(&new.id.batch).filter(|other| other.id != new.id).cloned().collect();
        let reason = format!("replaced by {}", new.id);
        for other in others {
            if other.is_under_way() {
                self.request_stop(other, StopRequest { by: "batchd".to_owned(), reason: reason.clone(), at: now });
            } else if Book::is_ready(&other) || other.trigger == Trigger::Retry {
                self.skip(now, other, &reason);
            }
        }
    }

    /// Writes who asked for a run's end, and has it ended. A second request changes nothing in the row.
    pub(super) fn request_stop(&mut self, mut run: Run, stop: StopRequest) {
        self.acts.push(Effect::Stop { run: run.id.clone() });
        if run.stop.is_none() {
            run.stop = Some(stop);
            self.book.put(run);
        }
    }

    /// Ends a run that has not started as `skipped`, for overlap or because it was taken out of the queue.
    pub(super) fn skip(&mut self, now: Instant, run: Run, reason: &str) {
        let end = End { outcome: Outcome::Skipped, reason: Some(reason.to_owned()), at: now, exit: None };
        self.end(run, end, Counts::No);
    }

    /// Gives every free slot to the first run that may take it. Once through the queue is enough: a start only takes away
    /// from those before it.
    pub(super) fn fill_slots(&mut self, now: Instant) {
        let mut taken = Taken::by(self.book.under_way());
        let mut place = None;
        while let Some((key, id)) = self.next_to_start(&taken, place.as_ref()) {
            if let Some(run) = self.book.get(&id) {
                taken.add(run);
            }
            self.start(now, &id);
            place = Some(key);
        }
    }

    /// The first run in the queue behind `place` that may start now.
    fn next_to_start(&self, taken: &Taken, place: Option<&QueueKey>) -> Option<(QueueKey, RunId)> {
        let limits = self.graph.limits();
        if taken.all >= limits.max_running {
            // Nobody gets one: thousands who wait need not be asked.
            return None;
        }
        let may_start = |run: &Run| taken.none_left_for(run, limits).is_none() && self.batch_says(run).is_none();
        let first = self.book.ready_behind(place).find(|(_, run)| may_start(run));
        first.map(|(key, run)| (key.clone(), run.id.clone()))
    }

    /// Why the run's batch does not let it start: it is not in force, or busy with another run and does not allow that.
    pub(super) fn batch_says(&self, run: &Run) -> Option<BatchSays<'_>> {
        let Some(node) = self.graph.get(&run.id.batch) else { return Some(BatchSays::Removed) };
        if node.entry.held {
            return Some(BatchSays::Held);
        }
        let serial = run.caught_up && node.definition().catch_up == CatchUp::All;
        if node.definition().overlap == Overlap::Allow && !serial {
            return None;
        }
        // Two attempts that wait (they ran beside each other while the batch allowed it) must not wait for each other.
        let waits_behind = |other: &Run| {
            run.trigger == Trigger::Retry && !other.is_under_way() && run.queue_position < other.queue_position
        };
        let mut others = self.book.live_of(&run.id.batch).filter(|other| other.id != run.id);
        others.find(|other| Book::keeps_busy(other) && !waits_behind(other)).map(BatchSays::Busy)
    }

    /// The run becomes `starting`, with the definition that is in force now.
    fn start(&mut self, now: Instant, id: &RunId) {
        let (Some(mut run), Some(node)) = (self.book.get(id).cloned(), self.graph.get(&id.batch)) else { return };
        let definition = node.definition().clone();
        run.state = State::Starting;
        run.starting_at = Some(now);
        run.definition = Some(definition.hash);
        run.boot = Some(self.boot.host.clone());
        run.remark = None;
        self.acts.push(Effect::Start { run: Box::new(run.clone()), definition });
        self.book.put(run);
    }
}

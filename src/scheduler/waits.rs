//! Why a run has not begun: the rules by which it will, asked and not carried out.

use std::collections::BTreeMap;

use super::Scheduler;
use super::admit::{BatchSays, Full, SlotsOf, Taken};
use super::chain::UpstreamState;
use crate::model::id::RunId;
use crate::model::run::{Run, State};
use crate::model::time::Instant;
use crate::model::wait::{Slots, WaitsFor};

impl Scheduler {
    /// What each run that has not begun waits for at `now`. One that is `starting` is among them if its start has been tried
    /// in vain.
    ///
    /// All at once: thousands may wait, and each counts those before it.
    pub fn waiting(&self, now: Instant) -> BTreeMap<RunId, WaitsFor> {
        let mut waiting = self.waiting_for_slots();
        for run in self.book.live() {
            let waits_for = match (&run.state, run.start_at) {
                // What the place says of a run whose script has begun: its output waits.
                (State::Running, _) => run.remark.clone().map(|reason| WaitsFor::End { reason }),
                (State::Starting, _) => run.remark.clone().map(|reason| WaitsFor::Start { reason }),
                (State::Queued, _) if run.joining => Some(self.upstreams_of(run)),
                (State::Queued, Some(until)) if now < until => Some(WaitsFor::Time { until }),
                // Its time came while no daemon was there.
                (State::Queued, Some(_)) => Some(WaitsFor::Daemon),
                (State::Queued, None) | (State::Ended(_), _) => None,
            };
            waiting.extend(waits_for.map(|waits_for| (run.id.clone(), waits_for)));
        }
        waiting
    }

    /// What the runs that are ready wait for. A run's own batch is told before slots: these come and go, and it would still
    /// wait.
    fn waiting_for_slots(&self) -> BTreeMap<RunId, WaitsFor> {
        let taken = Taken::by(self.book.under_way());
        let mut before: BTreeMap<SlotsOf<'_>, u64> = BTreeMap::new();
        let mut waits_for = |run| match (self.batch_says(run), taken.none_left_for(run, self.graph.limits())) {
            (Some(BatchSays::Removed), _) => WaitsFor::Removed,
            (Some(BatchSays::Held), _) => WaitsFor::Held,
            (Some(BatchSays::Busy(other)), _) => WaitsFor::Batch { run: other.id.clone() },
            (None, Some(full)) => {
                let before = before.entry(full.of).or_default();
                *before += 1;
                self.wait_for_slot(full, *before - 1)
            }
            (None, None) => WaitsFor::Daemon,
        };
        self.book.ready_behind(None).map(|(_, run)| (run.id.clone(), waits_for(run))).collect()
    }

    fn wait_for_slot(&self, full: Full<'_>, ahead: u64) -> WaitsFor {
        let has_one = |run: &&Run| match full.of {
            SlotsOf::Pool(pool) => run.pool.as_deref() == Some(pool),
            SlotsOf::CatchUp => run.caught_up,
            SlotsOf::All => true,
        };
        let runs = self.book.under_way().filter(has_one).map(|run| run.id.clone()).collect();
        let slots = Slots { limit: full.limit, runs, ahead };
        match full.of {
            SlotsOf::Pool(pool) => WaitsFor::Pool { pool: pool.to_owned(), slots },
            SlotsOf::CatchUp => WaitsFor::CatchUp(slots),
            SlotsOf::All => WaitsFor::MaxRunning(slots),
        }
    }

    /// What a join still waits for.
    fn upstreams_of(&self, join: &Run) -> WaitsFor {
        let mut runs: Vec<RunId> = self.coming_before(join).map(|run| run.id.clone()).collect();
        let mut batches = Vec::new();
        for name in self.graph.get(&join.id.batch).map_or(&[][..], |node| &node.upstreams) {
            let is_coming = self.coming_before(join).any(|run| self.graph.reach(&run.id.batch).contains(name));
            let pending = match self.upstream_state(join, name) {
                UpstreamState::Pending(run) => Some(run),
                UpstreamState::Ended(_) | UpstreamState::Absent => None,
            };
            if is_coming || pending.is_some() {
                batches.push(name.clone());
            }
            runs.extend(pending);
        }
        runs.sort();
        runs.dedup();
        WaitsFor::Upstreams { batches, runs }
    }
}

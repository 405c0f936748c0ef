//! The runs of all open chains, and the views of them that deciding needs: [`Book`].
//!
//! A run changes through [`Book::put`] and nowhere else, which keeps every view true and notes the run for the journal.
//! The book decides nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::model::id::{BatchName, RunId};
use crate::model::run::{Run, State, Trigger};
use crate::model::time::Instant;

/// The runs of all open chains: a chain is open while one of its runs has not ended.
#[derive(Debug, Default)]
pub struct Book {
    /// In boxes: what a tree moves about is small.
    runs: BTreeMap<RunId, Box<Run>>,
    /// The runs of each open chain.
    chains: BTreeMap<RunId, BTreeSet<RunId>>,
    /// Runs that have not ended.
    live: BTreeSet<RunId>,
    /// Runs that are starting or running.
    under_way: BTreeSet<RunId>,
    /// Queued runs that wait for a slot or for their batch, in the order in which they go.
    ready: BTreeSet<QueueKey>,
    /// Queued runs that wait for their time.
    delayed: BTreeSet<(Instant, RunId)>,
    /// Queued runs that wait for their upstreams.
    joining: BTreeSet<RunId>,
    queue_position_next: u64,
    changed: BTreeSet<RunId>,
    /// Chains of which a run has changed: joins in them may be decided, and they may have come to rest.
    touched: BTreeSet<RunId>,
}

/// The order in which runs that are ready go: what is caught up behind all others, then by priority, then by position.
pub(super) type QueueKey = (bool, Reverse<i32>, u64, RunId);

/// A run whose last attempt has ended in this event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The run.
    pub run: RunId,
    /// Whether a join across chains counts it.
    pub counts: Counts,
}

/// Whether a join across chains counts an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// It does.
    Yes,
    /// It was skipped for overlap: the run that it met, or was replaced by, still ends.
    No,
}

impl Book {
    /// The book of these runs.
    pub(super) fn recover(runs: Vec<Run>, queue_position_next: u64) -> Self {
        let mut book = Self { queue_position_next, ..Self::default() };
        for run in runs {
            book.put(run);
        }
        book.changed.clear();
        book
    }

    /// The run of this id, if its chain is open.
    pub fn get(&self, id: &RunId) -> Option<&Run> {
        self.runs.get(id).map(Box::as_ref)
    }

    /// All runs of all open chains, by batch and number.
    pub fn all(&self) -> impl Iterator<Item = &Run> {
        self.runs.values().map(Box::as_ref)
    }

    /// Every run that has not ended, by batch and number.
    pub fn live(&self) -> impl Iterator<Item = &Run> {
        self.live.iter().map(|id| &*self.runs[id])
    }

    /// Every run that is starting or running.
    pub fn under_way(&self) -> impl Iterator<Item = &Run> {
        self.under_way.iter().map(|id| &*self.runs[id])
    }

    /// Queued runs that wait for a slot or for their batch, in the order in which they go: those behind `place`, or all.
    pub(super) fn ready_behind(&self, place: Option<&QueueKey>) -> impl Iterator<Item = (&QueueKey, &Run)> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.ready.range((from, Bound::Unbounded)).map(|key| (key, &*self.runs[&key.3]))
    }

    /// Queued runs that wait for their upstreams, in chains that have been touched since [`Self::close_chains`]: for the
    /// others nothing has changed.
    pub(super) fn joining_in_touched(&self) -> impl Iterator<Item = &Run> {
        let touched = self.touched.iter().filter_map(|chain| self.chains.get(chain)).flatten();
        touched.filter(|id| self.joining.contains(*id)).map(|id| &*self.runs[id])
    }

    /// Lets every chain with a run that waits for its upstreams count as touched: the edges are others.
    pub(super) fn touch_joining(&mut self) {
        let chains: Vec<RunId> = self.joining.iter().map(|id| self.runs[id].chain.clone()).collect();
        self.touched.extend(chains);
    }

    /// The runs of `batch` that have not ended, by number.
    pub fn live_of<'a>(&'a self, batch: &BatchName) -> impl Iterator<Item = &'a Run> + Clone + use<'a> {
        self.live.range(batch.run(0)..=batch.run(u64::MAX)).map(|id| &*self.runs[id])
    }

    /// The runs of a chain, by batch and number.
    pub fn chain<'a>(&'a self, chain: &RunId) -> impl Iterator<Item = &'a Run> {
        self.chains.get(chain).into_iter().flatten().map(|id| &*self.runs[id])
    }

    /// The runs of a batch in a chain, by number.
    pub fn chain_of<'a>(&'a self, chain: &RunId, batch: &BatchName) -> impl Iterator<Item = &'a Run> + use<'a> {
        let (first, last) = (batch.run(0), batch.run(u64::MAX));
        let of_batch = self.chains.get(chain).map(|ids| ids.range(first..=last));
        of_batch.into_iter().flatten().map(|id| &*self.runs[id])
    }

    /// Queued runs that wait for their time, the soonest first.
    pub(super) fn delayed(&self) -> impl Iterator<Item = &Run> {
        self.delayed.iter().map(|(_, id)| &*self.runs[id])
    }

    /// When the next queued run's time comes.
    pub fn next_start_at(&self) -> Option<Instant> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// The queued run whose time came first, if it has come at `now`.
    pub fn first_delayed(&self, now: Instant) -> Option<&Run> {
        self.delayed.first().filter(|(at, _)| *at <= now).map(|(_, id)| &*self.runs[id])
    }

    /// What keeps its batch busy: a run from `starting` on, and a retry that waits (design 3.5, "Busy").
    pub fn keeps_busy(run: &Run) -> bool {
        run.is_under_way() || (run.trigger == Trigger::Retry && run.state == State::Queued)
    }

    /// A run that has passed its overlap decision and waits.
    pub fn is_ready(run: &Run) -> bool {
        run.state == State::Queued && !run.joining && run.start_at.is_none()
    }

    /// Greater than every queue position given so far.
    pub fn queue_position_next(&self) -> u64 {
        self.queue_position_next
    }

    /// A place behind all that wait now.
    pub(super) fn next_queue_position(&mut self) -> u64 {
        self.queue_position_next += 1;
        self.queue_position_next - 1
    }

    /// Adds or replaces a run: the one way in which a run changes.
    pub(super) fn put(&mut self, run: Run) {
        if let Some(old) = self.runs.remove(&run.id) {
            self.unview(&old);
        }
        self.changed.insert(run.id.clone());
        self.touched.insert(run.chain.clone());
        self.view(&run);
        self.runs.insert(run.id.clone(), Box::new(run));
    }

    /// Adds a run of a chain that had been closed, as the journal has it.
    pub(super) fn reopen(&mut self, run: Run) {
        if !self.runs.contains_key(&run.id) {
            self.touched.insert(run.chain.clone());
            self.view(&run);
            self.runs.insert(run.id.clone(), Box::new(run));
        }
    }

    /// The runs that have changed since the last call, as they are now.
    pub(super) fn take_changed(&mut self) -> impl Iterator<Item = Box<Run>> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|id| self.runs.get(&id).cloned())
    }

    /// Forgets the chains in which nothing is live: only a rerun, which brings them along, can go on with them.
    pub(super) fn close_chains(&mut self) {
        for chain in std::mem::take(&mut self.touched) {
            if self.chains.get(&chain).is_some_and(|ids| ids.is_disjoint(&self.live)) {
                for id in self.chains.remove(&chain).into_iter().flatten() {
                    self.runs.remove(&id);
                }
            }
        }
    }

    fn view(&mut self, run: &Run) {
        let id = || run.id.clone();
        self.chains.entry(run.chain.clone()).or_default().insert(id());
        match run.state {
            State::Queued if run.joining => drop(self.joining.insert(id())),
            State::Queued => match run.start_at {
                Some(at) => drop(self.delayed.insert((at, id()))),
                None => drop(self.ready.insert(queue_key(run))),
            },
            State::Starting | State::Running => drop(self.under_way.insert(id())),
            State::Ended(_) => return,
        }
        self.live.insert(id());
    }

    fn unview(&mut self, run: &Run) {
        self.live.remove(&run.id);
        self.under_way.remove(&run.id);
        self.joining.remove(&run.id);
        self.ready.remove(&queue_key(run));
        if let Some(at) = run.start_at {
            self.delayed.remove(&(at, run.id.clone()));
        }
    }
}

fn queue_key(run: &Run) -> QueueKey {
    (run.caught_up, Reverse(run.priority), run.queue_position, run.id.clone())
}

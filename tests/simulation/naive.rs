//! A second opinion on plain worlds: what the design says, done in the most simple way, over plain lists.
//!
//! It knows the definitions, when they are due, and how long each script ran and how it ended; from that it says which runs
//! there are, why, with which upstreams, and how they ended. It shares no code with the scheduler, and is slow. Plain worlds
//! have one daemon that never dies, one graph, and nobody who asks for anything.

use std::collections::{BTreeMap, BTreeSet};

use batchd::model::definition::{Definition, Overlap};
use batchd::model::id::{BatchName, RunId};
use batchd::model::run::{Outcome, Run, Trigger};

use crate::by_id::ById;
use crate::place::{Ending, Script};

/// What there is to know before.
pub(crate) struct Given<'g> {
    pub(crate) definitions: Vec<&'g Definition>,
    /// Every occurrence, in the order of time and then of names.
    pub(crate) due: Vec<(i64, BatchName)>,
    /// By how much each batch starts later than it is due.
    pub(crate) jitter_ms: BTreeMap<BatchName, i64>,
    pub(crate) max_running: usize,
    pub(crate) pools: &'g BTreeMap<String, u32>,
    pub(crate) scripts: &'g ById<Script>,
    pub(crate) until: i64,
}

/// What is compared of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    trigger: Trigger,
    attempt: u32,
    due_at: i64,
    upstreams: Vec<RunId>,
    outcome: Option<Outcome>,
}

impl Row {
    pub(crate) fn of(run: &Run) -> Self {
        Self {
            trigger: run.trigger,
            attempt: run.attempt,
            due_at: run.due_at.as_ms(),
            upstreams: run.upstreams.clone(),
            outcome: run.outcome(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For its time.
    Delayed(i64),
    /// For its upstreams.
    Joins,
    /// For its batch and a slot.
    Ready,
    Runs,
    Ended,
}

struct Entry {
    id: RunId,
    row: Row,
    state: State,
    /// The first run of its chain, and the failed run whose error branch it belongs to: together, the part of the chain in
    /// which joins look for their upstreams.
    chain: (RunId, Option<RunId>),
    replaced: bool,
}

/// The model: all runs that ever were, in the order in which they came.
struct Model<'g> {
    given: &'g Given<'g>,
    entries: Vec<Entry>,
    /// Those that have not ended.
    live: Vec<usize>,
    /// Ends whose consequences are not decided yet: the entry, and whether joins across chains count it.
    ended: Vec<(usize, bool)>,
    /// Of each join across chains and upstream: the ends that count, and the last one that was used or passed over.
    ends: BTreeMap<(BatchName, BatchName), (Vec<u64>, u64)>,
}

/// Every run of the world.
pub(crate) fn predict(given: &Given<'_>) -> Result<BTreeMap<RunId, Row>, String> {
    let mut model = Model { given, entries: Vec::new(), live: Vec::new(), ended: Vec::new(), ends: BTreeMap::new() };
    let mut due = given.due.iter().peekable();
    loop {
        let next_due = due.peek().map(|(at, _)| *at);
        let Some(now) = next_due.into_iter().chain(model.next_happening()?).min() else { break };
        if now >= given.until {
            break;
        }
        while let Some((at, name)) = due.next_if(|(at, _)| *at == now) {
            model.falls_due(*at, name);
        }
        model.times_come(now);
        model.settle();
        if let Some(index) = model.first_end(now)? {
            model.script_ends(now, index);
            model.settle();
        }
        model.fill_slots();
    }
    Ok(model.entries.into_iter().map(|entry| (entry.id, entry.row)).collect())
}

/// What the two disagree about.
pub(crate) fn differences(predicted: &BTreeMap<RunId, Row>, lived: &BTreeMap<RunId, Row>) -> Result<(), String> {
    let ids: BTreeSet<&RunId> = predicted.keys().chain(lived.keys()).collect();
    let differs = ids.into_iter().filter(|id| predicted.get(*id) != lived.get(*id));
    let mut lines: Vec<String> = differs
        .map(|id| format!("{id}: predicted {:?}\n    and there is {:?}", predicted.get(id), lived.get(id)))
        .collect();
    let count = lines.len();
    lines.truncate(5);
    if count == 0 { Ok(()) } else { Err(format!("{count} runs are other than the model says:\n{}", lines.join("\n"))) }
}

impl Model<'_> {
    fn definition(&self, name: &BatchName) -> &Definition {
        self.given.definitions.iter().find(|definition| definition.name == *name).expect("it is in force")
    }

    fn script(&self, id: &RunId) -> Result<&Script, String> {
        self.given.scripts.get(id).ok_or_else(|| format!("the model starts {id}, and it was not started"))
    }

    /// When something happens by itself: a script ends, a run's time comes.
    fn next_happening(&self) -> Result<Option<i64>, String> {
        let mut next = None;
        for entry in self.living() {
            let at = match entry.state {
                State::Delayed(at) => at,
                State::Runs => self.script(&entry.id)?.ends_at,
                State::Joins | State::Ready | State::Ended => continue,
            };
            next = Some(next.map_or(at, |next: i64| next.min(at)));
        }
        Ok(next)
    }

    /// The first script that has ended, in the order in which the place tells.
    fn first_end(&self, now: i64) -> Result<Option<usize>, String> {
        let mut first: Option<(u64, usize)> = None;
        for index in &self.live {
            let entry = &self.entries[*index];
            if entry.state == State::Runs {
                let script = self.script(&entry.id)?;
                let candidate = Some((script.end_order, *index)).filter(|_| script.ends_at <= now);
                first = first.into_iter().chain(candidate).min();
            }
        }
        Ok(first.map(|(_, index)| index))
    }

    /// A new run, which belongs to `chain`, or begins one. Where it stands.
    fn add(&mut self, name: &BatchName, trigger: Trigger, due_at: i64, chain: Option<(RunId, Option<RunId>)>) -> usize {
        let number = self.entries.iter().filter(|entry| entry.id.batch == *name).count() as u64 + 1;
        let id = name.run(number);
        let chain = chain.unwrap_or_else(|| (id.clone(), None));
        let row = Row { trigger, attempt: 1, due_at, upstreams: Vec::new(), outcome: None };
        self.entries.push(Entry { id, row, state: State::Ready, chain, replaced: false });
        self.live.push(self.entries.len() - 1);
        self.entries.len() - 1
    }

    fn living(&self) -> impl Iterator<Item = &Entry> {
        self.live.iter().map(|index| &self.entries[*index])
    }

    fn end(&mut self, index: usize, outcome: Outcome, counts: bool) {
        self.end_quietly(index, outcome);
        self.ended.push((index, counts));
    }

    fn end_quietly(&mut self, index: usize, outcome: Outcome) {
        self.live.retain(|other| *other != index);
        self.entries[index].state = State::Ended;
        self.entries[index].row.outcome = Some(outcome);
    }

    fn falls_due(&mut self, at: i64, name: &BatchName) {
        let index = self.add(name, Trigger::Schedule, at, None);
        let jitter = self.given.jitter_ms[name];
        if !self.definition(name).enabled {
            self.end(index, Outcome::Skipped, true);
        } else if jitter > 0 {
            self.entries[index].state = State::Delayed(at + jitter);
        } else {
            self.admit(index);
        }
    }

    fn times_come(&mut self, now: i64) {
        for index in self.live.clone() {
            if self.entries[index].state == State::Delayed(now) {
                self.entries[index].state = State::Ready;
                if self.entries[index].row.trigger != Trigger::Retry {
                    self.admit(index);
                }
            }
        }
    }

    /// The overlap policy, for a run that could start if it were alone.
    fn admit(&mut self, index: usize) {
        self.entries[index].state = State::Ready;
        let name = self.entries[index].id.batch.clone();
        let is_in_the_way = |entry: &Entry| {
            let waits_to_retry = entry.row.trigger == Trigger::Retry && matches!(entry.state, State::Delayed(_));
            matches!(entry.state, State::Runs | State::Ready) || waits_to_retry
        };
        let is_other = |other: &usize| *other != index && self.entries[*other].id.batch == name;
        let others = self.live.iter().copied().filter(is_other);
        let others: Vec<usize> = others.filter(|other| is_in_the_way(&self.entries[*other])).collect();
        match self.definition(&name).overlap {
            Overlap::Allow => {}
            Overlap::Skip if others.is_empty() => {}
            Overlap::Skip => self.end(index, Outcome::Skipped, false),
            Overlap::Queue => {
                let waiting = others.iter().filter(|other| self.entries[**other].state == State::Ready).count();
                if waiting >= 100 {
                    self.end(index, Outcome::Skipped, false);
                }
            }
            Overlap::Replace => {
                for other in others {
                    match self.entries[other].state {
                        State::Runs => self.entries[other].replaced = true,
                        _ => self.end(other, Outcome::Skipped, false),
                    }
                }
            }
        }
    }

    /// Starts whatever may start, the most urgent first.
    fn fill_slots(&mut self) {
        loop {
            let may_start = self.live.iter().copied().filter(|index| self.may_start(*index));
            let urgency = |index: &usize| (-self.definition(&self.entries[*index].id.batch).priority, *index);
            let Some(index) = may_start.min_by_key(urgency) else { return };
            self.entries[index].state = State::Runs;
        }
    }

    fn may_start(&self, index: usize) -> bool {
        let entry = &self.entries[index];
        let definition = self.definition(&entry.id.batch);
        let running = || self.living().filter(|other| other.state == State::Runs);
        let of_pool = |pool: &String| {
            running().filter(|other| self.definition(&other.id.batch).pool.as_ref() == Some(pool)).count()
        };
        let pool_is_full =
            definition.pool.as_ref().is_some_and(|pool| of_pool(pool) >= self.given.pools[pool] as usize);
        let waits_to_retry = |other: &Entry| {
            other.row.trigger == Trigger::Retry && matches!(other.state, State::Delayed(_) | State::Ready)
        };
        let is_busy = self
            .living()
            .filter(|other| other.id != entry.id)
            .any(|other| other.id.batch == entry.id.batch && (other.state == State::Runs || waits_to_retry(other)));
        let is_alone = definition.overlap == Overlap::Allow || !is_busy;
        entry.state == State::Ready && running().count() < self.given.max_running && !pool_is_full && is_alone
    }

    fn script_ends(&mut self, now: i64, index: usize) {
        let (script, entry) = (&self.given.scripts[&self.entries[index].id], &self.entries[index]);
        let outcome = match script.ending {
            // A script that ended in the very millisecond in which it was to be stopped has ended by itself.
            _ if entry.replaced && script.stopped => Outcome::Cancelled,
            Ending::Exit(0) => Outcome::Succeeded,
            Ending::Exit(_) | Ending::CouldNotRun => Outcome::Failed,
            Ending::TimedOut => Outcome::TimedOut,
            Ending::Lost => Outcome::Lost,
            Ending::InputIncomplete => Outcome::Aborted,
        };
        let retry = &self.definition(&entry.id.batch).retry;
        let again = matches!(outcome, Outcome::Failed | Outcome::TimedOut) || outcome == Outcome::Lost && retry.on_lost;
        let attempt = entry.row.attempt;
        if !again || entry.replaced || attempt > retry.retries {
            return self.end(index, outcome, true);
        }
        let delay = (retry.delay.as_millis() as i64) << (attempt - 1);
        let at = now + delay.min(retry.delay_max.as_millis() as i64);
        let (name, chain, row) = (entry.id.batch.clone(), entry.chain.clone(), entry.row.clone());
        let next = self.add(&name, Trigger::Retry, row.due_at, Some(chain));
        self.entries[next].row.attempt = attempt + 1;
        self.entries[next].row.upstreams = row.upstreams;
        self.entries[next].state = State::Delayed(at);
        self.end_quietly(index, outcome);
    }

    /// Decides all consequences, and the joins that wait for nothing any more, until nothing changes.
    fn settle(&mut self) {
        loop {
            if !self.ended.is_empty() {
                let (index, counts) = self.ended.remove(0);
                self.follow(index, counts);
            } else if let Some(index) = self.first_whole_join() {
                self.decide_within(index);
            } else {
                return;
            }
        }
    }

    fn follow(&mut self, index: usize, counts: bool) {
        let (id, chain) = (self.entries[index].id.clone(), self.entries[index].chain.clone());
        let (trigger, due_at) = (self.entries[index].row.trigger, self.entries[index].row.due_at);
        let outcome = self.entries[index].row.outcome.expect("it has ended");
        let names: Vec<BatchName> = self.given.definitions.iter().map(|definition| definition.name.clone()).collect();
        let after = names.into_iter().filter(|name| self.definition(name).after.contains(&id.batch));
        let (across, within): (Vec<BatchName>, Vec<BatchName>) = after.partition(|name| self.joins_across(name));
        for name in &across {
            // Error branches are outside of what joins across chains look at.
            if counts && chain.1.is_none() {
                self.ends.entry((name.clone(), id.batch.clone())).or_default().0.push(id.number);
                self.decide_across(name);
            }
        }
        if trigger == Trigger::Schedule && outcome == Outcome::Skipped {
            return;
        }
        if matches!(outcome, Outcome::Failed | Outcome::TimedOut | Outcome::Lost) {
            for target in self.definition(&id.batch).on_error.clone() {
                let branch = (chain.0.clone(), Some(id.clone()));
                // Two targets of one run have branches of their own by their names: no join is below both.
                let started = self.add(&target, Trigger::Error, due_at, Some(branch));
                self.entries[started].row.upstreams.push(id.clone());
                self.admit_unless_disabled(started);
            }
        }
        for name in &within {
            let is_there = |entry: &Entry| entry.id.batch == *name && entry.chain == chain;
            if self.entries.iter().any(is_there) {
                continue;
            }
            let next = self.add(name, Trigger::Upstream, due_at, Some(chain.clone()));
            if self.definition(name).after.len() > 1 {
                self.entries[next].state = State::Joins;
            } else {
                self.decide(next, vec![id.clone()]);
            }
        }
    }

    fn decide(&mut self, index: usize, upstreams: Vec<RunId>) {
        let succeeded = |id: &RunId| {
            let upstream = self.entries.iter().find(|entry| entry.id == *id);
            upstream.is_some_and(|entry| entry.row.outcome == Some(Outcome::Succeeded))
        };
        let all_succeeded = upstreams.iter().all(succeeded);
        self.entries[index].row.upstreams = upstreams;
        if all_succeeded || self.definition(&self.entries[index].id.batch).independent {
            self.admit_unless_disabled(index);
        } else {
            self.end(index, Outcome::Aborted, true);
        }
    }

    fn admit_unless_disabled(&mut self, index: usize) {
        if self.definition(&self.entries[index].id.batch).enabled {
            self.admit(index);
        } else {
            self.end(index, Outcome::Skipped, true);
        }
    }

    /// The first join, in an order in which each batch stands behind what is before it, all of whose upstreams have ended.
    fn first_whole_join(&self) -> Option<usize> {
        let waiting = self.live.iter().copied().filter(|index| self.entries[*index].state == State::Joins);
        let whole = waiting.filter(|index| {
            let after = &self.definition(&self.entries[*index].id.batch).after;
            after.iter().all(|name| self.last_attempt(*index, name).is_some())
        });
        whole.min_by_key(|index| (self.depth(&self.entries[*index].id.batch), self.entries[*index].id.clone()))
    }

    fn decide_within(&mut self, index: usize) {
        let after = self.definition(&self.entries[index].id.batch).after.clone();
        let upstreams = after.iter().filter_map(|name| self.last_attempt(index, name)).collect();
        self.decide(index, upstreams);
    }

    /// The last attempt of `name` in the part of the chain that the run is in, if it has ended.
    fn last_attempt(&self, index: usize, name: &BatchName) -> Option<RunId> {
        let of = |entry: &&Entry| entry.id.batch == *name && entry.chain == self.entries[index].chain;
        let last = self.entries.iter().rfind(of)?;
        (last.state == State::Ended).then(|| last.id.clone())
    }

    /// Each upstream has an end that was not used: the latest of each is taken, and all before it are passed over.
    fn decide_across(&mut self, name: &BatchName) {
        let mut taken = Vec::new();
        for upstream in self.definition(name).after.clone() {
            let (ends, used) = self.ends.entry((name.clone(), upstream.clone())).or_default();
            match ends.iter().max().filter(|latest| *latest > used) {
                Some(latest) => taken.push(upstream.run(*latest)),
                None => return,
            }
        }
        for id in &taken {
            self.ends.entry((name.clone(), id.batch.clone())).or_default().1 = id.number;
        }
        let due_of = |id: &RunId| self.entries.iter().find(|entry| entry.id == *id).map_or(0, |entry| entry.row.due_at);
        let due_at = taken.iter().map(due_of).max().unwrap_or(0);
        let index = self.add(name, Trigger::Upstream, due_at, None);
        self.decide(index, taken);
    }

    fn joins_across(&self, name: &BatchName) -> bool {
        let sources: Vec<BatchName> =
            self.definition(name).after.iter().map(|upstream| self.source(upstream)).collect();
        sources.iter().any(|source| *source != sources[0])
    }

    fn source(&self, name: &BatchName) -> BatchName {
        match self.definition(name).after.first() {
            Some(first) if !self.joins_across(name) => self.source(first),
            Some(_) | None => name.clone(),
        }
    }

    /// The longest way that leads to a batch.
    fn depth(&self, name: &BatchName) -> usize {
        let before = self.definition(name).after.iter();
        before.map(|upstream| self.depth(upstream) + 1).max().unwrap_or(0)
    }
}

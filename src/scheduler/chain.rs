//! What follows a run's end: downstreams, joins, error branches, retries (design 3.5).

use std::num::NonZeroU32;

use super::book::{Counts, Ended};
use super::{Phase, Scheduler};
use crate::model::graph::{Join, Node};
use crate::model::id::{BatchName, RunId};
use crate::model::record::{EdgeFacts, UnusedEnd};
use crate::model::run::{End, Follow, Outcome, Run, State, Trigger};
use crate::model::time::Instant;

/// What a join makes of one of its upstreams.
pub(super) enum UpstreamState {
    /// It ended: this run is taken.
    Ended(RunId),
    /// This run of it has not ended.
    Pending(RunId),
    /// It has no run in this chain, and none can come.
    Absent,
}

impl UpstreamState {
    fn of(run: &Run) -> Self {
        if run.end().is_some() { Self::Ended(run.id.clone()) } else { Self::Pending(run.id.clone()) }
    }
}

impl Scheduler {
    /// Ends a run. What follows is decided when the event's own work is done.
    pub(super) fn end(&mut self, mut run: Run, end: End, counts: Counts) {
        run.state = State::Ended(end);
        (run.start_at, run.joining, run.remark) = (None, false, None);
        self.ended.push_back(Ended { run: run.id.clone(), counts });
        self.book.put(run);
    }

    /// Queues another attempt if the batch's policy has one left. Whether it did.
    pub(super) fn retry(&mut self, now: Instant, id: &RunId, outcome: Outcome) -> bool {
        let Some(run) = self.book.get(id).filter(|run| run.stop.is_none()).cloned() else { return false };
        let Some(node) = self.graph.get(&id.batch).filter(|node| !node.entry.held).cloned() else { return false };
        let policy = &node.definition().retry;
        let failed = match outcome {
            Outcome::Failed | Outcome::TimedOut => true,
            Outcome::Lost => policy.on_lost,
            Outcome::Succeeded | Outcome::Cancelled | Outcome::Aborted | Outcome::Skipped | Outcome::Missed => false,
        };
        let Some(attempt) = run.attempt.checked_add(1).and_then(NonZeroU32::new) else { return false };
        if !failed || run.attempt > policy.retries {
            return false;
        }
        let delay = policy.delay_before(attempt);
        // Without a wait it is ready at once: nothing that is due now is left for the next event.
        let start_at = (!delay.is_zero()).then(|| now + delay);
        let next = Run { start_at, attempt: attempt.get(), ..self.next_attempt(now, &node, &run) };
        self.book.put(next);
        true
    }

    /// Another attempt of `run`, without its count and its time: the same chain, the same inputs.
    pub(super) fn next_attempt(&mut self, now: Instant, node: &Node, run: &Run) -> Run {
        Run {
            chain: run.chain.clone(),
            pass: run.pass,
            previous: Some(run.id.clone()),
            due_at: run.due_at,
            caught_up: run.caught_up,
            upstreams: run.upstreams.clone(),
            given: run.given.clone(),
            ..self.first_run(now, node, Trigger::Retry, run.follow)
        }
    }

    /// Decides what follows one end.
    pub(super) fn follow(&mut self, now: Instant, ended: &Ended) {
        let Some(run) = self.book.get(&ended.run).cloned() else { return };
        let Some(outcome) = run.outcome() else { return };
        if ended.counts == Counts::Yes && run.follow == Follow::Everything {
            self.follow_across(now, &run);
        }
        let began = run.trigger == Trigger::Schedule && run.chain == run.id && run.pass == 1;
        // A scheduled occurrence that is skipped or missed begins no chain.
        if run.follow == Follow::Nothing || (began && matches!(outcome, Outcome::Skipped | Outcome::Missed)) {
            return;
        }
        if matches!(outcome, Outcome::Failed | Outcome::TimedOut | Outcome::Lost) {
            self.start_error_branches(now, &run);
        }
        let (chain, pass, follow) = (run.chain.clone(), run.pass, run.follow);
        self.follow_within(now, &PassOf { chain, pass, follow }, &run);
    }

    /// Decides the downstreams of `upstream` that belong to the pass; those that have succeeded already in a pass which
    /// leaves them out are walked through, since what follows *them* may not have.
    fn follow_within(&mut self, now: Instant, pass: &PassOf, upstream: &Run) {
        let Some(node) = self.graph.get(&upstream.id.batch) else { return };
        for name in node.downstreams.clone() {
            let Some(downstream) = self.graph.get(&name).cloned() else { continue };
            if downstream.join == Join::AcrossChains || self.has_run_in(pass, &name) {
                continue;
            }
            if let Some(succeeded) = self.left_out(pass, &name) {
                self.follow_within(now, pass, &succeeded);
            } else if downstream.join == Join::WithinChain {
                self.begin_joining(now, pass, &downstream, upstream);
            } else {
                let run = self.run_in_pass(now, pass, &downstream, Trigger::Upstream, upstream.due_at);
                self.decide(now, &downstream, run, vec![Ok(upstream.id.clone())]);
            }
        }
    }

    /// The run for which a pass over what has not succeeded leaves this batch out.
    fn left_out(&self, pass: &PassOf, name: &BatchName) -> Option<Run> {
        let latest = self.latest_end(&pass.chain, name)?;
        (pass.follow == Follow::Unsucceeded && latest.pass < pass.pass && latest.succeeded()).then(|| latest.clone())
    }

    /// Makes the row of a join that waits for its upstreams, unless one of them can never be part of this pass.
    fn begin_joining(&mut self, now: Instant, pass: &PassOf, join: &Node, upstream: &Run) {
        let reached = |name: &BatchName| {
            let in_pass = self.book.chain(&pass.chain).filter(|run| run.pass == pass.pass);
            in_pass.into_iter().any(|run| self.graph.reach(&run.id.batch).contains(name))
        };
        let in_chain = |name: &BatchName| self.book.chain_of(&pass.chain, name).next().is_some();
        if !join.upstreams.iter().all(|name| in_chain(name) || reached(name)) {
            return;
        }
        let mut run = self.run_in_pass(now, pass, join, Trigger::Upstream, upstream.due_at);
        run.joining = true;
        run.remark = Some("waits for its upstreams".to_owned());
        self.book.put(run);
    }

    /// Decides the first join, in the order of the graph, that waits for nothing any more. Whether there was one.
    pub(super) fn decide_next_join(&mut self, now: Instant) -> bool {
        let rank = |run: &Run| self.graph.get(&run.id.batch).map_or(usize::MAX, |node| node.rank);
        let first = self
            .book
            .joining_in_touched()
            .filter(|run| !self.ended.iter().any(|ended| ended.run == run.id))
            .filter_map(|run| Some((rank(run), run.id.clone(), self.join_upstreams(run)?)))
            .min_by(|left, right| (left.0, &left.1).cmp(&(right.0, &right.1)));
        let Some((_, id, upstreams)) = first else { return false };
        let Some(mut run) = self.book.get(&id).cloned() else { return false };
        (run.joining, run.remark) = (false, None);
        match self.graph.get(&id.batch).cloned() {
            Some(node) if node.join == Join::AcrossChains || node.upstreams.is_empty() => {
                self.skip(now, run, "the batch no longer waits for an upstream in this chain");
            }
            Some(node) => self.decide(now, &node, run, upstreams),
            None => self.skip(now, run, "its batch was removed"),
        }
        true
    }

    /// The upstream runs that a waiting join takes (or the names of those that cannot come), once none is pending.
    fn join_upstreams(&self, join: &Run) -> Option<Vec<Result<RunId, BatchName>>> {
        let Some(node) = self.graph.get(&join.id.batch) else { return Some(Vec::new()) };
        if self.coming_before(join).next().is_some() {
            return None;
        }
        let mut taken = Vec::with_capacity(node.upstreams.len());
        for name in &node.upstreams {
            match self.upstream_state(join, name) {
                UpstreamState::Ended(id) => taken.push(Ok(id)),
                UpstreamState::Absent => taken.push(Err(name.clone())),
                UpstreamState::Pending(_) => return None,
            }
        }
        Some(taken)
    }

    /// The runs of its pass that have not ended and lead to a join that waits.
    pub(super) fn coming_before<'a>(&'a self, join: &'a Run) -> impl Iterator<Item = &'a Run> {
        self.book.chain(&join.chain).filter(|run| {
            run.pass == join.pass
                && run.id != join.id
                && run.end().is_none()
                && self.graph.reach(&run.id.batch).contains(&join.id.batch)
        })
    }

    /// What a join makes of one upstream: its run in this pass; else, if this pass was not to run it, its latest in the
    /// chain.
    pub(super) fn upstream_state(&self, join: &Run, name: &BatchName) -> UpstreamState {
        let of_batch = || self.book.chain_of(&join.chain, name);
        if let Some(run) = of_batch().filter(|run| run.pass == join.pass).last() {
            return UpstreamState::of(run);
        }
        let pass_runs_all = matches!(join.follow, Follow::Chain | Follow::Everything);
        let in_pass = self.book.chain(&join.chain).filter(|run| run.pass == join.pass && run.id != join.id);
        let was_to_run = pass_runs_all && in_pass.into_iter().any(|run| self.graph.reach(&run.id.batch).contains(name));
        match of_batch().max_by_key(|run| run.id.number) {
            Some(_) if was_to_run => UpstreamState::Absent,
            Some(run) => UpstreamState::of(run),
            None => UpstreamState::Absent,
        }
    }

    /// All upstreams of a run are known: it is queued, `aborted`, or, if somebody said no, `skipped`.
    fn decide(&mut self, now: Instant, node: &Node, mut run: Run, upstreams: Vec<Result<RunId, BatchName>>) {
        run.upstreams = upstreams.iter().filter_map(|upstream| upstream.clone().ok()).collect();
        let unsuccessful = upstreams.iter().find_map(|upstream| match upstream {
            Ok(id) => self.book.get(id).filter(|run| !run.succeeded()).map(|run| {
                let outcome = run.outcome().map_or("has not ended", Outcome::word);
                format!("its upstream {id} {}", outcome_phrase(outcome))
            }),
            Err(name) => Some(format!("its upstream {name} can no longer run in this chain")),
        });
        self.decide_by(now, node, run, unsuccessful);
    }

    fn decide_by(&mut self, now: Instant, node: &Node, run: Run, unsuccessful: Option<String>) {
        let not = |outcome, reason| End { outcome, reason: Some(reason), at: now, exit: None };
        match unsuccessful.filter(|_| !node.definition().independent) {
            Some(reason) => self.end(run, not(Outcome::Aborted, reason), Counts::Yes),
            None => match self.says_no(now, &run.id.batch, node) {
                Some(reason) => self.end(run, not(Outcome::Skipped, reason), Counts::Yes),
                None => self.admit(now, run),
            },
        }
    }

    /// Starts the targets of `on_error`, once for this run: each begins a pass of its own in the same chain.
    fn start_error_branches(&mut self, now: Instant, failed: &Run) {
        let Some(node) = self.graph.get(&failed.id.batch) else { return };
        for name in node.on_error.clone() {
            let Some(target) = self.graph.get(&name).cloned() else { continue };
            let pass =
                PassOf { chain: failed.chain.clone(), pass: self.next_pass(&failed.chain), follow: Follow::Chain };
            let mut run = self.run_in_pass(now, &pass, &target, Trigger::Error, failed.due_at);
            run.upstreams = vec![failed.id.clone()];
            self.decide_by(now, &target, run, None);
        }
    }

    /// A run that belongs to a pass: not yet in the book.
    fn run_in_pass(&mut self, now: Instant, pass: &PassOf, node: &Node, trigger: Trigger, due_at: Instant) -> Run {
        let run = self.first_run(now, node, trigger, pass.follow);
        Run { chain: pass.chain.clone(), pass: pass.pass, due_at, ..run }
    }

    /// The number of the chain's next pass.
    pub(super) fn next_pass(&self, chain: &RunId) -> u32 {
        self.book.chain(chain).map(|run| run.pass).max().unwrap_or(0) + 1
    }

    fn has_run_in(&self, pass: &PassOf, name: &BatchName) -> bool {
        self.book.chain_of(&pass.chain, name).any(|run| run.pass == pass.pass)
    }

    /// The latest run of a batch in a chain that has ended.
    pub(super) fn latest_end(&self, chain: &RunId, name: &BatchName) -> Option<&Run> {
        self.book.chain_of(chain, name).filter(|run| run.end().is_some()).last()
    }

    /// Gives an end to the joins across chains behind it, and decides those that have one from each upstream.
    fn follow_across(&mut self, now: Instant, run: &Run) {
        let Some(node) = self.graph.get(&run.id.batch) else { return };
        for name in node.downstreams.clone() {
            let Some(join) = self.graph.get(&name).filter(|node| node.join == Join::AcrossChains).cloned() else {
                continue;
            };
            let key = (name.clone(), run.id.batch.clone());
            let Some(edge) = self.edges.get_mut(&key).filter(|edge| {
                run.id.number > edge.cursor && edge.unused.as_ref().is_none_or(|unused| run.id.number > unused.number)
            }) else {
                continue;
            };
            edge.unused = Some(UnusedEnd { number: run.id.number, succeeded: run.succeeded(), due_at: run.due_at });
            let edge = edge.clone();
            self.note_edge(edge);
            self.decide_across(now, &join);
        }
    }

    /// Begins the chain of a join across chains if every upstream has an end that it has not used.
    pub(super) fn decide_across(&mut self, now: Instant, join: &Node) {
        let name = &join.definition().name;
        let key = |upstream: &BatchName| (name.clone(), upstream.clone());
        let unused: Option<Vec<(RunId, UnusedEnd)>> = join
            .upstreams
            .iter()
            .map(|upstream| self.edges.get(&key(upstream))?.unused.clone().map(|end| (upstream.run(end.number), end)))
            .collect();
        let Some(unused) = unused.filter(|unused| !unused.is_empty()) else { return };
        for (upstream, end) in &unused {
            let edge = EdgeFacts {
                downstream: name.clone(),
                upstream: upstream.batch.clone(),
                cursor: end.number,
                unused: None,
            };
            self.edges.insert(key(&upstream.batch), edge.clone());
            self.note_edge(edge);
        }
        let mut run = self.first_run(now, join, Trigger::Upstream, Follow::Everything);
        run.upstreams = unused.iter().map(|(id, _)| id.clone()).collect();
        run.due_at = unused.iter().map(|(_, end)| end.due_at).max().unwrap_or(now);
        let unsuccessful = unused.iter().find(|(_, end)| !end.succeeded);
        let unsuccessful = unsuccessful.map(|(id, _)| format!("its upstream {id} did not succeed"));
        self.decide_by(now, join, run, unsuccessful);
    }

    /// Whether ends are decided without anything being started: what was alive is still being adopted.
    pub(super) fn is_adopting(&self) -> bool {
        self.phase == Phase::Adopting
    }
}

/// A pass, as what it decides needs it.
pub(super) struct PassOf {
    /// The chain.
    pub(super) chain: RunId,
    /// Its number in the chain.
    pub(super) pass: u32,
    /// What may follow in it.
    pub(super) follow: Follow,
}

/// An outcome's word as it reads behind a name.
pub(super) fn outcome_phrase(word: &str) -> String {
    match word {
        "succeeded" | "failed" => word.to_owned(),
        "timed_out" => "timed out".to_owned(),
        other => format!("was {other}"),
    }
}

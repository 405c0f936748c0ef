//! What operators ask for, and the answer.

use std::collections::BTreeSet;

use super::Scheduler;
use super::book::Counts;
use super::chain::PassOf;
use crate::model::definition::{Overlap, check_variable_name};
use crate::model::graph::{Graph, Join, Node};
use crate::model::id::{BatchName, RunId};
use crate::model::record::Disabled;
use crate::model::request::{Refusal, Reply, Request, RerunMode};
use crate::model::run::{End, Follow, Given, Input, Outcome, Run, StopRequest, Trigger};
use crate::model::time::Instant;

/// The most variables that a start can be given: more than anybody writes, and `run.json` lists their names.
const GIVEN_VARIABLES_MAX: usize = 1000;

/// An answer, or why it was not done.
type Answer = Result<Reply, Reply>;

impl Scheduler {
    /// Does what is asked, or says why not.
    pub(super) fn request(&mut self, now: Instant, by: &str, request: Request, history: Vec<Run>) -> Reply {
        let answer = match request {
            Request::Start { batch, follow, given, queue, force } => {
                self.start_by_hand(now, &batch, follow, given, By { queue, force })
            }
            Request::Stop { run, reason } => self.stop(now, &run, &stop_request(now, by, reason)),
            Request::StopAll { reason } => Ok(self.stop_all(now, &stop_request(now, by, reason))),
            Request::Rerun { run, mode } => self.rerun(now, by, &run, mode, history),
            Request::Enable { batch } => self.enable(&batch),
            Request::Disable { batch, until, reason } => {
                self.disable(&batch, Disabled { until, reason, by: by.to_owned(), at: now })
            }
        };
        answer.unwrap_or_else(|refusal| refusal)
    }

    fn start_by_hand(&mut self, now: Instant, name: &BatchName, follow: Follow, given: Given, by: By) -> Answer {
        check_given(&given)?;
        let node = self.in_force(name)?.clone();
        let definition = node.definition();
        if let Some(reason) = self.says_no(now, name, &node).filter(|_| !by.force) {
            let hint = format!("`batchd enable {name}`, or `batchd start --force {name}` for this once");
            return Err(refused(Refusal::Disabled, format!("{name} is {reason}"), Some(hint)));
        }
        if definition.use_previous_output && given.input.is_none() {
            let hint = format!("`batchd start {name} --input RUN` takes the stdout of a run, `--input FILE` a file");
            return Err(refused(
                Refusal::Invalid,
                format!("{name} takes its upstream's output, and has none here"),
                Some(hint),
            ));
        }
        let met = self.met_by(name).map(|other| (other.id.clone(), other.is_under_way()));
        let waits_for_it = matches!(definition.overlap, Overlap::Skip | Overlap::Queue);
        if let Some((other, under_way)) = met.clone().filter(|_| waits_for_it && !by.queue) {
            let what = if under_way { "is running" } else { "waits to run" };
            let hint = format!("`batchd start --queue {name}` waits for it; `batchd stop {other}` ends it");
            return Err(refused(Refusal::Busy, format!("{name} is busy: {other} {what}"), Some(hint)));
        }
        let run = Run { given, ..self.first_run(now, &node, Trigger::Manual, follow) };
        let id = run.id.clone();
        self.admit_patiently(now, run);
        let (follows, does_not_follow) = what_follows(&self.graph, name, follow);
        Ok(Reply::Queued { run: id, waits: met.is_some() && waits_for_it, follows, does_not_follow })
    }

    fn stop(&mut self, now: Instant, id: &RunId, stop: &StopRequest) -> Answer {
        let live = self.book.get(id).filter(|run| run.end().is_none()).cloned();
        let Some(run) = live else {
            let hint = format!("`batchd show {id}` says how it ended; `batchd runs --run-state running` what runs");
            return Err(refused(Refusal::State, format!("{id} is not waiting or running"), Some(hint)));
        };
        self.stop_run(now, run, stop);
        Ok(Reply::Stopping { runs: vec![id.clone()] })
    }

    fn stop_all(&mut self, now: Instant, stop: &StopRequest) -> Reply {
        let live: Vec<Run> = self.book.live().cloned().collect();
        let runs = live.iter().map(|run| run.id.clone()).collect();
        for run in live {
            self.stop_run(now, run, stop);
        }
        Reply::Stopping { runs }
    }

    /// Asks for the end of a run that is under way; takes one that waits out of the queue, at once.
    fn stop_run(&mut self, now: Instant, mut run: Run, stop: &StopRequest) {
        if run.is_under_way() {
            return self.request_stop(run, stop.clone());
        }
        run.stop = Some(stop.clone());
        let reason = format!("stopped by {} before it started: {}", stop.by, stop.reason);
        self.end(run, End { outcome: Outcome::Skipped, reason: Some(reason), at: now, exit: None }, Counts::Yes);
    }

    fn rerun(&mut self, now: Instant, by: &str, id: &RunId, mode: RerunMode, history: Vec<Run>) -> Answer {
        for run in history {
            self.book.reopen(run);
        }
        let Some(old) = self.book.get(id).cloned() else {
            let hint = format!("`batchd runs {}` lists them", id.batch);
            return Err(refused(Refusal::Unknown, format!("there is no run {id}"), Some(hint)));
        };
        let node = self.in_force(&id.batch)?.clone();
        self.may_rerun(now, &node, &old)?;
        let follow = match mode {
            RerunMode::Only => Follow::Nothing,
            RerunMode::Unsucceeded | RerunMode::OnlyDownstream => Follow::Unsucceeded,
            RerunMode::Downstream => Follow::Everything,
        };
        let met = self.met_by(&id.batch).is_some();
        let pass = PassOf { chain: old.chain.clone(), pass: self.next_pass(&old.chain), follow };
        let follows = self.reruns_after(&pass, &id.batch);
        let run = Run {
            chain: pass.chain,
            pass: pass.pass,
            previous: Some(old.id.clone()),
            due_at: old.due_at,
            upstreams: old.upstreams.clone(),
            given: old.given.clone(),
            ..self.first_run(now, &node, Trigger::Rerun, follow)
        };
        let new = run.id.clone();
        if mode == RerunMode::OnlyDownstream {
            let reason =
                format!("counts as succeeded without running: {old} was repaired by hand, says {by}", old = old.id);
            self.end(run, End { outcome: Outcome::Succeeded, reason: Some(reason), at: now, exit: None }, Counts::Yes);
        } else {
            self.admit_patiently(now, run);
        }
        Ok(Reply::Queued { run: new, waits: met, follows, does_not_follow: Vec::new() })
    }

    /// Whether this run can be repeated now.
    fn may_rerun(&self, now: Instant, node: &Node, old: &Run) -> Result<(), Reply> {
        let id = &old.id;
        if let Some(reason) = self.says_no(now, &id.batch, node) {
            let hint = format!("`batchd enable {}` first", id.batch);
            return Err(refused(Refusal::Disabled, format!("{} is {reason}", id.batch), Some(hint)));
        }
        if old.range.is_some() {
            let hint = format!("`batchd start {}` begins a new chain", id.batch);
            return Err(refused(Refusal::Invalid, format!("{id} stands for many occurrences"), Some(hint)));
        }
        let mut again = self.book.chain(&old.chain).filter(|run| run.id.batch == id.batch);
        if let Some(live) = again.find(|run| run.end().is_none()) {
            let hint = format!("`batchd stop {}` ends it", live.id);
            return Err(refused(Refusal::State, format!("{} of the same chain has not ended", live.id), Some(hint)));
        }
        Ok(())
    }

    /// What a pass will run after `name`, in the order of the graph.
    fn reruns_after(&self, pass: &PassOf, name: &BatchName) -> Vec<BatchName> {
        if pass.follow == Follow::Nothing {
            return Vec::new();
        }
        let runs_in_chain = |batch: &BatchName| self.book.chain(&pass.chain).any(|run| run.id.batch == *batch);
        let follows = follow_from(&self.graph, name, Follow::Chain, &runs_in_chain).0;
        let succeeded = |batch: &BatchName| self.latest_end(&pass.chain, batch).is_some_and(Run::succeeded);
        let is_left_out = |batch: &BatchName| pass.follow == Follow::Unsucceeded && succeeded(batch);
        follows.into_iter().filter(|batch| !is_left_out(batch)).collect()
    }

    fn enable(&mut self, name: &BatchName) -> Answer {
        self.known(name)?;
        let was = self.facts_mut(name).disabled.take();
        let by_definition = self.graph.get(name).is_some_and(|node| !node.definition().enabled);
        let text = match (was, by_definition) {
            (_, true) => format!("{name} is still disabled: its batch.toml says enabled = false"),
            (Some(_), false) => format!("{name} is enabled; what fell due meanwhile stays skipped"),
            (None, false) => format!("{name} was enabled already"),
        };
        Ok(Reply::Done { text })
    }

    fn disable(&mut self, name: &BatchName, disabled: Disabled) -> Answer {
        self.known(name)?;
        let until = disabled.until.map_or(String::new(), |until| format!(" until {until}"));
        self.facts_mut(name).disabled = Some(disabled);
        let goes_on: Vec<String> = self.book.live_of(name).map(|run| run.id.to_string()).collect();
        let goes_on = match goes_on.as_slice() {
            [] => String::new(),
            ids => format!("; {} goes on: `batchd stop` ends it", ids.join(", ")),
        };
        Ok(Reply::Done { text: format!("{name} is disabled{until}{goes_on}") })
    }

    /// The batch, if it is in force and fits.
    fn in_force(&self, name: &BatchName) -> Result<&Node, Reply> {
        let node = self.known(name)?;
        if node.entry.held {
            let what = format!("{name} is held: its definition does not fit the others");
            return Err(refused(Refusal::Held, what, Some("`batchd check` says why".to_owned())));
        }
        Ok(node)
    }

    /// The batch, if it is in force.
    fn known(&self, name: &BatchName) -> Result<&Node, Reply> {
        self.graph.get(name).ok_or_else(|| {
            let hint = "`batchd list` shows what is in force, `batchd check` what is wrong with the rest".to_owned();
            refused(Refusal::Unknown, format!("there is no batch {name}"), Some(hint))
        })
    }
}

/// The flags of a start by hand.
struct By {
    queue: bool,
    force: bool,
}

/// What follows, and what does not, with the reason; each in the order of the graph.
type Following = (Vec<BatchName>, Vec<(BatchName, String)>);

/// What follows a run of `name` in its chain if all succeeds, in the order of the graph; and what comes after it in the
/// graph but does not, with the reason.
pub fn what_follows(graph: &Graph, name: &BatchName, follow: Follow) -> Following {
    follow_from(graph, name, follow, &|_| false)
}

/// As [`what_follows`], in a chain in which the batches for which `runs_in_chain` holds have a run: joins take theirs.
fn follow_from(
    graph: &Graph,
    name: &BatchName,
    follow: Follow,
    runs_in_chain: &dyn Fn(&BatchName) -> bool,
) -> Following {
    let mut after: Vec<BatchName> = graph.reach(name).into_iter().filter(|batch| batch != name).collect();
    after.sort_by_key(|batch| graph.get(batch).map_or(0, |node| node.rank));
    if follow == Follow::Nothing {
        return (Vec::new(), after.into_iter().map(|batch| (batch, "--only".to_owned())).collect());
    }
    let mut follows: BTreeSet<BatchName> = BTreeSet::from([name.clone()]);
    let (mut yes, mut no) = (Vec::new(), Vec::new());
    for batch in after {
        let is_there = |upstream: &BatchName| follows.contains(upstream) || runs_in_chain(upstream);
        match graph.get(&batch).map(|node| why_not(node, &is_there, follow)) {
            Some(Some(reason)) => no.push((batch, reason)),
            Some(None) => {
                follows.insert(batch.clone());
                yes.push(batch);
            }
            None => {}
        }
    }
    (yes, no)
}

/// Why a batch does not follow, given which runs are there for it.
fn why_not(node: &Node, is_there: &dyn Fn(&BatchName) -> bool, follow: Follow) -> Option<String> {
    let outside = node.upstreams.iter().find(|upstream| !is_there(upstream));
    match (node.join, outside) {
        (Join::AcrossChains, _) if follow == Follow::Everything => {
            Some("it joins several chains: it starts once each of its upstreams has a new end".to_owned())
        }
        (Join::AcrossChains, _) => {
            Some("it joins several chains, and a start by hand does not count for it without --downstream".to_owned())
        }
        (Join::WithinChain, Some(upstream)) => Some(format!("its upstream {upstream} is not in this chain")),
        (Join::None, Some(upstream)) => Some(format!("{upstream}, before it, does not follow")),
        (Join::WithinChain | Join::None, None) => None,
    }
}

/// Refuses what no script can be given, and what would forge a variable of batchd's own. The command line checks it too,
/// and is not alone in writing to the socket.
fn check_given(given: &Given) -> Result<(), Reply> {
    let invalid = |what: String, hint: &str| Err(refused(Refusal::Invalid, what, Some(hint.to_owned())));
    if given.env.len() > GIVEN_VARIABLES_MAX {
        let what = format!("{} variables are given, and at most {GIVEN_VARIABLES_MAX} are possible", given.env.len());
        return invalid(what, "put them into a file that the batch reads: `env_file`");
    }
    if let Some(error) = given.env.keys().find_map(|name| check_variable_name(name).err()) {
        return invalid(error.to_string(), error.hint());
    }
    if given.args.iter().chain(given.env.values()).any(|text| text.contains('\0')) {
        return invalid("an argument or a variable has a NUL byte in it".to_owned(), "no program can be given one");
    }
    match &given.input {
        Some(Input::File(path)) if !path.starts_with('/') => {
            let what = format!("the input `{}` is no absolute path", path.escape_debug());
            invalid(what, "the daemon's folder is not yours: name the file from the root on")
        }
        Some(Input::File(_) | Input::Run(_)) | None => Ok(()),
    }
}

fn stop_request(now: Instant, by: &str, reason: Option<String>) -> StopRequest {
    StopRequest { by: by.to_owned(), reason: reason.unwrap_or_else(|| "no reason given".to_owned()), at: now }
}

fn refused(refusal: Refusal, what: String, hint: Option<String>) -> Reply {
    Reply::Refused { refusal, what, hint }
}

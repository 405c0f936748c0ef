//! What operators ask for, and the answer.

use std::collections::BTreeSet;

use super::Scheduler;
use super::book::Counts;
use super::prospects::Asked;
use crate::model::definition::{Overlap, check_variable_name};
use crate::model::graph::Node;
use crate::model::id::{BatchName, RunId};
use crate::model::input::InputId;
use crate::model::record::Disabled;
use crate::model::request::{Prospects, Refusal, Reply, Request, RerunMode};
use crate::model::run::{End, Follow, Given, Input, Outcome, Run, StopRequest, Trigger};
use crate::model::time::Instant;

/// The most variables that a start can be given: more than anybody writes, and `run.json` lists their names.
const GIVEN_VARIABLES_MAX: usize = 1000;

/// What the daemon knows besides, of what a request is about: see [`super::Event::Request`].
pub(super) struct Known {
    pub(super) history: Vec<Run>,
    pub(super) inputs: BTreeSet<InputId>,
}

/// An answer, or why it was not done.
type Answer = Result<Reply, Reply>;

impl Scheduler {
    /// Does what is asked, or says why not.
    pub(super) fn request(&mut self, now: Instant, by: &str, request: Request, known: Known) -> Reply {
        let answer = match request {
            Request::Start { batch, follow, given, queue, force } => {
                self.start_by_hand(now, &batch, follow, given, By { by, queue, force, known })
            }
            Request::Stop { run, reason } => self.stop(now, &run, &stop_request(now, by, reason), &known.history),
            Request::StopAll { reason } => Ok(self.stop_all(now, &stop_request(now, by, reason))),
            Request::Rerun { run, mode, force } => self.rerun(now, by, &run, Again { mode, force }, known),
            Request::Enable { batch } => self.enable(&batch),
            Request::Disable { batch, until, reason } => {
                self.disable(&batch, Disabled { until, reason, by: by.to_owned(), at: now })
            }
        };
        answer.unwrap_or_else(|refusal| refusal)
    }

    fn start_by_hand(&mut self, now: Instant, name: &BatchName, follow: Follow, given: Given, by: By<'_>) -> Answer {
        check_given(&given)?;
        let node = self.in_force(name)?.clone();
        let definition = node.definition();
        if let Some(reason) = self.says_no(now, name, &node).filter(|_| !by.force) {
            let hint = format!("{}, or start it anyway: `batchd start {name} --force`", to_enable(name, &node));
            return Err(refused(Refusal::Disabled, format!("{name} is {reason}"), Some(hint)));
        }
        if definition.use_previous_output && given.input.is_none() {
            let hint = format!("name a run or a file: `batchd start {name} --input RUN|FILE`");
            return Err(refused(
                Refusal::Invalid,
                format!("{name} needs an input, because it reads the output of its upstreams (`use_previous_output`)"),
                Some(hint),
            ));
        }
        check_input(name, &given, &by.known)?;
        let met = self.met_by(name).map(|other| (other.id.clone(), other.is_under_way()));
        let waits_for_it = matches!(definition.overlap, Overlap::Skip | Overlap::Queue);
        if let Some((other, under_way)) = met.clone().filter(|_| waits_for_it && !by.queue) {
            let what = if under_way { "is running" } else { "is waiting" };
            let hint = format!("start it after {other}: `batchd start {name} --queue`");
            return Err(refused(Refusal::Busy, format!("{name} is busy: {other} {what}"), Some(hint)));
        }
        let started_by = Some(by.by.to_owned());
        let run = Run { given, started_by, ..self.first_run(now, &node, Trigger::Manual, follow) };
        let id = run.id.clone();
        self.admit_patiently(now, run);
        let prospects = self.prospects(now, name, Asked { follow, chain: None });
        Ok(self.made(id, met.is_some() && waits_for_it, prospects))
    }

    /// What became of a run that was asked for.
    fn made(&self, run: RunId, waits: bool, prospects: Prospects) -> Reply {
        match self.book.get(&run).and_then(Run::end).filter(|end| end.outcome == Outcome::Skipped) {
            Some(End { reason, .. }) => Reply::Skipped { run, reason: reason.clone().unwrap_or_default() },
            None => Reply::Queued { run, waits, prospects },
        }
    }

    fn stop(&mut self, now: Instant, id: &RunId, stop: &StopRequest, history: &[Run]) -> Answer {
        let live = self.book.get(id).filter(|run| run.end().is_none()).cloned();
        let Some(run) = live else {
            let Some(outcome) = history.iter().find(|run| run.id == *id).and_then(Run::outcome) else {
                return Err(no_run(id));
            };
            let hint = format!("show how it ended: `batchd show {id}`");
            return Err(refused(Refusal::State, format!("{id} has ended already: {outcome}"), Some(hint)));
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

    fn rerun(&mut self, now: Instant, by: &str, id: &RunId, again: Again, known: Known) -> Answer {
        for run in known.history {
            self.book.reopen(run);
        }
        let Some(old) = self.book.get(id).cloned() else { return Err(no_run(id)) };
        let node = self.in_force(&id.batch)?.clone();
        self.may_rerun(now, &node, &old, again.force)?;
        if again.mode == RerunMode::MarkSucceeded {
            self.is_not_marked(&old)?;
        } else {
            check_input_again(&old, &known.inputs)?;
        }
        let upstreams = self.inputs_again(&node, &old)?;
        let follow = match again.mode {
            RerunMode::Only => Follow::Nothing,
            RerunMode::Unsucceeded | RerunMode::MarkSucceeded => Follow::Unsucceeded,
            RerunMode::Downstream => Follow::Everything,
        };
        let met = self.met_by(&id.batch).is_some();
        let prospects = self.prospects(now, &id.batch, Asked { follow, chain: Some(&old.chain) });
        let run = Run {
            chain: old.chain.clone(),
            pass: self.next_pass(&old.chain),
            previous: Some(old.id.clone()),
            due_at: old.due_at,
            upstreams,
            given: old.given.clone(),
            started_by: Some(by.to_owned()),
            ..self.first_run(now, &node, Trigger::Rerun, follow)
        };
        let new = run.id.clone();
        if again.mode == RerunMode::MarkSucceeded {
            let reason =
                format!("marked as succeeded by {by} without running the script; it replaces {old}", old = old.id);
            self.end(run, End { outcome: Outcome::Succeeded, reason: Some(reason), at: now, exit: None }, Counts::Yes);
        } else {
            self.admit_patiently(now, run);
        }
        Ok(self.made(new, met, prospects))
    }

    /// Whether no run of the batch in this chain is marked as succeeded: a second mark would change nothing.
    fn is_not_marked(&self, old: &Run) -> Result<(), Reply> {
        let is_mark = |run: &&Run| run.outcome() == Some(Outcome::Succeeded) && run.started_at.is_none();
        let mut of_batch = self.book.chain(&old.chain).filter(|run| run.id.batch == old.id.batch);
        match of_batch.find(is_mark) {
            Some(mark) => {
                let hint = format!("show the mark: `batchd show {}`", mark.id);
                let what = format!("{} is marked as succeeded already, by {}", old.id, mark.id);
                Err(refused(Refusal::State, what, Some(hint)))
            }
            None => Ok(()),
        }
    }

    /// Whether this run can be repeated now.
    fn may_rerun(&self, now: Instant, node: &Node, old: &Run, force: bool) -> Result<(), Reply> {
        let id = &old.id;
        if let Some(reason) = self.says_no(now, &id.batch, node).filter(|_| !force) {
            let hint = format!("{}, or repeat the run anyway: `batchd rerun {id} --force`", to_enable(&id.batch, node));
            return Err(refused(Refusal::Disabled, format!("{} is {reason}", id.batch), Some(hint)));
        }
        if old.range.is_some() {
            let hint = format!("start a new chain: `batchd start {}`", id.batch);
            let what = format!("{id} can't be repeated, because it stands for many occurrences");
            return Err(refused(Refusal::Invalid, what, Some(hint)));
        }
        let mut again = self.book.chain(&old.chain).filter(|run| run.id.batch == id.batch);
        if let Some(live) = again.find(|run| run.end().is_none()) {
            let hint = format!("wait for its end, or stop it: `batchd stop {}`", live.id);
            let what = format!("{} of the same chain has not ended yet", live.id);
            return Err(refused(Refusal::State, what, Some(hint)));
        }
        Ok(())
    }

    /// The inputs of a repeated run: the same (design 3.5), but of an upstream that had not succeeded and was repaired since,
    /// its latest success in the same chain. A batch that is not `independent` takes nothing from one that has not succeeded.
    fn inputs_again(&self, node: &Node, old: &Run) -> Result<Vec<RunId>, Reply> {
        let again = old.upstreams.iter().map(|id| self.repaired(id).map_or_else(|| id.clone(), |run| run.id.clone()));
        let inputs: Vec<RunId> = again.collect();
        if node.definition().independent {
            return Ok(inputs);
        }
        let of = |upstream: &BatchName| inputs.iter().find(|id| id.batch == *upstream);
        let has_failed = |id: &RunId| self.book.get(id).is_none_or(|run| !run.succeeded());
        let was_aborted = old.outcome() == Some(Outcome::Aborted);
        for upstream in &node.upstreams {
            let what = match of(upstream) {
                Some(id) if has_failed(id) => format!("{id}, an upstream of {}, did not succeed", old.id),
                None if was_aborted => format!("{upstream}, an upstream of {}, did not run", old.id),
                Some(_) | None => continue,
            };
            let hint = match of(upstream) {
                Some(id) => format!(
                    "repeat the upstream first: `batchd rerun {id}`; if you did its work by hand: `batchd rerun {id} --mark-succeeded`"
                ),
                None => format!("start a new chain: `batchd start {}`", node.definition().name),
            };
            return Err(refused(Refusal::Invalid, what, Some(hint)));
        }
        Ok(inputs)
    }

    /// Of a run that did not succeed, the latest success of its batch in the same chain.
    fn repaired(&self, id: &RunId) -> Option<&Run> {
        let old = self.book.get(id).filter(|run| !run.succeeded())?;
        self.book.chain_of(&old.chain, &id.batch).filter(|run| run.succeeded()).max_by_key(|run| run.id.number)
    }

    fn enable(&mut self, name: &BatchName) -> Answer {
        let enabled = self.known(name)?.definition().enabled;
        let was_disabled = self.facts_mut(name).disabled.take();
        Ok(Reply::Enabled { batch: name.clone(), enabled, was_disabled })
    }

    fn disable(&mut self, name: &BatchName, disabled: Disabled) -> Answer {
        self.known(name)?;
        let replaced = self.facts_mut(name).disabled.replace(disabled.clone());
        let replaces = replaced.filter(|replaced| replaced.holds_at(disabled.at)).map(Box::new);
        let goes_on = self.book.live_of(name).map(|run| run.id.clone()).collect();
        Ok(Reply::Disabled { batch: name.clone(), disabled: Box::new(disabled), replaces, goes_on })
    }

    /// The batch, if it is in force and fits.
    fn in_force(&self, name: &BatchName) -> Result<&Node, Reply> {
        let node = self.known(name)?;
        if node.entry.held {
            let what = format!("{name} is held, because its definition does not fit the other batches");
            return Err(refused(Refusal::Held, what, Some("find out why: `batchd check`".to_owned())));
        }
        Ok(node)
    }

    /// The batch, if it is in force.
    fn known(&self, name: &BatchName) -> Result<&Node, Reply> {
        self.graph.get(name).ok_or_else(|| {
            let hint = "list all batches: `batchd list`; find errors in the others: `batchd check`".to_owned();
            refused(Refusal::Unknown, format!("there is no batch {name}"), Some(hint))
        })
    }
}

/// The flags of a start by hand, and what is known of its input.
struct By<'a> {
    by: &'a str,
    queue: bool,
    force: bool,
    known: Known,
}

/// How and whether a run is repeated.
struct Again {
    mode: RerunMode,
    force: bool,
}

/// What enables a batch: an operator can't take back what its own file says.
fn to_enable(name: &BatchName, node: &Node) -> String {
    if node.definition().enabled {
        format!("`batchd enable {name}`")
    } else {
        format!("remove the line `enabled = false` from {name}/batch.toml")
    }
}

fn no_run(id: &RunId) -> Reply {
    let hint = format!("list the runs of {}: `batchd runs {}`", id.batch, id.batch);
    refused(Refusal::Unknown, format!("there is no run {id}"), Some(hint))
}

/// Refuses what no script can be given, and what would forge a variable of batchd's own. The command line checks it too,
/// and is not alone in writing to the socket.
fn check_given(given: &Given) -> Result<(), Reply> {
    let invalid = |what: String, hint: &str| Err(refused(Refusal::Invalid, what, Some(hint.to_owned())));
    if given.env.len() > GIVEN_VARIABLES_MAX {
        let what = format!("{} variables are too many; a start can set at most {GIVEN_VARIABLES_MAX}", given.env.len());
        return invalid(what, "put them into a file, and name the file in `env_file` of the batch");
    }
    if let Some(error) = given.env.keys().find_map(|name| check_variable_name(name).err()) {
        return invalid(error.to_string(), error.hint());
    }
    if given.args.iter().chain(given.env.values()).any(|text| text.contains('\0')) {
        return invalid("an argument or a variable contains a NUL byte".to_owned(), "remove the NUL byte");
    }
    match &given.input {
        Some(Input::File(path)) if !path.starts_with('/') => {
            let what = format!("the input `{}` is not an absolute path", path.escape_debug());
            invalid(what, "write the whole path, beginning with `/`")
        }
        Some(Input::File(_) | Input::Run(_) | Input::Stored(_)) | None => Ok(()),
    }
}

/// Refuses a start whose input is not there.
fn check_input(batch: &BatchName, given: &Given, known: &Known) -> Result<(), Reply> {
    match &given.input {
        Some(Input::Run(run)) if !known.history.iter().any(|old| old.id == *run && old.end().is_some()) => {
            let what = format!("can't use the output of {run}: there is no such run, or the run has not ended");
            let hint = format!("list the runs of {}: `batchd runs {}`", run.batch, run.batch);
            Err(refused(Refusal::Unknown, what, Some(hint)))
        }
        Some(Input::Stored(id)) if !known.inputs.contains(id) => {
            let hint = format!("send the input with the start: `batchd start {batch} --input - < FILE`");
            Err(refused(Refusal::Invalid, format!("there is no stored input {id}"), Some(hint)))
        }
        Some(Input::Run(_) | Input::Stored(_) | Input::File(_)) | None => Ok(()),
    }
}

/// Refuses to repeat a run whose stored input has been removed.
fn check_input_again(old: &Run, inputs: &BTreeSet<InputId>) -> Result<(), Reply> {
    if old.given.stored_input().is_none_or(|id| inputs.contains(id)) {
        return Ok(());
    }
    let hint = format!("start a new chain with the input: `batchd start {} --input - < FILE`", old.id.batch);
    let what = format!("the input of {} is no longer kept", old.id);
    Err(refused(Refusal::Invalid, what, Some(hint)))
}

fn stop_request(now: Instant, by: &str, reason: Option<String>) -> StopRequest {
    StopRequest { by: by.to_owned(), reason: reason.unwrap_or_else(|| "no reason given".to_owned()), at: now }
}

fn refused(refusal: Refusal, what: String, hint: Option<String>) -> Reply {
    Reply::Refused { refusal, what, hint }
}

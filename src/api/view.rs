//! What programs see of a run: [`RunView`], the same on the socket and behind `--json`.

use serde::{Deserialize, Serialize};

use crate::model::id::{BatchName, DefinitionHash, RunId};
use crate::model::run::{Exit, Input, Outcome, Range, Run, StateWord, StopRequest, Trigger};
use crate::model::time::Instant;
use crate::model::wait::WaitsFor;

/// A run for programs. Instants are RFC 3339 in UTC; what is not known, or not yet, is null. Fields may be added, but none
/// is taken away or changes its meaning within one version of the protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    /// `report.42`.
    pub id: RunId,
    /// `report`.
    pub batch: BatchName,
    /// 42.
    pub number: u64,
    /// The first run of its chain.
    pub chain: RunId,
    /// Why it exists.
    pub trigger: Trigger,
    /// 1 for the first.
    pub attempt: u32,
    /// The attempt before this one, or the run that this one repeats.
    pub previous: Option<RunId>,
    /// How far it has come.
    pub state: StateWord,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why it ended so.
    pub reason: Option<String>,
    /// The operator who started it, if one did.
    #[serde(default)]
    pub started_by: Option<String>,
    /// Why it waits, or how it came about.
    pub remark: Option<String>,
    /// What it waits for, until it has begun.
    pub waits_for: Option<WaitsFor>,
    /// When it was due.
    pub due_at: Instant,
    /// It does not start before this.
    pub start_at: Option<Instant>,
    /// When its row was made.
    pub queued_at: Instant,
    /// When its script was let go.
    pub started_at: Option<Instant>,
    /// When it was over.
    pub ended_at: Option<Instant>,
    /// From `started_at` to `ended_at`.
    pub duration_ms: Option<u64>,
    /// The code that the script gave to exit.
    pub exit_code: Option<u8>,
    /// The signal that ended it, by number.
    pub signal: Option<i32>,
    /// The runs whose ends led to it, in the order of `after`.
    pub upstreams: Vec<RunId>,
    /// The hash of the definition that it ran.
    pub definition: Option<DefinitionHash>,
    /// Higher goes first.
    pub priority: i32,
    /// The pool that it takes a slot of.
    pub pool: Option<String>,
    /// It was not decided in time.
    pub caught_up: bool,
    /// Who asked for its end.
    pub stop: Option<StopRequest>,
    /// What `start` was given.
    pub given: GivenView,
    /// For one row that stands for many occurrences: from when, and how many; the last one is `due_at`.
    pub range: Option<Range>,
    /// What was measured of the script.
    pub exit: Option<Exit>,
}

/// What `start` was given, without the variables' values: they may be secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenView {
    /// Behind the definition's own.
    pub args: Vec<String>,
    /// The names of the variables.
    pub variables: Vec<String>,
    /// Where its input came from.
    pub input: Option<Input>,
}

impl From<&Run> for RunView {
    fn from(run: &Run) -> Self {
        let end = run.end();
        let exit = end.and_then(|end| end.exit.clone());
        let ended_at = end.map(|end| end.at);
        let duration = run.started_at.zip(ended_at).map(|(started, ended)| ended.since(started));
        Self {
            id: run.id.clone(),
            batch: run.id.batch.clone(),
            number: run.id.number,
            chain: run.chain.clone(),
            trigger: run.trigger,
            attempt: run.attempt,
            previous: run.previous.clone(),
            state: run.state.word(),
            outcome: run.outcome(),
            reason: end.and_then(|end| end.reason.clone()),
            started_by: run.started_by.clone(),
            remark: run.remark.clone(),
            // A row alone does not say: it depends on the others.
            waits_for: None,
            due_at: run.due_at,
            start_at: run.start_at,
            queued_at: run.queued_at,
            started_at: run.started_at,
            ended_at,
            duration_ms: duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
            exit_code: exit.as_ref().and_then(|exit| exit.exit_code),
            signal: exit.as_ref().and_then(|exit| exit.signal),
            upstreams: run.upstreams.clone(),
            definition: run.definition,
            priority: run.priority,
            pool: run.pool.clone(),
            caught_up: run.caught_up,
            stop: run.stop.clone(),
            given: GivenView {
                args: run.given.args.clone(),
                variables: run.given.env.keys().cloned().collect(),
                input: run.given.input.clone(),
            },
            range: run.range.clone(),
            exit,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::run::{End, Follow, Given, State};

    /// A run of `id` that is queued, due at the second 0 of 1970.
    pub(crate) fn queued(id: &str) -> Run {
        let id: RunId = id.parse().unwrap();
        Run {
            chain: id.clone(),
            id,
            pass: 1,
            follow: Follow::Chain,
            trigger: Trigger::Manual,
            attempt: 1,
            previous: None,
            state: State::Queued,
            due_at: Instant::from_s(0),
            start_at: None,
            queued_at: Instant::from_s(1),
            queue_position: 1,
            joining: false,
            caught_up: false,
            priority: 0,
            pool: None,
            upstreams: Vec::new(),
            definition: None,
            boot: None,
            starting_at: None,
            started_at: None,
            started_by: None,
            remark: None,
            stop: None,
            given: Given::default(),
            range: None,
        }
    }

    /// The same, started at second 2 and ended at second 5.
    pub(crate) fn ended(id: &str, outcome: Outcome, exit: Option<Exit>) -> Run {
        let end = End { outcome, reason: None, at: Instant::from_s(5), exit };
        Run { state: State::Ended(end), started_at: Some(Instant::from_s(2)), ..queued(id) }
    }

    #[test]
    fn absent_facts_are_null_and_secrets_stay_away() {
        let mut run = queued("report.42");
        run.given.env.insert("TOKEN".to_owned(), "hush".to_owned());
        let json = serde_json::to_value(RunView::from(&run)).unwrap();
        for key in ["outcome", "reason", "started_at", "ended_at", "exit_code", "signal", "definition"] {
            assert_eq!(json.get(key), Some(&serde_json::Value::Null), "{key}");
        }
        assert_eq!(json["due_at"], "1970-01-01T00:00:00.000Z");
        assert_eq!(json["state"], "queued");
        assert_eq!(json["given"]["variables"][0], "TOKEN");
        assert!(!json.to_string().contains("hush"));
    }

    #[test]
    fn an_end_is_told_in_full() {
        let exit = Exit { exit_code: Some(3), ..Exit::default() };
        let view = RunView::from(&ended("report.42", Outcome::Failed, Some(exit)));
        assert_eq!((view.state, view.outcome, view.exit_code), (StateWord::Ended, Some(Outcome::Failed), Some(3)));
        assert_eq!(view.duration_ms, Some(3000));
        let text = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<RunView>(&text).unwrap(), view);
    }
}

//! A [`Run`]: one execution of one batch, or the record that it did not happen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::{DefinitionHash, RunId};
use super::input::InputId;
use super::time::Instant;

/// One row of the journal: everything that the scheduler knows of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Batch and number.
    pub id: RunId,
    /// The first run of the chain that this run belongs to; its own id if it began one.
    pub chain: RunId,
    /// Which pass of its chain it belongs to. Pass 1 is what the chain's first run led to; each rerun, and each run that a
    /// failure started, begins another, numbered on.
    pub pass: u32,
    /// What may follow the runs of its pass.
    pub follow: Follow,
    /// Why it exists.
    pub trigger: Trigger,
    /// 1 for the first.
    pub attempt: u32,
    /// The attempt before this one, or the run that this one is a rerun of.
    pub previous: Option<RunId>,
    /// How far it has come, with what is known only then.
    pub state: State,
    /// When it was due: the occurrence's instant, inherited along a chain; for a run by hand the moment of the `start`.
    pub due_at: Instant,
    /// While it waits for its time (a jitter's offset, a retry's delay): it does not start before this.
    pub start_at: Option<Instant>,
    /// While it waits for its upstreams: a join in a chain, of which one has ended.
    pub joining: bool,
    /// When its row was made.
    pub queued_at: Instant,
    /// Its place among those that wait, smaller first; across all batches, never given twice.
    pub queue_position: u64,
    /// It was not decided in time: it goes behind all others.
    pub caught_up: bool,
    /// Higher goes first.
    pub priority: i32,
    /// The pool that it takes a slot of.
    pub pool: Option<String>,
    /// The runs whose ends led to it, in the order of `after`.
    pub upstreams: Vec<RunId>,
    /// The definition it runs: set when it becomes `starting`.
    pub definition: Option<DefinitionHash>,
    /// The boot of the host in which it became `starting`.
    pub boot: Option<String>,
    /// When it became `starting`.
    pub starting_at: Option<Instant>,
    /// When its script was let go.
    pub started_at: Option<Instant>,
    /// The operator who started it: `uid 1000`. Unset unless its trigger is `manual` or `rerun`.
    #[serde(default)]
    pub started_by: Option<String>,
    /// Why it waits, while it does, or a remark on how it came about; for people.
    pub remark: Option<String>,
    /// Who asked for its end.
    pub stop: Option<StopRequest>,
    /// What `start` was given beside the batch.
    #[serde(default)]
    pub given: Given,
    /// For a record of many occurrences at once.
    pub range: Option<Range>,
}

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits: for its time, its batch, a slot.
    Queued,
    /// Its start is in the journal; its script may, or may not yet, have begun.
    Starting,
    /// Its script has been let go.
    Running,
    /// It is over, and its row never changes again.
    Ended(End),
}

/// A [`State`] without what is known in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateWord {
    /// [`State::Queued`].
    Queued,
    /// [`State::Starting`].
    Starting,
    /// [`State::Running`].
    Running,
    /// [`State::Ended`].
    Ended,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// The one word.
    pub outcome: Outcome,
    /// Why, for people: always there unless it succeeded.
    pub reason: Option<String>,
    /// When.
    pub at: Instant,
    /// What the shim measured, if a script ran.
    pub exit: Option<Exit>,
}

/// What is known of a script that ran and ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The code that the script gave to exit.
    pub exit_code: Option<u8>,
    /// The signal that ended it, by number.
    pub signal: Option<i32>,
    /// Bytes in stdout.log.
    pub stdout_bytes: u64,
    /// Bytes that the script wrote to stdout and that are not in stdout.log: beyond its limit, or missing for a reason
    /// that stands in the remarks ([`super::missing::Missing`]).
    pub stdout_dropped_bytes: u64,
    /// Bytes in stderr.log.
    pub stderr_bytes: u64,
    /// As for stdout.
    pub stderr_dropped_bytes: u64,
    /// CPU time of the script and what it waited for, in user mode.
    pub cpu_user_ms: u64,
    /// The same in the kernel.
    pub cpu_system_ms: u64,
    /// The largest resident size of one of its processes.
    pub memory_bytes_max: u64,
    /// How many processes were left, and ended, when the script had ended.
    pub left_running: u32,
    /// What an operator should know of how the run went, one sentence each. They change neither outcome nor exit code.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

impl Exit {
    /// The status of the script, for people.
    pub fn status(&self) -> String {
        match (self.exit_code, self.signal) {
            (_, Some(signal)) => format!("ended by signal {signal}{}", signal_name(signal)),
            (Some(code), None) => format!("exit code {code}"),
            (None, None) => "no exit status".to_owned(),
        }
    }
}

/// ` (KILL)` for the signals that people meet; nothing for others. The numbers are those of signal(7), the same on every
/// architecture that batchd is built for.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (HUP)",
        2 => " (INT)",
        3 => " (QUIT)",
        4 => " (ILL)",
        6 => " (ABRT)",
        7 => " (BUS)",
        8 => " (FPE)",
        9 => " (KILL)",
        11 => " (SEGV)",
        13 => " (PIPE)",
        14 => " (ALRM)",
        15 => " (TERM)",
        24 => " (XCPU)",
        25 => " (XFSZ)",
        _ => "",
    }
}

/// Why a run exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// An occurrence of its schedule.
    Schedule,
    /// Its upstreams ended.
    Upstream,
    /// A run of a batch that names it in `on_error` failed.
    Error,
    /// Started by an operator (`batchd start`).
    Manual,
    /// An attempt before it failed.
    Retry,
    /// Repeated by an operator (`batchd rerun`).
    Rerun,
}

/// How a run ended, in one word. In the order of the design's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran and its exit code means success.
    Succeeded,
    /// It ran and its exit code, or a signal, means failure; or it could not be run.
    Failed,
    /// It ran longer than its `timeout`.
    TimedOut,
    /// Somebody ended it.
    Cancelled,
    /// Nobody can say how it ended.
    Lost,
    /// It never started: an upstream did not succeed.
    Aborted,
    /// It never started: overlap, disabled, paused, replaced, removed.
    Skipped,
    /// It never started: the daemon was not running.
    Missed,
}

/// What may follow the runs of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Follow {
    /// Nothing: `--only`.
    Nothing,
    /// What follows in the chain and has not succeeded in it: a rerun.
    Unsucceeded,
    /// What follows in the chain: a start by hand.
    Chain,
    /// What follows in the chain, and joins across chains: schedules, and `--downstream`.
    Everything,
}

/// Who asked for a run's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// `uid 1000`, or `batchd` for a `replace` and a shutdown.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Instant,
}

/// What `start` was given beside the batch; a rerun and a retry take it on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// `-- ARGS`: behind the definition's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `--env K=V`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// `--input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
}

impl Given {
    /// The input that was sent along.
    pub fn stored_input(&self) -> Option<&InputId> {
        match &self.input {
            Some(Input::Stored(id)) => Some(id),
            Some(Input::File(_) | Input::Run(_)) | None => None,
        }
    }
}

/// Where a run by hand takes its input from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The stdout of this run.
    Run(RunId),
    /// This file, by its absolute path.
    File(String),
    /// An input that was sent along with the `start`.
    Stored(InputId),
}

/// Many occurrences in one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first instant; the last is the run's `due_at`.
    pub from: Instant,
    /// How many.
    pub count: u64,
    /// Counting was given up: there are at least `count`.
    pub at_least: bool,
}

impl State {
    /// The word for it.
    pub fn word(&self) -> StateWord {
        match self {
            Self::Queued => StateWord::Queued,
            Self::Starting => StateWord::Starting,
            Self::Running => StateWord::Running,
            Self::Ended(_) => StateWord::Ended,
        }
    }
}

impl Run {
    /// How it ended, once it has.
    pub fn end(&self) -> Option<&End> {
        match &self.state {
            State::Ended(end) => Some(end),
            State::Queued | State::Starting | State::Running => None,
        }
    }

    /// How it ended in one word, once it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.end().map(|end| end.outcome)
    }

    /// It ended, and well.
    pub fn succeeded(&self) -> bool {
        self.outcome() == Some(Outcome::Succeeded)
    }

    /// Its start is in the journal and it has not ended.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, State::Starting | State::Running)
    }
}

/// So many letters at the beginning make two words alike, whatever their ends: `success` for `succeeded`.
const SAME_BEGINNING: usize = 4;

/// The one of `words` that `text` is probably meant to be: it begins alike, or at most a third of its letters are wrong.
fn similar<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let text = text.to_lowercase();
    let beginning = |word: &str| text.chars().zip(word.chars()).take_while(|(one, other)| one == other).count();
    let begins_alike = |word: &&&str| beginning(word) >= SAME_BEGINNING.min(text.len().max(SAME_BEGINNING - 1));
    if let Some(word) = words.iter().filter(begins_alike).max_by_key(|word| beginning(word)) {
        return Some(word);
    }
    // No word is that long, and the distance takes the product of both lengths.
    let longest = words.iter().map(|word| word.len()).max()?;
    let near = words.iter().filter(|_| text.len() <= 2 * longest);
    let (distance, word) = near.map(|word| (strsim::damerau_levenshtein(&text, word), word)).min()?;
    (distance <= (word.len() / 3).max(1)).then_some(word)
}

/// The word of each variant, as the journal and JSON have it; and back.
macro_rules! words {
    ($name:ident { $($variant:ident => $word:literal),* $(,)? }) => {
        impl $name {
            /// All, in their order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word for it, as it stands in the journal, in JSON and on the command line.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.word())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|one| one.word() == text).ok_or_else(|| {
                    let all: Vec<&str> = Self::ALL.iter().map(|one| one.word()).collect();
                    let near = similar(text, &all).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
                    format!("{near}Use one of {}", all.join(", "))
                })
            }
        }
    };
}

words!(Trigger {
    Schedule => "schedule", Upstream => "upstream", Error => "error", Manual => "manual",
    Retry => "retry", Rerun => "rerun",
});
words!(StateWord { Queued => "queued", Starting => "starting", Running => "running", Ended => "ended" });
words!(Outcome {
    Succeeded => "succeeded", Failed => "failed", TimedOut => "timed_out", Cancelled => "cancelled",
    Lost => "lost", Aborted => "aborted", Skipped => "skipped", Missed => "missed",
});
words!(Follow { Nothing => "nothing", Unsucceeded => "unsucceeded", Chain => "chain", Everything => "everything" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_serde_writes() {
        for trigger in Trigger::ALL {
            assert_eq!(serde_json::to_string(trigger).unwrap(), format!("\"{trigger}\""));
            assert_eq!(trigger.word().parse(), Ok(*trigger));
        }
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_string(outcome).unwrap(), format!("\"{outcome}\""));
        }
        for state in StateWord::ALL {
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{state}\""));
        }
        for follow in Follow::ALL {
            assert_eq!(serde_json::to_string(follow).unwrap(), format!("\"{follow}\""));
        }
        assert!("done".parse::<Outcome>().unwrap_err().contains("succeeded, failed"));
    }

    #[test]
    fn words_that_are_nearly_right() {
        let check = |text: &str, expected: Option<&str>| {
            let outcomes: Vec<&str> = Outcome::ALL.iter().map(|outcome| outcome.word()).collect();
            assert_eq!(similar(text, &outcomes), expected, "{text}");
        };
        check("fail", Some("failed"));
        check("FAILED", Some("failed"));
        check("failure", Some("failed"));
        check("success", Some("succeeded"));
        check("timeout", Some("timed_out"));
        check("canceled", Some("cancelled"));
        check("skip", Some("skipped"));
        check("miss", Some("missed"));
        check("los", Some("lost"));
        check("ok", None);
        check("running", None);
        check(&"x".repeat(100_000), None);
        assert!("fail".parse::<Outcome>().unwrap_err().starts_with("did you mean `failed`?"));
    }
}

//! What a batch folder says once it is read and checked: [`Definition`]. Every key of `batch.toml` is a field here.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::id::{BatchName, DefinitionHash};
use super::text::quoted;
use super::time::{duration_ms, duration_ms_option};

/// The most bytes of the name of a script's variable: `run.json` lists all names, and has a length that is read.
pub const VARIABLE_NAME_BYTES_MAX: usize = 128;

/// Why no variable of a script can be called so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VariableNameError {
    /// A shell takes it for no name: letters, digits and `_`, no digit first.
    #[error("`{}` can't be the name of a variable", quoted(.0))]
    Malformed(String),
    /// More than [`VARIABLE_NAME_BYTES_MAX`].
    #[error("this variable's name has {0} bytes, more than the {VARIABLE_NAME_BYTES_MAX} allowed")]
    TooLong(usize),
    /// batchd's own.
    #[error("`{0}` is reserved")]
    Reserved(String),
}

impl VariableNameError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "a name has letters, digits and `_`, and can't begin with a digit",
            Self::TooLong(_) => "choose a shorter one",
            Self::Reserved(_) => "names that begin with `BATCHD_` are reserved for batchd; choose another",
        }
    }
}

/// Whether a batch or an operator may set a variable of this name.
pub fn check_variable_name(name: &str) -> Result<(), VariableNameError> {
    if name.len() > VARIABLE_NAME_BYTES_MAX {
        return Err(VariableNameError::TooLong(name.len()));
    }
    let is_word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if name.is_empty() || !is_word || name.as_bytes()[0].is_ascii_digit() {
        return Err(VariableNameError::Malformed(name.to_owned()));
    }
    if name.starts_with("BATCHD_") { Err(VariableNameError::Reserved(name.to_owned())) } else { Ok(()) }
}

/// The checked content of one batch folder, with the settings' defaults applied: nothing is left to look up but the zone.
///
/// The journal keeps it as JSON, so that the next daemon knows which schedule was in force when the last one ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// The folder's name.
    pub name: BatchName,
    /// The hash of the folder's content. Defaults and zones are no part of it.
    pub hash: DefinitionHash,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// Words to find the batch by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The cron expressions as written; each parses. Empty for a batch that no schedule starts.
    #[serde(default)]
    pub cron: Vec<String>,
    /// The IANA name of the zone in which `cron` is meant; none: the system's.
    #[serde(default)]
    pub timezone: Option<String>,
    /// The upstreams, in the order in which they were written.
    #[serde(default)]
    pub after: Vec<BatchName>,
    /// Runs even if an upstream did not succeed.
    #[serde(default)]
    pub independent: bool,
    /// Takes the upstreams' stdout as its stdin.
    #[serde(default)]
    pub use_previous_output: bool,
    /// What is started when a run of this batch has failed for good.
    #[serde(default)]
    pub on_error: Vec<BatchName>,
    /// False: the folder itself says that the batch is off.
    pub enabled: bool,
    /// Globs of host names; empty: in force on every host.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// How the script is run.
    pub execution: Execution,
    /// Whether, and when, a failed run is tried again.
    pub retry: RetryPolicy,
    /// What happens when a run falls due while the batch is busy.
    pub overlap: Overlap,
    /// What happens to occurrences that nobody was there for.
    pub catch_up: CatchUp,
    /// How old an occurrence may be to be caught up.
    #[serde(with = "duration_ms", rename = "catch_up_within_ms")]
    pub catch_up_within: Duration,
    /// The occurrences are moved by a fixed offset within this.
    #[serde(with = "duration_ms", rename = "jitter_ms")]
    pub jitter: Duration,
    /// Higher goes first when slots are short.
    #[serde(default)]
    pub priority: i32,
    /// The named limit, from the settings, under which its runs count.
    #[serde(default)]
    pub pool: Option<String>,
}

/// What the shim needs to know of a definition to run its script.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// The script's path inside the definition: for a zip, `script.sh`, since the definition holds what was in it.
    pub script: String,
    /// The folders of `batches.d` that the definition includes: what is in them is code, and is always the definition's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// The program that gets the script, with its own arguments first. Already resolved: the key, else the `#!` line, else `bash`.
    pub interpreter: Vec<String>,
    /// Arguments behind the script.
    #[serde(default)]
    pub args: Vec<String>,
    /// Variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The variables that the script gets from the daemon's own environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pass_env: Vec<String>,
    /// A file of variables, read when a run starts. Relative: in the batch's folder.
    #[serde(default)]
    pub env_file: Option<String>,
    /// Where the script runs, if not in its workspace. Absolute.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// The user whose rights the script has, if not the daemon's.
    #[serde(default)]
    pub user: Option<String>,
    /// The file mode creation mask.
    pub umask: u32,
    /// The script and what it starts can gain no rights by exec.
    #[serde(default)]
    pub no_new_privs: bool,
    /// How long a run may last.
    #[serde(with = "duration_ms_option", rename = "timeout_ms", default)]
    pub timeout: Option<Duration>,
    /// Between the polite signal and KILL.
    #[serde(with = "duration_ms", rename = "stop_grace_ms")]
    pub stop_grace: Duration,
    /// The exit codes that mean success.
    pub success_exit_codes: Vec<u8>,
    /// How much of the beginning of each of stdout and stderr is kept.
    pub log_bytes_max: u64,
    /// stdout and stderr come by one pipe, in their exact order, and are both in stdout.log.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merge_output: bool,
}

/// Keys `retries`, `retry_delay`, `retry_backoff`, `retry_delay_max`, `retry_on_lost`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// How many attempts may follow the first.
    pub retries: u32,
    /// Before the first retry.
    #[serde(with = "duration_ms", rename = "delay_ms")]
    pub delay: Duration,
    /// Each further delay is the last one times this.
    pub backoff: f64,
    /// No delay is longer.
    #[serde(with = "duration_ms", rename = "delay_max_ms")]
    pub delay_max: Duration,
    /// A lost run is tried again too.
    pub on_lost: bool,
}

/// What happens when a run of a batch falls due while the batch is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The new one is `skipped`.
    Skip,
    /// The new one waits; at most [`OVERLAP_QUEUE_MAX`] do.
    Queue,
    /// They run beside each other, each in a workspace of its definition; at most [`OVERLAP_QUEUE_MAX`] wait for a slot.
    Allow,
    /// What runs or waits is ended, and the new one starts.
    Replace,
}

/// The most runs of one batch that wait under [`Overlap::Queue`] and [`Overlap::Allow`]: more is a batch that will never catch up, and is `skipped`.
pub const OVERLAP_QUEUE_MAX: usize = 100;

/// What happens to occurrences that fell due while the daemon was down or the host asleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// The latest one runs, the others are `missed`.
    Last,
    /// None runs.
    None,
    /// Each runs, one after the other.
    All,
}

impl RetryPolicy {
    /// The wait before attempt `attempt` (2 is the first retry): `delay * backoff^(attempt - 2)`, at most `delay_max`.
    pub fn delay_before(&self, attempt: NonZeroU32) -> Duration {
        if self.delay.is_zero() {
            // Zero times what has become infinite would be no number.
            return Duration::ZERO;
        }
        let exponent = i32::try_from(attempt.get().saturating_sub(2)).unwrap_or(i32::MAX);
        let seconds = self.delay.as_secs_f64() * self.backoff.powi(exponent);
        // `min` also takes an infinite product down; a backoff is never negative or NaN (checked when loaded).
        let bounded = seconds.min(self.delay_max.as_secs_f64());
        // Whole milliseconds, the resolution of an instant: the journal gives back what was in memory.
        Duration::from_millis((bounded * 1000.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_delays() {
        let policy = RetryPolicy {
            retries: 9,
            delay: Duration::from_secs(10),
            backoff: 2.0,
            delay_max: Duration::from_secs(60),
            on_lost: false,
        };
        let delays: Vec<u64> = (2..7).map(|n| policy.delay_before(NonZeroU32::new(n).unwrap()).as_secs()).collect();
        assert_eq!(delays, [10, 20, 40, 60, 60]);
        assert_eq!(policy.delay_before(NonZeroU32::MAX).as_secs(), 60);
        let at_once = RetryPolicy { delay: Duration::ZERO, ..policy };
        assert_eq!(at_once.delay_before(NonZeroU32::MAX), Duration::ZERO);
    }
}

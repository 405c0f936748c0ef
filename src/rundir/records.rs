//! The records in a run folder: `run.json`, `claim`, `started.json`, `exit.json`.
//!
//! Each is one JSON object with the format's version and the run's token. What is read is never trusted: it may be cut
//! off, of another run, or a hand's work; each of these is a [`Damage`] of its own.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::fstat;
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::id::{DefinitionHash, RunId, Token};
use crate::model::launch::ExitCause;
use crate::model::run::{Exit, Input, Outcome, Trigger};
use crate::model::time::Instant;

/// The version of the records that this program writes; a program also reads the version before its own.
pub const VERSION: u32 = 1;

/// The oldest version that is read: that of the release before, whose shims outlive an upgrade. There is none before
/// the first.
pub const VERSION_READ_MIN: u32 = if VERSION > 1 { VERSION - 1 } else { 1 };

/// The most bytes of a record: what is longer was not written by batchd. (Thousands of names of variables fit.)
pub const RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// The greatest number of a signal on Linux.
const SIGNAL_MAX: i32 = 64;

/// A file of a run folder that carries the run's token.
pub trait Record: Serialize + DeserializeOwned {
    /// Its name.
    const FILE: &'static str;
    /// What no batchd would have written, although it can be read. None: it may be believed.
    fn fault(&self) -> Option<&'static str> {
        None
    }
}

/// `run.json`: what was run. It holds no value of a variable: they may be secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Whose it is.
    pub token: Token,
    /// The definition's hash.
    pub definition: DefinitionHash,
    /// The chain.
    pub chain: RunId,
    /// Why it exists.
    pub trigger: Trigger,
    /// 1 for the first.
    pub attempt: u32,
    /// When it was due.
    pub due_at: Instant,
    /// What its input is made of, in order.
    pub upstreams: Vec<UpstreamRecord>,
    /// What `--input` named.
    pub input: Option<Input>,
    /// The names of the variables that it was given, but for those of `env_file`.
    pub variables: Vec<String>,
    /// The file whose variables it was given too.
    pub env_file: Option<String>,
}

/// An upstream in [`RunRecord`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamRecord {
    /// The run.
    pub run: RunId,
    /// The run whose output counts for it.
    pub output_of: RunId,
    /// How it ended.
    pub outcome: Outcome,
}

/// A process, so described that a later one with the same pid is not taken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its pid.
    pub pid: i32,
    /// Clock ticks from the host's boot to its start: field 22 of proc_pid_stat(5).
    pub start_time: u64,
    /// The boot, as /proc/sys/kernel/random/boot_id names it.
    pub boot: String,
}

/// `claim`: who runs this run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// [`VERSION`].
    pub version: u32,
    /// Whose it is.
    pub token: Token,
    /// The shim; none: a daemon claimed it so that no shim ever will.
    pub shim: Option<ProcessIdentity>,
}

/// `started.json`: the script's process is there, and about to be let go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// [`VERSION`].
    pub version: u32,
    /// Whose it is.
    pub token: Token,
    /// The script's first process, the leader of its process group.
    pub script: ProcessIdentity,
    /// When it was let go.
    pub at: Instant,
}

/// `exit.json`: how it ended. Nothing of the run is alive when it is in place, but the shim itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Whose it is.
    pub token: Token,
    /// When its script was let go; none if it never was.
    pub started_at: Option<Instant>,
    /// When all of it was gone.
    pub ended_at: Instant,
    /// How.
    pub end: Ending,
}

/// How a run ended, in [`ExitRecord`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The script ran and ended.
    Exited {
        /// The status as wait(2) gave it.
        wait_status: i32,
        /// What made it end.
        cause: ExitCause,
        /// The exit code is one of `success_exit_codes`.
        success: bool,
        /// What was measured.
        exit: Exit,
    },
    /// The script could not be run, and will not be the next time either.
    CouldNotRun {
        /// Why, and what to do.
        reason: String,
    },
    /// The input was not what the journal says of it.
    InputIncomplete {
        /// Which, and what is wrong with it.
        reason: String,
    },
    /// It was stopped before the script was let go.
    StoppedBeforeStart,
}

/// Why a record can't be believed.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It could not be read.
    #[error("can't read {file}: {error}")]
    Unreadable {
        /// The file.
        file: &'static str,
        /// Why.
        error: io::Error,
    },
    /// It is not a record.
    #[error("{file} is damaged: {what}")]
    Content {
        /// The file.
        file: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// Another batchd wrote it: one that is newer, or older than the release before this one.
    #[error(
        "{file} was written by another batchd (version {version}); this one reads versions {VERSION_READ_MIN} to {VERSION}"
    )]
    Version {
        /// The file.
        file: &'static str,
        /// Its version.
        version: u32,
    },
    /// It is of another run, or of another journal.
    #[error("{file} belongs to another run or another journal")]
    Token {
        /// The file.
        file: &'static str,
    },
}

macro_rules! records {
    ($($name:ident => $file:literal),* $(,)?) => {$(
        impl Record for $name {
            const FILE: &'static str = $file;
        }
    )*};
}

records!(RunRecord => "run.json", Claim => "claim", Started => "started.json");

impl Record for ExitRecord {
    const FILE: &'static str = "exit.json";

    /// What is believed goes into the journal as it is, so that it has to fit there: a commit that can't succeed would
    /// keep the daemon from everything else.
    fn fault(&self) -> Option<&'static str> {
        let Ending::Exited { success, exit, .. } = &self.end else { return None };
        let counts = [
            exit.stdout_bytes,
            exit.stdout_dropped_bytes,
            exit.stderr_bytes,
            exit.stderr_dropped_bytes,
            exit.cpu_user_ms,
            exit.cpu_system_ms,
            exit.memory_bytes_max,
        ];
        if counts.iter().any(|count| i64::try_from(*count).is_err()) {
            return Some("it contains a number larger than the journal can hold");
        }
        if exit.signal.is_some_and(|signal| !(1..=SIGNAL_MAX).contains(&signal)) {
            return Some("it names a signal that doesn't exist");
        }
        if *success && exit.exit_code.is_none() {
            return Some("it says that the script succeeded but has no exit code");
        }
        None
    }
}

/// The bytes of a record, with a line end behind them.
pub fn encode<R: Record>(record: &R) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec(record).expect("records hold no map with keys that are not text, and no failing writer");
    bytes.push(b'\n');
    bytes
}

/// Reads a record below `folder`; `None` if it is not there.
pub(super) fn read<R: Record>(folder: BorrowedFd<'_>, token: &Token) -> Result<Option<R>, Damage> {
    match bytes::<R>(folder)? {
        Some(bytes) => decode(&bytes, token).map(Some),
        None => Ok(None),
    }
}

/// Reads the record of a run whose token is not known but by the record itself.
pub(super) fn read_of<R: Record>(folder: BorrowedFd<'_>, run: &RunId) -> Result<Option<R>, Damage> {
    let Some(bytes) = bytes::<R>(folder)? else { return Ok(None) };
    let head: Head = serde_json::from_slice(&bytes).map_err(|error| content::<R>(error.to_string()))?;
    if head.token.run != *run {
        return Err(Damage::Token { file: R::FILE });
    }
    decode(&bytes, &head.token).map(Some)
}

/// What is in the file of a record; `None` if it is not there.
fn bytes<R: Record>(folder: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, Damage> {
    let file = match super::open_at(folder, R::FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(content::<R>(error.to_string())),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
            return Err(content::<R>("the file is a symbolic link"));
        }
        Err(error) => return Err(unreadable::<R>(error)),
    };
    let length = u64::try_from(fstat(&file).map_err(unreadable::<R>)?.st_size).unwrap_or(u64::MAX);
    if length > RECORD_BYTES_MAX {
        return Err(content::<R>("the file is too large"));
    }
    let mut bytes = vec![0; length as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::read(&file, &mut bytes[filled..]).map_err(unreadable::<R>)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(Some(bytes))
}

/// What stays the same in every version of every record: so whose it is can be told of one that can't be read further.
#[derive(Deserialize)]
struct Head {
    version: u32,
    token: Token,
}

/// Reads the bytes of a record that has to carry this token.
pub fn decode<R: Record>(bytes: &[u8], token: &Token) -> Result<R, Damage> {
    let not_a_record = |error: serde_json::Error| content::<R>(error.to_string());
    let head: Head = serde_json::from_slice(bytes).map_err(not_a_record)?;
    if head.token != *token {
        return Err(Damage::Token { file: R::FILE });
    }
    if !(VERSION_READ_MIN..=VERSION).contains(&head.version) {
        return Err(Damage::Version { file: R::FILE, version: head.version });
    }
    let record: R = serde_json::from_slice(bytes).map_err(not_a_record)?;
    record.fault().map_or(Ok(record), |fault| Err(content::<R>(fault)))
}

fn content<R: Record>(what: impl Into<String>) -> Damage {
    Damage::Content { file: R::FILE, what: what.into() }
}

fn unreadable<R: Record>(error: impl Into<io::Error>) -> Damage {
    Damage::Unreadable { file: R::FILE, error: error.into() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::id::JournalId;

    pub(in super::super) fn token(queued_at_ms: i64) -> Token {
        let queued_at = Instant::from_ms(queued_at_ms);
        Token { journal: JournalId("j".to_owned()), run: "report.42".parse().unwrap(), queued_at }
    }

    pub(in super::super) fn claim(pid: i32) -> Claim {
        let shim = Some(ProcessIdentity { pid, start_time: 7, boot: "b".to_owned() });
        Claim { version: VERSION, token: token(1), shim }
    }

    pub(in super::super) fn run_record() -> RunRecord {
        RunRecord {
            version: VERSION,
            token: token(1),
            definition: DefinitionHash([7; 32]),
            chain: "load.7".parse().unwrap(),
            trigger: Trigger::Upstream,
            attempt: 1,
            due_at: Instant::from_ms(0),
            upstreams: Vec::new(),
            input: None,
            variables: vec!["PATH".to_owned()],
            env_file: None,
        }
    }

    pub(in super::super) fn exit_record() -> ExitRecord {
        let exit = Exit { exit_code: Some(3), stdout_bytes: 5, ..Exit::default() };
        let end = Ending::Exited { wait_status: 768, cause: ExitCause::Itself, success: false, exit };
        let (started_at, ended_at) = (Some(Instant::from_ms(1)), Instant::from_ms(2));
        ExitRecord { version: VERSION, token: token(1), started_at, ended_at, end }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let bytes = encode(&exit_record());
        assert_eq!(decode::<ExitRecord>(&bytes, &token(1)).unwrap(), exit_record());
        assert!(matches!(decode::<ExitRecord>(&bytes, &token(2)), Err(Damage::Token { .. })));
        for cut in 0..bytes.len() - 1 {
            assert!(matches!(decode::<ExitRecord>(&bytes[..cut], &token(1)), Err(Damage::Content { .. })), "{cut}");
        }
        assert!(matches!(decode::<Started>(&bytes, &token(1)), Err(Damage::Content { .. })));
    }

    /// K3: a shim of the release before, and one of a release that nobody knows yet.
    #[test]
    fn a_record_of_each_version_has_its_end() {
        let of = |version: u32| serde_json::to_vec(&ExitRecord { version, ..exit_record() }).unwrap();
        for version in VERSION_READ_MIN..=VERSION {
            assert_eq!(decode::<ExitRecord>(&of(version), &token(1)).unwrap().version, version);
        }
        for version in [0, VERSION + 1, u32::MAX] {
            let error = decode::<ExitRecord>(&of(version), &token(1)).unwrap_err();
            assert!(matches!(error, Damage::Version { version: found, .. } if found == version), "{error}");
        }
        // What it says beyond its head may have any form: whose it is can be told all the same.
        let strange = |run: &str| {
            let mut token = serde_json::to_value(token(1)).unwrap();
            token["run"] = run.into();
            format!(r#"{{"version":{},"token":{token},"end":[]}}"#, VERSION + 1).into_bytes()
        };
        let ours = decode::<ExitRecord>(&strange("report.42"), &token(1));
        assert!(matches!(ours, Err(Damage::Version { .. })), "{ours:?}");
        let theirs = decode::<ExitRecord>(&strange("report.43"), &token(1));
        assert!(matches!(theirs, Err(Damage::Token { .. })), "{theirs:?}");
    }

    #[test]
    fn what_the_journal_could_not_hold_is_not_believed() {
        let decoded = |change: &dyn Fn(&mut Exit, &mut bool)| {
            let mut record = exit_record();
            if let Ending::Exited { exit, success, .. } = &mut record.end {
                change(exit, success);
            }
            decode::<ExitRecord>(&encode(&record), &token(1))
        };
        assert!(decoded(&|_, _| {}).is_ok());
        assert!(decoded(&|exit, _| exit.stdout_bytes = i64::MAX as u64).is_ok());
        let refused = |change: &dyn Fn(&mut Exit, &mut bool)| match decoded(change) {
            Err(Damage::Content { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert!(refused(&|exit, _| exit.stdout_bytes = u64::MAX).contains("larger"));
        assert!(refused(&|exit, _| exit.memory_bytes_max = 1 << 63).contains("larger"));
        assert!(refused(&|exit, _| exit.signal = Some(i32::MAX)).contains("signal that doesn't exist"));
        assert!(refused(&|exit, success| (exit.exit_code, *success) = (None, true)).contains("succeeded"));
    }
}

//! Which calls, and what can become of them.

use std::collections::BTreeMap;
use std::fmt;

/// Whose calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The daemon's first thread, from its exec on.
    Daemon,
    /// The thread that writes the journal.
    Journal,
    /// The launcher and its shims, each counted for itself.
    Shims,
}

/// A call: the how-manieth of that name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) number: u32,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its process is killed, as soon as it is made.
    Kill,
    /// It does nothing, and gives this error.
    Error(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => f.write_str("SIGKILL"),
            Self::Error(error) => f.write_str(error),
        }
    }
}

impl Fault {
    /// As strace(1) wants it said.
    pub(crate) fn injection(self, call: &Call) -> String {
        let Call { name, number } = call;
        match self {
            Self::Kill => format!("inject={name}:signal=KILL:when={number}"),
            Self::Error(error) => format!("inject={name}:error={error}:when={number}"),
        }
    }
}

/// Each call that is looked at, with the errors that the kernel can give there.
const CALLS: [(&str, &[&str]); 18] = [
    ("openat", &["EIO", "ENOSPC", "EMFILE"]),
    ("openat2", &["EIO", "ENOSPC", "EMFILE"]),
    ("write", &["EIO", "ENOSPC"]),
    ("pwrite64", &["EIO", "ENOSPC"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("fdatasync", &["EIO", "ENOSPC"]),
    ("ftruncate", &["EIO", "ENOSPC"]),
    ("rename", &["EIO", "ENOSPC"]),
    ("renameat", &["EIO", "ENOSPC"]),
    ("renameat2", &["EIO", "ENOSPC"]),
    ("linkat", &["EIO", "ENOSPC"]),
    ("mkdir", &["EIO", "ENOSPC"]),
    ("mkdirat", &["EIO", "ENOSPC"]),
    ("clone", &["EAGAIN", "ENOMEM"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
    ("fork", &["EAGAIN", "ENOMEM"]),
    ("execve", &["EIO", "ENOMEM"]),
    ("flock", &["EIO"]),
];

/// All of them, as strace wants them named.
pub(crate) fn names() -> String {
    CALLS.map(|(name, _)| name).join(",")
}

/// What can become of a call.
pub(crate) fn faults(name: &str) -> impl Iterator<Item = Fault> + use<> {
    let errors = CALLS.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, errors)| errors);
    [Fault::Kill].into_iter().chain(errors.iter().map(|error| Fault::Error(error)))
}

/// How often a process makes each call, by what strace has written: the most that any one of them does.
pub(crate) fn count(trace: &str) -> Vec<(&'static str, u32)> {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for line in trace.lines() {
        // With `-f` a line begins with the process, else with the call.
        let (process, rest) = match line.split_once(' ') {
            Some((process, rest)) if process.parse::<u32>().is_ok() => (process, rest.trim_start()),
            _ => ("", line),
        };
        if let Some((name, _)) = rest.split_once('(') {
            *counts.entry((name, process)).or_default() += 1;
        }
    }
    let most = |name: &str| counts.iter().filter(|((known, _), _)| *known == name).map(|(_, count)| *count).max();
    CALLS.iter().filter_map(|(name, _)| Some((*name, most(name)?))).collect()
}

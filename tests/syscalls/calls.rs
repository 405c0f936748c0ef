//! Which calls, and what can become of them.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Whether an error is possible there at all.
    may_fail: bool,
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
        let Call { name, number, .. } = call;
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

impl Call {
    /// What can become of it.
    pub(crate) fn faults(self) -> impl Iterator<Item = Fault> {
        let errors = CALLS.iter().find(|(known, _)| *known == self.name).map_or(&[][..], |(_, errors)| errors);
        let errors = if self.may_fail { errors } else { &[] };
        [Fault::Kill].into_iter().chain(errors.iter().map(|error| Fault::Error(error)))
    }
}

/// What an injection has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Struck {
    /// Nothing: there were not as many calls this time.
    Nothing,
    /// A call that can fail like this.
    AsMeant,
    /// One that can't: it was written to a pipe or an event counter.
    NoFile,
    /// A script's own.
    Script,
}

/// By what strace has written.
pub(crate) fn struck(trace: &str) -> Struck {
    let mut scripts: BTreeSet<&str> = BTreeSet::new();
    for line in trace.lines() {
        let (process, call) = split(line);
        let is_killed = line.contains("killed by SIGKILL");
        if is_killed || line.contains("INJECTED") {
            return match () {
                () if scripts.contains(process) => Struck::Script,
                () if !is_killed && !may_fail(call) => Struck::NoFile,
                () => Struck::AsMeant,
            };
        }
        if is_exec(process, call) {
            scripts.insert(process);
        }
    }
    Struck::Nothing
}

/// The process, where strace follows several and says which, and what is said of it.
fn split(line: &str) -> (&str, &str) {
    match line.split_once(' ') {
        Some((process, rest)) if process.parse::<u32>().is_ok() => (process, rest.trim_start()),
        _ => ("", line),
    }
}

/// Whether a process that was forked by a traced one becomes another program.
fn is_exec(process: &str, call: &str) -> bool {
    !process.is_empty() && call.starts_with("execve(") && call.ends_with("= 0")
}

/// Only a file's disk can be broken or full: `write(5</path>, …)`, not `write(5<anon_inode:[eventfd]>, …)`.
fn may_fail(line: &str) -> bool {
    let Some((_, arguments)) = line.split_once("write(") else { return true };
    arguments.split_once('<').is_some_and(|(_, what)| what.starts_with('/'))
}

/// The calls of each process, by what strace has written; of those that do not make the same, one that makes the most.
pub(crate) fn count(trace: &str) -> Vec<Call> {
    let mut made: BTreeMap<(&str, &str), Vec<bool>> = BTreeMap::new();
    let mut scripts: BTreeSet<&str> = BTreeSet::new();
    for line in trace.lines() {
        let (process, call) = split(line);
        if scripts.contains(process) {
            continue;
        }
        if let Some((name, _)) = call.split_once('(') {
            made.entry((name, process)).or_default().push(may_fail(call));
        }
        if is_exec(process, call) {
            scripts.insert(process);
        }
    }
    let mut calls = Vec::new();
    for (name, _) in CALLS {
        let of_name = made.iter().filter(|((known, _), _)| *known == name).map(|(_, may_fail)| may_fail);
        let most = of_name.max_by_key(|may_fail| may_fail.len());
        let numbered = most.into_iter().flatten().zip(1..);
        calls.extend(numbered.map(|(may_fail, number)| Call { name, number, may_fail: *may_fail }));
    }
    calls
}

//! Processes as /proc shows them: who they are, what descends from them, and how to signal exactly them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::rundir::records::ProcessIdentity;

/// The most bytes of a process's stat: 52 numbers of at most 20 digits, and a name.
const STAT_BYTES_MAX: usize = 1280;

/// How often those that are new in a tree are stopped before all are killed. Each round finds fewer, unless the tree
/// has room to grow without an end: then killing has to begin all the same.
pub const STOP_ROUNDS_MAX: usize = 100;

/// What proc_pid_stat(5) says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// One letter; `Z` is a zombie: it has ended.
    pub state: u8,
    /// Its parent.
    pub parent: i32,
    /// Its session.
    pub session: i32,
    /// Clock ticks from the host's boot to its start.
    pub start_time: u64,
}

/// Looks at a process. `None`: there is none with this pid.
pub fn stat(pid: i32) -> Option<Stat> {
    // The kernel gives it whole to one read that is large enough.
    let mut bytes = [0; STAT_BYTES_MAX];
    let count = fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut bytes).ok()?;
    parse_stat(&bytes[..count])
}

/// Who the process with this pid is now.
pub fn identity(pid: i32, boot: &str) -> io::Result<ProcessIdentity> {
    let stat =
        stat(pid).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("can't read /proc/{pid}/stat")))?;
    Ok(ProcessIdentity { pid, start_time: stat.start_time, boot: boot.to_owned() })
}

/// A handle on the process that `identity` means. `None`: it has ended, whoever may have its pid now.
pub fn open(identity: &ProcessIdentity, boot: &str) -> Option<OwnedFd> {
    let handle = pidfd_open(Pid::from_raw(identity.pid)?, PidfdFlags::empty()).ok()?;
    // Looked at behind the open: the handle is of that process for as long as the start time is the same now.
    let found = stat(identity.pid)?;
    (identity.boot == boot && found.start_time == identity.start_time && found.state != b'Z').then_some(handle)
}

/// Signals every descendant of this process. Those that are forked meanwhile are missed.
pub fn signal_descendants(signal: Signal) {
    let own = std::process::id() as i32;
    let found = descendants(own);
    found.iter().for_each(|pid| signal_descendant(*pid, own, &found, signal));
}

/// Kills every descendant of this process, also of a tree that forks faster than it can be killed: all are stopped
/// first.
///
/// A process that has a signal to act on can't fork any more, and one that is stopped keeps its place among those that
/// its user may have, which a killed one gives free. So when nobody is found who was not stopped before, nobody else
/// can come. The caller repeats it until no child is left: there may be a rare one that was missed.
pub fn kill_descendants() {
    let own = std::process::id() as i32;
    let mut stopped: BTreeSet<i32> = BTreeSet::new();
    for _ in 0..STOP_ROUNDS_MAX {
        let found = descendants(own);
        let fresh: Vec<i32> = found.iter().copied().filter(|pid| !stopped.contains(pid)).collect();
        if fresh.is_empty() {
            break;
        }
        fresh.iter().for_each(|pid| signal_descendant(*pid, own, &found, Signal::STOP));
        stopped.extend(fresh);
    }
    signal_descendants(Signal::KILL);
}

/// Signals one of the processes `found` below `own`, through a handle.
fn signal_descendant(pid: i32, own: i32, found: &[i32], signal: Signal) {
    let Some(handle) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return };
    // A descendant may have ended since, and its pid been given to a stranger: what the handle holds has to descend
    // too.
    let descends = stat(pid).is_some_and(|stat| stat.parent == own || found.contains(&stat.parent));
    if descends {
        // An error means that it has ended, or has more rights than we do: nothing can be done about either.
        let _ = pidfd_send_signal(&handle, signal);
    }
}

/// All that descends from `root`, parents before their children.
pub fn descendants(root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    let mut table = None;
    while next < found.len() {
        let children = children(found[next]).unwrap_or_else(|| {
            let table = table.get_or_insert_with(children_of_all);
            table.get(&found[next]).cloned().unwrap_or_default()
        });
        let fresh: Vec<i32> = children.into_iter().filter(|pid| !found.contains(pid)).collect();
        found.extend(fresh);
        next += 1;
    }
    found.remove(0);
    found
}

/// The children of all threads of a process. `None` if the kernel does not tell (built without CONFIG_PROC_CHILDREN).
fn children(pid: i32) -> Option<Vec<i32>> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Some(Vec::new()) };
    let mut children = Vec::new();
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(text) => children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            Err(_) if thread.path().exists() => return None,
            Err(_) => {}
        }
    }
    Some(children)
}

/// The children of every process of the host.
fn children_of_all() -> BTreeMap<i32, Vec<i32>> {
    let mut table: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in all() {
        if let Some(stat) = stat(pid) {
            table.entry(stat.parent).or_default().push(pid);
        }
    }
    table
}

/// Every pid of the host.
pub fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The command's name, in parentheses, may hold anything: fields are counted from the last `)`.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let end = bytes.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(bytes.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(20).collect();
    // Field 3 of the manual page, the state, is the first here.
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_any_command_name() {
        let line = b"7 (a) R 1 2) S 3 4 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 2 3";
        assert_eq!(parse_stat(line), Some(Stat { state: b'S', parent: 3, session: 5, start_time: 987_654 }));
        assert_eq!(parse_stat(b"7 (a"), None);
        assert_eq!(parse_stat(b"7 (a) S 1"), None);
    }

    #[test]
    fn a_process_is_known_by_pid_start_and_boot() {
        let me = identity(std::process::id() as i32, "b").unwrap();
        assert!(open(&me, "b").is_some());
        assert!(open(&me, "another boot").is_none());
        assert!(open(&ProcessIdentity { start_time: me.start_time + 1, ..me }, "b").is_none());
    }
}

//! Finds the processes of a run whose shim was killed, and ends them or waits for them.
//!
//! Nobody is their parent any more. They are known by the shim's session, by descending from the script's first
//! process, or by the token in their environment; and they are held by handles, so that no stranger is ever meant. One
//! that has left all three (own session, orphaned, emptied environment) is not found: only a cgroup would hold it.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::rundir::records::ProcessIdentity;
use crate::shim::tree;

/// How long to wait for a thread that can't be had: the host is short of processes, and that takes others' ends to
/// mend.
const THREAD_RETRY: Duration = Duration::from_secs(1);

/// Whose processes are looked for.
#[derive(Clone, Debug)]
pub(super) struct Quarry {
    /// `BATCHD_TOKEN` of the run.
    pub(super) token: String,
    /// The shim that was killed.
    pub(super) shim: Option<ProcessIdentity>,
    /// The script's first process.
    pub(super) script: Option<ProcessIdentity>,
    /// This boot of the host.
    pub(super) boot: String,
}

/// Returns when no process of the quarry is left. `kill`: ends them; else waits for their own end.
pub(super) async fn until_gone(quarry: Quarry, kill: bool) {
    let (mut stopped, mut rounds): (BTreeSet<i32>, usize) = (BTreeSet::new(), 0);
    loop {
        let wanted = quarry.clone();
        // Reading the environment of every process takes milliseconds: not on the daemon's own thread.
        let Some(found) = on_a_thread(move || wanted.find()).await else {
            sleep(THREAD_RETRY).await;
            continue;
        };
        if found.is_empty() {
            return;
        }
        let before = stopped.len();
        stopped.extend(found.iter().map(|(pid, _)| *pid));
        rounds += 1;
        if kill {
            // As a shim does it: one that is stopped can't fork.
            let all_stopped = stopped.len() == before || rounds == tree::STOP_ROUNDS_MAX;
            let signal = if all_stopped { Signal::KILL } else { Signal::STOP };
            for (_, handle) in &found {
                // An error means that it has ended, or has more rights than we do: then its own end is waited for.
                let _ = pidfd_send_signal(handle, signal);
            }
            if !all_stopped {
                continue;
            }
        }
        (stopped, rounds) = (BTreeSet::new(), 0);
        for (_, handle) in found {
            // An error (no descriptor left) only makes the next look come earlier.
            if let Ok(handle) = super::watched(handle, Interest::READABLE) {
                let _ = handle.readable().await;
            }
        }
    }
}

/// Runs this on a thread of its own. None: the system has no thread for it now (the runtime would panic then).
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = oneshot::channel();
    let run = move || drop(done.send(work()));
    std::thread::Builder::new().name("hunt".to_owned()).spawn(run).ok()?;
    result.await.ok()
}

impl Quarry {
    /// Each with its pid.
    fn find(&self) -> Vec<(i32, OwnedFd)> {
        let descendants = match &self.script {
            Some(script) if tree::open(script, &self.boot).is_some() => {
                [script.pid].into_iter().chain(tree::descendants(script.pid)).collect()
            }
            Some(_) | None => Vec::new(),
        };
        let own = std::process::id() as i32;
        let others = tree::all().into_iter().filter(|pid| *pid != own);
        others.filter_map(|pid| Some((pid, self.hold(pid, descendants.contains(&pid))?))).collect()
    }

    /// A handle on the process, if it belongs to the quarry.
    fn hold(&self, pid: i32, descends: bool) -> Option<OwnedFd> {
        let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // Everything that is looked at is behind the open: it is this process's or, if that has ended, the signal goes
        // nowhere.
        let stat = tree::stat(pid)?;
        let belongs = descends || self.is_of_session(&stat) || self.has_token(pid);
        (stat.state != b'Z' && belongs).then_some(handle)
    }

    /// The shim's session. Its number is not given away while it has a process, but a stranger may have begun another
    /// one under it since: then it has a leader that lives, or processes that are older than the shim.
    fn is_of_session(&self, stat: &tree::Stat) -> bool {
        let Some(shim) = self.shim.as_ref().filter(|shim| shim.boot == self.boot) else { return false };
        stat.session == shim.pid && stat.start_time >= shim.start_time && tree::stat(shim.pid).is_none()
    }

    fn has_token(&self, pid: i32) -> bool {
        // Other users' environments can't be read unless we are root; then they were not ours to start either.
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
        let token = format!("BATCHD_TOKEN={}", self.token);
        environment.split(|byte| *byte == 0).any(|variable| variable == token.as_bytes())
    }
}

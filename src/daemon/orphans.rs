//! What the first process of a container owes to all others in it: to wait for those whose parent has gone.

use rustix::process::{Pid, WaitOptions, waitpid};
use tracing::debug;

use crate::shim::tree;
use crate::supervisor::launcher;

/// Whether this process is the first one of its pid namespace: when it ends, all others are killed.
pub(super) fn is_first_process() -> bool {
    std::process::id() == 1
}

/// Waits for each orphan that has ended. The daemon's own children are left to those who started them: they are in its
/// session, but for the launcher, which is known by its name. A shim, and what else descends from a launcher, is not.
pub(super) fn reap() {
    let own = std::process::id() as i32;
    let Some(session) = tree::stat(own).map(|stat| stat.session) else { return };
    for pid in tree::all() {
        let is_orphan = tree::stat(pid).is_some_and(|it| it.parent == own && it.state == b'Z' && it.session != session);
        if is_orphan && !is_launcher(pid) && waitpid(Pid::from_raw(pid), WaitOptions::NOHANG).is_ok() {
            debug!(pid, "an orphan has ended");
        }
    }
}

fn is_launcher(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == launcher::PROCESS_NAME)
}

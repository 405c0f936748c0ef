//! A checkout by git is taken as a whole: while it is under way, nothing is read.

use std::time::Duration;

use super::Loader;
use crate::clock::Monotonic;
use crate::watcher::Quiet;

/// While git holds its index lock a checkout may be half done; a lock older than this was left behind by a crash.
pub(super) const GIT_LOCK_MAX: Duration = Duration::from_secs(10);

impl Loader {
    /// Whether git holds the lock of its index in `batches.d` or above: a checkout may be half done.
    pub(super) fn git_is_at_work(&mut self, now: Monotonic) -> bool {
        // The working tree may be where a link leads to.
        let target = self.batches.canonicalize().unwrap_or_default();
        let mut above = self.batches.ancestors().chain(target.ancestors());
        let locked = above.any(|folder| folder.join(".git/index.lock").exists());
        if !locked {
            self.git_locked_since = None;
            return false;
        }
        let since = *self.git_locked_since.get_or_insert(now);
        let waits = now < since + GIT_LOCK_MAX;
        if waits {
            self.quiet.postpone(now);
            self.paused_until = now + Quiet::PERIOD;
        }
        waits
    }
}

//! What the local place remembers of the runs that have not ended: [`Entry`].

use std::time::Duration;

use tokio::task::AbortHandle;

use super::classify::Row;
use crate::model::launch::Launch;
use crate::model::run::State;

/// Between attempts to start a run for which the system has no room: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Between looks at a lock that somebody is about to let go, and at a start that nobody will tell of: at first, and at
/// most.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// A run that has not ended.
pub(super) struct Entry {
    pub(super) launch: Box<Launch>,
    /// It was launched by this place: without an order, nothing of it has ever been begun.
    pub(super) is_new: bool,
    /// The serial of the last order for it; 0: none yet.
    pub(super) serial: u64,
    /// Its start has been reported, or is in the journal.
    pub(super) started: bool,
    /// Its start has been reported by this place: also of a run that was found alive, so that it is known to be.
    pub(super) start_reported: bool,
    /// Somebody asked for its end.
    pub(super) stop: bool,
    /// What will wake it: a timer or the end of a process. Replaced by the next, which ends it.
    wake: Option<Wake>,
    /// How often it had to wait.
    failures: u32,
    /// A shim was asked for once more without a wait: the request before may have been lost with a launcher.
    pub(super) repeated: bool,
    /// A wait for the next attempt has been reported, and is under way or over.
    pub(super) waited: bool,
    /// It runs, its output or its end waits for something, and that has been reported.
    pub(super) output_waits: bool,
    /// What kept the last shim from preparing the run, as it told by a notice: it may have had no room for more words.
    pub(super) shim_error: Option<i32>,
    looks: u32,
}

/// A task that is of no use once its run has something else to wait for.
struct Wake(AbortHandle);

impl Drop for Wake {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Entry {
    pub(super) fn new(launch: Box<Launch>, is_new: bool) -> Self {
        let started = launch.run.started_at.is_some() || matches!(launch.run.state, State::Running);
        let stop = launch.run.stop.is_some();
        let start_reported = false;
        Self {
            launch,
            is_new,
            serial: 0,
            started,
            start_reported,
            stop,
            wake: None,
            failures: 0,
            repeated: false,
            waited: false,
            output_waits: false,
            shim_error: None,
            looks: 0,
        }
    }

    pub(super) fn row(&self) -> Row {
        if self.started { Row::Running } else { Row::Starting }
    }

    pub(super) fn wake_by(&mut self, task: AbortHandle) {
        self.wake = Some(Wake(task));
    }

    /// How long to wait before the next attempt: longer each time.
    pub(super) fn retry_delay(&mut self) -> Duration {
        self.waited = true;
        self.failures += 1;
        doubled(RETRY_FIRST, self.failures - 1, RETRY_MAX)
    }

    /// How long to wait before the next look: longer each time.
    pub(super) fn look_delay(&mut self) -> Duration {
        self.looks += 1;
        doubled(LOOK_FIRST, self.looks - 1, LOOK_MAX)
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    // Sixteen doublings are beyond every maximum here.
    (first * (1 << times.min(16))).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_maximum() {
        let seconds: Vec<u64> =
            [0, 1, 5, 6, 60, u32::MAX].map(|n| doubled(RETRY_FIRST, n, RETRY_MAX).as_secs()).to_vec();
        assert_eq!(seconds, [1, 2, 32, 60, 60, 60]);
    }
}

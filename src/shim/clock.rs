//! What the shim needs of time: the wall clock for its records, the monotonic clock for `timeout` and `stop_grace`.
//! (The daemon's clock is a module of its own, and asynchronous.)

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::model::time::Instant;

/// A reading of the monotonic clock: no step of the wall clock changes how long anything takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// Now.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self(Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0)))
    }

    /// `wait` after this; never earlier, however long `wait` is.
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// How long this is after an earlier one.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long it is from `now` until this, for poll(2); zero if it is past.
    pub fn from(self, now: Self) -> Timespec {
        let wait = self.0.saturating_sub(now.0);
        Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(wait.subsec_nanos()) }
    }
}

/// The wall clock.
pub fn now() -> Instant {
    let now = clock_gettime(ClockId::Realtime);
    Instant::from_ms(now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000))
}

//! The clocks of the host, and the alarm that the loop waits for. The only module but the shim's own that reads a clock.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::SystemTime;

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::model::time::Instant;

/// A point on the clock that only goes forward and stands still while the host sleeps: for measuring how long something
/// has lasted.
pub type Monotonic = std::time::Instant;

/// The time of day.
pub fn now() -> Instant {
    let now = SystemTime::now();
    match now.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => Instant::from_ms(0) + since,
        Err(before) => Instant::from_ms(0) - before.duration(),
    }
}

/// The clock that only goes forward.
pub fn monotonic() -> Monotonic {
    Monotonic::now()
}

/// What `CLOCK_MONOTONIC` shows, in microseconds: a service manager compares its own with it.
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// The name of this boot of the host.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The inode of the host's first pid namespace: `PROC_PID_INIT_INO`, linux/proc_ns.h.
const HOST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The start of the container that this process is in: when its first process began, in clock ticks from the host's boot.
/// `None`: it is in no container, or nobody can tell.
pub fn container() -> Option<String> {
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    if namespace.as_os_str() == HOST_PID_NAMESPACE {
        return None;
    }
    // proc_pid_stat(5): the name, in brackets, is the only field with anything in it; the start is 20 fields behind it.
    let stat = fs::read_to_string("/proc/1/stat").ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    Some(behind_name.split_whitespace().nth(19)?.to_owned())
}

/// A descriptor that the runtime tells of when it can be read.
fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor: it stays open, and the same, for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(Into::into)
}

/// Why the alarm rang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// The time that was set has come.
    Due,
    /// The clock was set.
    ClockSet,
}

/// An alarm on the time of day, which also rings when the clock is set. It never rings before its time.
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
    /// What the timer is armed with; none once it has rung.
    armed: Option<Instant>,
}

impl Alarm {
    /// An alarm that is not set. Needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let timer = watched(timer)?;
        let mut alarm = Self { timer, armed: None };
        alarm.set(None)?;
        Ok(alarm)
    }

    /// Sets it to ring at `at`; at nothing but a change of the clock if there is nothing to wait for.
    pub fn set(&mut self, at: Option<Instant>) -> io::Result<()> {
        // A timer that is not armed is not told of a clock that is set: "nothing to wait for" is a time that never comes.
        let at = at.unwrap_or(Instant::MAX);
        if self.armed == Some(at) { Ok(()) } else { self.arm(at) }
    }

    /// Waits until it rings. It has to be set again after that.
    pub async fn fired(&mut self) -> io::Result<Fired> {
        loop {
            let mut guard = self.timer.readable().await?;
            let mut count = [0; 8];
            match rustix::io::read(self.timer.get_ref(), &mut count) {
                Ok(_) => {
                    self.armed = None;
                    return Ok(Fired::Due);
                }
                Err(Errno::CANCELED) => {
                    self.armed = None;
                    return Ok(Fired::ClockSet);
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn arm(&mut self, at: Instant) -> io::Result<()> {
        let time = at.max(Instant::from_ms(1));
        let value = Timespec { tv_sec: time.as_s(), tv_nsec: (time.as_ms() - time.as_s() * 1000) * 1_000_000 };
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        match timerfd_settime(self.timer.get_ref(), flags, &Itimerspec { it_interval: none, it_value: value }) {
            // The clock was set since the last time: the new time is armed all the same, and what is due is looked at.
            Ok(_) | Err(Errno::CANCELED) => {
                self.armed = Some(at);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_rings_at_its_time_and_not_before() {
        let mut alarm = Alarm::new().unwrap();
        for wait_ms in [0, 1, 30] {
            let at = now() + Duration::from_millis(wait_ms);
            alarm.set(Some(at)).unwrap();
            assert_eq!(alarm.fired().await.unwrap(), Fired::Due);
            assert!(now() >= at, "rung at {} for {at}", now());
        }
    }

    #[tokio::test]
    async fn a_time_that_is_over_rings_at_once() {
        let mut alarm = Alarm::new().unwrap();
        for past in [Instant::from_ms(0), Instant::MIN, now()] {
            alarm.set(Some(past)).unwrap();
            assert_eq!(alarm.fired().await.unwrap(), Fired::Due);
        }
    }

    #[test]
    fn the_boot_has_a_name() {
        assert_eq!(boot_id().unwrap().len(), 36);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}

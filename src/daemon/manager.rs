//! What the service manager is told, as sd_notify(3) has it: when scheduling has begun, when it ends, and that the journal
//! still answers. Without a manager that listens, nothing.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::writer::Pulse;
use crate::clock;

/// A manager that does not read is not waited for longer than this: it takes its messages as they come.
const SEND_MAX: Duration = Duration::from_secs(5);

/// The way to the manager, if there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Manager {
    socket: Option<Arc<UnixDatagram>>,
    /// It ends a daemon that has not been heard of for so long.
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that started this process, by `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub(super) fn of_environment() -> Self {
        let Some(address) = env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        match connect(&address) {
            Ok(socket) => Self { socket: Some(Arc::new(socket)), watchdog: watchdog(|name| env::var(name).ok()) },
            Err(error) => {
                let address = address.to_string_lossy();
                warn!("can't reach the service manager at {address}: {error}");
                Self::default()
            }
        }
    }

    /// All that was asked for is in force: at the start, and after [`Self::reloading`].
    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    /// What is on the disk is being decided; [`Self::ready`] ends it.
    pub(super) fn reloading(&self) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic_us()));
    }

    /// The daemon is on its way out.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Tells the manager, for as long as this is polled, that the daemon lives. It is told by an answer of the journal's
    /// writer since the last time, and by nothing else: neither a thread that hangs at its disk nor a loop that hangs lives.
    pub(super) async fn keep_alive(self, pulse: Pulse) {
        let Some(watchdog) = self.watchdog else { return std::future::pending().await };
        // Half of it, as sd_watchdog_enabled(3) says: one that comes late is not too late.
        let mut ticks = interval(watchdog / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = pulse.answers();
        loop {
            ticks.tick().await;
            let answers = pulse.answers();
            if answers != seen {
                seen = answers;
                self.tell("WATCHDOG=1");
            }
            pulse.ask();
        }
    }

    fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            let what = message.lines().next().unwrap_or_default();
            warn!("can't send {what} to the service manager: {error}");
        }
    }
}

/// A path, or with `@` a name in the abstract namespace: unix(7).
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(SEND_MAX))?;
    Ok(socket)
}

/// The time within which the manager wants to hear of this very process.
fn watchdog(variable: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let meant = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let time = variable("WATCHDOG_USEC")?.parse().ok().map(Duration::from_micros);
    time.filter(|time| meant && !time.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_for_this_process() {
        let own = std::process::id().to_string();
        let check = |usec: Option<&str>, pid: Option<&str>, expected: Option<u64>| {
            let variable = |name: &str| if name == "WATCHDOG_PID" { pid } else { usec }.map(str::to_owned);
            assert_eq!(watchdog(variable), expected.map(Duration::from_micros), "{usec:?} {pid:?}");
        };
        check(None, None, None);
        check(Some("3000000"), None, Some(3_000_000));
        check(Some("3000000"), Some(&own), Some(3_000_000));
        check(Some("3000000"), Some("1"), None);
        check(Some("0"), None, None);
        check(Some("soon"), None, None);
    }
}

//! Ending the runs with the daemon (`--stop-runs`, a second Ctrl-C), also when the journal can't be written.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::Daemon;
use super::inlets::{Incoming, Inlets};
use super::signals::Signal;
use crate::model::id::RunId;
use crate::scheduler::Event;
use crate::supervisor::Place as _;

/// How much longer than the longest `stop_grace` the ends are waited for. A script that was killed is gone by then; its shim
/// may still wait for room to write down how it ended, and then outlives the daemon, as shims do.
const WAIT_BEYOND_GRACE: Duration = Duration::from_secs(5);

impl Daemon {
    /// Ends every run that is under way, and waits for the ends; another signal ends the wait.
    ///
    /// Nobody has asked for the end of these runs: they have failed, as when the host is shut down, and the next daemon
    /// starts their retries and what follows. Runs that wait are left to it, too. Unless `is_recorded`, the journal can't be
    /// written, and the next daemon reads the ends from the run folders.
    pub(super) async fn stop_all(&mut self, inlets: &mut Inlets, is_recorded: bool) -> Result<()> {
        self.starts_nothing = true;
        let under_way = self.scheduler.live().filter(|run| run.is_under_way());
        let mut open: BTreeSet<RunId> = under_way.map(|run| run.id.clone()).collect();
        open.iter().for_each(|run| self.place.stop(run.clone()));
        if !is_recorded {
            // The signal that told the daemon to end, which nobody has taken.
            while inlets.signals.try_recv().is_ok() {}
        }
        let until = self.stopped_until();
        while !open.is_empty() {
            let Ok(incoming) = timeout_at(until, inlets.next()).await else {
                warn!("some runs have not recorded their end yet; the next daemon takes care of them");
                break;
            };
            match incoming? {
                Incoming::Report(run, report) => {
                    if report.is_end() {
                        open.remove(&run);
                    }
                    if is_recorded {
                        self.handle(vec![Event::Report { run, report }]).await?;
                    }
                }
                Incoming::Signal(Signal::End | Signal::Interrupt) => break,
                // Who asks for something now is told by the closed connection that the daemon ends.
                Incoming::Act(_) | Incoming::Swap(_) | Incoming::Signal(Signal::Reload) => {}
            }
        }
        Ok(())
    }

    /// Until when runs that are told to end now are waited for.
    fn stopped_until(&self) -> Instant {
        let under_way = self.scheduler.live().filter(|run| run.is_under_way());
        let graces = under_way.filter_map(|run| self.scheduler.graph().get(&run.id.batch));
        let grace = graces.map(|node| node.definition().execution.stop_grace).max().unwrap_or_default();
        Instant::now() + grace + WAIT_BEYOND_GRACE
    }
}

//! Ending the runs with the daemon (`--stop-runs`, a second Ctrl-C), also when the journal can't be written.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::Daemon;
use super::inlets::{Incoming, Inlets};
use super::signals::Signal;
use crate::model::id::RunId;
use crate::model::request::Request;
use crate::scheduler::Event;
use crate::supervisor::Place as _;

/// How much longer than the longest `stop_grace` the ends are waited for. A script that was killed is gone by then; its shim
/// may still wait for room to write down how it ended, and then outlives the daemon, as shims do.
const WAIT_BEYOND_GRACE: Duration = Duration::from_secs(5);

/// Why the runs of a daemon that was told so were stopped.
const STOPPED_BY_END: &str = "the daemon was stopped together with its runs";

impl Daemon {
    /// Has every run that is under way ended, and waits for it; another signal ends the wait.
    pub(super) async fn stop_all(&mut self, inlets: &mut Inlets) -> Result<()> {
        self.starts_nothing = true;
        // What waits is for the next daemon: nobody asked that it does not run.
        let under_way = self.scheduler.live().filter(|run| run.is_under_way());
        let under_way: Vec<RunId> = under_way.map(|run| run.id.clone()).collect();
        for run in under_way {
            let request = Request::Stop { run, reason: Some(STOPPED_BY_END.to_owned()) };
            self.request("batchd", request, oneshot::channel().0).await?;
        }
        let until = self.stopped_until();
        while self.scheduler.live().any(|run| run.is_under_way() && run.stop.is_some()) {
            let Ok(incoming) = timeout_at(until, inlets.next()).await else {
                warn!("some runs have not recorded their end yet; the next daemon takes care of them");
                break;
            };
            match incoming? {
                Incoming::Report(run, report) => self.handle(vec![Event::Report { run, report }]).await?,
                Incoming::Signal(Signal::End | Signal::Interrupt) => break,
                // Who asks for something now is told by the closed connection that the daemon ends.
                Incoming::Act(_) | Incoming::Swap(_) | Incoming::Signal(Signal::Reload) => {}
            }
        }
        Ok(())
    }

    /// As [`Self::stop_all`], when no request can be recorded: what was asked of this daemon is done all the same. So these
    /// runs end as if somebody else had stopped them, which the next daemon reads from their folders.
    pub(super) async fn stop_unrecorded(&mut self, inlets: &mut Inlets) -> Result<()> {
        let mut open: BTreeSet<RunId> =
            self.scheduler.live().filter(|run| run.is_under_way()).map(|run| run.id.clone()).collect();
        open.iter().for_each(|run| self.place.stop(run.clone()));
        // The signal that told the daemon to end, which nobody has taken; another one ends the wait.
        while inlets.signals.try_recv().is_ok() {}
        let until = self.stopped_until();
        while !open.is_empty() {
            let Ok(incoming) = timeout_at(until, inlets.next()).await else { break };
            match incoming? {
                Incoming::Report(run, report) if report.is_end() => drop(open.remove(&run)),
                Incoming::Signal(Signal::End | Signal::Interrupt) => break,
                Incoming::Report(..) | Incoming::Act(_) | Incoming::Swap(_) | Incoming::Signal(Signal::Reload) => {}
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

//! Where the loop's events come from. Behind each channel is a thread or a task; one that has died is an error, since a
//! daemon that only seems to work is worse than none: the service manager starts another, which adopts what runs.

use anyhow::{Result, anyhow};
use tokio::sync::mpsc;

use super::reload::Swap;
use super::signals::Signal;
use crate::api::Act;
use crate::model::id::RunId;
use crate::model::launch::Report;

/// The loop's ends of the channels.
pub(super) struct Inlets {
    pub(super) reports: mpsc::UnboundedReceiver<(RunId, Report)>,
    pub(super) acts: mpsc::Receiver<Act>,
    pub(super) swaps: mpsc::UnboundedReceiver<Swap>,
    pub(super) signals: mpsc::UnboundedReceiver<Signal>,
}

/// What comes in.
#[derive(Debug)]
pub(super) enum Incoming {
    Report(RunId, Report),
    Act(Act),
    Swap(Swap),
    Signal(Signal),
}

impl Inlets {
    /// The next of whatever comes. An error names the part of the daemon that has died.
    ///
    /// A signal goes before all else that has come: when the host goes down, runs end with it, and what is to follow them
    /// has to wait for the next boot.
    pub(super) async fn next(&mut self) -> Result<Incoming> {
        let Self { reports, acts, swaps, signals } = self;
        let others = async {
            tokio::select! {
                report = reports.recv() => alive(report, "the supervisor").map(|(run, report)| Incoming::Report(run, report)),
                act = acts.recv() => alive(act, "the socket's server").map(Incoming::Act),
                swap = swaps.recv() => alive(swap, "the reload thread").map(Incoming::Swap),
            }
        };
        tokio::select! {
            biased;
            signal = signals.recv() => alive(signal, "the signal thread").map(Incoming::Signal),
            other = others => other,
        }
    }

    /// The next report.
    pub(super) async fn next_report(&mut self) -> Result<(RunId, Report)> {
        alive(self.reports.recv().await, "the supervisor")
    }
}

/// What was received. Nothing, if nobody can send any more.
fn alive<T>(received: Option<T>, part: &str) -> Result<T> {
    received.ok_or_else(|| {
        anyhow!(
            "{part} crashed. This is a bug in batchd; please report it. Scripts continue, and the next daemon takes them over"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inlets with the other ends of their channels, of which one is given up.
    fn check(part: &str, die: impl FnOnce(&mut Ends)) {
        let (reports_end, reports) = mpsc::unbounded_channel();
        let (acts_end, acts) = mpsc::channel(1);
        let (swaps_end, swaps) = mpsc::unbounded_channel();
        let (signals_end, signals) = mpsc::unbounded_channel();
        let mut inlets = Inlets { reports, acts, swaps, signals };
        let mut ends = (Some(reports_end), Some(acts_end), Some(swaps_end), Some(signals_end));
        die(&mut ends);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(inlets.next()).unwrap_err().to_string();
        assert!(error.starts_with(part), "{error}");
    }

    type Ends = (
        Option<mpsc::UnboundedSender<(RunId, Report)>>,
        Option<mpsc::Sender<Act>>,
        Option<mpsc::UnboundedSender<Swap>>,
        Option<mpsc::UnboundedSender<Signal>>,
    );

    #[test]
    fn k8_a_part_that_has_died_is_named() {
        check("the supervisor", |ends| ends.0 = None);
        check("the socket's server", |ends| ends.1 = None);
        check("the reload thread", |ends| ends.2 = None);
        check("the signal thread", |ends| ends.3 = None);
    }

    /// Whatever else has come, and however much of it.
    #[test]
    fn a_signal_goes_first() {
        let (reports_end, reports) = mpsc::unbounded_channel();
        let (_acts_end, acts) = mpsc::channel(1);
        let (_swaps_end, swaps) = mpsc::unbounded_channel();
        let (signals_end, signals) = mpsc::unbounded_channel();
        let mut inlets = Inlets { reports, acts, swaps, signals };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..100 {
            let reason = "no room".to_owned();
            reports_end.send(("report.1".parse().unwrap(), Report::Waiting { reason })).unwrap();
            signals_end.send(Signal::End).unwrap();
            let first = runtime.block_on(inlets.next()).unwrap();
            assert!(matches!(first, Incoming::Signal(Signal::End)), "{first:?}");
        }
    }
}

//! Signals to the daemon, as values.

use std::thread;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use tokio::sync::{mpsc, watch};

use super::orphans;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGHUP: decide what is on the disk.
    Reload,
    /// SIGTERM: end; what runs goes on.
    End,
    /// SIGINT: as [`Signal::End`]; at a terminal, the second one ends what runs, too.
    Interrupt,
}

/// Receives signals in a thread of its own from now on. The second receiver says whether the daemon was told to end, for
/// when its loop can't listen.
pub(super) fn listen() -> Result<(mpsc::UnboundedReceiver<Signal>, watch::Receiver<bool>)> {
    // A file that has reached the limit of its size (the log, the journal) is an error of that write, not the daemon's end.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGXFSZ]).context("can't receive signals")?;
    if orphans::is_first_process() {
        signals.handle().add_signal(SIGCHLD).context("can't receive SIGCHLD")?;
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    let (end, told_to_end) = watch::channel(false);
    let serve = move || {
        for signal in signals.forever() {
            let signal = match signal {
                SIGHUP => Signal::Reload,
                SIGINT => Signal::Interrupt,
                SIGXFSZ => continue,
                SIGCHLD => {
                    orphans::reap();
                    continue;
                }
                _ => Signal::End,
            };
            if signal != Signal::Reload {
                end.send_replace(true);
            }
            if sender.send(signal).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(serve).context("can't start the signals' thread")?;
    Ok((receiver, told_to_end))
}

//! Ctrl-C while a command follows a run: the command ends, the run continues.

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use super::screen;
use crate::model::id::RunId;

/// Prints on Ctrl-C that only the command ends, and how to stop the run. The process then ends as it would have without
/// this.
pub(super) fn announce(run: &RunId) {
    // A shell makes the commands in its background ignore Ctrl-C. They must continue to ignore it.
    if ignores_interrupt() {
        return;
    }
    let Ok(mut signals) = Signals::new([SIGINT]) else { return };
    let text =
        format!("\n{run} continues. To follow its log: `batchd logs -f {run}`; to stop it: `batchd stop {run}`\n");
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            // If nobody reads stderr, nobody can be told.
            let _ = screen::aside(&text);
            let _ = signal_hook::low_level::emulate_default_handler(SIGINT);
        }
    });
}

fn ignores_interrupt() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    ignored & (1 << (SIGINT - 1)) != 0
}

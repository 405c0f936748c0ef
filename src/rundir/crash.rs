//! Crash points: named instants of the start and end protocols at which a test can have the process killed.
//!
//! In every build, so that what is tested is what runs; without the variable a point costs one load. The variable is
//! `BATCHD_CRASH_POINT=<name>`, or `<name>:<file>`: then only the first process that makes that file dies.

use std::sync::OnceLock;

/// The variable that names the point.
pub const CRASH_POINT: &str = "BATCHD_CRASH_POINT";

macro_rules! crash_points {
    ($($(#[$doc:meta])* $variant:ident => $name:literal),* $(,)?) => {
        /// A named instant of the start and end protocols, in their order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum CrashPoint { $($(#[$doc])* $variant),* }

        impl CrashPoint {
            /// All, in their order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in [`CRASH_POINT`].
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

crash_points! {
    /// Daemon: `starting` is decided, and not in the journal.
    DaemonBeforeStartingCommitted => "daemon_before_starting_committed",
    /// Daemon: `starting` is in the journal, and nothing has been done about it.
    DaemonStartingCommitted => "daemon_starting_committed",
    /// Daemon: the run folder is made, and empty.
    DaemonFolderMade => "daemon_folder_made",
    /// Daemon: `run.json` is in place, and no shim has been asked for.
    DaemonRunWritten => "daemon_run_written",
    /// Daemon: a shim has been asked for.
    DaemonShimRequested => "daemon_shim_requested",
    /// Launcher: a request has been read, and nothing forked.
    LauncherRequestRead => "launcher_request_read",
    /// Launcher: the shim is there, and the daemon does not know.
    LauncherForked => "launcher_forked",
    /// Shim: before the lock.
    ShimForked => "shim_forked",
    /// Shim: it has the lock, and no claim.
    ShimLocked => "shim_locked",
    /// Shim: the claim is in place.
    ShimClaimed => "shim_claimed",
    /// Shim: the workspace is up to date, and there is no process for the script.
    ShimDeployed => "shim_deployed",
    /// Shim: the script's process waits at its pipe.
    ShimScriptForked => "shim_script_forked",
    /// Shim: `started.json` is in place, and the script has not been let go.
    ShimStartedWritten => "shim_started_written",
    /// Shim: the script has been let go.
    ShimReleased => "shim_released",
    /// Shim: the script has ended, and what is left of its tree has not been looked for.
    ShimScriptEnded => "shim_script_ended",
    /// Shim: all of it is gone, and nothing is written about that.
    ShimTreeGone => "shim_tree_gone",
    /// Shim: `exit.json` is in place, and nobody has been told.
    ShimExitWritten => "shim_exit_written",
    /// Daemon: `exit.json` has been read, and its content is not in the journal.
    DaemonExitRead => "daemon_exit_read",
    /// Daemon: the end is in the journal, and the run folder not settled.
    DaemonEndCommitted => "daemon_end_committed",
    /// Daemon: the run folder is settled.
    DaemonSettled => "daemon_settled",
}

/// Kills this process, as `kill -9` would, if a test named this point.
pub fn crash_point(point: CrashPoint) {
    static NAMED: OnceLock<Option<(String, Option<String>)>> = OnceLock::new();
    let named = NAMED.get_or_init(|| {
        let value = std::env::var(CRASH_POINT).ok()?;
        Some(match value.split_once(':') {
            Some((name, file)) => (name.to_owned(), Some(file.to_owned())),
            None => (value, None),
        })
    });
    let Some((name, once)) = named else { return };
    let first = |file: &String| std::fs::OpenOptions::new().write(true).create_new(true).open(file).is_ok();
    if name == point.name() && once.as_ref().is_none_or(first) {
        // An error is impossible: a process may always kill itself.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

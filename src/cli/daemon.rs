//! `batchd daemon`: its arguments. The daemon itself is started by `main`.

use clap::{Args, ValueEnum};

/// Run the scheduler in the foreground
///
/// The daemon watches the batch definitions and starts runs when they are due. SIGTERM and SIGINT end it; SIGHUP reloads the
/// definitions. Scripts that are running go on when the daemon ends, and the next daemon takes them over. Only as the first
/// process of a container (PID 1) does the daemon stop its runs first, as with --stop-runs, because they would be killed.
///
/// The log goes to stderr. The variable RUST_LOG sets its level (error, warn, info, debug).
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd daemon
  batchd --settings /etc/batchd/batchd.toml daemon --log-format json
  RUST_LOG=debug batchd daemon --insecure-permissions")]
pub struct DaemonArgs {
    /// Accept definitions that other users can change (only for trying out)
    #[arg(long)]
    pub insecure_permissions: bool,
    /// Format of the log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Stop all runs when the daemon ends [default as PID 1]
    #[arg(long)]
    pub stop_runs: bool,
}

/// How the daemon's log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line per event, for people
    Text,
    /// One JSON object per line, for programs
    Json,
}

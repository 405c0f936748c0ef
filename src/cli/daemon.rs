//! `batchd daemon`: its arguments. The daemon itself is started by `main`.

use clap::{Args, ValueEnum};

/// Watches the definitions and runs what is due, in the foreground, until SIGTERM or SIGINT
///
/// Scripts outlive the daemon: when it ends, they go on, and the next daemon takes them over with nothing lost. SIGHUP has
/// what is on the disk decided at once. The log goes to stderr; its level is set by RUST_LOG (error, warn, info, debug).
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd daemon
  batchd --batches /etc/batchd/batches.d --state /var/lib/batchd --runs /var/log/batchd daemon --log-format json
  RUST_LOG=debug batchd daemon --insecure-permissions")]
pub struct DaemonArgs {
    /// Accept definitions that others than their owner could have written; only for trying out
    #[arg(long)]
    pub insecure_permissions: bool,
    /// The form of the log
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub log_format: LogFormat,
    /// End running scripts too when the daemon is told to end
    #[arg(long)]
    pub stop_runs: bool,
}

/// How the daemon's log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line an event, for people.
    Text,
    /// A JSON object a line, for machines.
    Json,
}

//! The daemon's own settings, checked: [`Settings`] and its [`Limits`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How many runs may be under way at once, all batches together, unless the settings say otherwise: enough that a machine
/// is never idle, few enough that a thousand batches due at midnight do not swap it to death.
pub const MAX_RUNNING_DEFAULT: u32 = 100;

/// Who may read the logs of runs unless the settings say otherwise: the owner and one group, as with system logs, since scripts
/// print secrets.
pub const RUNS_MODE_DEFAULT: u32 = 0o750;

/// `batchd.toml` without the paths (they are resolved before anything else is read) and without `[defaults]` (they are in
/// the definitions).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Slots.
    pub limits: Limits,
    /// Users, beside root and the daemon's, who may own definitions.
    pub trusted_owners: Vec<String>,
    /// The group that may use the socket.
    pub socket_group: Option<String>,
    /// The daemon's log has the lines that scripts write, too.
    pub log_output: bool,
    /// The mode of new run folders; their logs have the same one, without the right to execute.
    pub runs_mode: u32,
}

/// How many runs may be under way at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// All batches together.
    pub max_running: u32,
    /// The runs of each pool.
    pub pools: BTreeMap<String, u32>,
    /// Runs that are caught up: as many as the host has cores. Not a setting: measured where the settings are read.
    pub catch_up_running_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            trusted_owners: Vec::new(),
            socket_group: None,
            runs_mode: RUNS_MODE_DEFAULT,
            log_output: false,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_running: MAX_RUNNING_DEFAULT, pools: BTreeMap::new(), catch_up_running_max: 1 }
    }
}

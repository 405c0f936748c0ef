//! The settings while the daemon runs: read again when they may have changed, and what of them takes a restart.

use std::sync::PoisonError;

use tracing::info;

use super::{Loader, Surroundings};
use crate::clock;
use crate::load::{Paths, SettingsFile};
use crate::model::diagnostic::{Diagnostic, errors};
use crate::model::settings::Settings;
use crate::store::writers::Writers;

/// Reads the settings again; the daemon knows how.
pub(super) type SettingsOnDisk = Box<dyn FnMut() -> anyhow::Result<(Surroundings, Vec<Diagnostic>)> + Send>;

/// The settings that only a start of the daemon puts in force, in this order.
const AT_START: [&str; 6] = ["batches", "runs", "state", "socket_group", "runs_mode", "log_output"];

/// Their values.
pub(super) struct AtStart([Option<String>; AT_START.len()]);

impl AtStart {
    pub(super) fn of(settings: &SettingsFile) -> Self {
        let Paths { batches, runs, state } = settings.paths.clone();
        let Settings { socket_group, runs_mode, log_output, .. } = &settings.settings;
        let (socket_group, runs_mode) = (socket_group.clone(), Some(format!("{runs_mode:o}")));
        Self([batches, runs, state, socket_group, runs_mode, Some(log_output.to_string())])
    }

    /// The settings whose values are others now.
    fn changed(&self, now: &Self) -> Vec<&'static str> {
        let values = self.0.iter().zip(&now.0);
        AT_START.into_iter().zip(values).filter(|(_, (then, now))| then != now).map(|(name, _)| name).collect()
    }
}

/// The remark on settings that take effect at a restart, if there are any.
fn need_restart(changed: &[&str], file: &str) -> Option<Diagnostic> {
    let names: Vec<String> = changed.iter().map(|name| format!("`{name}`")).collect();
    let (last, before) = names.split_last()?;
    let what = match before {
        [] => format!("{last} has changed since the daemon started"),
        before => format!("{} and {last} have changed since the daemon started", before.join(", ")),
    };
    let hint = "restart the daemon to put the change in force; running scripts continue";
    Some(Diagnostic::of_file(None, file, what).with_hint(hint).as_remark())
}

/// What the settings said when they were read, good or not, with what is wrong; or why they could not be read.
pub(super) type Read = Result<(SettingsFile, Vec<Diagnostic>), String>;

fn what_was_read(read: &anyhow::Result<(Surroundings, Vec<Diagnostic>)>) -> Read {
    match read {
        Ok((around, diagnostics)) => Ok((around.settings.clone(), diagnostics.clone())),
        Err(problem) => Err(format!("{problem:#}")),
    }
}

impl Loader {
    /// Reads the settings again if they are not what was read last.
    pub(super) fn read_settings_if_changed(&mut self) {
        let read = (self.settings)();
        if self.open.settings_wait() || self.settings_read != what_was_read(&read) {
            self.take_settings(read);
        }
    }

    /// Reads the settings again. As with definitions, what was good stays in force until all of it is good again: without
    /// the defaults of a file that was cut short, every batch would be another one.
    pub(super) fn read_settings(&mut self) {
        let read = (self.settings)();
        self.take_settings(read);
    }

    /// Whether settings that are new may still be written: half of them could have valid syntax.
    fn may_be_written(&self, read: &anyhow::Result<(Surroundings, Vec<Diagnostic>)>) -> bool {
        let Ok((around, _)) = read else { return false };
        let is_open = match around.settings_writers {
            Writers::None => false,
            Writers::Some => true,
            Writers::Unknown { modified_at } => {
                self.open.may_be_open(&around.settings.file, modified_at, true, clock::now())
            }
        };
        is_open && self.settings_read != what_was_read(read)
    }

    fn take_settings(&mut self, read: anyhow::Result<(Surroundings, Vec<Diagnostic>)>) {
        self.settings_at = None;
        let is_open = self.may_be_written(&read);
        self.open.settings_looked(&self.around.settings.file, is_open, clock::monotonic());
        if is_open && !self.around.zones.changed() {
            return;
        }
        self.outdated = true;
        if !is_open {
            self.settings_read = what_was_read(&read);
        }
        let (around, diagnostics) = match read {
            Ok(read) => read,
            Err(problem) => {
                let what = format!("can't read the settings; the previous settings stay in force: {problem:#}");
                self.of_settings = vec![Diagnostic::of_file(None, &self.around.settings.file, what)];
                return;
            }
        };
        let before = std::mem::replace(&mut self.around, around);
        if before.zones.changed() {
            let release = self.around.zones.version();
            info!("the time-zone data or the system's time zone has changed: zone data {release}");
        }
        if is_open || errors(&diagnostics) > 0 {
            (self.around.settings, self.around.trust) = (before.settings, before.trust);
        }
        *self.trusted_owners.lock().unwrap_or_else(PoisonError::into_inner) = self.around.trusted_owners();
        if !is_open {
            let changed = self.at_start.changed(&AtStart::of(&self.around.settings));
            self.of_settings = diagnostics;
            self.of_settings.extend(need_restart(&changed, &self.around.settings.file));
        }
        self.folders.forget_looks();
    }
}

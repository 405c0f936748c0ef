//! The settings while the daemon runs: read again when they may have changed, and what of them takes a restart.

use std::sync::PoisonError;

use tracing::info;

use super::{Loader, Surroundings};
use crate::load::{Paths, SettingsFile};
use crate::model::diagnostic::{Diagnostic, errors};
use crate::model::settings::Settings;

/// Reads the settings again; the daemon knows how.
pub(super) type SettingsOnDisk = Box<dyn FnMut() -> anyhow::Result<(Surroundings, Vec<Diagnostic>)> + Send>;

/// The settings that only a start of the daemon puts in force.
#[derive(PartialEq)]
pub(super) struct AtStart {
    paths: Paths,
    socket_group: Option<String>,
    runs_mode: u32,
    log_output: bool,
}

impl AtStart {
    pub(super) fn of(settings: &SettingsFile) -> Self {
        let Settings { socket_group, runs_mode, log_output, .. } = &settings.settings;
        Self {
            paths: settings.paths.clone(),
            socket_group: socket_group.clone(),
            runs_mode: *runs_mode,
            log_output: *log_output,
        }
    }
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
        if self.settings_read != what_was_read(&read) {
            self.take_settings(read);
        }
    }

    /// Reads the settings again. As with definitions, what was good stays in force until all of it is good again: without
    /// the defaults of a file that was cut short, every batch would be another one.
    pub(super) fn read_settings(&mut self) {
        let read = (self.settings)();
        self.take_settings(read);
    }

    fn take_settings(&mut self, read: anyhow::Result<(Surroundings, Vec<Diagnostic>)>) {
        self.settings_at = None;
        self.settings_read = what_was_read(&read);
        self.outdated = true;
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
        if errors(&diagnostics) > 0 {
            (self.around.settings, self.around.trust) = (before.settings, before.trust);
        }
        *self.trusted_owners.lock().unwrap_or_else(PoisonError::into_inner) = self.around.trusted_owners();
        self.of_settings = diagnostics;
        if AtStart::of(&self.around.settings) != self.at_start {
            let what = "`batches`, `runs`, `state`, `socket_group`, `runs_mode` or `log_output` has changed \
                        since the daemon started";
            let diagnostic = Diagnostic::of_file(None, &self.around.settings.file, what);
            self.of_settings.push(diagnostic.with_hint("restart the daemon; running scripts continue"));
        }
        self.folders.forget_looks();
    }
}

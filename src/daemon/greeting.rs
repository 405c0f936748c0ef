//! The first words of a daemon: at most ten short lines that say where everything is, how it is, and what to type next.

use std::path::Path;

use tracing::{info, warn};

use super::Daemon;
use crate::model::diagnostic::Diagnostic;
use crate::model::text::{counted, shell_word};
use crate::paths::Paths;

/// Where settings are looked for that nobody names, beside the current folder.
const SETTINGS_OF_HOST: &str = "/etc/batchd/batchd.toml";

impl Daemon {
    /// Logs the greeting. Each word at the beginning of a line stands in the same column.
    pub(super) fn greet(&self, diagnostics: &[Diagnostic]) {
        let zone = self.zones.system();
        for reason in &zone.passed_over {
            warn!("the system's time zone: ignored {reason}");
        }
        info!("batchd {} is ready", env!("CARGO_PKG_VERSION"));
        info!("batches   {}", self.paths.batches.display());
        info!("runs      {}", self.paths.runs.display());
        info!("state     {}", self.paths.state.display());
        let absent = if self.paths.settings.exists() { "" } else { " (no such file: defaults)" };
        info!("settings  {}{absent}", self.paths.settings.display());
        info!("time zone {} (from {})", zone.zone.name, zone.from);
        tracing::debug!("time zone data {}", self.zones.version());
        info!("in force  {}", self.in_force());
        let folder = std::env::current_dir().ok();
        let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        if errors > 0 {
            warn!("errors    {}, listed by batchd check", counted(errors, "error", "errors"));
        }
        match self.scheduler.upcoming().next() {
            Some((at, name)) => info!("next      {name} at {}", zone.zone.local(at)),
            None => info!("next      nothing is scheduled"),
        }
        info!("look at   {} list", command(&self.paths, folder.as_deref()));
    }

    fn in_force(&self) -> String {
        let graph = self.scheduler.graph();
        let held = graph.iter().filter(|(_, node)| node.entry.held).count();
        let held = if held > 0 { format!(", {held} of them held") } else { String::new() };
        format!("{}{held}", counted(graph.len(), "batch", "batches"))
    }
}

/// The command line for another terminal, so that it finds what this daemon has.
fn command(paths: &Paths, folder: Option<&Path>) -> String {
    let word = |path: &Path| shell_word(&path.to_string_lossy());
    let is_default = |folder: &&Path| {
        paths.state == folder.join("state")
            && paths.runs == folder.join("runs")
            && paths.batches == folder.join("batches.d")
            && [folder.join("batchd.toml").as_path(), Path::new(SETTINGS_OF_HOST)].contains(&paths.settings.as_path())
    };
    match folder.filter(is_default) {
        Some(folder) => format!("cd {} && batchd", word(folder)),
        None => {
            let [batches, runs, state] = [&paths.batches, &paths.runs, &paths.state].map(|path| word(path));
            format!("batchd --batches {batches} --runs {runs} --state {state}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_finds_the_same_state() {
        let at = |state: &str, settings: &str| Paths {
            batches: "/home/a b/batches.d".into(),
            runs: "/home/a b/runs".into(),
            state: state.into(),
            settings: settings.into(),
        };
        let folder = Some(Path::new("/home/a b"));
        let check = |paths: Paths, expected: &str| assert_eq!(command(&paths, folder), expected);
        check(at("/home/a b/state", "/home/a b/batchd.toml"), "cd '/home/a b' && batchd");
        check(at("/home/a b/state", SETTINGS_OF_HOST), "cd '/home/a b' && batchd");
        check(
            at("/var/lib/batchd", SETTINGS_OF_HOST),
            "batchd --batches '/home/a b/batches.d' --runs '/home/a b/runs' --state /var/lib/batchd",
        );
    }
}

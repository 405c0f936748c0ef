//! The first lines of a daemon: at most ten that say where everything is, what is in force, and what to type next.

use std::path::Path;

use tracing::{debug, info, warn};

use super::Daemon;
use crate::model::diagnostic::Diagnostic;
use crate::model::text::{counted, shell_word};
use crate::paths::Paths;
use crate::zones::Zones;

/// Where settings are looked for that nobody names, beside the current folder.
const SETTINGS_OF_HOST: &str = "/etc/batchd/batchd.toml";

/// Logs where everything is, before anything that the daemon says about what is there. Each value begins in the same column.
pub(super) fn tell_where(paths: &Paths, zones: &Zones) {
    info!("batches   {}", paths.batches.display());
    info!("runs      {}", paths.runs.display());
    info!("state     {}", paths.state.display());
    if paths.settings.exists() {
        info!("settings  {}", paths.settings.display());
    } else {
        info!("settings  the defaults, without a batchd.toml");
    }
    let zone = zones.system();
    for reason in &zone.passed_over {
        warn!("the system's time zone: ignored {reason}");
    }
    info!("time zone {} (from {})", zone.zone.name, zone.from);
    debug!("time zone data {}", zones.version());
}

impl Daemon {
    /// Logs what is in force, and what to type next.
    pub(super) fn greet(&self, diagnostics: &[Diagnostic]) {
        info!("in force  {}", self.in_force());
        let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        if errors > 0 {
            warn!("errors    {errors}; to list them: `batchd check`");
        }
        match self.scheduler.upcoming().next() {
            Some((at, name)) => info!("next      {name} at {}", self.zones.system().zone.local(at)),
            None => info!("next      no batch has a schedule"),
        }
        info!("try       {} list", command(&self.paths, std::env::current_dir().ok().as_deref()));
        info!("batchd {} is ready", env!("CARGO_PKG_VERSION"));
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

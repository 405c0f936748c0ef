//! The command line as clap reads it: [`Cli`] and [`Verb`]. What belongs to one verb stands in that verb's file.

use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use super::{
    backup, check, daemon, disable, doctor, enable, exit, graph, list, logs, next, path, reload, rerun, restore, runs,
    show, start, stop,
};
use crate::model::id::{BatchName, IdError, RunId};
use crate::paths::PathFlags;

/// Runs batches: scripts with a schedule, edges and policies, one folder each in batches.d
///
/// A batch is a folder in `batches.d` with a `batch.toml` and a `script.sh`. The daemon watches the folder: what is dropped there is
/// scheduled, what is edited is in force within a second, what is removed stops. Every execution is a row in the journal and a folder of
/// plain log files below `runs`.
#[derive(Debug, Parser)]
#[command(name = "batchd", version, max_term_width = 120, after_long_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// Where everything is.
    #[command(flatten)]
    pub paths: PathFlags,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  batchd daemon                 watch ./batches.d and run what is due
  batchd check                  say all that is wrong with ./batches.d; fit for a git hook
  batchd list                   all batches: how they are, how they were, when they are due
  batchd start report --wait    run a batch now, and exit as it does
  batchd logs -f report         follow its latest run

Reading verbs (check, list, next, graph, runs, show, logs, path, doctor, backup) need no daemon.
`batchd help exit-codes` says what the exit codes mean.";

/// What can be asked for.
#[derive(Debug, Subcommand)]
#[expect(
    missing_docs,
    reason = "clap would show a variant's text in place of the verb's own, which stands at its arguments"
)]
pub enum Verb {
    Daemon(daemon::DaemonArgs),
    Check(check::CheckArgs),
    Reload(reload::ReloadArgs),
    List(list::ListArgs),
    Next(next::NextArgs),
    Graph(graph::GraphArgs),
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Rerun(rerun::RerunArgs),
    Runs(runs::RunsArgs),
    Show(show::ShowArgs),
    Logs(logs::LogsArgs),
    Path(path::PathArgs),
    Enable(enable::EnableArgs),
    Disable(disable::DisableArgs),
    Doctor(doctor::DoctorArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    /// What the exit codes mean
    #[command(long_about = exit::HELP)]
    ExitCodes,
}

/// A run, named by its id or by its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This run.
    Run(RunId),
    /// This batch's latest run that was begun.
    Batch(BatchName),
}

impl FromStr for Target {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        // A batch's name has no dot, and a run's id has one.
        if text.contains('.') { text.parse().map(Self::Run) } else { text.parse().map(Self::Batch) }
    }
}

/// For verbs that print facts.
#[derive(Clone, Copy, Debug, Args)]
pub struct Json {
    /// Print JSON for programs: instants in RFC 3339 UTC, absent facts null
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use clap::CommandFactory as _;

    use super::*;

    const INTRODUCTION: &str = "\
# The command line

What `batchd help` says, in one page: a test holds this page to it (`BLESS=1 cargo test reference` writes it anew).
The paths are given before or behind any verb, in the environment, or in the settings.
";

    /// The reference page.
    fn reference() -> String {
        let mut command = Cli::command().term_width(100).max_term_width(100);
        command.build();
        let mut page = INTRODUCTION.to_owned();
        let help = |command: &clap::Command| command.clone().render_long_help().to_string();
        let mut section = |title: &str, text: &str| {
            let text: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
            writeln!(page, "\n## {title}\n\n```text\n{}\n```", text.join("\n")).unwrap();
        };
        section("batchd", &help(&command));
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
            if verb.get_name() == "exit-codes" {
                section("Exit codes", exit::HELP);
                continue;
            }
            // The paths stand once, above.
            let globals = ["batches", "runs", "state", "settings"];
            let verb = globals.iter().fold(verb.clone(), |verb, name| verb.mut_arg(name, |arg| arg.hide(true)));
            section(&format!("batchd {}", verb.get_name()), &help(&verb));
        }
        page
    }

    #[test]
    fn the_reference_is_what_help_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
        let expected = reference();
        if std::env::var_os("BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &expected).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "docs/cli.md is not what `batchd help` says; write it anew with BLESS=1");
    }

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
    }

    /// clap keeps the paths under their names in each verb too: an argument of the same name would be read as a path, and panic.
    #[test]
    fn no_verb_has_an_argument_that_is_named_like_a_path() {
        let command = Cli::command();
        let paths: Vec<&str> =
            command.get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.get_id().as_str()).collect();
        assert_eq!(paths, ["batches", "runs", "state", "settings"]);
        for verb in command.get_subcommands() {
            let named = verb.get_arguments().find(|arg| paths.contains(&arg.get_id().as_str()));
            assert!(named.is_none(), "{}: {named:?}", verb.get_name());
        }
    }
}

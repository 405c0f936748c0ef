//! The command line as clap reads it: [`Cli`] and [`Verb`]. What belongs to one verb stands in that verb's file.

use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use super::{
    backup, check, daemon, disable, doctor, enable, exit, graph, list, logs, next, path, reload, rerun, restore, runs,
    show, start, stop,
};
use crate::model::id::{BatchName, IdError, RunId};
use crate::paths::PathFlags;

/// A batch scheduler: scripts with schedules, chains and policies, one folder each in batches.d
///
/// A batch is a folder in `batches.d` with a `batch.toml` and a `script.sh`. The daemon watches `batches.d`: new and changed batches are
/// in force within a second, and removed batches are no longer started. Each run of a batch is a row in the journal and a folder of plain
/// log files in `runs`.
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
  batchd daemon                 run the scheduler on ./batches.d
  batchd check                  check all definitions, for example in a git hook
  batchd list                   list batches with their last and next run
  batchd start report --wait    run a batch now, and exit with its exit code
  batchd logs -f report         follow the log of its latest run

The commands check, list, next, graph, runs, show, logs, path, doctor and
backup need no daemon.
`batchd help options` describes the options that all commands share,
`batchd help exit-codes` the exit codes.";

/// The options that all commands share.
pub(super) const SHARED_OPTIONS: [&str; 4] = ["batches", "runs", "state", "settings"];

/// `batchd help options`.
pub(super) const OPTIONS: &str = "\
Options that all commands share

    --batches <DIR>      Folder of the batch definitions
                         [env: BATCHD_BATCHES] [default: ./batches.d]
    --runs <DIR>         Folder of the runs and their logs
                         [env: BATCHD_RUNS] [default: ./runs]
    --state <DIR>        Folder of the daemon's own files
                         [env: BATCHD_STATE] [default: ./state]
    --settings <FILE>    Settings file
                         [env: BATCHD_SETTINGS]
                         [default: ./batchd.toml, else /etc/batchd/batchd.toml]
    -h, --help           Print a summary (`-h`) or all (`--help`) of a command's help

Write them before or after the command. An option overrides its environment
variable. The variable overrides the settings file, which has keys `batches`,
`runs` and `state`. The settings file overrides the default. Scripts that batchd
runs find all four in their environment, so `batchd` works inside them.

If the current folder has none of batchd's files and no path is given, all
commands but `daemon` use the nearest folder above that has a `batchd.toml` or
a `state/journal.db` of yours or of root, and say so. They look no further than
the file system of the current folder. /etc/batchd/batchd.toml comes after that.";

/// For help that is not about a command.
const ONLY_TEXT: &str = "{about}\n";

/// The commands.
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
    /// Show what the exit codes mean
    #[command(long_about = exit::HELP, help_template = ONLY_TEXT)]
    ExitCodes,
    /// Show the options that all commands share
    #[command(long_about = OPTIONS, help_template = ONLY_TEXT)]
    Options,
}

/// A run, named by its id or by its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This run.
    Run(RunId),
    /// A run of this batch; the command says which.
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
    /// Print JSON (times are RFC 3339 in UTC, unknown values are null)
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::mistakes;

    const INTRODUCTION: &str = "\
# The command line

The output of `batchd help` on one page. A test compares the two; `BLESS=1 cargo test reference` writes this page.
";

    /// The reference page.
    fn reference() -> String {
        let mut command = mistakes::command().term_width(100).max_term_width(100);
        command.build();
        let mut page = INTRODUCTION.to_owned();
        let help = |command: &clap::Command| command.clone().render_long_help().to_string();
        let mut section = |title: &str, text: &str| {
            let text: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
            writeln!(page, "\n## {title}\n\n```text\n{}\n```", text.join("\n")).unwrap();
        };
        section("batchd", &help(&command));
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
            match verb.get_name() {
                "exit-codes" => section("Exit codes", exit::HELP),
                "options" => section("Shared options", OPTIONS),
                name => section(&format!("batchd {name}"), &help(verb)),
            }
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
        assert!(found == expected, "docs/cli.md differs from `batchd help`; write it with BLESS=1");
    }

    /// A command that the terminal breaks can't be copied.
    #[test]
    fn examples_fit_a_terminal() {
        let command = Cli::command();
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            let text = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            let long = text.lines().find(|line| line.chars().count() > 80);
            assert_eq!(long, None, "{}", command.get_name());
        }
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
        assert_eq!(paths, SHARED_OPTIONS);
        for name in SHARED_OPTIONS {
            let (option, variable) = (format!("--{name} <"), format!("[env: BATCHD_{}]", name.to_uppercase()));
            assert!(OPTIONS.contains(&option) && OPTIONS.contains(&variable), "{name}");
        }
        for verb in command.get_subcommands() {
            let named = verb.get_arguments().find(|arg| paths.contains(&arg.get_id().as_str()));
            assert!(named.is_none(), "{}: {named:?}", verb.get_name());
        }
    }
}

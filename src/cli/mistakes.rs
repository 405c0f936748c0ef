//! The command line from its words: [`parse`], and what people are told who use words that batchd does not have.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _};

use super::args::{Cli, SHARED_OPTIONS};
use super::exit::Exit;
use super::screen;
use crate::model::id::{BatchName, RunId};
use crate::model::text::{beginning, shell_word};

/// What other schedulers and tools call a command: their words, the command here without a name behind it, and with one.
const COMMANDS: &[(&[&str], &str, &str)] = &[
    (&["status", "stat", "state"], "list", "show"),
    (&["ls", "ll", "jobs", "batches", "overview"], "list", "show"),
    (&["ps", "top", "running", "active"], "runs --run-state running", "runs --run-state running"),
    (&["history", "hist", "executions"], "runs", "runs"),
    (&["failed", "failures", "errors"], "runs --outcome failed", "runs --outcome failed"),
    (&["info", "describe", "inspect", "details"], "show RUN", "show"),
    (&["trigger", "run", "exec", "execute", "launch", "submit", "enqueue", "run-now"], "start BATCH", "start"),
    (&["retry", "repeat", "restart", "redo"], "rerun RUN", "rerun"),
    (&["kill", "cancel", "abort", "terminate", "end"], "stop RUN", "stop"),
    (&["log", "output", "cat", "print"], "logs RUN", "logs"),
    (&["tail", "follow", "watch"], "logs -f RUN", "logs -f"),
    (&["validate", "lint", "verify", "test", "configtest"], "check", "check"),
    (&["pause", "suspend", "off", "deactivate", "hold"], "disable BATCH", "disable"),
    (&["resume", "unpause", "unsuspend", "on", "activate", "release"], "enable BATCH", "enable"),
    (&["tree", "deps", "dependencies", "dag"], "graph", "graph"),
    (&["schedule", "schedules", "upcoming", "when", "cron", "timers", "list-timers"], "next", "next"),
    (&["refresh", "daemon-reload", "reread"], "reload", "reload"),
    (&["serve", "server", "scheduler", "service", "up"], "daemon", "daemon"),
    (&["backfill", "catchup", "catch-up"], "rerun RUN", "rerun"),
    (&["fsck", "repair", "diagnose", "health"], "doctor", "doctor"),
    (&["dump", "export", "snapshot"], "backup FILE", "backup"),
    (&["where", "dir", "folder", "workspace"], "path RUN", "path"),
    (&["version"], "--version", "--version"),
    (&["config", "settings", "paths"], "help options", "help options"),
];

/// What is done with files here, and has no command.
const FILES: &[(&[&str], &str)] = &[
    (
        &["add", "create", "new", "init", "install", "deploy", "apply", "register"],
        "a batch is a folder; create `batches.d/NAME` with a `script.sh` and a `batch.toml`",
    ),
    (
        &["remove", "rm", "delete", "del", "uninstall", "unregister"],
        "a batch is a folder; remove it: `rm -r batches.d/NAME`",
    ),
    (
        &["down", "shutdown", "quit"],
        "to end the daemon, stop its service or press Ctrl-C in its terminal; to stop a run: `batchd stop RUN`",
    ),
    (&["edit", "update", "modify", "set"], "edit `batches.d/NAME/batch.toml`; the change is in force within a second"),
];

/// Reads the command line. An error has been told: the process exits with it. (Help, too, comes as one.)
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    let words: Vec<OsString> = words.into_iter().collect();
    let parsed = command().try_get_matches_from(&words).and_then(|mut found| Cli::from_arg_matches_mut(&mut found));
    parsed.map_err(|error| {
        let error = quoting_briefly(with_right_tip(with_nearest_name(error), &words));
        let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
        // Nobody can be told that nobody reads.
        let _ = match foreign_command(&error, &words) {
            Some(text) => screen::aside(&text),
            None => error.print(),
        };
        exit
    })
}

/// The command line, whose shared options are described once, by `batchd help options`.
pub(super) fn command() -> clap::Command {
    SHARED_OPTIONS.iter().fold(Cli::command(), |command, name| command.mut_arg(name, |arg| arg.hide(true)))
}

/// The message for a command of other tools.
fn foreign_command(error: &clap::Error, words: &[OsString]) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let hint = match FILES.iter().find(|(names, _)| names.contains(&wrong.as_str())) {
        Some((_, hint)) => {
            let behind = words.iter().skip_while(|word| *word != wrong.as_str()).nth(1);
            let name = behind.and_then(|word| BatchName::new(&word.to_string_lossy()).ok());
            name.map_or_else(|| (*hint).to_owned(), |name| hint.replace("NAME", name.as_str()))
        }
        None => format!("use `{}`", instead(wrong, words)?),
    };
    Some(format!("batchd: there is no command `{wrong}`\n  hint: {hint}\n"))
}

/// The line with the command that batchd has in place of the wrong one.
fn instead(wrong: &str, words: &[OsString]) -> Option<String> {
    let (_, alone, with_name) = COMMANDS.iter().find(|(names, _, _)| names.contains(&wrong))?;
    let words: Vec<String> = words.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let at = words.iter().position(|word| word == wrong)?;
    let names_something = words[at + 1..].iter().any(|word| !word.starts_with('-'));
    let command = if names_something { with_name } else { alone };
    let line = |rest: &[String]| {
        let command = command.split(' ').map(str::to_owned);
        let before = ["batchd".to_owned()].into_iter().chain(words[..at].iter().cloned());
        before.chain(command).chain(rest.iter().cloned()).collect::<Vec<String>>()
    };
    // Options of the other tool are left out.
    let whole = line(&words[at + 1..]);
    let line = if is_understood(&whole) { whole } else { line(&[]) };
    Some(line.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" "))
}

/// Whether a line can be read.
fn is_understood(line: &[String]) -> bool {
    match command().try_get_matches_from(line) {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion),
    }
}

/// The parser quotes an argument whole, however long it is.
fn quoting_briefly(mut error: clap::Error) -> clap::Error {
    let cut = |(kind, value): (ContextKind, &ContextValue)| match value {
        ContextValue::String(text) if beginning(text) != *text => Some((kind, beginning(text).into_owned())),
        _ => None,
    };
    let long: Vec<(ContextKind, String)> = error.context().filter_map(cut).collect();
    for (kind, text) in long {
        error.insert(kind, ContextValue::String(text));
    }
    error
}

/// Names are in lower case, a number follows a dot, and no folder comes before: whoever writes `Extract`, `extract#3` or
/// `batches.d/extract/` is told.
fn with_nearest_name(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidValue) else { return error };
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return error };
    // A flag has a hyphen before its value's name, and its own suggestions.
    if argument.starts_with('-') || !(argument.contains("BATCH") || argument.contains("RUN")) {
        return error;
    }
    let last = wrong.trim_end_matches('/').rsplit('/').next().unwrap_or(wrong);
    let lower = last.to_lowercase().replace(['#', ':'], ".");
    let is_good = lower != *wrong && (lower.parse::<BatchName>().is_ok() || lower.parse::<RunId>().is_ok());
    if is_good {
        let tip = format!("did you mean `{lower}`?");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// What other tools call an option of a command here.
const OPTIONS: &[(&str, &[&str], &str)] = &[
    ("runs", &["--status", "--state"], "use `--outcome`, `--failed` or `--run-state`"),
    ("runs", &["--limit", "--lines", "--tail", "--max", "--count"], "use `-n`"),
    ("runs", &["--follow", "-f"], "to follow the log of a run: `batchd logs -f RUN`"),
    ("logs", &["--tail", "--lines", "--limit", "--last"], "use `-n`"),
    ("next", &["--limit", "--count", "--lines"], "use `-n`"),
    ("disable", &["--until", "--duration"], "use `--for`"),
    ("start", &["--args", "--arguments"], "put the script's arguments behind `--`"),
    ("list", &["--status", "--state"], "use `--failed`"),
];

/// Proposes what a word was probably meant as. The parser's own proposals come from likeness alone: they name options of all
/// commands, and `--`, behind which only `start` takes words.
fn with_right_tip(mut error: clap::Error, words: &[OsString]) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    // The usage line shows the option that the parser took the word for.
    error.remove(ContextKind::SuggestedArg);
    let Some(ContextValue::String(wrong)) = error.get(ContextKind::InvalidArg).cloned() else { return error };
    let command = command();
    let verb = words.iter().skip(1).find_map(|word| command.find_subcommand(word));
    let name = verb.map_or("", clap::Command::get_name);
    let takes_any = verb.is_some_and(|verb| verb.get_positionals().any(clap::Arg::is_last_set));
    let option = wrong.split('=').next().unwrap_or(&wrong);
    let known = OPTIONS.iter().find(|(of, options, _)| *of == name && options.contains(&option));
    let tips: Vec<clap::builder::StyledStr> = match known {
        Some((_, _, tip)) => vec![(*tip).into()],
        None if !wrong.starts_with('-') && takes_any => {
            vec![format!("to pass it to the script, put it behind `--`: `-- {}`", shell_word(&wrong)).into()]
        }
        None if name == "stop" || name == "rerun" => vec![format!("`batchd {name}` takes one run").into()],
        None => {
            let Some(ContextValue::StyledStrs(tips)) = error.get(ContextKind::Suggested) else { return error };
            let is_shared = |tip: &str| SHARED_OPTIONS.iter().any(|option| tip.contains(&format!("'--{option}'")));
            let right = |tip: &&clap::builder::StyledStr| {
                let tip = tip.to_string();
                (takes_any || !tip.contains("as a value")) && !is_shared(&tip)
            };
            tips.iter().filter(right).cloned().collect()
        }
    };
    if tips.is_empty() {
        error.remove(ContextKind::Suggested);
    } else {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    /// The message for a line that is wrong.
    fn told(line: &str) -> String {
        let words = words(line);
        let error = with_right_tip(with_nearest_name(command().try_get_matches_from(&words).unwrap_err()), &words);
        foreign_command(&error, &words).unwrap_or_else(|| error.render().to_string())
    }

    #[test]
    fn commands_of_other_tools() {
        let check = |line: &str, expected: &str| {
            let text = told(line);
            assert!(text.contains(expected), "{line}: {text}");
        };
        check("batchd status", "use `batchd list`");
        check("batchd status report", "use `batchd show report`");
        check("batchd --state /x ps", "use `batchd --state /x runs --run-state running`");
        check("batchd ls -l", "use `batchd list`");
        check("batchd history report", "use `batchd runs report`");
        check("batchd trigger report --wait", "use `batchd start report --wait`");
        check("batchd run report", "use `batchd start report`");
        check("batchd run", "use `batchd start BATCH`");
        check("batchd log report", "use `batchd logs report`");
        check("batchd kill report.4", "use `batchd stop report.4`");
        check("batchd validate", "use `batchd check`");
        check("batchd config dump", "use `batchd help options`");
        check("batchd refresh --all", "use `batchd reload`");
        check("batchd rm report", "remove it: `rm -r batches.d/report`");
        check("batchd rm", "remove it: `rm -r batches.d/NAME`");
        check("batchd down", "to end the daemon");
        check("batchd backfill", "use `batchd rerun RUN`");
        check("batchd strat report", "similar subcommand exists: 'start'");
        check("batchd qqqq", "unrecognized subcommand 'qqqq'");
    }

    #[test]
    fn every_proposed_command_is_there() {
        for (names, alone, with_name) in COMMANDS {
            for name in *names {
                assert!(command().find_subcommand(name).is_none(), "{name} is a command");
            }
            let line = |line: &str, name: &str| {
                let line = ["batchd"].into_iter().chain(line.split(' ')).chain(name.split_terminator(' '));
                line.map(str::to_owned).collect::<Vec<String>>()
            };
            let alone = alone.replace("BATCH", "x").replace("RUN", "x.1");
            assert!(is_understood(&line(&alone, "")), "{alone}");
            let needs_name = alone != *with_name;
            assert!(
                !needs_name || ["x", "x.1"].iter().any(|name| is_understood(&line(with_name, name))),
                "{with_name}"
            );
        }
    }

    #[test]
    fn names_in_capitals() {
        for (line, expected) in [
            ("batchd start Extract", "did you mean `extract`?"),
            ("batchd show Extract.3", "did you mean `extract.3`?"),
            ("batchd rerun extract#3", "did you mean `extract.3`?"),
            ("batchd start batches.d/extract/", "did you mean `extract`?"),
            ("batchd logs runs/extract.3/", "did you mean `extract.3`?"),
        ] {
            let text = told(line);
            assert!(text.contains(expected), "{line}: {text}");
        }
        assert!(!told("batchd start a/ü").contains("did you mean"));
        assert_eq!(told("batchd runs --run-state Running").matches("did you mean").count(), 1);
    }

    #[test]
    fn options_of_other_tools() {
        for (line, expected) in [
            ("batchd runs --status failed", "use `--outcome`, `--failed` or `--run-state`"),
            ("batchd logs x.1 --tail 5", "use `-n`"),
            ("batchd disable x --until tomorrow", "use `--for`"),
            ("batchd start x arg1", "put it behind `--`: `-- arg1`"),
            ("batchd stop x.1 x.2", "takes one run"),
        ] {
            let text = told(line);
            assert!(text.contains(expected) && !text.contains("\n\n\n"), "{line}: {text}");
        }
        assert!(!told("batchd start --batch x").contains("'--batches'"));
    }

    #[test]
    fn the_tip_about_two_dashes_is_only_where_it_is_right() {
        assert!(told("batchd start report --full").contains("use '-- --full'"));
        for line in ["batchd show report --full", "batchd list --all-of-it", "batchd --nonsense", "batchd stop --x"] {
            assert!(!told(line).contains("as a value"), "{line}: {}", told(line));
        }
    }
}

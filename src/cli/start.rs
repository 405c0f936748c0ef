//! `batchd start`.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Args;

use super::args::{Json, Target};
use super::exit::{Complaint, Exit};
use super::operate::{Daemon, Then};
use super::{Context, facts, operate, screen};
use crate::model::definition::check_variable_name;
use crate::model::id::RunId;
use crate::model::input::INPUT_BYTES_MAX;
use crate::model::request::Request;
use crate::model::run::{Follow, Given, Input};

/// Run a batch now, in a new chain, and print the run's id
///
/// The batches after it in its chain follow. Joins with batches of other chains follow only with `--downstream`. batchd prints on stderr
/// which batches will follow and which will not. A batch that is busy or disabled is not started; see `--queue` and `--force`.
///
/// With `--wait` or `-f`, Ctrl-C ends the command. The run continues.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd start report
  batchd start report --wait                   exit with the script's exit code
  batchd start report -f                       print the log as it is written
  batchd start load --only -- --full           pass --full to the script
  batchd start transform --input extract.42    read the stdout of another run
  zcat orders.gz | batchd start load --input -
  id=$(batchd start report)")]
pub struct StartArgs {
    /// Batch to start
    #[arg(value_name = "BATCH")]
    pub batch: Target,
    /// Don't start the batches that follow
    #[arg(long, conflicts_with = "downstream")]
    pub only: bool,
    /// Also start joins with batches of other chains
    #[arg(long)]
    pub downstream: bool,
    /// Input of the script: the stdout of a run, a file, or `-` for stdin (at most 64 MiB). For a file that is named
    /// like a run, write ./report.42
    #[arg(long, value_name = "RUN|FILE|-")]
    pub input: Option<String>,
    /// Set an environment variable for this run (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// If the batch is busy, add the run to its queue (at most 100 runs)
    #[arg(long)]
    pub queue: bool,
    /// Start the batch even if it is disabled
    #[arg(long)]
    pub force: bool,
    /// Wait for the last attempt and exit with its exit code
    #[arg(long)]
    pub wait: bool,
    /// Print the log as it is written, then exit as with `--wait`
    #[arg(short, long, conflicts_with = "json")]
    pub follow: bool,
    #[command(flatten)]
    pub json: Json,
    /// Arguments for the script, after those in `batch.toml`
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

/// Carries it out.
pub(super) fn run(args: StartArgs, context: &mut Context) -> Result<Exit> {
    let follow = match (args.only, args.downstream) {
        (true, _) => Follow::Nothing,
        (false, true) => Follow::Everything,
        (false, false) => Follow::Chain,
    };
    let batch = match args.batch {
        Target::Batch(batch) => batch,
        Target::Run(run) => return Err(not_a_batch(context, &run)?),
    };
    let mut daemon = Daemon::connect(context)?;
    let input = match args.input.as_deref() {
        Some("-") => {
            let bytes = read_stdin()?;
            // The daemon closes connections on which nothing comes.
            daemon = Daemon::connect(context)?;
            Some(Input::Stored(daemon.store_input(bytes)?))
        }
        named => named.map(input).transpose()?,
    };
    let env: BTreeMap<String, String> = args.env.into_iter().collect();
    let given = Given { args: args.args, env, input };
    let request = Request::Start { batch, follow, given, queue: args.queue, force: args.force };
    operate::make_run(context, daemon, &request, Then { wait: args.wait, follow: args.follow, json: args.json })
}

fn not_a_batch(context: &Context, run: &RunId) -> Result<anyhow::Error> {
    let exists = facts::open_journal(context)?.is_some_and(|journal| journal.run(run).is_ok_and(|run| run.is_some()));
    let repeat = if exists { format!("; to repeat {run} in its chain: `batchd rerun {run}`") } else { String::new() };
    let hint = format!("to start a new run: `batchd start {}`{repeat}", run.batch);
    Ok(Complaint::usage(format!("`{run}` is a run; `start` needs a batch"), hint))
}

/// All of stdin.
fn read_stdin() -> Result<Vec<u8>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        screen::aside("reading the input from the terminal; press Ctrl-D on an empty line to end it\n")?;
    }
    let mut bytes = Vec::new();
    stdin.lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes).context("can't read stdin")?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        let what = format!("the input on stdin is larger than {} MiB", INPUT_BYTES_MAX / (1024 * 1024));
        let hint = "write the input to a file; root and the daemon's user can name the file: `--input FILE`";
        return Err(Complaint::usage(what, hint));
    }
    if bytes.is_empty() {
        // Perhaps what was to write into the pipe has failed.
        screen::aside("stdin was empty, so the input is empty\n")?;
    }
    Ok(bytes)
}

/// A run if it is written like one, else a file that exists.
fn input(text: &str) -> Result<Input> {
    if let Ok(run) = text.parse::<RunId>() {
        return Ok(Input::Run(run));
    }
    let hint = "use the id of a run such as `extract.42`, a file that the daemon can read, or `-` for stdin";
    let path = std::path::absolute(Path::new(text))?;
    if !path.is_file() {
        return Err(Complaint::usage(format!("--input: there is no run and no file `{text}`"), hint));
    }
    let path = path.into_os_string().into_string();
    path.map(Input::File)
        .map_err(|_| Complaint::usage(format!("--input: the path of `{text}` is not UTF-8"), "rename the file"))
}

/// Reads `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    check_variable_name(name).map_err(|error| format!("{error}: {}", error.hint()))?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let check = |text: &str, name: &str, value: &str| assert_eq!(variable(text), Ok((name.into(), value.into())));
        check("A=b", "A", "b");
        check("_a1=x=y", "_a1", "x=y");
        check("A=", "A", "");
        for bad in ["A", "=b", "1A=b", "a-b=c", "a b=c", "", "BATCHD_RUN=x"] {
            assert!(variable(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn inputs() {
        assert_eq!(input("extract.42").unwrap(), Input::Run("extract.42".parse().unwrap()));
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(input(path).unwrap(), Input::File(path.to_owned()));
        assert!(input("/nowhere/at.all").unwrap_err().to_string().contains("there is no run and no file"));
    }
}

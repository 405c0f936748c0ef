//! `batchd start`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use clap::Args;

use super::args::Json;
use super::exit::{Complaint, Exit};
use super::{Context, operate};
use crate::model::definition::check_variable_name;
use crate::model::id::{BatchName, RunId};
use crate::model::request::Request;
use crate::model::run::{Follow, Given, Input};

/// Runs a batch now, in a new chain, and prints the run's id
///
/// What comes after it in its chain follows; joins with batches of other chains do not, unless `--downstream` is given. What will
/// follow, and what will not, is said on stderr. A batch that is busy or disabled is not started unless told so.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd start report
  batchd start report --wait            exit as the script does; `batchd help exit-codes`
  batchd start load --only -- --full    nothing follows; --full goes to the script
  batchd start transform --input extract.42
  id=$(batchd start report)

Ctrl-C ends the waiting, not the run.")]
pub struct StartArgs {
    /// The batch
    pub batch: BatchName,
    /// Nothing follows
    #[arg(long, conflicts_with = "downstream")]
    pub only: bool,
    /// Joins with batches of other chains may follow too
    #[arg(long)]
    pub downstream: bool,
    /// Take the stdout of a run, or a file, as input; a file that is named like a run is written ./report.42
    #[arg(long, value_name = "RUN|FILE")]
    pub input: Option<String>,
    /// Set a variable for this run; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// If the batch is busy, wait for it; at most 100 runs of a batch do, and the next is skipped
    #[arg(long)]
    pub queue: bool,
    /// Even if the batch is disabled
    #[arg(long)]
    pub force: bool,
    /// Follow it to the end of its last attempt and exit as it does
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub json: Json,
    /// Arguments for the script, behind those of its definition
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
    let input = args.input.as_deref().map(input).transpose()?;
    let env: BTreeMap<String, String> = args.env.into_iter().collect();
    let given = Given { args: args.args, env, input };
    let (batch, queue, force) = (args.batch, args.queue, args.force);
    operate::make_run(context, args.json, &Request::Start { batch, follow, given, queue, force }, args.wait)
}

/// A run if it is written like one, else a file that exists.
fn input(text: &str) -> Result<Input> {
    if let Ok(run) = text.parse::<RunId>() {
        return Ok(Input::Run(run));
    }
    let hint = "give a run's id such as `extract.42`, or a file that the daemon can read";
    let path = std::path::absolute(Path::new(text))?;
    if !path.is_file() {
        return Err(Complaint::usage(format!("--input: `{text}` is neither a run's id nor a file"), hint));
    }
    let path = path.into_os_string().into_string();
    path.map(Input::File)
        .map_err(|_| Complaint::usage(format!("--input: the path of `{text}` is not UTF-8"), "rename it"))
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
        assert!(input("/nowhere/at.all").unwrap_err().to_string().contains("neither a run's id nor a file"));
    }
}

//! `batchd check`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::Json;
use super::exit::{Complaint, Exit};
use super::{Context, disk};
use crate::model::diagnostic::{Diagnostic, errors};
use crate::model::text::{counted, shell_path};

/// Check all batch definitions and report every mistake
///
/// This needs no daemon and changes nothing. Exits with 1 if there are errors; remarks alone exit with 0.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd check
  batchd check path/to/batches.d     as a git hook, or in CI")]
pub struct CheckArgs {
    /// The folder of batches to check [default: the daemon's]
    pub dir: Option<PathBuf>,
    /// Don't check who can write the definitions
    #[arg(long)]
    pub insecure_permissions: bool,
    #[command(flatten)]
    pub json: Json,
}

/// What a folder of batches is called unless somebody chose otherwise. No batch can be called so.
const BATCHES: &str = "batches.d";

/// For programs.
#[derive(Serialize)]
struct Checked<'c> {
    /// How many batches are valid.
    batches: usize,
    diagnostics: &'c [Diagnostic],
}

/// Carries it out.
pub(super) fn run(args: &CheckArgs, context: &mut Context) -> Result<Exit> {
    let folder = args.dir.clone().unwrap_or_else(|| context.paths.batches.clone());
    if let Some(complaint) = wrong_folder(args, &folder) {
        return Err(complaint);
    }
    let mut fitted = disk::fit(context, &folder, &BTreeMap::new(), args.insecure_permissions)?;
    let of_env_files = disk::env_files(context, &folder, &fitted.graph, args.insecure_permissions)?;
    let mut wrong: BTreeSet<_> = of_env_files.iter().filter_map(|diagnostic| diagnostic.batch.clone()).collect();
    wrong.extend(fitted.stale.iter().cloned());
    fitted.diagnostics.extend(of_env_files);
    // Of those in the graph that this user can't read, the last good definition is known, and nothing of the disk.
    let batches = fitted.graph.len() - wrong.len();
    let diagnostics = &fitted.diagnostics;
    if args.json.json {
        context.screen.json(&Checked { batches, diagnostics })?;
    } else {
        show(context, diagnostics)?;
        context.screen.flush()?;
        writeln!(io::stderr(), "{}", summary(batches, diagnostics))?;
    }
    Ok(if errors(diagnostics) == 0 { Exit::Success } else { Exit::Failure })
}

/// What is wrong with the folder itself, if it is none of batches.
fn wrong_folder(args: &CheckArgs, folder: &Path) -> Option<anyhow::Error> {
    let command = |folder: &Path| format!("`batchd check {}`", shell_path(&folder.to_string_lossy()));
    let is_batch = |folder: &Path| folder.join("batch.toml").is_file() && !has_batches(folder);
    let here = std::env::current_dir().unwrap_or_default();
    let below = folder.join(BATCHES);
    let (what, hint) = if below.is_dir() {
        (format!("{} is not a folder of batches, but {} is", folder.display(), below.display()), command(&below))
    } else if is_batch(folder) {
        let around = folder.canonicalize().ok().and_then(|folder| Some(folder.parent()?.to_owned()));
        let hint = format!("check all batches: {}", command(&around.unwrap_or_else(|| "..".into())));
        (format!("{} is one batch, not a folder of batches", folder.display()), hint)
    } else if args.dir.is_none() && !folder.exists() && is_batch(&here) {
        (
            format!("the current folder is one batch, {}", here.display()),
            "check all batches: `batchd check ..`".to_owned(),
        )
    } else if args.dir.is_none() && !folder.exists() && has_batches(&here) {
        (
            format!("there is no folder {}", folder.display()),
            format!("check the current folder: {}", command(Path::new("."))),
        )
    } else {
        return None;
    };
    Some(Complaint::usage(what, hint))
}

/// Whether there are batches in a folder.
fn has_batches(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| entry.path().join("batch.toml").is_file())
}

/// Shows diagnostics one below the other, with an empty line between.
pub(super) fn show(context: &mut Context, diagnostics: &[Diagnostic]) -> io::Result<()> {
    for (index, diagnostic) in diagnostics.iter().enumerate() {
        context.screen.text(&format!("{}{diagnostic}\n", if index == 0 { "" } else { "\n" }))?;
    }
    Ok(())
}

/// `2 errors, 1 remark; 3 batches are valid`.
fn summary(batches: usize, diagnostics: &[Diagnostic]) -> String {
    let valid = counted(batches, "batch is valid", "batches are valid");
    let errors = errors(diagnostics);
    let remarks = diagnostics.len() - errors;
    let counts = [counted(errors, "error", "errors"), counted(remarks, "remark", "remarks")];
    let found: Vec<String> = counts.into_iter().filter(|count| !count.starts_with("0 ")).collect();
    if found.is_empty() { valid } else { format!("\n{}; {valid}", found.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries() {
        let error = Diagnostic::of_file(None, "a", "wrong");
        let remark = error.clone().as_remark();
        assert_eq!(summary(1, &[]), "1 batch is valid");
        assert_eq!(summary(3, std::slice::from_ref(&error)), "\n1 error; 3 batches are valid");
        assert_eq!(summary(0, &[error.clone(), error.clone()]), "\n2 errors; 0 batches are valid");
        assert_eq!(summary(2, &[remark.clone(), error, remark.clone()]), "\n1 error, 2 remarks; 2 batches are valid");
        assert_eq!(summary(2, &[remark]), "\n1 remark; 2 batches are valid");
    }
}

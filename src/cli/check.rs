//! `batchd check`.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::Json;
use super::exit::{Complaint, Exit};
use super::{Context, disk};
use crate::model::diagnostic::Diagnostic;

/// Check all batch definitions and report every mistake
///
/// Needs no daemon and changes nothing; exits 1 if anything is wrong.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd check
  batchd check path/to/batches.d     as a git hook, or in CI")]
pub struct CheckArgs {
    /// The folder of definitions, if not the usual one
    pub dir: Option<PathBuf>,
    /// Say nothing about who else could write the definitions
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
    /// How many batches would be in force.
    batches: usize,
    diagnostics: &'c [Diagnostic],
}

/// Carries it out.
pub(super) fn run(args: &CheckArgs, context: &mut Context) -> Result<Exit> {
    let folder = args.dir.clone().unwrap_or_else(|| context.paths.batches.clone());
    if folder.join("batch.toml").is_file() {
        let what = format!("{} is a batch, not a folder of batches", folder.display());
        return Err(Complaint::usage(what, "check the folder that it lies in: batches may refer to one another"));
    }
    let below = folder.join(BATCHES);
    if below.is_dir() {
        let what = format!("{} is not a folder of batches: that is {}", folder.display(), below.display());
        return Err(Complaint::usage(what, format!("`batchd check {}`", below.display())));
    }
    let fitted = disk::fit(context, &folder, &BTreeMap::new(), args.insecure_permissions)?;
    let batches = fitted.graph.len();
    let diagnostics = &fitted.diagnostics;
    if args.json.json {
        context.screen.json(&Checked { batches, diagnostics })?;
    } else {
        show(context, diagnostics)?;
        context.screen.flush()?;
        writeln!(io::stderr(), "{}", summary(batches, diagnostics.len()))?;
    }
    Ok(if diagnostics.is_empty() { Exit::Success } else { Exit::Failure })
}

/// Shows diagnostics one below the other, with an empty line between.
pub(super) fn show(context: &mut Context, diagnostics: &[Diagnostic]) -> io::Result<()> {
    for (index, diagnostic) in diagnostics.iter().enumerate() {
        context.screen.text(&format!("{}{diagnostic}\n", if index == 0 { "" } else { "\n" }))?;
    }
    Ok(())
}

fn summary(batches: usize, problems: usize) -> String {
    let batches = if batches == 1 { "1 batch".to_owned() } else { format!("{batches} batches") };
    match problems {
        0 => format!("{batches}, nothing wrong"),
        1 => format!("\n1 thing is wrong; {batches} would be in force"),
        more => format!("\n{more} things are wrong; {batches} would be in force"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries() {
        assert_eq!(summary(1, 0), "1 batch, nothing wrong");
        assert_eq!(summary(3, 1), "\n1 thing is wrong; 3 batches would be in force");
        assert_eq!(summary(0, 2), "\n2 things are wrong; 0 batches would be in force");
    }
}

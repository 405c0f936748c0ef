//! The benchmark: what batchd does beside what the machine can do, measured in one run.
//!
//! `cargo build --release && cargo run --release --example benchmark [-- FIGURE…]`; without a figure, all of them. What each
//! figure means, and what this machine gave, stands in `docs/benchmark.md`. Every repetition has a fresh folder, and nothing
//! is deleted: file systems avoid inodes that were freed a moment ago, and that alone makes the same work several times slower.

#[path = "../../tests/simulation/by_id.rs"]
mod by_id;
mod disturbed;
mod figures;
mod measure;
mod raw;
#[expect(dead_code, reason = "a year in which nothing goes wrong needs a part of it")]
#[path = "../../tests/simulation/journal.rs"]
mod simulated_journal;
#[expect(dead_code, reason = "a year in which nothing goes wrong needs a part of it")]
#[path = "../../tests/simulation/place.rs"]
mod simulated_place;
mod world;
mod year;

use std::process::ExitCode;

use anyhow::{Result, bail};

/// One line of the table.
struct Line {
    /// What was measured.
    what: String,
    /// What batchd needs, or does.
    batchd: String,
    /// What the machine can do; nothing where there is no such thing.
    raw: String,
    /// The first by the second.
    ratio: String,
    /// What is to be reached.
    target: &'static str,
    /// Whether it is.
    reached: bool,
}

/// A figure: its name on the command line, and how it is measured.
type Figure = (&'static str, fn() -> Result<Vec<Line>>);

const FIGURES: [Figure; 12] = [
    ("throughput", figures::throughput),
    ("hop", figures::hop),
    ("lateness", figures::lateness),
    ("burst", figures::burst),
    ("idle", figures::idle),
    ("memory", figures::memory),
    ("edit", figures::edit),
    ("start", figures::start),
    ("output", figures::output),
    ("stop", disturbed::stop),
    ("backup", disturbed::backup),
    ("year", year::year),
];

fn main() -> ExitCode {
    let result = wanted().and_then(|figures| print_table(&figures));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("benchmark: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The figures that the command line names.
fn wanted() -> Result<Vec<Figure>> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = names.iter().find(|name| FIGURES.iter().all(|(known, _)| known != name)) {
        let known: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
        bail!("there is no figure `{unknown}`; there are: {}", known.join(" "));
    }
    Ok(FIGURES.into_iter().filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name)).collect())
}

/// Measures and prints, line by line. Whether all targets are reached.
fn print_table(figures: &[Figure]) -> Result<bool> {
    println!("| figure | batchd | raw | ratio | target | |");
    println!("|---|---|---|---|---|---|");
    let mut reached = true;
    for (_, measure) in figures {
        for line in measure()? {
            let Line { what, batchd, raw, ratio, target, .. } = &line;
            let verdict = if line.reached { "ok" } else { "short" };
            println!("| {what} | {batchd} | {raw} | {ratio} | {target} | {verdict} |");
            reached &= line.reached;
        }
    }
    eprintln!("what was made is in {}; delete it when you do not measure again soon", world::base()?.display());
    Ok(reached)
}

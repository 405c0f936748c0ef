//! `batchd graph`.

mod draw;

use std::collections::BTreeSet;
use std::io::Write as _;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Context;
use super::args::Json;
use super::exit::Exit;
use super::facts::{self, Facts};
use crate::model::graph::{Graph, Join, Node};
use crate::model::id::BatchName;

/// Show the dependency graph
///
/// In the tree, `└─ x` follows when the batch above it has succeeded, `└✗ x` when it has failed. A join stands below the first of its
/// upstreams with the others named; where it comes again it is marked `↑`, and what follows it is not repeated.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd graph
  batchd graph report
  batchd graph --format mermaid > chains.mmd")]
pub struct GraphArgs {
    /// Only what is connected with this batch
    pub batch: Option<BatchName>,
    /// The form
    #[arg(long, value_name = "FORM", default_value = "tree")]
    pub format: GraphFormat,
    #[command(flatten)]
    pub json: Json,
}

/// The forms of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// A tree for the terminal.
    Tree,
    /// A flowchart for Mermaid.
    Mermaid,
    /// For programs; the same as `--json`.
    Json,
}

/// A batch with its edges, for programs.
#[derive(Serialize)]
struct BatchEdges<'b> {
    batch: &'b BatchName,
    after: &'b [BatchName],
    downstreams: &'b [BatchName],
    on_error: &'b [BatchName],
    /// Where its chains begin.
    source: &'b BatchName,
    /// `none`, `within_chain` or `across_chains`.
    join: &'static str,
    cron: &'b [String],
    independent: bool,
    enabled: bool,
    held: bool,
}

/// Carries it out.
pub(super) fn run(args: &GraphArgs, context: &mut Context) -> Result<Exit> {
    let facts = Facts::read(context)?;
    let graph = facts.graph(&context.zones)?;
    let shown: BTreeSet<&BatchName> = match &args.batch {
        Some(name) if graph.get(name).is_none() => return Err(facts::no_batch(name, facts.batches.keys())),
        Some(name) => connected(&graph, name),
        None => graph.iter().map(|(name, _)| name).collect(),
    };
    let format = if args.json.json { GraphFormat::Json } else { args.format };
    match format {
        GraphFormat::Tree if shown.is_empty() => {
            writeln!(std::io::stderr(), "no batch is in force; definitions go to {}", context.paths.batches.display())?;
        }
        GraphFormat::Tree => context.screen.write_all(draw::tree(&graph, &shown).as_bytes())?,
        GraphFormat::Mermaid => context.screen.write_all(draw::mermaid(&graph, &shown).as_bytes())?,
        GraphFormat::Json => {
            let batches: Vec<BatchEdges<'_>> =
                shown.iter().filter_map(|name| Some(edges(name, graph.get(name)?))).collect();
            context.screen.json(&serde_json::json!({ "batches": batches }))?;
        }
    }
    Ok(Exit::Success)
}

/// All that can be reached from a batch along edges, in whatever direction.
fn connected<'g>(graph: &'g Graph, from: &BatchName) -> BTreeSet<&'g BatchName> {
    // `on_error` knows only one direction.
    let failing = |target: &'g BatchName| {
        graph.iter().filter(move |(_, node)| node.on_error.contains(target)).map(|(name, _)| name)
    };
    let mut found = BTreeSet::new();
    let mut open: Vec<&BatchName> = graph.iter().map(|(name, _)| name).filter(|name| *name == from).collect();
    while let Some(name) = open.pop() {
        if let Some(node) = graph.get(name).filter(|_| found.insert(name)) {
            open.extend(node.upstreams.iter().chain(&node.downstreams).chain(&node.on_error));
            open.extend(failing(name));
        }
    }
    found
}

fn edges<'b>(batch: &'b BatchName, node: &'b Node) -> BatchEdges<'b> {
    let definition = node.definition();
    BatchEdges {
        batch,
        after: &node.upstreams,
        downstreams: &node.downstreams,
        on_error: &node.on_error,
        source: &node.source,
        join: match node.join {
            Join::None => "none",
            Join::WithinChain => "within_chain",
            Join::AcrossChains => "across_chains",
        },
        cron: &definition.cron,
        independent: definition.independent,
        enabled: definition.enabled,
        held: node.entry.held,
    }
}

//! `batchd graph`.

mod draw;

use std::collections::BTreeSet;
use std::io::Write as _;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Context;
use super::args::{Json, Target};
use super::exit::Exit;
use super::facts::{self, Facts};
use crate::model::graph::{Graph, Join, Node};
use crate::model::id::BatchName;

/// Show the dependency graph
///
/// In the tree, `└─ x` starts when the batch above has succeeded, and `└✗ x` when it has failed. A join is below its first upstream, with the
/// names of all of them; below the others it is marked `↑`, without what follows it.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd graph
  batchd graph report
  batchd graph --format mermaid > chains.mmd")]
pub struct GraphArgs {
    /// Only the batches in chains with this one, and the `on_error` batches of these
    #[arg(value_name = "BATCH")]
    pub batch: Option<Target>,
    /// Output format
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
    /// JSON, as with `--json`.
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
    let batch = args.batch.as_ref().map(|target| facts::batch_of(target, "graph")).transpose()?;
    let shown: BTreeSet<&BatchName> = match &batch {
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

/// The batches in chains with this one, what starts when one of them fails, and what this one is the `on_error` batch of.
///
/// Many batches may share an `on_error` batch, if only by default: that alone connects them with each other no more than
/// with the rest.
fn connected<'g>(graph: &'g Graph, from: &BatchName) -> BTreeSet<&'g BatchName> {
    let Some((from, node)) = graph.iter().find(|(name, _)| *name == from) else { return BTreeSet::new() };
    let mut found = BTreeSet::new();
    reach(graph, &mut found, vec![from], |node| node.upstreams.iter().chain(&node.downstreams));
    let failing: Vec<&BatchName> =
        found.iter().flat_map(|name| graph.get(name)).flat_map(|node| &node.on_error).collect();
    reach(graph, &mut found, failing, |node| node.downstreams.iter().chain(&node.on_error));
    // A batch that follows others in a chain is started by these, and only through them by failures.
    let starts_on_error = |node: &Node| node.on_error.contains(from);
    if node.upstreams.is_empty() {
        found.extend(graph.iter().filter(|(_, node)| starts_on_error(node)).map(|(name, _)| name));
    }
    found
}

/// Adds all that can be reached along these edges.
fn reach<'g, E: Iterator<Item = &'g BatchName>>(
    graph: &'g Graph,
    found: &mut BTreeSet<&'g BatchName>,
    mut open: Vec<&'g BatchName>,
    edges: impl Fn(&'g Node) -> E,
) {
    while let Some(name) = open.pop() {
        if let Some(node) = graph.get(name).filter(|_| found.insert(name)) {
            open.extend(edges(node));
        }
    }
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

#[cfg(test)]
mod tests {
    use super::draw::tests::graph;
    use super::*;

    #[test]
    fn b_a_shared_on_error_batch_connects_nothing() {
        let graph = graph(&[
            ("alert", "", &[], &[]),
            ("extract", "@daily", &[], &["alert"]),
            ("load", "", &["extract"], &["alert"]),
            ("other", "@daily", &[], &["alert"]),
            ("page", "", &["alert"], &[]),
        ]);
        let check = |from: &str, expected: &[&str]| {
            let found = connected(&graph, &BatchName::new(from).unwrap());
            assert_eq!(found.iter().map(|name| name.as_str()).collect::<Vec<_>>(), expected, "{from}");
        };
        check("load", &["alert", "extract", "load", "page"]);
        check("other", &["alert", "other", "page"]);
        check("alert", &["alert", "extract", "load", "other", "page"]);
        check("page", &["alert", "page"]);
        // What is above a batch and not shown does not hide it.
        let shown = connected(&graph, &BatchName::new("alert").unwrap());
        assert!(draw::tree(&graph, &shown).contains("└✗ alert"));
    }
}

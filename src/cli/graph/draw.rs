//! A graph as text: a tree for the terminal, a flowchart for Mermaid.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::graph::{Graph, Join, Node};
use crate::model::id::BatchName;

/// How a batch comes to stand below another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// Nothing is above it.
    Root,
    After,
    OnError,
}

/// A line of the tree that is still to be written.
struct Line<'g> {
    name: &'g BatchName,
    edge: Edge,
    /// What stands before the branch, from the lines above.
    indent: String,
    is_last: bool,
}

/// The batches in `shown` as a tree, a line each and a line more for each further edge to a batch.
pub(super) fn tree(graph: &Graph, shown: &BTreeSet<&BatchName>) -> String {
    // What is above a batch counts only if it is shown.
    let nodes = shown.iter().filter_map(|name| graph.get(name));
    let below: BTreeSet<&BatchName> = nodes.flat_map(|node| node.downstreams.iter().chain(&node.on_error)).collect();
    let is_root = |name: &BatchName| graph.get(name).is_some() && !below.contains(name);
    let roots = shown.iter().copied().filter(|name| is_root(name));
    let root = |name| Line { name, edge: Edge::Root, indent: String::new(), is_last: true };
    // A stack and no recursion: a chain may be thousands of batches long. What is pushed last is written first.
    let mut open: Vec<Line<'_>> = roots.map(root).collect();
    open.reverse();
    let mut written = BTreeSet::new();
    let mut text = String::new();
    while let Some(line) = open.pop() {
        let Some(node) = graph.get(line.name) else { continue };
        let is_first = written.insert(line.name);
        text.push_str(&line.indent);
        text.push_str(branch(line.edge, line.is_last));
        text.push_str(line.name.as_str());
        if !is_first {
            text.push_str(" ↑\n");
            continue;
        }
        text.push_str(&note(line.name, node));
        text.push('\n');
        let indent = match (line.edge, line.is_last) {
            (Edge::Root, _) => String::new(),
            (Edge::After | Edge::OnError, true) => line.indent + "   ",
            (Edge::After | Edge::OnError, false) => line.indent + "│  ",
        };
        let below: Vec<(&BatchName, Edge)> = node
            .downstreams
            .iter()
            .map(|name| (name, Edge::After))
            .chain(node.on_error.iter().map(|name| (name, Edge::OnError)))
            .filter(|(name, _)| shown.contains(name))
            .collect();
        let count = below.len();
        let lines = below.into_iter().enumerate();
        let lines =
            lines.map(|(at, (name, edge))| Line { name, edge, indent: indent.clone(), is_last: at + 1 == count });
        open.extend(lines.rev());
    }
    text
}

fn branch(edge: Edge, is_last: bool) -> &'static str {
    match (edge, is_last) {
        (Edge::Root, _) => "",
        (Edge::After, true) => "└─ ",
        (Edge::After, false) => "├─ ",
        (Edge::OnError, true) => "└✗ ",
        (Edge::OnError, false) => "├✗ ",
    }
}

/// What is worth knowing of a batch beside its name.
fn note(name: &BatchName, node: &Node) -> String {
    let definition = node.definition();
    let mut remarks = Vec::new();
    if !definition.cron.is_empty() {
        remarks.push(definition.cron.join(" | "));
    }
    if let (Join::WithinChain | Join::AcrossChains, [_, ..]) = (node.join, &node.upstreams[..]) {
        let all: Vec<&str> = node.upstreams.iter().map(BatchName::as_str).collect();
        let chains = if node.source == *name { ", across chains" } else { "" };
        remarks.push(format!("joins {}{chains}", all.join(", ")));
    }
    let flags = [(definition.independent, "independent"), (!definition.enabled, "disabled"), (node.entry.held, "held")];
    remarks.extend(flags.into_iter().filter(|(holds, _)| *holds).map(|(_, word)| word.to_owned()));
    if remarks.is_empty() { String::new() } else { format!("  ({})", remarks.join("; ")) }
}

/// The batches in `shown` as a Mermaid flowchart. Nodes are numbered: not every batch name is a Mermaid name (`end` is none).
pub(super) fn mermaid(graph: &Graph, shown: &BTreeSet<&BatchName>) -> String {
    let mut text = String::from("flowchart LR\n");
    let numbers: BTreeMap<&BatchName, usize> = shown.iter().copied().zip(0..).collect();
    for (index, name) in shown.iter().enumerate() {
        text.push_str(&format!("    n{index}[\"{name}\"]\n"));
    }
    for (from, node) in shown.iter().enumerate().filter_map(|(from, name)| Some((from, graph.get(name)?))) {
        for to in node.downstreams.iter().filter_map(|name| numbers.get(name)) {
            text.push_str(&format!("    n{from} --> n{to}\n"));
        }
        for to in node.on_error.iter().filter_map(|name| numbers.get(name)) {
            text.push_str(&format!("    n{from} -. on error .-> n{to}\n"));
        }
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::definition::Definition;
    use crate::model::graph::Entry;
    use crate::model::settings::Limits;

    /// A graph of batches, each with its `cron` (if any), `after` and `on_error`.
    pub(in crate::cli::graph) fn graph(batches: &[(&str, &str, &[&str], &[&str])]) -> Graph {
        let entry = |(name, cron, after, on_error): &(&str, &str, &[&str], &[&str])| {
            let cron: Vec<&str> = Some(*cron).filter(|cron| !cron.is_empty()).into_iter().collect();
            let json = serde_json::json!({
                "name": name, "hash": "0".repeat(64), "cron": cron, "after": after, "on_error": on_error, "enabled": true,
                "execution": {"script": "script.sh", "interpreter": ["bash"], "umask": 18, "stop_grace_ms": 0,
                    "success_exit_codes": [0], "log_bytes_max": 1},
                "retry": {"retries": 0, "delay_ms": 0, "backoff": 1.0, "delay_max_ms": 0, "on_lost": false},
                "overlap": "skip", "catch_up": "last", "catch_up_within_ms": 0, "jitter_ms": 0,
            });
            let definition: Definition = serde_json::from_str(&json.to_string()).unwrap();
            Entry { definition: Arc::new(definition), schedule: None, reboot: false, held: false }
        };
        Graph::new(batches.iter().map(entry).collect(), Limits::default()).unwrap()
    }

    /// One of everything: a chain, a join within it, a join across chains, an error branch, and a batch alone.
    fn example() -> Graph {
        graph(&[
            ("alarm", "", &[], &[]),
            ("alone", "@daily", &[], &[]),
            ("audit", "", &["import", "report"], &[]),
            ("extract", "0 2 * * *", &[], &["alarm"]),
            ("import", "0 3 * * *", &[], &[]),
            ("left", "", &["extract"], &["alarm"]),
            ("report", "", &["left", "right"], &[]),
            ("right", "", &["extract"], &[]),
        ])
    }

    #[test]
    fn trees() {
        let graph = example();
        let all = graph.iter().map(|(name, _)| name).collect();
        let expected = "\
alone  (@daily)
extract  (0 2 * * *)
├─ left
│  ├─ report  (joins left, right)
│  │  └─ audit  (joins import, report, across chains)
│  └✗ alarm
├─ right
│  └─ report ↑
└✗ alarm ↑
import  (0 3 * * *)
└─ audit ↑
";
        assert_eq!(tree(&graph, &all), expected);
    }

    #[test]
    fn flowcharts() {
        let graph = graph(&[("alarm", "", &[], &[]), ("end", "", &[], &["alarm"]), ("next", "", &["end"], &[])]);
        let all = graph.iter().map(|(name, _)| name).collect();
        let expected = "\
flowchart LR
    n0[\"alarm\"]
    n1[\"end\"]
    n2[\"next\"]
    n1 --> n2
    n1 -. on error .-> n0
";
        assert_eq!(mermaid(&graph, &all), expected);
    }
}

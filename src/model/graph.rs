//! All definitions in force with their edges: [`Graph`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::definition::Definition;
use super::id::BatchName;
use super::schedule::Schedule;
use super::settings::Limits;

/// All definitions in force with their edges. Immutable: a reload makes another one.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    batches: BTreeMap<BatchName, Node>,
    limits: Limits,
}

/// A batch as it goes into a graph.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its definition.
    pub definition: Arc<Definition>,
    /// Its schedule, if it has `cron` with a time in it.
    pub schedule: Option<Arc<Schedule>>,
    /// Its `cron` has `@reboot`.
    pub reboot: bool,
    /// It does not fit: it starts nothing, and its own edges do not count.
    pub held: bool,
}

/// A batch as it stands in a graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub entry: Entry,
    /// Its upstreams, in the order in which they were written: `after`, or nothing if it is held.
    pub upstreams: Vec<BatchName>,
    /// Whose `after` names it, by name.
    pub downstreams: Vec<BatchName>,
    /// What its `on_error` names, in the order in which it was written; nothing if it is held.
    pub on_error: Vec<BatchName>,
    /// Where its chains begin.
    pub source: BatchName,
    /// How it waits for its upstreams.
    pub join: Join,
    /// Greater than the rank of everything before it.
    pub rank: usize,
}

/// How a batch waits for its upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// It has at most one.
    None,
    /// It has several with the same source, and waits for the run of each in its chain.
    WithinChain,
    /// It has several with different sources, and begins a chain of its own.
    AcrossChains,
}

/// Why entries make no graph. Each names the batch to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// `key` of `batch` names a batch that is not there.
    UnknownName {
        /// Whose edge.
        batch: BatchName,
        /// `after` or `on_error`.
        key: EdgeKey,
        /// What it names.
        name: BatchName,
    },
    /// `after` and `on_error` lead around: each is followed by the next, and the last by the first.
    Cycle {
        /// All of them, in order, beginning with the smallest name.
        batches: Vec<BatchName>,
    },
    /// `on_error` of `batch` names a batch that something else starts too.
    TargetIsStarted {
        /// Whose edge.
        batch: BatchName,
        /// The target.
        target: BatchName,
        /// The key of the target that is in the way: `cron` or `after`.
        key: &'static str,
    },
    /// `batch` joins what follows a failure with what does not follow the same one.
    MixedJoin {
        /// The join.
        batch: BatchName,
        /// An upstream in the error branch.
        inside: BatchName,
        /// An upstream outside it.
        outside: BatchName,
    },
}

/// The keys that make edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeKey {
    /// `after`.
    After,
    /// `on_error`.
    OnError,
}

impl EdgeKey {
    /// As it is written in `batch.toml`.
    pub fn word(self) -> &'static str {
        match self {
            Self::After => "after",
            Self::OnError => "on_error",
        }
    }
}

impl Graph {
    /// The graph of these entries, or all reasons why they make none.
    pub fn new(entries: Vec<Entry>, limits: Limits) -> Result<Self, Vec<Misfit>> {
        let mut batches: BTreeMap<BatchName, Node> =
            entries.into_iter().map(|entry| (entry.definition.name.clone(), Node::alone(entry))).collect();
        let misfits = edge_misfits(&batches);
        if !misfits.is_empty() {
            return Err(misfits);
        }
        link_downstreams(&mut batches);
        let order = match topological_order(&batches) {
            Ok(order) => order,
            Err(batches) => return Err(vec![Misfit::Cycle { batches }]),
        };
        for (rank, name) in order.iter().enumerate() {
            let (source, join) = source_and_join(&batches, name);
            let node = batches.get_mut(name).expect("the order holds names of the graph");
            (node.rank, node.source, node.join) = (rank, source, join);
        }
        let graph = Self { batches, limits };
        let misfits = graph.mixed_joins();
        if misfits.is_empty() { Ok(graph) } else { Err(misfits) }
    }

    /// The batch of this name.
    pub fn get(&self, name: &BatchName) -> Option<&Node> {
        self.batches.get(name)
    }

    /// All batches by name.
    pub fn iter(&self) -> impl Iterator<Item = (&BatchName, &Node)> {
        self.batches.iter()
    }

    /// How many batches there are.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether there is no batch.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many runs may be under way at once.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// `from` and everything after it along `after`, `on_error` not followed.
    pub fn reach(&self, from: &BatchName) -> BTreeSet<BatchName> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from.clone()];
        while let Some(name) = open.pop() {
            if let Some(node) = self.get(&name).filter(|_| !reached.contains(&name)) {
                open.extend(node.downstreams.iter().cloned());
                reached.insert(name);
            }
        }
        reached
    }

    /// Joins that have some upstreams in an error branch (an `on_error` target and what follows it) and others outside it.
    fn mixed_joins(&self) -> Vec<Misfit> {
        let targets: BTreeSet<&BatchName> = self.batches.values().flat_map(|node| &node.on_error).collect();
        let branches: Vec<BTreeSet<BatchName>> = targets.into_iter().map(|target| self.reach(target)).collect();
        let mut misfits = Vec::new();
        for (name, node) in &self.batches {
            let mixed = branches.iter().find_map(|branch| {
                let inside = node.upstreams.iter().find(|upstream| branch.contains(*upstream))?;
                let outside = node.upstreams.iter().find(|upstream| !branch.contains(*upstream))?;
                Some((inside.clone(), outside.clone()))
            });
            if let Some((inside, outside)) = mixed {
                misfits.push(Misfit::MixedJoin { batch: name.clone(), inside, outside });
            }
        }
        misfits
    }
}

impl Node {
    /// The node of an entry before its place in the graph is known.
    fn alone(entry: Entry) -> Self {
        let definition = &entry.definition;
        let (upstreams, on_error) =
            if entry.held { (Vec::new(), Vec::new()) } else { (definition.after.clone(), definition.on_error.clone()) };
        let source = definition.name.clone();
        Self { entry, upstreams, downstreams: Vec::new(), on_error, source, join: Join::None, rank: 0 }
    }

    /// Its definition.
    pub fn definition(&self) -> &Arc<Definition> {
        &self.entry.definition
    }

    /// What follows it in any way.
    fn successors(&self) -> impl Iterator<Item = &BatchName> {
        self.downstreams.iter().chain(&self.on_error)
    }
}

/// Edges that lead nowhere, or to a target that something else starts.
fn edge_misfits(batches: &BTreeMap<BatchName, Node>) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    for (batch, node) in batches {
        for (key, names) in [(EdgeKey::After, &node.upstreams), (EdgeKey::OnError, &node.on_error)] {
            let unknown = names.iter().filter(|name| !batches.contains_key(*name));
            misfits.extend(unknown.map(|name| Misfit::UnknownName { batch: batch.clone(), key, name: name.clone() }));
        }
        for target in &node.on_error {
            let Some(definition) = batches.get(target).map(Node::definition) else { continue };
            let key = if !definition.cron.is_empty() {
                "cron"
            } else if !definition.after.is_empty() {
                "after"
            } else {
                continue;
            };
            misfits.push(Misfit::TargetIsStarted { batch: batch.clone(), target: target.clone(), key });
        }
    }
    misfits
}

/// Writes every `after` at its other end.
fn link_downstreams(batches: &mut BTreeMap<BatchName, Node>) {
    let edges: Vec<(BatchName, BatchName)> = batches
        .iter()
        .flat_map(|(name, node)| node.upstreams.iter().map(|upstream| (upstream.clone(), name.clone())))
        .collect();
    for (upstream, downstream) in edges {
        let node = batches.get_mut(&upstream).expect("unknown names were refused before");
        node.downstreams.push(downstream);
    }
}

/// All names, each behind what comes before it (among equals by name); or a cycle.
fn topological_order(batches: &BTreeMap<BatchName, Node>) -> Result<Vec<BatchName>, Vec<BatchName>> {
    let mut before: BTreeMap<&BatchName, usize> = batches.keys().map(|name| (name, 0)).collect();
    for successor in batches.values().flat_map(Node::successors) {
        *before.get_mut(successor).expect("unknown names were refused before") += 1;
    }
    let mut ready: BTreeSet<&BatchName> =
        before.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    let mut order = Vec::with_capacity(batches.len());
    while let Some(name) = ready.pop_first() {
        order.push(name.clone());
        for successor in batches[name].successors() {
            let count = before.get_mut(successor).expect("unknown names were refused before");
            *count -= 1;
            if *count == 0 {
                ready.insert(successor);
            }
        }
    }
    if order.len() == batches.len() { Ok(order) } else { Err(cycle_among(batches, &order)) }
}

/// One cycle among the batches that no order could be found for.
///
/// Each of them has a predecessor among them (else it would be in the order), so walking backwards comes around.
fn cycle_among(batches: &BTreeMap<BatchName, Node>, ordered: &[BatchName]) -> Vec<BatchName> {
    let ordered: BTreeSet<&BatchName> = ordered.iter().collect();
    let stuck: Vec<&BatchName> = batches.keys().filter(|name| !ordered.contains(name)).collect();
    let predecessor = |of: &BatchName| {
        let mut candidates = stuck.iter().filter(|name| batches[**name].successors().any(|successor| successor == of));
        *candidates.next().expect("a batch without an order has a predecessor without one")
    };
    let mut walked: Vec<&BatchName> = vec![stuck[0]];
    let start = loop {
        let next = predecessor(walked[walked.len() - 1]);
        if let Some(start) = walked.iter().position(|name| *name == next) {
            break start;
        }
        walked.push(next);
    };
    let mut cycle: Vec<BatchName> = walked[start..].iter().rev().map(|name| (*name).clone()).collect();
    let smallest = (0..cycle.len()).min_by_key(|index| &cycle[*index]).expect("a cycle has a batch in it");
    cycle.rotate_left(smallest);
    cycle
}

/// The design's table of words: without `after`, the batch itself; with one upstream, that one's source; a join, its
/// upstreams' source if they all have the same, else itself.
fn source_and_join(batches: &BTreeMap<BatchName, Node>, name: &BatchName) -> (BatchName, Join) {
    let upstreams = &batches[name].upstreams;
    let Some(first) = upstreams.first() else { return (name.clone(), Join::None) };
    let source = &batches[first].source;
    if upstreams.len() == 1 {
        (source.clone(), Join::None)
    } else if upstreams.iter().all(|upstream| batches[upstream].source == *source) {
        (source.clone(), Join::WithinChain)
    } else {
        (name.clone(), Join::AcrossChains)
    }
}

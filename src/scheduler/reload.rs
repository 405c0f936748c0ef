//! The graph in force is replaced: cursors, edges, and what waits (design 3.5 "The graph changes meanwhile", 3.6 "Nothing
//! fires the past").

use std::sync::Arc;

use super::{Phase, Scheduler};
use crate::model::graph::{Graph, Join, Node};
use crate::model::id::BatchName;
use crate::model::record::{EdgeFacts, InForce, PeriodChange, PeriodStart, Record, ZoneMark};
use crate::model::run::{Outcome, Run, State};
use crate::model::time::Instant;

impl Scheduler {
    /// Scheduling begins: what the old schedules made due since the last daemon is decided, `missed` where the schedule has
    /// changed meanwhile; then the graph on disk is in force.
    pub(super) fn begin(&mut self, now: Instant, graph: Arc<Graph>) {
        if !self.is_adopting() {
            return self.swap_graph(now, graph, true);
        }
        self.settle(now);
        let old = self.graph.clone();
        for (name, node) in old.iter() {
            // Somebody said no to what fell due, whatever the folder says now.
            if !node.definition().enabled
                && let Some(reason) = self.says_no(now, name, node)
            {
                self.record_not(now, name, now, Outcome::Skipped, &reason);
            }
            if graph.get(name).is_none_or(|new| !same_schedule(node, new)) {
                let reason = "the daemon was not running, and the schedule has been changed since";
                self.record_not(now, name, now, Outcome::Missed, reason);
            }
        }
        self.phase = Phase::Open;
        self.settle(now);
        self.swap_graph(now, graph, true);
        // A schedule that has not changed goes on where it was: what it made due meanwhile is caught up.
        self.advance(now);
    }

    /// Replaces the graph while the daemon runs. Everything up to `now` has been decided by the old one.
    pub(super) fn reload(&mut self, now: Instant, graph: Arc<Graph>) {
        self.swap_graph(now, graph, false);
    }

    /// Replaces the graph. `at_start`: it is the first one of this daemon.
    fn swap_graph(&mut self, now: Instant, graph: Arc<Graph>, at_start: bool) {
        let old = std::mem::replace(&mut self.graph, graph.clone());
        self.book.touch_joining();
        for (name, node) in old.iter().filter(|(name, _)| graph.get(name).is_none()) {
            self.notes.push(in_force(name, None));
            self.record_unreadable(now, node);
            let cursor = self.batches.get(name).and_then(|facts| facts.cursor);
            let until = if self.is_period_of(node) { cursor.map(|cursor| cursor.max(now)) } else { cursor };
            self.note_period(now, name, until, None);
            self.disarm(name);
            self.drop_waiting(now, name);
            self.drop_edges(name, node);
        }
        if self.limits.as_ref() != Some(graph.limits()) {
            self.limits = Some(graph.limits().clone());
            self.notes.push(Record::Limits(graph.limits().clone()));
        }
        for (name, node) in graph.iter() {
            self.accept(now, name, old.get(name), node);
        }
        // After all batches have their facts: a new edge begins at its upstream's newest run.
        for (name, node) in graph.iter() {
            self.accept_edges(name, old.get(name), node);
        }
        // After all edges, so that a new edge counts the run.
        for (name, _) in graph.iter().filter(|(_, node)| node.entry.reboot) {
            self.decide_reboot(now, name, at_start);
        }
        for (name, _) in graph.iter().filter(|(_, node)| node.join == Join::AcrossChains) {
            if let Some(node) = graph.get(name).filter(|node| !node.entry.held) {
                self.decide_across(now, node);
            }
        }
    }

    /// Takes over one batch of the new graph.
    fn accept(&mut self, now: Instant, name: &BatchName, old: Option<&Node>, new: &Node) {
        let unchanged = old.is_some_and(|old| {
            old.entry.held == new.entry.held
                && (Arc::ptr_eq(old.definition(), new.definition()) || old.definition() == new.definition())
        });
        if !unchanged {
            self.notes.push(in_force(name, Some(new)));
            self.refresh_waiting(name, new);
        }
        let cursor = self.batches.get(name).and_then(|facts| facts.cursor);
        if cursor.is_none() || !old.is_some_and(|old| same_schedule(old, new)) {
            if let Some(old) = old {
                self.record_unreadable(now, old);
            }
            // New, back, or with another schedule: it begins now, and fires nothing that was before. A cursor ahead of a
            // clock that was set back a little stays: what it has decided is not decided again.
            self.set_cursor(name, cursor.map_or(now, |cursor| cursor.max(now)));
        }
        if !unchanged || !self.is_period_of(new) {
            let after = self.batches.get(name).and_then(|facts| facts.cursor);
            // A schedule that could not be read any more has decided nothing up to now.
            let until = if old.is_some_and(|old| self.is_period_of(old)) { after } else { cursor };
            self.note_period(now, name, until, Some((new, after)));
        }
        self.arm(now, name);
    }

    /// What waits takes the priority and the pool of the definition that it will run.
    fn refresh_waiting(&mut self, name: &BatchName, new: &Node) {
        let definition = new.definition();
        let stale: Vec<Run> = self
            .book
            .live_of(name)
            .filter(|run| run.state == State::Queued)
            .filter(|run| run.priority != definition.priority || run.pool != definition.pool)
            .cloned()
            .collect();
        for run in stale {
            self.book.put(Run { priority: definition.priority, pool: definition.pool.clone(), ..run });
        }
    }

    /// Waiting runs of a removed batch end.
    fn drop_waiting(&mut self, now: Instant, name: &BatchName) {
        let waiting: Vec<Run> = self.book.live_of(name).filter(|run| run.state == State::Queued).cloned().collect();
        for run in waiting {
            self.skip(now, run, "its batch was removed");
        }
    }

    /// The edges of a join across chains: new ones begin at their upstream's newest run, old ones go. A join that is held
    /// keeps its edges: it is expected back.
    fn accept_edges(&mut self, name: &BatchName, old: Option<&Node>, new: &Node) {
        if new.entry.held {
            return;
        }
        let across = if new.join == Join::AcrossChains { new.upstreams.clone() } else { Vec::new() };
        let had = old.map_or(&[][..], |old| &old.entry.definition.after);
        for upstream in had.iter().filter(|upstream| !across.contains(upstream)) {
            self.drop_edge(name, upstream);
        }
        for upstream in across {
            let key = (name.clone(), upstream.clone());
            if !self.edges.contains_key(&key) {
                let cursor = self.batches.get(&upstream).map_or(0, |facts| facts.next_number - 1);
                let edge = EdgeFacts { downstream: name.clone(), upstream, cursor, unused: None };
                self.edges.insert(key, edge.clone());
                self.note_edge(edge);
            }
        }
    }

    /// Whether the period of this batch that has not ended has this node's zone, with the same data.
    fn is_period_of(&self, node: &Node) -> bool {
        self.periods.get(&node.definition().name) == Some(&zone_mark(node))
    }

    /// Ends a batch's period, and begins another one.
    pub(super) fn note_period(
        &mut self,
        now: Instant,
        name: &BatchName,
        decided_until: Option<Instant>,
        begins: Option<(&Node, Option<Instant>)>,
    ) {
        let begins = begins.map(|(node, decides_after)| PeriodStart {
            decides_after,
            zone: zone_mark(node),
            held: node.entry.held,
            definition: node.definition().clone(),
        });
        match &begins {
            Some(start) => drop(self.periods.insert(name.clone(), start.zone.clone())),
            None => drop(self.periods.remove(name)),
        }
        self.notes.push(Record::Period(PeriodChange { batch: name.clone(), at: now, decided_until, begins }));
    }

    fn drop_edges(&mut self, name: &BatchName, node: &Node) {
        for upstream in &node.entry.definition.after {
            self.drop_edge(name, upstream);
        }
    }

    fn drop_edge(&mut self, downstream: &BatchName, upstream: &BatchName) {
        if self.edges.remove(&(downstream.clone(), upstream.clone())).is_some() {
            let (downstream, upstream) = (downstream.clone(), upstream.clone());
            self.notes.push(Record::EdgeRemoved { downstream, upstream });
        }
    }

    pub(super) fn note_edge(&mut self, edge: EdgeFacts) {
        self.notes.push(Record::Edge(edge));
    }
}

/// Whether two definitions of a batch have the same expressions in the same zone. What the system's zone is counts, too:
/// without `timezone` it is the one that the schedule was made for. So does what is known of the zone: by a new release of
/// the time-zone data, too, an instant may have become due that is over.
fn same_schedule(old: &Node, new: &Node) -> bool {
    let zone = |node: &Node| node.entry.schedule.as_ref().map(|schedule| schedule.zone().clone());
    old.definition().cron == new.definition().cron && zone(old) == zone(new)
}

/// The zone in which a node's schedule is meant.
fn zone_mark(node: &Node) -> Option<ZoneMark> {
    let zone = node.entry.schedule.as_ref()?.zone();
    Some(ZoneMark { name: zone.name.clone(), fingerprint: zone.fingerprint() })
}

fn in_force(name: &BatchName, node: Option<&Node>) -> Record {
    Record::Definition(InForce {
        batch: name.clone(),
        definition: node.map(|node| node.definition().clone()),
        held: node.is_some_and(|node| node.entry.held),
    })
}

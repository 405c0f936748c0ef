//! What will follow a run that is asked for, if all succeeds, and what will not: an answer for people. Nothing is decided
//! here; it foretells what `chain` decides when ends come.

use std::collections::BTreeMap;

use super::Scheduler;
use super::chain::outcome_phrase;
use crate::model::graph::{Join, Node};
use crate::model::id::{BatchName, RunId};
use crate::model::request::Prospects;
use crate::model::run::{Follow, Outcome, Run};
use crate::model::time::Instant;

/// What is asked: what may follow, and in the chain of an earlier run if it is a rerun.
#[derive(Clone, Copy)]
pub(super) struct Asked<'r> {
    /// What may follow.
    pub(super) follow: Follow,
    /// The chain that is there already.
    pub(super) chain: Option<&'r RunId>,
}

/// What becomes of a batch behind the run.
enum Prospect {
    /// It runs.
    Runs,
    /// It has succeeded before, in this run, and is left out.
    LeftOut(RunId),
    /// It runs once each of these, of other chains, has ended anew, too.
    Once(Vec<BatchName>),
    /// It gets a row and does not run.
    Ends(String),
    /// It gets no row.
    Absent(String),
}

impl Scheduler {
    /// What follows a run of `first`, in the order of the graph.
    pub(super) fn prospects(&self, now: Instant, first: &BatchName, asked: Asked<'_>) -> Prospects {
        let mut after: Vec<&Node> = self
            .graph
            .reach(first)
            .iter()
            .filter(|batch| *batch != first)
            .filter_map(|batch| self.graph.get(batch))
            .collect();
        after.sort_by_key(|node| node.rank);
        let mut known = BTreeMap::from([(first, Prospect::Runs)]);
        let mut prospects = Prospects::default();
        for node in after {
            let name = &node.definition().name;
            let prospect = if asked.follow == Follow::Nothing {
                Prospect::Absent("--only".to_owned())
            } else {
                self.prospect(now, node, asked, &known)
            };
            match &prospect {
                Prospect::Runs => prospects.follows.push(name.clone()),
                Prospect::Once(others) => prospects.follows_once.push((name.clone(), others.clone())),
                Prospect::LeftOut(run) => {
                    prospects.does_not_follow.push((name.clone(), format!("{run} already succeeded in this chain")));
                }
                Prospect::Ends(why) | Prospect::Absent(why) => {
                    prospects.does_not_follow.push((name.clone(), why.clone()));
                }
            }
            known.insert(name, prospect);
        }
        prospects
    }

    /// What becomes of one batch; of all before it in the graph that is known.
    fn prospect(
        &self,
        now: Instant,
        node: &Node,
        asked: Asked<'_>,
        known: &BTreeMap<&BatchName, Prospect>,
    ) -> Prospect {
        let name = &node.definition().name;
        let across = node.join == Join::AcrossChains;
        if across && asked.follow != Follow::Everything {
            let why = "it joins several chains; use --downstream to make this run count for it";
            return Prospect::Absent(why.to_owned());
        }
        let succeeded = asked.chain.and_then(|chain| self.latest_end(chain, name)).filter(|run| run.succeeded());
        if let Some(run) = succeeded.filter(|_| asked.follow == Follow::Unsucceeded) {
            return Prospect::LeftOut(run.id.clone());
        }
        let (mut once, mut unsuccessful) = (Vec::new(), None);
        for upstream in &node.upstreams {
            match known.get(upstream) {
                Some(Prospect::Runs | Prospect::LeftOut(_)) => {}
                Some(Prospect::Once(others)) => once.extend(others.iter().cloned()),
                Some(Prospect::Absent(_)) if across => once.push(upstream.clone()),
                Some(Prospect::Absent(_)) if node.join == Join::None => {
                    return Prospect::Absent(format!("its upstream {upstream} will not follow"));
                }
                Some(Prospect::Ends(_) | Prospect::Absent(_)) => {
                    unsuccessful.get_or_insert_with(|| format!("its upstream {upstream} will not run"));
                }
                None if across => match self.unused_end(name, upstream) {
                    Some((_, true)) => {}
                    Some((run, false)) => {
                        unsuccessful.get_or_insert_with(|| format!("its upstream {run} did not succeed"));
                    }
                    None => once.push(upstream.clone()),
                },
                None => match asked.chain.and_then(|chain| self.latest_of(chain, upstream)) {
                    None => return Prospect::Absent(format!("its upstream {upstream} is not in this chain")),
                    Some(run) if run.end().is_none() || run.succeeded() => {}
                    Some(run) => {
                        let how = outcome_phrase(run.outcome().map_or("has not ended", Outcome::word));
                        unsuccessful.get_or_insert_with(|| format!("its upstream {} {how}", run.id));
                    }
                },
            }
        }
        once.sort();
        once.dedup();
        if let Some(why) = unsuccessful.filter(|_| !node.definition().independent) {
            return Prospect::Ends(why);
        }
        match self.says_no(now, name, node) {
            Some(why) => Prospect::Ends(format!("it is {why}")),
            None if once.is_empty() => Prospect::Runs,
            None => Prospect::Once(once),
        }
    }

    /// The end of an upstream that a join across chains has not used yet, and whether it succeeded.
    fn unused_end(&self, join: &BatchName, upstream: &BatchName) -> Option<(RunId, bool)> {
        let unused = self.edges.get(&(join.clone(), upstream.clone()))?.unused.as_ref()?;
        Some((upstream.run(unused.number), unused.succeeded))
    }

    /// The latest run of a batch in a chain.
    fn latest_of(&self, chain: &RunId, name: &BatchName) -> Option<&Run> {
        self.book.chain_of(chain, name).max_by_key(|run| run.id.number)
    }
}

//! Which batches fit together, and what is in force in place of those that do not: [`fit`].
//!
//! Until nothing changes any more, a batch that does not fit falls back to its last good definition; if that does not fit
//! either it is held. A batch that was never good is left out. Who is to blame is, as far as possible, who changed: an edit
//! never stops a batch that nobody touched, if it can be helped.

mod complaints;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::definition::Loaded;
use super::settings::SettingsFile;
use super::{Diagnosis, Named};
use crate::model::definition::Definition;
use crate::model::diagnostic::{Diagnostic, Severity};
use crate::model::graph::{Entry, Graph, Misfit};
use crate::model::id::BatchName;
use crate::model::schedule::Schedule;

/// Gives the schedule of a definition, and whether it has `@reboot`; or why its zone or cron can't be used now.
pub type SchedulesOf<'s> = dyn Fn(&Definition) -> Result<(Option<Arc<Schedule>>, bool), Diagnosis> + 's;

/// What is in force, and what is wrong.
#[derive(Debug)]
pub struct Fitted {
    /// Everything in force.
    pub graph: Graph,
    /// All diagnostics: those of the candidates by themselves, and those of what does not fit. Sorted.
    pub diagnostics: Vec<Diagnostic>,
    /// The batches whose last good definition is in force in place of the one on disk, by name.
    pub stale: Vec<BatchName>,
    /// The batches that start nothing until they fit again, by name.
    pub held: Vec<BatchName>,
}

/// Fits all candidates together. `previous` are the definitions in force until now, the last good ones; of the settings,
/// the limits and the default `on_error` count.
pub fn fit(
    candidates: &[Arc<Loaded>],
    previous: &BTreeMap<BatchName, Arc<Definition>>,
    settings: &SettingsFile,
    schedules_of: &SchedulesOf<'_>,
) -> Fitted {
    let mut fitting = Fitting::new(candidates, previous, settings, schedules_of);
    // This ends: a misfit comes from an edge, and an edge from a batch that is neither held nor out. `blamed` returns at
    // least one such batch for every misfit, and each that is blamed goes down one of at most three stages, never up.
    let graph = loop {
        match Graph::new(fitting.entries(), settings.settings.limits.clone()) {
            Ok(graph) => break graph,
            Err(misfits) => fitting.lower(&misfits),
        }
    };
    fitting.complain_about_defaults();
    let with = |test: &dyn Fn(&Member<'_>) -> bool| {
        let members = fitting.members.iter().filter(|(_, member)| test(member));
        members.map(|(name, _)| (*name).clone()).collect()
    };
    let stale = with(&|member| member.stage == Stage::Stale && !member.is_current());
    let held = with(&|member| member.stage == Stage::Held);
    Fitted { graph, diagnostics: fitting.diagnostics.into_iter().collect(), stale, held }
}

/// How far a batch had to fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// What is on disk is in force.
    Fresh,
    /// Its last good definition is.
    Stale,
    /// Its last good definition is there, and starts nothing.
    Held,
    /// It was never good.
    Out,
}

/// A candidate on its way into the graph.
struct Member<'f> {
    loaded: &'f Loaded,
    last_good: Option<&'f Arc<Definition>>,
    stage: Stage,
    /// Of the definition that the stage means.
    schedule: Option<Arc<Schedule>>,
    reboot: bool,
}

/// All candidates on their way into the graph.
struct Fitting<'f> {
    members: BTreeMap<&'f BatchName, Member<'f>>,
    /// Batches whose `hosts` keep them from this host.
    elsewhere: BTreeSet<&'f BatchName>,
    previous: &'f BTreeMap<BatchName, Arc<Definition>>,
    settings: &'f SettingsFile,
    schedules_of: &'f SchedulesOf<'f>,
    diagnostics: BTreeSet<Diagnostic>,
}

impl<'f> Member<'f> {
    /// The definition in force; none if the batch is out.
    fn definition(&self) -> Option<&'f Arc<Definition>> {
        match self.stage {
            Stage::Fresh => self.loaded.definition.as_ref(),
            Stage::Stale | Stage::Held => self.last_good,
            Stage::Out => None,
        }
    }

    /// The definition whose edges count.
    fn with_edges(&self) -> Option<&'f Arc<Definition>> {
        self.definition().filter(|_| self.stage != Stage::Held)
    }

    /// Whether the edges on disk are other than those of its last good definition, and count.
    fn has_new_edges(&self) -> bool {
        self.stage == Stage::Fresh && !self.has_same_edges()
    }

    fn has_same_edges(&self) -> bool {
        let (Some(fresh), Some(last)) = (&self.loaded.definition, self.last_good) else { return false };
        // Without an own `on_error`, the last good definition may hold the default.
        let same_on_error = !self.loaded.explicit_on_error || fresh.on_error == last.on_error;
        same_on_error && fresh.after == last.after && fresh.cron == last.cron
    }

    /// Whether its last good definition is what is on disk.
    fn is_current(&self) -> bool {
        let (Some(fresh), Some(last)) = (&self.loaded.definition, self.last_good) else { return false };
        self.has_same_edges() && **fresh == Definition { on_error: fresh.on_error.clone(), ..Definition::clone(last) }
    }
}

impl<'f> Fitting<'f> {
    fn new(
        candidates: &'f [Arc<Loaded>],
        previous: &'f BTreeMap<BatchName, Arc<Definition>>,
        settings: &'f SettingsFile,
        schedules_of: &'f SchedulesOf<'f>,
    ) -> Self {
        let diagnostics = candidates.iter().flat_map(|loaded| loaded.diagnostics.iter().cloned()).collect();
        let elsewhere = candidates.iter().filter(|loaded| !loaded.applies).map(|loaded| &loaded.name).collect();
        let members = BTreeMap::new();
        let mut fitting = Self { members, elsewhere, previous, settings, schedules_of, diagnostics };
        for loaded in candidates.iter().filter(|loaded| loaded.applies) {
            let last_good = previous.get(&loaded.name);
            let mut member = Member { loaded, last_good, stage: Stage::Fresh, schedule: None, reboot: false };
            fitting.enter(&mut member);
            fitting.members.insert(&loaded.name, member);
        }
        fitting
    }

    /// Brings a member's schedule to its stage, or the member to a stage of which there is a schedule.
    fn enter(&mut self, member: &mut Member<'f>) {
        (member.schedule, member.reboot) = (None, false);
        if member.stage == Stage::Out {
            return;
        }
        let Some(definition) = member.definition() else {
            self.fall(member);
            return;
        };
        match (self.schedules_of)(definition) {
            // A held batch keeps its schedule: what falls due meanwhile is recorded as not run.
            Ok((schedule, reboot)) => (member.schedule, member.reboot) = (schedule, reboot),
            Err(_) if member.stage == Stage::Held => {}
            Err(Diagnosis { what, hint }) => {
                let place = member.loaded.places.cron.clone().filter(|_| member.stage == Stage::Fresh);
                let batch = Some(member.loaded.name.clone());
                let file = complaints::file_of(&member.loaded.name);
                self.diagnostics.insert(Diagnostic { batch, file, place, severity: Severity::Error, what, hint });
                self.fall(member);
            }
        }
    }

    /// One stage down.
    fn fall(&mut self, member: &mut Member<'f>) {
        member.stage = match (member.stage, member.last_good) {
            (Stage::Fresh, Some(_)) => Stage::Stale,
            (Stage::Stale | Stage::Held, Some(_)) => Stage::Held,
            (Stage::Fresh | Stage::Stale | Stage::Held | Stage::Out, None) | (Stage::Out, Some(_)) => Stage::Out,
        };
        self.enter(member);
    }

    /// What goes into the graph at the present stages, the default `on_error` applied.
    fn entries(&self) -> Vec<Entry> {
        let defaults: Vec<BatchName> = self.default_targets().map(|named| named.name.clone()).collect();
        let exempt = if defaults.is_empty() { BTreeSet::new() } else { self.error_branches(&defaults) };
        let entry = |(name, member): (&&'f BatchName, &Member<'f>)| {
            let definition = member.definition()?;
            let takes_default = member.stage == Stage::Fresh
                && !member.loaded.explicit_on_error
                && !defaults.is_empty()
                && !exempt.contains(name);
            let definition = if takes_default {
                Arc::new(Definition { on_error: defaults.clone(), ..Definition::clone(definition) })
            } else {
                Arc::clone(definition)
            };
            let held = member.stage == Stage::Held;
            Some(Entry { definition, schedule: member.schedule.clone(), reboot: member.reboot, held })
        };
        self.members.iter().filter_map(entry).collect()
    }

    /// The entries of the default `on_error` that can be targets.
    fn default_targets(&self) -> impl Iterator<Item = &'f Named> {
        let entries = self.settings.defaults.on_error.iter().flatten();
        entries.filter(|named| {
            let definition = self.members.get(&named.name).and_then(Member::definition);
            definition.is_some_and(|definition| definition.cron.is_empty() && definition.after.is_empty())
        })
    }

    /// All `on_error` targets, those of the default included, and everything that follows them along either edge.
    fn error_branches(&self, defaults: &[BatchName]) -> BTreeSet<BatchName> {
        let mut downstreams: BTreeMap<&BatchName, Vec<&BatchName>> = BTreeMap::new();
        let mut open: Vec<&BatchName> = defaults.iter().collect();
        for definition in self.members.values().filter_map(Member::with_edges) {
            open.extend(&definition.on_error);
            for upstream in &definition.after {
                downstreams.entry(upstream).or_default().push(&definition.name);
            }
        }
        // What a target starts on its own error is among the targets already.
        closure(open, |name| downstreams.get(name).into_iter().flatten().copied())
    }

    /// Everything from which `ends` are reached along either edge, and they themselves.
    fn ancestors(&self, ends: [&BatchName; 2]) -> BTreeSet<BatchName> {
        let mut before: BTreeMap<&BatchName, Vec<&BatchName>> = BTreeMap::new();
        for definition in self.members.values().filter_map(Member::with_edges) {
            before.entry(&definition.name).or_default().extend(&definition.after);
            for target in &definition.on_error {
                before.entry(target).or_default().push(&definition.name);
            }
        }
        closure(ends.to_vec(), |name| before.get(name).into_iter().flatten().copied())
    }

    /// Every batch that is to blame for one of the misfits goes one stage down, with a complaint.
    fn lower(&mut self, misfits: &[Misfit]) {
        let mut blamed = BTreeSet::new();
        for misfit in misfits {
            for name in self.blamed(misfit) {
                self.diagnostics.extend(self.complaint(misfit, &name));
                blamed.insert(name);
            }
        }
        for name in blamed {
            if let Some((key, mut member)) = self.members.remove_entry(&name) {
                self.fall(&mut member);
                self.members.insert(key, member);
            }
        }
    }

    /// Who is to blame: the batch whose edge it is, if its edges are new; else who else made it a misfit; at any rate a
    /// batch that has an edge in it.
    fn blamed(&self, misfit: &Misfit) -> Vec<BatchName> {
        let has_new_edges = |name: &BatchName| self.members.get(name).is_some_and(Member::has_new_edges);
        let owner = |batch: &BatchName, others: Vec<BatchName>| {
            if has_new_edges(batch) || others.is_empty() { vec![batch.clone()] } else { others }
        };
        let new_among = |names: &mut dyn Iterator<Item = &BatchName>| -> Vec<BatchName> {
            names.filter(|name| has_new_edges(name)).cloned().collect()
        };
        match misfit {
            Misfit::UnknownName { batch, .. } => vec![batch.clone()],
            Misfit::TargetIsStarted { batch, target, .. } => owner(batch, new_among(&mut std::iter::once(target))),
            Misfit::MixedJoin { batch, inside, outside } => {
                owner(batch, new_among(&mut self.ancestors([inside, outside]).iter()))
            }
            Misfit::Cycle { batches } => {
                let new = new_among(&mut batches.iter());
                let has_edges = |name: &&BatchName| self.members.get(*name).is_some_and(|m| m.with_edges().is_some());
                if new.is_empty() { batches.iter().filter(has_edges).cloned().collect() } else { new }
            }
        }
    }
}

/// Everything that is reached from `open`, which is included.
fn closure<'n, N: Iterator<Item = &'n BatchName>>(
    mut open: Vec<&'n BatchName>,
    next: impl Fn(&BatchName) -> N,
) -> BTreeSet<BatchName> {
    let mut reached = BTreeSet::new();
    while let Some(name) = open.pop() {
        if reached.insert(name.clone()) {
            open.extend(next(name));
        }
    }
    reached
}

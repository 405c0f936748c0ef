//! The one place from which reading verbs get their facts: the journal, which says what is in force, and the definitions on
//! the disk where there is no journal yet. No daemon is asked.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::Context;
use super::args::Target;
use super::exit::Complaint;
use super::{disk, waits};
use crate::api::RunView;
use crate::checkup;
use crate::journal::OpenError;
use crate::journal::query::{Filter, Reader};
use crate::load;
use crate::model::cron::Expression;
use crate::model::definition::Definition;
use crate::model::graph::{Entry, Graph};
use crate::model::id::{BatchName, RunId, Token};
use crate::model::record::{BatchFacts, Disabled};
use crate::model::request::Request;
use crate::model::run::Run;
use crate::model::schedule::Schedule;
use crate::model::settings::Limits;
use crate::model::zone::Zone;
use crate::rundir::{Owner, RunDir};
use crate::zones::Zones;

/// What is known of everything, and from where.
pub(super) struct Facts {
    /// None where no daemon has ever run.
    journal: Option<Reader>,
    /// Every batch in force, by name.
    pub batches: BTreeMap<BatchName, BatchFact>,
}

/// What is known of a batch in force.
#[derive(Clone, Debug)]
pub(super) struct BatchFact {
    /// Its definition.
    pub definition: Arc<Definition>,
    /// It does not fit the graph, and starts nothing.
    pub held: bool,
    /// What the journal knows beside it; none where there is no journal.
    pub facts: Option<BatchFacts>,
    /// Its newest run.
    pub latest: Option<Run>,
}

impl BatchFact {
    /// The operator's no, whether it still holds or not.
    pub(super) fn disabled(&self) -> Option<&Disabled> {
        self.facts.as_ref()?.disabled.as_ref()
    }
}

/// When a definition is due.
#[derive(Clone, Debug)]
pub(super) struct Times {
    /// Its times; none if it has none.
    pub schedule: Option<Arc<Schedule>>,
    /// It has `@reboot`.
    pub reboot: bool,
}

impl Facts {
    /// What the journal says; without one, what is on the disk, as it would come into force.
    pub(super) fn read(context: &Context) -> Result<Self> {
        let Some(journal) = open_journal(context)? else {
            let fitted = disk::fit(context, &context.paths.batches, &BTreeMap::new(), false)?;
            let on_disk = fitted.graph.iter().map(|(name, node)| {
                let definition = node.definition().clone();
                (name.clone(), BatchFact { definition, held: node.entry.held, facts: None, latest: None })
            });
            return Ok(Self { journal: None, batches: on_disk.collect() });
        };
        let rows = journal.batches()?.into_iter().filter_map(|row| {
            let in_force = row.in_force?;
            let fact = BatchFact {
                definition: in_force.definition?,
                held: in_force.held,
                facts: Some(row.facts),
                latest: row.latest,
            };
            Some((in_force.batch, fact))
        });
        let batches = rows.collect();
        Ok(Self { journal: Some(journal), batches })
    }

    /// The journal; where there is none, that is an answer too.
    pub(super) fn journal(&self) -> Option<&Reader> {
        self.journal.as_ref()
    }

    /// The batch of this name in force.
    pub(super) fn batch(&self, name: &BatchName) -> Result<&BatchFact> {
        self.batches.get(name).ok_or_else(|| no_batch(name, self.batches.keys()))
    }

    /// An error if there neither is nor was a batch of this name.
    pub(super) fn known(&self, name: &BatchName) -> Result<()> {
        if self.has_or_had(name) { Ok(()) } else { Err(no_batch(name, self.batches.keys())) }
    }

    /// Whether a batch of this name is in force, or has left a run.
    fn has_or_had(&self, name: &BatchName) -> bool {
        let of_batch = Filter { batch: Some(name.clone()), ..Filter::default() };
        let run = || self.journal.as_ref().and_then(|journal| journal.runs(&of_batch, None, 1).ok());
        self.batches.contains_key(name) || run().is_some_and(|page| !page.runs.is_empty())
    }

    /// The graph in force.
    pub(super) fn graph(&self, zones: &Zones) -> Result<Graph> {
        let entry = |fact: &BatchFact| {
            let times = times_of(&fact.definition, zones)?;
            let definition = fact.definition.clone();
            Ok(Entry { definition, schedule: times.schedule, reboot: times.reboot, held: fact.held })
        };
        let entries = self.batches.values().map(entry).collect::<Result<Vec<_>>>()?;
        Graph::new(entries, Limits::default()).map_err(|_| {
            let hint = "look at the daemon's log; `batchd check` says what is wrong on the disk";
            Complaint::failure("the definitions in the journal do not fit together", hint)
        })
    }

    /// The definitions in force, as a reload starts from them.
    pub(super) fn definitions(&self) -> BTreeMap<BatchName, Arc<Definition>> {
        self.batches.iter().map(|(name, fact)| (name.clone(), fact.definition.clone())).collect()
    }
}

/// The journal, for verbs that need nothing else; none where no daemon has ever run.
pub(super) fn open_journal(context: &Context) -> Result<Option<Reader>> {
    match Reader::open(&context.paths.journal()) {
        Ok(reader) => Ok(Some(reader)),
        Err(OpenError::Absent { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The run of this id.
pub(super) fn run(context: &Context, id: &RunId) -> Result<Run> {
    let journal = open_journal(context)?;
    let run = journal.map(|journal| journal.run(id)).transpose()?.flatten();
    run.ok_or_else(|| no_run(context, id))
}

/// The run that is meant.
pub(super) fn target(context: &Context, target: &Target) -> Result<Run> {
    let batch = match target {
        Target::Run(id) => return run(context, id),
        Target::Batch(batch) => batch,
    };
    let journal = open_journal(context)?;
    if let Some(run) = journal.map(|journal| journal.latest_begun(batch)).transpose()?.flatten() {
        return Ok(run);
    }
    Facts::read(context)?.batch(batch)?;
    let hint = format!("`batchd runs {batch}` shows its rows; `batchd next {batch}` when it is due");
    Err(Complaint::failure(format!("no run of {batch} has started yet"), hint))
}

/// The folder of a run, there or not. An error if one of another journal stands in its place: a `runs` that was kept when `state`
/// was not, perhaps.
pub(super) fn folder(context: &Context, run: &Run) -> Result<PathBuf> {
    let path = context.paths.runs.join(run.id.to_string());
    let Some(journal) = open_journal(context)? else { return Ok(path) };
    let token = Token { journal: journal.journal_id()?, run: run.id.clone(), queued_at: run.queued_at };
    let owner = RunDir::open(&path).and_then(|folder| folder.owner(&token));
    if owner.is_ok_and(|owner| owner == Owner::Foreign) {
        let what = format!("{} is the folder of another run of that id, from another state folder", path.display());
        return Err(Complaint::failure(what, "`--state` and `--runs` belong together; its files can be read by hand"));
    }
    Ok(path)
}

/// Whether a folder of the daemon's is there. An error if this user may not know: that is not the same as absent.
pub(super) fn is_there(folder: &Path) -> Result<bool> {
    match std::fs::metadata(folder) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let what = format!("you may not look into {}", folder.parent().unwrap_or(folder).display());
            Err(Complaint::failure(what, "read as the daemon's user, or have it give you the right to"))
        }
        Err(_) => Ok(false),
    }
}

/// All runs of the chain that a run belongs to, oldest first, with what they wait for.
pub(super) fn chain(context: &Context, id: &RunId) -> Result<Vec<RunView>> {
    let Some(journal) = open_journal(context)? else { return Ok(Vec::new()) };
    waits::views(&journal, &journal.chain(id)?, context.now)
}

/// The zone of a run's batch, if that is still in force and its zone is known.
pub(super) fn zone_of_run(context: &Context, run: &Run) -> Option<Arc<Zone>> {
    let in_force = open_journal(context).ok()??.in_force(&run.id.batch).ok()??;
    zone_of(in_force.definition.as_deref()?, &context.zones).ok()
}

/// When a definition is due, with the zone files as they are now.
pub(super) fn times_of(definition: &Definition, zones: &Zones) -> Result<Times> {
    let mut times = Vec::new();
    let mut reboot = false;
    for text in &definition.cron {
        let expression = Expression::parse(text)
            .map_err(|error| anyhow::anyhow!("`cron` of {}: {}", definition.name, error.what))?;
        match expression {
            Expression::Reboot => reboot = true,
            Expression::Times(cron) => times.push(cron),
        }
    }
    let schedule = match times.is_empty() {
        true => None,
        false => Some(Arc::new(Schedule::new(times, zone_of(definition, zones)?))),
    };
    Ok(Times { schedule, reboot })
}

/// The zone in which a definition's times are meant.
pub(super) fn zone_of(definition: &Definition, zones: &Zones) -> Result<Arc<Zone>> {
    match &definition.timezone {
        Some(name) => zones.get(name).with_context(|| format!("the zone of {}", definition.name)),
        None => Ok(zones.system().zone.clone()),
    }
}

/// Says on stderr if no daemon runs: what the journal has under way, or waiting, is then as the last one saw it.
pub(super) fn tell_of_daemon(context: &Context, shows_live: bool) -> Result<()> {
    let state = &context.paths.state;
    if !checkup::daemon_lives(state) {
        let live = if shows_live { "what is shown as running may have ended; " } else { "" };
        writeln!(std::io::stderr(), "no daemon runs on {}; {live}start one with `batchd daemon`", state.display())?;
    }
    Ok(())
}

/// What the daemon does not know, as reading verbs say it; none if it is known here, or nothing can be read.
pub(super) fn unknown(context: &Context, request: &Request) -> Option<anyhow::Error> {
    match request {
        Request::Start { batch, .. } | Request::Enable { batch } | Request::Disable { batch, .. } => {
            Facts::read(context).ok()?.batch(batch).err()
        }
        Request::Stop { run, .. } | Request::Rerun { run, .. } => {
            let is_there = open_journal(context).ok()??.run(run).ok()?.is_some();
            (!is_there).then(|| no_run(context, run))
        }
        Request::StopAll { .. } => None,
    }
}

/// There is no such run; perhaps one of another batch is meant.
fn no_run(context: &Context, id: &RunId) -> anyhow::Error {
    let lists = format!("`batchd runs {}` lists the runs", id.batch);
    let hint = match Facts::read(context) {
        Ok(facts) if !facts.has_or_had(&id.batch) => {
            let names = facts.batches.keys().map(BatchName::as_str);
            let near = load::nearest(id.batch.as_str(), names).map(|near| format!("did you mean `{near}`?"));
            format!("there is no batch `{}`; {}", id.batch, near.as_deref().unwrap_or(LIST_SHOWS))
        }
        Ok(_) | Err(_) => lists,
    };
    Complaint::usage(format!("there is no run {id}"), hint)
}

/// Where all names stand.
const LIST_SHOWS: &str = "`batchd list` shows all batches";

/// There is no such batch; perhaps one of `known` is meant.
pub(super) fn no_batch<'n>(name: &BatchName, known: impl Iterator<Item = &'n BatchName>) -> anyhow::Error {
    let hint = match load::nearest(name.as_str(), known.map(BatchName::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => LIST_SHOWS.to_owned(),
    };
    Complaint::usage(format!("there is no batch `{name}`"), hint)
}

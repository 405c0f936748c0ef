//! Where commands that read get their facts: the journal, which says what is in force, and the definitions on the disk as
//! long as no daemon has run there. No daemon is asked.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::Context;
use super::args::Target;
use super::exit::Complaint;
use super::{disk, show, waits};
use crate::api::RunView;
use crate::checkup;
use crate::journal::OpenError;
use crate::journal::query::{Filter, QueryError, Reader};
use crate::load;
use crate::model::cron::Expression;
use crate::model::definition::Definition;
use crate::model::graph::{Entry, Graph};
use crate::model::id::{BatchName, RunId, Token};
use crate::model::record::{BatchFacts, Disabled};
use crate::model::request::Request;
use crate::model::run::{Outcome, Run};
use crate::model::schedule::Schedule;
use crate::model::settings::Limits;
use crate::model::text::counted;
use crate::model::zone::Zone;
use crate::rundir::{Owner, RunDir};
use crate::zones::Zones;

/// What is known of everything, and from where.
pub(super) struct Facts {
    /// None where no daemon has ever run.
    journal: Option<Reader>,
    /// The zone of batches without a `timezone`.
    pub zone: Arc<Zone>,
    /// Every batch in force, by name.
    pub batches: BTreeMap<BatchName, BatchFact>,
    /// The folder of the definitions.
    folder: PathBuf,
}

/// What is known of a batch in force.
#[derive(Clone, Debug)]
pub(super) struct BatchFact {
    /// Its definition.
    pub definition: Arc<Definition>,
    /// It does not fit the graph, and starts nothing.
    pub held: bool,
    /// The journal's other facts; none where there is no journal.
    pub facts: Option<BatchFacts>,
    /// Its newest run.
    pub latest: Option<Run>,
    /// Its last run that was begun and has ended.
    pub last_ended: Option<Run>,
    /// How many occurrences ended without beginning since the last run that was begun, by outcome.
    pub since: BTreeMap<Outcome, u64>,
}

impl BatchFact {
    /// The last `disable`, whether it still holds or not.
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
    /// Reads the batches in force from the journal. If no daemon has ever run here, reads the definitions on the disk, as a
    /// daemon would put them in force. Fails if there are none either, or if the journal is missing.
    pub(super) fn read(context: &Context) -> Result<Self> {
        let journal = journal_so_far(context)?;
        let folder = context.paths.batches.clone();
        let zone = daemon_zone(journal.as_ref(), &context.zones)?;
        let Some(journal) = journal else {
            let fitted = disk::fit(context, &context.paths.batches, &BTreeMap::new(), false)?;
            let on_disk = fitted.graph.iter().map(|(name, node)| {
                let fact = BatchFact {
                    definition: node.definition().clone(),
                    held: node.entry.held,
                    facts: None,
                    latest: None,
                    last_ended: None,
                    since: BTreeMap::new(),
                };
                (name.clone(), fact)
            });
            return Ok(Self { journal: None, zone, batches: on_disk.collect(), folder });
        };
        let rows = journal.batches()?.into_iter().filter_map(|row| {
            let in_force = row.in_force?;
            let fact = BatchFact {
                definition: in_force.definition?,
                held: in_force.held,
                facts: Some(row.facts),
                latest: row.latest,
                last_ended: row.last_ended,
                since: row.since,
            };
            Some((in_force.batch, fact))
        });
        let batches = rows.collect();
        Ok(Self { journal: Some(journal), zone, batches, folder })
    }

    /// The journal; none where no daemon has ever run.
    pub(super) fn journal(&self) -> Option<&Reader> {
        self.journal.as_ref()
    }

    /// The batch of this name in force.
    pub(super) fn batch(&self, name: &BatchName) -> Result<&BatchFact> {
        self.batches.get(name).ok_or_else(|| self.no_batch(name))
    }

    /// An error if there is no batch of this name and never was.
    pub(super) fn known(&self, name: &BatchName) -> Result<()> {
        if self.has_or_had(name) { Ok(()) } else { Err(self.no_batch(name)) }
    }

    /// There is no such batch in force: it has errors, it was removed, or the name is wrong.
    fn no_batch(&self, name: &BatchName) -> anyhow::Error {
        if self.folder.join(name.as_str()).is_dir() {
            let what = format!("{name} is not in force");
            return Complaint::usage(what, "find errors in its definition: `batchd check`; else wait a second");
        }
        if self.has_or_had(name) {
            let hint = format!("list its runs: `batchd runs {name}`");
            return Complaint::usage(format!("the batch `{name}` was removed"), hint);
        }
        no_batch(name, self.batches.keys())
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
            let times = self.times_of(&fact.definition, zones)?;
            let definition = fact.definition.clone();
            Ok(Entry { definition, schedule: times.schedule, reboot: times.reboot, held: fact.held })
        };
        let entries = self.batches.values().map(entry).collect::<Result<Vec<_>>>()?;
        Graph::new(entries, Limits::default()).map_err(|_| {
            let hint = "see the daemon's log; `batchd check` shows the errors in the files";
            Complaint::failure("the definitions in the journal contradict each other", hint)
        })
    }

    /// When a definition is due, with the zone files as they are now.
    pub(super) fn times_of(&self, definition: &Definition, zones: &Zones) -> Result<Times> {
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
            false => Some(Arc::new(Schedule::new(times, self.zone_of(definition, zones)?))),
        };
        Ok(Times { schedule, reboot })
    }

    /// The zone of a definition's schedule.
    pub(super) fn zone_of(&self, definition: &Definition, zones: &Zones) -> Result<Arc<Zone>> {
        Ok(own_zone(definition, zones)?.unwrap_or_else(|| self.zone.clone()))
    }

    /// The definitions in force, as a reload starts from them.
    pub(super) fn definitions(&self) -> BTreeMap<BatchName, Arc<Definition>> {
        self.batches.iter().map(|(name, fact)| (name.clone(), fact.definition.clone())).collect()
    }
}

/// The journal; none where there is none.
pub(super) fn open_journal(context: &Context) -> Result<Option<Reader>> {
    match Reader::open(&context.paths.journal()) {
        Ok(reader) => Ok(Some(reader)),
        Err(OpenError::Absent { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The journal, for commands that have nothing to say without one.
pub(super) fn journal(context: &Context) -> Result<Reader> {
    open_journal(context)?.ok_or_else(|| no_journal(context))
}

/// The journal; none where there are definitions and no daemon has ever run. An error if the journal has gone, or if there
/// is nothing of batchd at all.
pub(super) fn journal_so_far(context: &Context) -> Result<Option<Reader>> {
    let journal = open_journal(context)?;
    let is_new = || traces(context).is_none() && context.paths.batches.is_dir();
    if journal.is_none() && !is_new() { Err(no_journal(context)) } else { Ok(journal) }
}

/// What shows that there was a journal, if anything does.
fn traces(context: &Context) -> Option<String> {
    let entries = std::fs::read_dir(&context.paths.runs).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<RunId>().is_ok()));
    match folders.count() {
        0 if context.paths.state.join("definitions").is_dir() => {
            Some(format!("{} has definitions that were in force", context.paths.state.display()))
        }
        0 => None,
        count => {
            Some(format!("{} has {}", context.paths.runs.display(), counted(count as u64, "run folder", "run folders")))
        }
    }
}

/// There is no journal: what is missing, where it was looked for, and what to do.
pub(super) fn no_journal(context: &Context) -> anyhow::Error {
    let journal = context.paths.journal().display().to_string();
    if let Some(traces) = traces(context) {
        let what = format!("the journal {journal} is missing, but {traces}");
        let hint = "put the journal back, restore a backup with `batchd restore FILE`, \
            or rebuild it with `batchd doctor --rebuild FILE` (see docs/backup.md)";
        return Complaint::failure(what, hint);
    }
    let above = match &context.searched_above {
        Some(folder) => format!(", and no folder above {} has one or a batchd.toml", folder.display()),
        None => String::new(),
    };
    let what = format!("there is no journal at {journal}{above}");
    let hint = "run the command in the daemon's folder, or name the state folder with `--state DIR` or BATCHD_STATE; \
        the first `batchd daemon` creates the journal";
    Complaint::failure(what, hint)
}

/// The zone of batches without a `timezone`: the daemon's, whoever asks. Before a daemon has run it is the reader's.
fn daemon_zone(journal: Option<&Reader>, zones: &Zones) -> Result<Arc<Zone>> {
    match journal.map(Reader::daemon_zone).transpose()?.flatten().as_deref() {
        None => Ok(zones.system().zone.clone()),
        // A copy of a zone file without a known name: the host's zone, but not that of the reader's `TZ`.
        Some(ZONE_WITHOUT_NAME) => {
            Ok(Zones::new(std::env::var_os("TZDIR").map(Into::into), None).system().zone.clone())
        }
        Some(name) => zones.get(name).context("can't load the daemon's time zone"),
    }
}

/// How the journal names the zone of a host whose zone file is a copy without a known name.
const ZONE_WITHOUT_NAME: &str = "localtime";

/// The run of this id.
pub(super) fn run(context: &Context, id: &RunId) -> Result<Run> {
    journal(context)?.run(id)?.ok_or_else(|| no_run(context, id))
}

/// A run by its id, or the newest of a batch, whatever became of it.
pub(super) fn newest(context: &Context, target: &Target) -> Result<Run> {
    target_by(context, target, Reader::latest, "has not run yet")
}

/// A run by its id, or the latest of a batch that was begun.
pub(super) fn begun(context: &Context, target: &Target) -> Result<Run> {
    target_by(context, target, Reader::latest_begun, "has not started yet")
}

/// A run by its id, or the latest of a batch that has logs.
pub(super) fn with_logs(context: &Context, target: &Target) -> Result<Run> {
    target_by(context, target, Reader::latest_with_logs, "has no logs, because its script has never run")
}

/// The run that `find` finds for a batch; `verb` says that there is none.
fn target_by(
    context: &Context,
    target: &Target,
    find: impl Fn(&Reader, &BatchName) -> Result<Option<Run>, QueryError>,
    verb: &str,
) -> Result<Run> {
    let batch = match target {
        Target::Run(id) => return run(context, id),
        Target::Batch(batch) => batch,
    };
    let journal = journal(context)?;
    if let Some(run) = find(&journal, batch)? {
        return Ok(run);
    }
    Facts::read(context)?.known(batch)?;
    let newest = journal.latest(batch)?.map(|run| show::ending(&RunView::from(&run)));
    let newest = newest.map(|newest| format!("; newest run: {newest}")).unwrap_or_default();
    let hint = format!("`batchd runs {batch}` lists its runs, `batchd next {batch}` shows when it is due");
    Err(Complaint::failure(format!("{batch} {verb}{newest}"), hint))
}

/// The batch that is meant by an argument that has to be one.
pub(super) fn batch_of(target: &Target, command: &str) -> Result<BatchName> {
    match target {
        Target::Batch(batch) => Ok(batch.clone()),
        Target::Run(run) => {
            let what = format!("`batchd {command}` takes the name of a batch, and {run} is a run");
            let hint = format!("for the batch: `batchd {command} {}`; for this run: `batchd show {run}`", run.batch);
            Err(Complaint::usage(what, hint))
        }
    }
}

/// The folder of a run, whether it exists or not. An error if the folder belongs to a run of another journal, as when `runs`
/// was kept and `state` was not.
pub(super) fn folder(context: &Context, run: &Run) -> Result<PathBuf> {
    let path = context.paths.runs.join(run.id.to_string());
    let Some(journal) = open_journal(context)? else { return Ok(path) };
    let token = Token { journal: journal.journal_id()?, run: run.id.clone(), queued_at: run.queued_at };
    let owner = RunDir::open(&path).and_then(|folder| folder.owner(&token));
    if owner.is_ok_and(|owner| owner == Owner::Foreign) {
        let what = format!("{} belongs to a run of another journal", path.display());
        let hint = "use the `--runs` that belongs to this `--state`; the files can be read with other programs";
        return Err(Complaint::failure(what, hint));
    }
    Ok(path)
}

/// Whether a folder of the daemon exists. An error if this user may not know.
pub(super) fn is_there(folder: &Path) -> Result<bool> {
    match std::fs::metadata(folder) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(unreadable(folder)),
        Err(_) => Ok(false),
    }
}

/// Something exists, or may exist, that this user may not read.
pub(super) fn unreadable(path: &Path) -> anyhow::Error {
    let hint = "run the command as root or as the daemon's user; members of `socket_group` can read logs, \
        but not workspaces";
    Complaint::failure(format!("{} is not readable for you", path.display()), hint)
}

/// The error of a command that needs what only the daemon's user may read.
pub(super) fn explained(error: anyhow::Error) -> anyhow::Error {
    let is_denied = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::PermissionDenied;
    if error.chain().filter_map(|cause| cause.downcast_ref()).any(is_denied) {
        return Complaint::failure(format!("{error:#}"), "run the command as root or as the daemon's user");
    }
    error
}

/// All runs of the chain that a run belongs to, oldest first, with what they wait for.
pub(super) fn chain(context: &Context, id: &RunId) -> Result<Vec<RunView>> {
    let journal = journal(context)?;
    waits::views(&journal, &journal.chain(id)?, context.now)
}

/// The `timezone` of a run's batch, if the batch is in force and has one that is known.
pub(super) fn zone_of_run(context: &Context, run: &Run) -> Option<Arc<Zone>> {
    let in_force = open_journal(context).ok()??.in_force(&run.id.batch).ok()??;
    own_zone(in_force.definition.as_deref()?, &context.zones).ok()?
}

/// The zone that a definition names, if it does.
fn own_zone(definition: &Definition, zones: &Zones) -> Result<Option<Arc<Zone>>> {
    let zone =
        |name: &String| zones.get(name).with_context(|| format!("can't load the time zone of {}", definition.name));
    definition.timezone.as_ref().map(zone).transpose()
}

/// Says on stderr if no daemon is running: what the journal shows as running or waiting is then what the last daemon saw.
pub(super) fn tell_of_daemon(context: &Context, shows_live: bool) -> Result<()> {
    let state = &context.paths.state;
    if !checkup::daemon_lives(state) {
        let live = if shows_live { "; runs shown as running may have ended" } else { "" };
        let state = state.display();
        writeln!(std::io::stderr(), "the daemon is not running on {state}{live}; start it with `batchd daemon`")?;
    }
    Ok(())
}

/// The error for a name that the daemon does not know; none if the journal knows the name, or can't be read.
pub(super) fn unknown(context: &Context, request: &Request) -> Option<anyhow::Error> {
    match request {
        Request::Start { batch, .. } | Request::Enable { batch } | Request::Disable { batch, .. } => {
            Facts::read(context).ok()?.batch(batch).err()
        }
        Request::Stop { run, .. } | Request::Rerun { run, .. } => {
            let is_there = open_journal(context).ok()??.run(run).ok()?.is_some();
            if is_there { None } else { Some(no_run(context, run)) }
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
        Ok(facts) => match facts.journal().and_then(|journal| journal.latest(&id.batch).ok().flatten()) {
            Some(latest) => format!("the latest run is {}; {lists}", latest.id),
            None => lists,
        },
        Err(_) => lists,
    };
    Complaint::usage(format!("there is no run {id}"), hint)
}

/// The command that shows all names.
const LIST_SHOWS: &str = "`batchd list` shows all batches";

/// There is no such batch; perhaps one of `known` is meant.
pub(super) fn no_batch<'n>(name: &BatchName, known: impl Iterator<Item = &'n BatchName>) -> anyhow::Error {
    let hint = match load::nearest(name.as_str(), known.map(BatchName::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => LIST_SHOWS.to_owned(),
    };
    Complaint::usage(format!("there is no batch `{name}`"), hint)
}

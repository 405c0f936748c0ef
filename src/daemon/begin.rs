//! The order in which a daemon starts: lock, journal, disk, adoption, and only then scheduling and the socket.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc as sync_mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::FlockOperation;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::effects::Definitions;
use super::inlets::Inlets;
use super::log::Log;
use super::output::Output;
use super::reload::{Loader, Message};
use super::reserve::Reserve;
use super::signals::Signal;
use super::writer::Writer;
use super::{Daemon, ahead, greeting, orphans};
use crate::api::{ApiHandle, Runs, server, socket};
use crate::cli::DaemonArgs;
use crate::clock::{self, Alarm};
use crate::folders::{BATCH_TOML, Surroundings, own_program, schedule};
use crate::journal::query::{Filter, Reader};
use crate::journal::{Journal, OpenError, private};
use crate::model::definition::Definition;
use crate::model::graph::{Entry, Graph};
use crate::model::id::{BatchName, RunId};
use crate::model::record::{Boot, InForce, Record, Recovered};
use crate::model::run::Run;
use crate::model::settings::Limits;
use crate::model::text::counted;
use crate::os::make_durable_folder;
use crate::paths::Paths;
use crate::rundir::access::Access;
use crate::rundir::{self, LOCK};
use crate::scheduler::{Event, Scheduler};
use crate::store::{definitions, modes, upgrade, users, workspace};
use crate::supervisor::{self, Local, Place as _};
use crate::watcher::Watcher;
use crate::zones::Zones;

/// How long adoption is waited for before scheduling begins: a shim that is stuck on its way in or out, or what is left of a
/// run and does not die, must not keep all other batches from running. A file system that hangs does: all runs share it.
const ADOPTION_MAX: Duration = Duration::from_secs(10);
/// Requests that wait for the loop; the API answers that the daemon is busy beyond.
const ACTS_WAITING_MAX: usize = 256;
/// Among so many of the newest runs are those that had ended, and whose folders were not tidied, when the last daemon was
/// killed: more than are under way at a time. An older one keeps its lock file, which disturbs nobody.
const UNTIDY_AMONG: u32 = 1000;
/// Everybody may pass through the state folder, to a workspace of theirs; nobody else may list it (design 3.1).
const STATE_MODE: u32 = 0o711;
/// How long a lock that somebody holds is tried: an exec takes milliseconds, and a person who starts a second daemon can wait.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries.
const LOCK_LOOK: Duration = Duration::from_millis(10);
/// Nobody else has any business with the lock.
const LOCK_MODE: u32 = 0o600;

/// Starts everything. When it returns, scheduling has begun. `told_to_end` is for the time in which the journal can't be
/// written.
pub(super) async fn begin(
    args: &DaemonArgs,
    paths: Paths,
    log: &Log,
    signals: mpsc::UnboundedReceiver<Signal>,
    told_to_end: watch::Receiver<bool>,
) -> Result<(Daemon, Inlets)> {
    let lock = make_folders(&paths)?;
    clear_unfinished(&paths.state);
    let around = surroundings(&paths, args)?;
    let limits = around.settings.settings.limits.clone();
    let log_output = around.settings.settings.log_output;
    let access = access(&around, &paths)?;
    let (journal, reserve, no_room) = open_journal(&paths, access.group)?;
    let recovered = recover(&journal, &paths, &around)?;
    let reader = Reader::open(&paths.journal())?;
    let before = Arc::new(graph_before(&around.zones, &recovered, &limits));
    // Watch first, look second: what changes in between is seen twice, and not never.
    let (messages, loader_inlet) = sync_mpsc::channel::<Message>();
    let watcher = start_watcher(&paths, messages.clone());
    let live = under_way(&recovered, &before, &around, &paths.state);
    let mut loader = loader(args, &paths, around, watcher, &before);
    let (graph, diagnostics) = loader.begin(before.clone());

    let boot = present_boot()?;
    let (reports_inlet, reports) = mpsc::unbounded_channel();
    let (shortage, is_short) = watch::channel(no_room);
    let surroundings = supervisor_surroundings(&paths, &boot.host, loader.trusted_owners(), access)?;
    let place = Local::start(surroundings, reports_inlet, is_short).context("can't start the supervisor")?;
    let journal_id = journal.id().clone();
    let mut daemon = Daemon {
        // The end of the first process of a container ends all others: to stop the runs first is their only chance of a TERM.
        stop_runs: args.stop_runs || orphans::is_first_process(),
        starts_nothing: false,
        journal: journal_id,
        scheduler: Scheduler::recover(recovered, before, boot),
        writer: Writer::start(journal, reserve, shortage, told_to_end)?,
        reader,
        place,
        definitions: Definitions::new(paths.state.clone()),
        zones: Zones::of_environment(),
        alarm: Alarm::new().context("can't make a timer")?,
        output: Output::start(log_output, paths.runs.clone(), log.clone())?,
        changes: watch::channel(0).0,
        loader: messages,
        replies: BTreeMap::new(),
        request_last: 0,
        awaited_inputs: BTreeSet::new(),
        pending: Vec::new(),
        held: Vec::new(),
        commit_at: None,
        paths,
        _lock: lock,
    };
    let (swaps_inlet, swaps) = mpsc::unbounded_channel();
    let (acts_inlet, acts) = mpsc::channel(ACTS_WAITING_MAX);
    let mut inlets = Inlets { reports, acts, swaps, signals };
    daemon.note_start().await?;
    daemon.tidy()?;
    daemon.adopt(live, &mut inlets).await?;
    daemon.handle(vec![Event::Begin(graph)]).await?;
    daemon.commit(Vec::new()).await?;
    thread::Builder::new()
        .name("reload".to_owned())
        .spawn(move || loader.serve(&loader_inlet, &swaps_inlet))
        .context("can't start the reload thread")?;
    daemon.open_socket(acts_inlet, access.group)?;
    daemon.greet(&diagnostics);
    Ok((daemon, inlets))
}

fn present_boot() -> Result<Boot> {
    let host = clock::boot_id().context("can't read the boot id of the host")?;
    Ok(Boot { host, container: clock::container() })
}

fn start_watcher(paths: &Paths, messages: sync_mpsc::Sender<Message>) -> Watcher {
    Watcher::start(&paths.batches, &paths.settings, move |hint| {
        // The thread is gone only when the daemon is.
        let _ = messages.send(Message::Hint(hint));
    })
}

/// Settings, zones and the host; then logs where everything is. A daemon that begins has no settings that were good before: with half of those on the disk
/// it could run scripts as another user, without their limits, or in another pool, and so it does not begin.
fn surroundings(paths: &Paths, args: &DaemonArgs) -> Result<Surroundings> {
    paths.check_settings_exist()?;
    let (around, wrong) = Surroundings::read(&paths.settings, daemon_uid(args))?;
    if !wrong.is_empty() {
        let all: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        bail!("the settings have errors; fix them to start the daemon:\n{}", all.join("\n"));
    }
    greeting::tell_where(paths, &around.zones);
    Ok(around)
}

/// Whose files are trusted beside root's and those of `trusted_owners`; none: everybody's.
fn daemon_uid(args: &DaemonArgs) -> Option<u32> {
    (!args.insecure_permissions).then(users::own_uid)
}

/// Who may read what runs write: the group that may use the socket, too.
fn access(around: &Surroundings, paths: &Paths) -> Result<Access> {
    Ok(Access { mode: around.settings.settings.runs_mode, group: socket_group(around, paths)?, reader: None })
}

/// The number of the group that may use the socket.
fn socket_group(around: &Surroundings, paths: &Paths) -> Result<Option<u32>> {
    let Some(name) = &around.settings.settings.socket_group else { return Ok(None) };
    let missing = || {
        format!(
            "there is no group {name}: create it with `groupadd {name}`, or change `socket_group` in {}",
            paths.settings.display()
        )
    };
    users::gid_of(name)?.with_context(missing).map(Some)
}

/// Lets those read the journal who may use the socket, and nobody else.
fn protect_journal(path: &Path, group: Option<u32>) -> Result<()> {
    let cannot = || format!("can't set the group and mode of {} and the files beside it", path.display());
    private::protect(path, group).with_context(cannot)?;
    if let Err(error) = private::protect_copies(path) {
        warn!("a copy of {} may be readable for everybody: {error}", path.display());
    }
    Ok(())
}

/// Removes what a daemon or a shim that was killed had begun to write. That it can't is no reason not to start.
fn clear_unfinished(state: &Path) {
    if let Err(error) = definitions::clear_unfinished(state) {
        warn!("can't remove unfinished files of an earlier daemon: {error}");
    }
    if let Err(error) = modes::clear_unfinished(state) {
        warn!("can't remove unfinished files in the state folder: {error}");
    }
    // One of a shim that is just ending may be gone before it is removed.
    if let Err(error) = workspace::clear_unfinished(state) {
        warn!("can't remove unfinished files of an earlier run: {error}");
    }
}

/// What the journal knows; the rest of the state folder is brought up to it.
fn recover(journal: &Journal, paths: &Paths, around: &Surroundings) -> Result<Recovered> {
    let recovered = journal.recover()?;
    ahead::refuse_older_journal(paths, &recovered)?;
    upgrade_store(&paths.state, &recovered, around);
    Ok(recovered)
}

/// Makes what earlier versions kept in the state folder as private as this one keeps it. What fails is tried again at the
/// next start.
fn upgrade_store(state: &Path, recovered: &Recovered, around: &Surroundings) {
    let busy = recovered.runs.iter().filter(|run| run.is_under_way()).map(|run| run.id.batch.clone()).collect();
    let env_file_of = |toml: &[u8]| around.env_file_of(toml);
    let Some(upgraded) = upgrade::upgrade(state, &busy, BATCH_TOML, &env_file_of) else { return };
    if upgraded.closed > 0 {
        let workspaces = counted(upgraded.closed, "workspace", "workspaces");
        warn!("made {workspaces} private (mode 0700): programs of other users can't read them any more");
    }
    if upgraded.env_files_removed > 0 {
        let copies = counted(upgraded.env_files_removed, "copy of an `env_file`", "copies of `env_file`s");
        warn!("removed {copies} that an earlier version kept in the state folder");
    }
    if upgraded.left > 0 {
        let workspaces = counted(upgraded.left, "workspace", "workspaces");
        warn!("kept the copy of an `env_file` in {workspaces} in use; the next run or the next start removes it");
    }
    if let Some(problem) = upgraded.problems.first() {
        let more = upgraded.problems.len() - 1;
        let more = if more > 0 { format!(" ({more} more)") } else { String::new() };
        warn!("can't make private what an earlier version left: {problem}{more}; the next start tries again");
    }
}

/// The folders of runs and state, and the lock on the state: a second daemon on it ends here.
fn make_folders(paths: &Paths) -> Result<File> {
    // A state that has known batches outlives the loss of their folder (design 3.7); a mistaken path should leave nothing.
    if !paths.batches.is_dir() && !paths.journal().exists() {
        bail!(
            "there is no folder {}: create it, or name the folder of the batches with --batches DIR",
            paths.batches.display()
        );
    }
    let cannot = |path: &Path, error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow!("{} is a file, not a folder; move it away", path.display()),
        _ => anyhow!("can't create the folder {}: {}", path.display(), supervisor::said(path, &error)),
    };
    fs::create_dir_all(&paths.runs).map_err(|error| cannot(&paths.runs, error))?;
    make_durable_folder(&paths.state, STATE_MODE).map_err(|error| cannot(&paths.state, error))?;
    fs::set_permissions(&paths.state, fs::Permissions::from_mode(STATE_MODE)).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => belongs_to_another(&paths.state),
        _ => anyhow!("can't set the mode of {}: {}", paths.state.display(), supervisor::said(&paths.state, &error)),
    })?;
    let path = lock_path(paths);
    // Whoever can open it can lock it, and keep every daemon out.
    let lock = File::options().create(true).truncate(false).write(true).mode(LOCK_MODE).open(&path);
    let lock = lock.with_context(|| format!("can't open {}", path.display()))?;
    take_lock(&lock, paths)?;
    Ok(lock)
}

fn belongs_to_another(state: &Path) -> anyhow::Error {
    let owner = state.metadata().map_or_else(|_| "another user".to_owned(), |state| users::shown(state.uid()));
    anyhow!(
        "{} belongs to {owner}; start the daemon as that user, or name another folder with --state",
        state.display()
    )
}

fn lock_path(paths: &Paths) -> PathBuf {
    paths.state.join("daemon.lock")
}

/// Takes both locks on the file. The OFD lock is what readers ask for, since they see it from other pid namespaces, too;
/// flock(2) keeps out daemons of earlier versions, which know no other.
///
/// Tries for a little while: a daemon that was killed while it forked leaves a process that holds the locks until that
/// process has executed the launcher. flock(2) can't wait with a limit, so the locks are tried again and again.
fn take_lock(lock: &File, paths: &Paths) -> Result<()> {
    let until = clock::monotonic() + LOCK_PATIENCE;
    let cannot = || format!("can't lock {}", lock_path(paths).display());
    while !try_lock(lock).with_context(cannot)? {
        if clock::monotonic() >= until {
            bail!(
                "another daemon is running on {}. Stop it first, or use another state folder: `--state DIR`",
                paths.state.display()
            );
        }
        thread::sleep(LOCK_LOOK);
    }
    Ok(())
}

/// True: both locks are ours. False: another process has one of them.
fn try_lock(lock: &File) -> std::io::Result<bool> {
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => rundir::set_lock(lock.as_fd()),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The journal, its reserve, and why nothing may start for the want of room for it.
fn open_journal(paths: &Paths, group: Option<u32>) -> Result<(Journal, Reserve, Option<String>)> {
    ahead::refuse_without_journal(paths)?;
    let reserve = Reserve::of(&paths.state, &paths.journal());
    let journal = match Journal::open(&paths.journal()) {
        Err(OpenError::NoRoom { .. }) if reserve.release() => Journal::open(&paths.journal())?,
        opened => opened?,
    };
    protect_journal(&paths.journal(), group)?;
    let no_room = reserve.make().err().map(|short| short.to_string());
    if let Some(reason) = &no_room {
        warn!("{reason}");
    }
    Ok((journal, reserve, no_room))
}

/// Every run that an earlier daemon has left under way, each with what it runs, if that is still known.
type Left = Vec<(Run, Option<Arc<Definition>>)>;

/// What was left under way. Its definition is the one in force if it is still that, else the stored one, since a folder may
/// have been edited or removed after the run began.
fn under_way(recovered: &Recovered, before: &Graph, around: &Surroundings, state: &Path) -> Left {
    let definition = |run: &Run| {
        let in_force = before.get(&run.id.batch).map(|node| node.definition().clone());
        if in_force.as_ref().is_some_and(|definition| Some(definition.hash) == run.definition) {
            return in_force;
        }
        let stored = run.definition.and_then(|hash| definitions::read_back(state, hash).ok());
        stored.and_then(|files| around.definition(&run.id.batch, &files)).or(in_force)
    };
    let runs = recovered.runs.iter().filter(|run| run.is_under_way());
    runs.map(|run| (run.clone(), definition(run))).collect()
}

/// The graph of the definitions that were in force when the last daemon ended.
fn graph_before(zones: &Zones, recovered: &Recovered, limits: &Limits) -> Graph {
    let entries = |hold: bool| -> Vec<Entry> {
        let entry = |in_force: &InForce| {
            let definition = in_force.definition.clone()?;
            // Without its zone it has no schedule now, and gets it back with the zone.
            let (schedule, reboot) = schedule(zones, &definition).unwrap_or((None, false));
            Some(Entry { definition, schedule, reboot, held: in_force.held || hold })
        };
        recovered.in_force.iter().filter_map(entry).collect()
    };
    Graph::new(entries(false), limits.clone()).unwrap_or_else(|_| {
        // It was a graph when it was recorded. If this batchd sees it otherwise, nothing follows until the disk is read.
        warn!("the last definitions contradict each other; dependencies are ignored until batches.d is read");
        Graph::new(entries(true), limits.clone()).unwrap_or_default()
    })
}

fn loader(args: &DaemonArgs, paths: &Paths, around: Surroundings, watcher: Watcher, before: &Graph) -> Loader {
    let in_force: BTreeMap<BatchName, Arc<Definition>> =
        before.iter().map(|(name, node)| (name.clone(), node.definition().clone())).collect();
    let (again, daemon_uid) = (paths.settings.clone(), daemon_uid(args));
    let settings_again = move || Surroundings::read(&again, daemon_uid);
    Loader::new((paths.batches.clone(), paths.state.clone()), around, Box::new(settings_again), watcher, in_force)
}

/// What the place where runs live has to know.
fn supervisor_surroundings(
    paths: &Paths,
    boot: &str,
    trusted_owners: supervisor::TrustedOwners,
    access: Access,
) -> Result<supervisor::Surroundings> {
    let mut environment = supervisor::clean_environment(|name| std::env::var(name).ok());
    let variables = paths.variables().map(|(name, path)| (name.to_owned(), path.display().to_string()));
    environment.extend(variables);
    Ok(supervisor::Surroundings {
        runs: paths.runs.clone(),
        state: paths.state.clone(),
        batches: paths.batches.clone(),
        trusted_owners,
        boot: boot.to_owned(),
        environment,
        // What is not UTF-8 can't be passed on.
        inherited: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        program: own_program()?,
        access,
    })
}

impl Daemon {
    /// Writes into the journal that a daemon starts: nobody was there before.
    async fn note_start(&self) -> Result<()> {
        let text = format!("batchd {} started, process {}", env!("CARGO_PKG_VERSION"), std::process::id());
        let zone = Record::Zone { name: self.zones.system().zone.name.clone() };
        self.writer.commit(vec![Record::Event { at: clock::now(), text }, zone]).await
    }

    /// Tidies the folders of runs whose end was committed when the last daemon was killed.
    fn tidy(&self) -> Result<()> {
        let newest = self.reader.runs(&Filter::default(), None, UNTIDY_AMONG)?.runs;
        let has_lock = |run: &&Run| self.paths.runs.join(run.id.to_string()).join(LOCK).exists();
        let untidy = newest.iter().filter(|run| run.end().is_some()).filter(has_lock);
        untidy.for_each(|run| self.place.collect(run.id.clone()));
        Ok(())
    }

    /// Takes over what an earlier daemon has left under way: before anything is scheduled, it is known of each run whether
    /// it lives or how it ended.
    async fn adopt(&mut self, live: Left, inlets: &mut Inlets) -> Result<()> {
        let mut open: BTreeSet<RunId> = BTreeSet::new();
        for (run, definition) in live {
            open.insert(run.id.clone());
            let stop = run.stop.is_some();
            let id = run.id.clone();
            self.output.adopt(&run);
            let launch = self.launch(run, definition)?;
            self.place.find(launch);
            if stop {
                // The request is in the journal, and was perhaps never carried out.
                self.place.stop(id);
            }
        }
        let deadline = tokio::time::Instant::now() + ADOPTION_MAX;
        while !open.is_empty() {
            match tokio::time::timeout_at(deadline, inlets.next_report()).await {
                Ok(told) => {
                    let (run, report) = told?;
                    open.remove(&run);
                    self.handle(vec![Event::Report { run, report }]).await?;
                }
                Err(_) => {
                    let runs = counted(open.len(), "run", "runs");
                    warn!("can't read {runs} of an earlier daemon yet; scheduling starts without them");
                    break;
                }
            }
        }
        Ok(())
    }

    fn open_socket(&self, acts: mpsc::Sender<crate::api::Act>, group: Option<u32>) -> Result<()> {
        let listener = socket::listen(&self.paths.state, group)?;
        let runs = Arc::new(JournalRuns { path: self.paths.journal() });
        let (changes, state) = (self.changes.subscribe(), self.paths.state.clone());
        tokio::spawn(server::serve(listener, ApiHandle { acts, changes, runs, state }));
        Ok(())
    }
}

/// The runs of the journal, for those who wait for an end.
struct JournalRuns {
    path: PathBuf,
}

impl Runs for JournalRuns {
    fn last_attempt(&self, run: &RunId) -> Result<Option<Run>> {
        Ok(Reader::open(&self.path)?.last_attempt(run)?)
    }
}

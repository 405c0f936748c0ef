//! The daemon: brings the scheduler and the edges together. The only module that knows them all.
//!
//! One loop takes one event after the other, has the scheduler decide, has the records committed, and then has the acts
//! carried out: journal before act. Everything else is a thread or a task at the other end of a channel. It decides nothing.

mod ahead;
mod begin;
mod effects;
mod greeting;
mod inlets;
mod inputs;
mod log;
mod manager;
mod memory;
mod orphans;
mod output;
mod reload;
mod reserve;
mod settled;
mod signals;
mod stop;
mod tell;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::sync::mpsc as sync_mpsc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::api::{Act, Reloaded};
use crate::cli::DaemonArgs;
use crate::clock::{self, Alarm};
use crate::journal::query::Reader;
use crate::model::id::{JournalId, RunId};
use crate::model::input::InputId;
use crate::model::record::Record;
use crate::model::request::{Reply, Request};
use crate::model::run::{Given, Input, Run};
use crate::model::text::counted;
use crate::paths::Paths;
use crate::scheduler::{Effect, Event, Scheduler};
use crate::shim::sys;
use crate::supervisor::Local;
use crate::zones::Zones;
use effects::Definitions;
use inlets::{Incoming, Inlets};
use log::Log;
use manager::Manager;
use output::Output;
use reload::{Message, Swap};
use signals::Signal;
use writer::{Uncommitted, Writer};

/// So many reports are handled before their records are committed together: enough for one fsync to serve a burst, few
/// enough that the first of them does not wait for long.
const EVENTS_AT_ONCE_MAX: usize = 64;

/// Records of events that led to no act are committed within this time, with those of the next event that leads to one: a
/// script that ends at once then costs one commit, and not a second one for the fact that it has begun. Nobody sees it.
const COMMIT_WITHIN: Duration = Duration::from_millis(10);

/// Runs the daemon until it is told to end. `paths` resolves them from the settings as they are at that time.
pub fn run(args: &DaemonArgs, paths: &dyn Fn() -> Result<Paths>) -> Result<()> {
    // What a shell or a service manager leaves open is of no use here. A definition that was open for writing would have this
    // process as its writer, and would never come into force. It can fail only where the kernel is older than 5.9.
    let _ = sys::close_range(3, u32::MAX);
    let log = tell::begin(args.log_format)?;
    let result = run_logged(args, paths, &log);
    log.flush();
    result
}

fn run_logged(args: &DaemonArgs, paths: &dyn Fn() -> Result<Paths>, log: &Log) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let (signals, told_to_end) = signals::listen()?;
        let manager = Manager::of_environment();
        let paths = settled::paths(paths).await?;
        match begin::begin(args, paths, log, signals, told_to_end).await {
            Ok((daemon, inlets)) => {
                manager.ready();
                tokio::spawn(manager.clone().keep_alive(daemon.writer.pulse()));
                daemon.serve(inlets, &manager).await
            }
            Err(error) if error.is::<Uncommitted>() => {
                manager.stopping();
                warn!("{error}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    });
    // What is blocked in a system call does not keep the daemon from ending.
    runtime.shutdown_background();
    result
}

/// What the loop owns.
struct Daemon {
    paths: Paths,
    stop_runs: bool,
    /// It ends, and what runs with it: what still becomes `starting` is left to the next daemon, which begins it.
    starts_nothing: bool,
    journal: JournalId,
    scheduler: Scheduler,
    writer: Writer,
    reader: Reader,
    place: Local,
    definitions: Definitions,
    zones: Zones,
    alarm: Alarm,
    output: Output,
    changes: watch::Sender<u64>,
    loader: sync_mpsc::Sender<Message>,
    /// Who waits for the answer to a request.
    replies: BTreeMap<u64, oneshot::Sender<Reply>>,
    request_last: u64,
    /// Inputs that were admitted, and that no run has yet.
    awaited_inputs: BTreeSet<InputId>,
    /// What the acts of one event led to at once, to be handled next.
    pending: Vec<Event>,
    /// Records that are not committed yet: nothing was done because of them. If the daemon dies, they are decided again.
    held: Vec<Record>,
    /// When they are committed at the latest.
    commit_at: Option<tokio::time::Instant>,
    /// Held as long as the daemon lives: a second one on the same state finds it locked.
    _lock: std::fs::File,
}

/// How the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// What runs goes on.
    LeaveRuns,
    /// What runs is ended first.
    StopRuns,
}

impl Daemon {
    /// Works until it is told to end.
    async fn serve(mut self, mut inlets: Inlets, manager: &Manager) -> Result<()> {
        let result = match self.work(&mut inlets, manager).await {
            Err(error) if error.is::<Uncommitted>() => {
                manager.stopping();
                warn!("{error}");
                if self.stop_runs { self.stop_all(&mut inlets, false).await } else { Ok(()) }
            }
            result => result,
        };
        self.output.end();
        result
    }

    /// The loop.
    async fn work(&mut self, inlets: &mut Inlets, manager: &Manager) -> Result<()> {
        let ending = loop {
            self.alarm.set(self.scheduler.next_wakeup())?;
            let incoming = tokio::select! {
                incoming = inlets.next() => incoming?,
                fired = self.alarm.fired() => {
                    fired?;
                    self.handle(vec![Event::Wake]).await?;
                    continue;
                }
                () = passed(self.commit_at) => {
                    self.commit(Vec::new()).await?;
                    continue;
                }
            };
            match incoming {
                Incoming::Report(run, report) => {
                    let mut events = vec![Event::Report { run, report }];
                    while events.len() < EVENTS_AT_ONCE_MAX
                        && let Ok((run, report)) = inlets.reports.try_recv()
                    {
                        events.push(Event::Report { run, report });
                    }
                    self.handle(events).await?;
                }
                Incoming::Act(act) => self.act(act).await?,
                Incoming::Swap(swap) => self.swap(swap).await?,
                Incoming::Signal(Signal::Reload) => self.reload_by_signal(manager.clone()),
                Incoming::Signal(Signal::End) if self.stop_runs => break Ending::StopRuns,
                Incoming::Signal(Signal::End) => break Ending::LeaveRuns,
                Incoming::Signal(Signal::Interrupt) => break self.interrupted(&mut inlets.signals).await,
            }
        };
        manager.stopping();
        if ending == Ending::StopRuns {
            self.stop_all(inlets, true).await?;
        }
        self.commit(Vec::new()).await?;
        self.place.done().await;
        self.output.end();
        let under_way = self.scheduler.live().filter(|run| run.is_under_way()).count();
        match under_way {
            0 => info!("the daemon stopped; no run is active"),
            1 => info!("the daemon stopped; 1 run continues, and the next daemon adopts it"),
            _ => info!("the daemon stopped; {under_way} runs continue, and the next daemon adopts them"),
        }
        Ok(())
    }

    /// Ctrl-C: what runs goes on, unless there is a second one while something does.
    async fn interrupted(&self, signals: &mut mpsc::UnboundedReceiver<Signal>) -> Ending {
        if self.stop_runs {
            return Ending::StopRuns;
        }
        let under_way = self.scheduler.live().filter(|run| run.is_under_way()).count();
        if under_way == 0 || !std::io::stdin().is_terminal() {
            return Ending::LeaveRuns;
        }
        let (runs, they) = (counted(under_way, "run", "runs"), if under_way == 1 { "it" } else { "them" });
        warn!("leaving {runs} active without the daemon; press Ctrl-C again within 3 seconds to stop {they} too");
        match tokio::time::timeout(SECOND_INTERRUPT_WITHIN, signals.recv()).await {
            Ok(Some(Signal::Interrupt)) => Ending::StopRuns,
            Ok(_) | Err(_) => Ending::LeaveRuns,
        }
    }

    /// What somebody asks over the socket.
    async fn act(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Operate { request, by, reply } => self.request(&by, request, reply).await?,
            Act::AdmitInput { input, reply } => {
                // Who asked may be gone: then it is given up next.
                let _ = reply.send(self.admit_input(input));
            }
            Act::GiveUpInput { input } => self.give_up_input(input),
            Act::TidyInputs => self.tidy_inputs(),
            Act::Reload { by, reply } => {
                info!(by, "reload");
                self.ask_for_reload(reply);
            }
        }
        Ok(())
    }

    async fn request(&mut self, by: &str, request: Request, reply: oneshot::Sender<Reply>) -> Result<()> {
        // What it is about is read from the journal.
        self.commit(Vec::new()).await?;
        let history = match &request {
            Request::Rerun { run, .. } => self.history_of(run)?,
            Request::Stop { run, .. } | Request::Start { given: Given { input: Some(Input::Run(run)), .. }, .. } => {
                self.reader.run(run)?.into_iter().collect()
            }
            Request::Start { .. } | Request::StopAll { .. } | Request::Enable { .. } | Request::Disable { .. } => {
                Vec::new()
            }
        };
        let inputs = self.inputs_there(&request, &history);
        info!(by, "request: {request}");
        self.request_last += 1;
        let id = self.request_last;
        self.replies.insert(id, reply);
        self.handle(vec![Event::Request { id, by: by.to_owned(), request, history, inputs }]).await
    }

    /// Every run of the chains that a run and its upstreams belong to.
    fn history_of(&self, run: &RunId) -> Result<Vec<Run>> {
        let Some(run) = self.reader.run(run)? else { return Ok(Vec::new()) };
        let mut chains = BTreeSet::from([run.chain]);
        for upstream in &run.upstreams {
            chains.extend(self.reader.run(upstream)?.map(|upstream| upstream.chain));
        }
        let mut history = Vec::new();
        for chain in &chains {
            history.append(&mut self.reader.chain(chain)?);
        }
        Ok(history)
    }

    /// SIGHUP: whoever sent it is told by the service manager when it is done.
    fn reload_by_signal(&self, manager: Manager) {
        manager.reloading();
        let (done, decided) = oneshot::channel();
        self.ask_for_reload(done);
        tokio::spawn(async move {
            // An error: the daemon ends, and says so itself.
            if decided.await.is_ok() {
                manager.ready();
            }
        });
    }

    fn ask_for_reload(&self, done: oneshot::Sender<Reloaded>) {
        // The thread lives as long as this daemon; if it has died, the one who waits is told by the dropped channel.
        let _ = self.loader.send(Message::Reload(done));
    }

    /// Puts a graph in force, and says so to who waits.
    async fn swap(&mut self, swap: Swap) -> Result<()> {
        if self.zones.changed() {
            self.zones = Zones::of_environment();
            self.held.push(Record::Zone { name: self.zones.system().zone.name.clone() });
        }
        if let Some(graph) = swap.graph {
            self.handle(vec![Event::Reload(graph)]).await?;
        }
        // Who asked for it reads the journal next.
        self.commit(Vec::new()).await?;
        for done in swap.done {
            // Who asked may be gone.
            let _ = done.send(Reloaded { diagnostics: swap.diagnostics.clone() });
        }
        Ok(())
    }

    /// Has the events decided one after the other, commits all their records, and then carries out their acts; then the
    /// same for what the acts led to at once.
    async fn handle(&mut self, mut events: Vec<Event>) -> Result<()> {
        while !events.is_empty() {
            let mut effects = Vec::new();
            for event in events.drain(..) {
                self.scheduler.handle(clock::now(), event, &mut effects);
            }
            self.carry_out(effects).await?;
            events.append(&mut self.pending);
        }
        Ok(())
    }

    /// What an event led to: its records, and those that were held before them, are committed before any of its acts.
    async fn carry_out(&mut self, effects: Vec<Effect>) -> Result<()> {
        let (mut records, mut acts) = (Vec::new(), Vec::<Effect>::new());
        for effect in effects {
            match effect {
                Effect::Record(record) => records.push(record),
                act => acts.push(act),
            }
        }
        tell::records(&records);
        self.output.note(&records);
        if acts.is_empty() {
            if !records.is_empty() {
                self.held.append(&mut records);
                self.commit_at.get_or_insert_with(|| tokio::time::Instant::now() + COMMIT_WITHIN);
            }
            return Ok(());
        }
        effects::crash_points_before(&acts);
        self.commit(records).await?;
        effects::crash_points_after(&acts);
        // What tidies up waits for what begins: nothing depends on it, and it costs as much as a start.
        acts.sort_by_key(|act| matches!(act, Effect::Settle { .. }));
        for act in acts {
            self.carry_out_act(act)?;
        }
        Ok(())
    }

    /// Commits what is held and then these, in one transaction.
    async fn commit(&mut self, mut records: Vec<Record>) -> Result<()> {
        self.commit_at = None;
        let mut all = std::mem::take(&mut self.held);
        all.append(&mut records);
        if !all.is_empty() {
            let of_runs = inputs::of_runs(&all);
            self.writer.commit(all).await?;
            self.note_inputs(&of_runs);
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(())
    }
}

/// Returns when this instant has come; never, if there is none.
async fn passed(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The time for a second Ctrl-C.
const SECOND_INTERRUPT_WITHIN: Duration = Duration::from_secs(3);

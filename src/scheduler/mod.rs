//! The scheduler: a value that decides. Events go in, effects come out; the edges carry them out.
//!
//! It does no IO, reads no clock, draws no random number and iterates no hash map. It knows nothing of processes, files,
//! SQLite or sockets, and how an effect is carried out is not its affair.
//!
//! Its invariants, checked by the simulation after every step:
//!
//! 1. One event, all its effects, then the next event.
//! 2. **Journal before act**: the [`Effect::Record`]s of one [`Scheduler::handle`] stand before its other effects, and are
//!    committed, in one transaction, before any of those is carried out.
//! 3. Recovering from the journal gives the state that was in memory: [`Scheduler::facts`] is what the journal gives back.
//! 4. Same facts, same events: same effects, byte for byte.
//! 5. Each occurrence is decided once, and [`Scheduler::next_wakeup`] is later than `now` once an event is handled.
//! 6. Slots and busy are counted from live runs: the views in [`book`] are made from the runs by one function.
//!
//! The parts: [`book`] holds the runs and changes them; `due` decides occurrences; `chain` decides what follows an end;
//! `admit` decides overlap and who gets a slot; `reload` swaps the graph; `request` answers operators, and `prospects` tells
//! them what will follow; `waits` says why a run has not begun.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::model::definition::Definition;
use crate::model::graph::Graph;
use crate::model::id::{BatchName, JournalId, RunId};
use crate::model::input::InputId;
use crate::model::launch::{ExitCause, Report};
use crate::model::record::{BatchFacts, Boot, DecidedAhead, EdgeFacts, InForce, Record, Recovered, ZoneMark};
use crate::model::request::{Reply, Request};
use crate::model::run::{End, Outcome, Run, State};
use crate::model::settings::Limits;
use crate::model::time::Instant;

mod admit;
mod ahead;
pub mod book;
mod chain;
mod due;
mod prospects;
mod reload;
mod request;
#[cfg(test)]
mod tests;
mod waits;

use ahead::Ahead;
use book::Book;
pub use due::{COUNTED_MAX, ROWS_AT_ONCE_MAX};
use request::Known;

/// An occurrence that is decided within this time of `due_at` is on time, whatever `catch_up` says: a loaded host, or a
/// daemon that was restarted, is no reason to treat it as missed.
pub const ON_TIME_WITHIN: Duration = Duration::from_secs(60);

/// A clock that is behind what was decided by no more than this is waited for: a daylight-saving mistake, or a clock that
/// ran fast. By more, it was wrong before, and is right now. The three hours are those of cron(8).
pub const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(3 * 3600);

/// What the scheduler is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// The first event of a daemon that has adopted what was alive: this graph is what is on disk. Scheduling begins.
    Begin(Arc<Graph>),
    /// Time has passed.
    Wake,
    /// This graph replaces the one in force.
    Reload(Arc<Graph>),
    /// The place where a run lives says what became of it.
    Report {
        /// The run.
        run: RunId,
        /// What became of it.
        report: Report,
    },
    /// Somebody asks for something.
    Request {
        /// Given back with the reply.
        id: u64,
        /// Who: `uid 1000`.
        by: String,
        /// What.
        request: Request,
        /// From the journal, for a rerun: every run of its chain and of its upstreams'; for a stop: the run; for a start with
        /// the output of a run: that run. Else empty.
        history: Vec<Run>,
        /// Which of the stored inputs that the request and `history` name are there.
        inputs: BTreeSet<InputId>,
    },
    /// The answer to [`Effect::ReadAhead`].
    DecidedAhead(Vec<DecidedAhead>),
}

/// What the scheduler wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Commit this. All records of one event are one transaction, and stand before its other effects.
    Record(Record),
    /// Start this run: its row says `starting`.
    Start {
        /// The row.
        run: Box<Run>,
        /// What it runs.
        definition: Arc<Definition>,
    },
    /// End what runs: its row says who asked.
    Stop {
        /// The run.
        run: RunId,
    },
    /// The run's end is in the journal: what its folder holds only for the daemon can go.
    Settle {
        /// The run.
        run: RunId,
    },
    /// Answer.
    Reply {
        /// Of the request.
        id: u64,
        /// What.
        reply: Reply,
    },
    /// Tell, as [`Event::DecidedAhead`], which occurrences later than this have a row. Until then no occurrence is decided, and
    /// other events wait.
    ReadAhead {
        /// The corrected now.
        after: Instant,
    },
}

/// The state machine. See the module's head.
#[derive(Debug)]
pub struct Scheduler {
    journal: JournalId,
    /// Decides `@reboot`; the host's boot goes into the row of each run that starts.
    boot: Boot,
    graph: Arc<Graph>,
    book: Book,
    /// What is known of every batch that the journal knows.
    batches: BTreeMap<BatchName, BatchFacts>,
    /// Joins across chains: (downstream, upstream).
    edges: BTreeMap<(BatchName, BatchName), EdgeFacts>,
    /// The next occurrence of every batch that has one.
    due: BTreeSet<(Instant, BatchName)>,
    /// The same by batch: where its entry in `due` stands.
    armed: BTreeMap<BatchName, Instant>,
    /// Occurrences that have a row although they are later than their batch's cursor.
    ahead: BTreeMap<BatchName, Ahead>,
    /// The zone of each period that the journal has as not ended.
    periods: BTreeMap<BatchName, Option<ZoneMark>>,
    /// The limits that the journal has as in force.
    limits: Option<Limits>,
    /// No cursor is later than this.
    cursor_latest: Instant,
    phase: Phase,
    /// Events that wait until it is known what was decided ahead of a corrected clock.
    waiting: VecDeque<Event>,
    /// Runs whose last attempt has ended in this event, and whose consequences are not yet decided.
    ended: VecDeque<book::Ended>,
    /// Other effects than records, of this event.
    acts: Vec<Effect>,
    /// Records of other things than runs, of this event.
    notes: Vec<Record>,
    changed_batches: BTreeSet<BatchName>,
    /// How much this event has written of what does not run.
    written: due::Written,
}

/// Whether occurrences are decided and runs started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// What was alive is being adopted: ends are decided, nothing is due and nothing starts.
    Adopting,
    /// As always.
    Open,
    /// The clock was corrected: nothing is due until it is known what was decided ahead of it.
    ReadingAhead,
}

impl Scheduler {
    /// A scheduler that goes on where the journal ends. `graph` is made of the definitions that were in force; `boot` is the
    /// present one. The first event but reports of what was adopted is [`Event::Begin`].
    pub fn recover(recovered: Recovered, graph: Arc<Graph>, boot: impl Into<Boot>) -> Self {
        let mut ahead: BTreeMap<BatchName, Ahead> = BTreeMap::new();
        for DecidedAhead { batch, to, from } in recovered.decided_ahead {
            ahead.entry(batch).or_default().insert((from, to));
        }
        let cursor_latest = recovered.batches.iter().filter_map(|facts| facts.cursor).max().unwrap_or(Instant::MIN);
        Self {
            journal: recovered.journal,
            boot: boot.into(),
            graph,
            book: Book::recover(recovered.runs, recovered.queue_position_next),
            batches: recovered.batches.into_iter().map(|facts| (facts.name.clone(), facts)).collect(),
            edges: recovered.edges.into_iter().map(|e| ((e.downstream.clone(), e.upstream.clone()), e)).collect(),
            due: BTreeSet::new(),
            armed: BTreeMap::new(),
            ahead,
            periods: recovered.periods,
            limits: recovered.limits,
            cursor_latest,
            phase: Phase::Adopting,
            waiting: VecDeque::new(),
            ended: VecDeque::new(),
            acts: Vec::new(),
            notes: Vec::new(),
            changed_batches: BTreeSet::new(),
            written: due::Written::default(),
        }
    }

    /// Takes one event at one instant, changes the state, and appends what is to be done: records first.
    pub fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::DecidedAhead(rows) => self.decided_ahead(now, rows),
            event => self.waiting.push_back(event),
        }
        // Whatever the event is, what fell due before it is decided before it, by the rules in force until now.
        while self.decides_up_to(now)
            && let Some(event) = self.waiting.pop_front()
        {
            self.take(now, event);
            self.settle(now);
        }
        if self.phase != Phase::Adopting {
            self.fill_slots(now);
        }
        self.drain(effects);
    }

    /// Decides all that is due, if it is the time for that. Whether an event sees no past that is undecided now: not while it
    /// is asked what was decided ahead of a corrected clock.
    fn decides_up_to(&mut self, now: Instant) -> bool {
        if self.phase == Phase::Open {
            self.advance(now);
            self.settle(now);
        }
        self.phase != Phase::ReadingAhead
    }

    fn take(&mut self, now: Instant, event: Event) {
        match event {
            Event::Begin(graph) => self.begin(now, graph),
            Event::Wake => {}
            Event::Reload(graph) => self.reload(now, graph),
            Event::Report { run, report } => self.report(now, &run, report),
            Event::Request { id, by, request, history, inputs } => {
                let reply = self.request(now, &by, request, Known { history, inputs });
                self.acts.push(Effect::Reply { id, reply });
            }
            Event::DecidedAhead(rows) => self.decided_ahead(now, rows),
        }
    }

    /// The next instant at which it wants an event even if nothing happens.
    pub fn next_wakeup(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open => {
                let due = self.due.first().map(|(at, _)| *at);
                [due, self.book.next_start_at()].into_iter().flatten().min()
            }
            // It waits for an event that comes by itself.
            Phase::Adopting | Phase::ReadingAhead => None,
        }
    }

    /// The graph in force.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// The run of this id, if its chain is open.
    pub fn run(&self, id: &RunId) -> Option<&Run> {
        self.book.get(id)
    }

    /// Every run that has not ended, by batch and number.
    pub fn live(&self) -> impl Iterator<Item = &Run> {
        self.book.live()
    }

    /// The next occurrence of every batch that has one, soonest first.
    pub fn upcoming(&self) -> impl Iterator<Item = (Instant, &BatchName)> {
        self.due.iter().map(|(at, name)| (*at, name))
    }

    /// What the journal gives back if the daemon ends now.
    pub fn facts(&self) -> Recovered {
        let in_force = self.graph.iter().map(|(name, node)| InForce {
            batch: name.clone(),
            definition: Some(node.definition().clone()),
            held: node.entry.held,
        });
        let ahead = self
            .ahead
            .iter()
            .flat_map(|(batch, rows)| rows.rows().map(|(from, to)| DecidedAhead { batch: batch.clone(), to, from }));
        Recovered {
            journal: self.journal.clone(),
            batches: self.batches.values().cloned().collect(),
            in_force: in_force.collect(),
            runs: self.book.all().cloned().collect(),
            edges: self.edges.values().cloned().collect(),
            queue_position_next: self.book.queue_position_next(),
            periods: self.periods.clone(),
            limits: self.limits.clone(),
            decided_ahead: ahead.collect(),
        }
    }

    /// What the place where a run lives says of it.
    fn report(&mut self, now: Instant, id: &RunId, report: Report) {
        // A report about a run that has ended, or that no open chain has, was handled before: two paths lead here.
        let Some(mut run) = self.book.get(id).filter(|run| run.is_under_way()).cloned() else {
            return;
        };
        match report {
            Report::Started { at } => {
                (run.state, run.started_at, run.remark) = (State::Running, Some(at), None);
                self.book.put(run);
            }
            Report::Waiting { reason } => {
                if run.remark.as_ref() != Some(&reason) {
                    run.remark = Some(reason);
                    self.book.put(run);
                }
            }
            Report::Exited { started_at, ended_at, exit, success, cause } => {
                run.started_at = Some(started_at);
                let (outcome, reason) = judge(&run, &exit, success, cause);
                let end = End { outcome, reason, at: ended_at, exit: Some(exit) };
                self.end_started(now, run, end);
            }
            Report::CouldNotRun { at, reason } => self.end_unmeasured(now, run, Outcome::Failed, reason, at),
            Report::InputIncomplete { at, reason } => {
                let reason = format!("input incomplete: {reason}");
                self.end_unmeasured(now, run, Outcome::Aborted, reason, at);
            }
            Report::Lost { at, reason } => self.end_unmeasured(now, run, Outcome::Lost, reason, at),
            Report::FolderTaken => self.take_next_number(now, run),
            Report::StoppedBeforeStart { at } => {
                let reason = stop_reason(&run);
                self.end_unmeasured(now, run, Outcome::Cancelled, reason, at);
            }
        }
    }

    /// The folder with its id is another journal's: it goes on under the next number, as an attempt that its policy is not
    /// charged with.
    fn take_next_number(&mut self, now: Instant, run: Run) {
        let Some(node) = self.graph.get(&run.id.batch).cloned() else {
            let reason = format!("runs/{} belongs to another journal, and its batch was removed", run.id);
            // The folder is not settled: what is in it is the other's, and may live.
            return self.end(
                run,
                End { outcome: Outcome::Failed, reason: Some(reason), at: now, exit: None },
                book::Counts::Yes,
            );
        };
        let next = Run { attempt: run.attempt, ..self.next_attempt(now, &node, &run) };
        let reason = format!("runs/{} belongs to another journal; the run continues as {}", run.id, next.id);
        let (id, end) = (run.id.clone(), End { outcome: Outcome::Failed, reason: Some(reason), at: now, exit: None });
        self.end(run, end, book::Counts::No);
        self.ended.retain(|ended| ended.run != id);
        self.book.put(next);
    }

    fn end_unmeasured(&mut self, now: Instant, run: Run, outcome: Outcome, reason: String, at: Instant) {
        self.end_started(now, run, End { outcome, reason: Some(reason), at, exit: None });
    }

    /// A run whose start was in the journal has ended: tried again, or decided for what follows.
    fn end_started(&mut self, now: Instant, run: Run, end: End) {
        let id = run.id.clone();
        self.acts.push(Effect::Settle { run: id.clone() });
        let outcome = end.outcome;
        self.end(run, end, book::Counts::Yes);
        if self.retry(now, &id, outcome) {
            // Only the last attempt decides what follows.
            self.ended.retain(|ended| ended.run != id);
        }
    }

    /// Decides what follows each end, and each join that waits for nothing any more, until nothing is left to decide.
    fn settle(&mut self, now: Instant) {
        loop {
            if let Some(ended) = self.ended.pop_front() {
                self.follow(now, &ended);
            } else if !self.decide_next_join(now) {
                break;
            }
        }
    }

    /// Moves what this event changed into `effects`: records first, then acts.
    fn drain(&mut self, effects: &mut Vec<Effect>) {
        effects.extend(self.notes.drain(..).map(Effect::Record));
        for name in std::mem::take(&mut self.changed_batches) {
            if let Some(facts) = self.batches.get(&name) {
                effects.push(Effect::Record(Record::Batch(facts.clone())));
            }
        }
        effects.extend(self.book.take_changed().map(|run| Effect::Record(Record::Run(run))));
        self.book.close_chains();
        self.written = due::Written::default();
        effects.append(&mut self.acts);
    }

    /// What is known of a batch, to be changed: it will be recorded.
    fn facts_mut(&mut self, name: &BatchName) -> &mut BatchFacts {
        self.changed_batches.insert(name.clone());
        self.batches.entry(name.clone()).or_insert_with(|| BatchFacts {
            name: name.clone(),
            next_number: 1,
            cursor: None,
            reboot_boot: None,
            disabled: None,
        })
    }
}

/// Outcome and reason of a script that ran: the kernel's word counts, unless batchd itself ended it.
fn judge(run: &Run, exit: &crate::model::run::Exit, success: bool, cause: ExitCause) -> (Outcome, Option<String>) {
    match cause {
        ExitCause::Itself if success => (Outcome::Succeeded, None),
        ExitCause::Itself => (Outcome::Failed, Some(exit.status())),
        ExitCause::Timeout => (Outcome::TimedOut, Some("the script ran longer than its timeout".to_owned())),
        ExitCause::Stop if run.stop.is_some() => (Outcome::Cancelled, Some(stop_reason(run))),
        ExitCause::Stop => (Outcome::Failed, Some("stopped together with the daemon or the host".to_owned())),
    }
}

/// The stop request of a run in words.
fn stop_reason(run: &Run) -> String {
    match &run.stop {
        Some(stop) => format!("stopped by {}: {}", stop.by, stop.reason),
        None => "stopped".to_owned(),
    }
}

//! The world around one scheduler in virtual time: a clock that can be set, a journal that outlives crashes, scripts that
//! outlive daemons, an editor, and operators. Everything that it does comes from one seed.

mod checks;
mod misfortune;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use batchd::model::definition::{Definition, Overlap};
use batchd::model::graph::{Graph, Node};
use batchd::model::id::{BatchName, RunId};
use batchd::model::record::{InForce, Record};
use batchd::model::request::Request;
use batchd::model::run::Run;
use batchd::model::schedule::jitter_offset;
use batchd::model::time::Instant;
use batchd::scheduler::{Effect, Event, Scheduler};

use crate::doctor::Proof;
use crate::graphs::{Disk, entry, name};
use crate::journal::FakeJournal;
use crate::naive;
use crate::place::{Ending, FakePlace, Now, Will};
use crate::rng::Rng;

/// 2026-03-01 and 2026-10-05, 00:00 UTC: in the month behind each, clocks change in both directions somewhere.
const BEGINS: [Instant; 2] = [Instant::from_s(1_772_323_200), Instant::from_s(1_791_158_400)];
const HOUR_MS: u64 = 3_600_000;
pub(crate) const DAYS: i64 = 30;
/// Far more events than any seed needs: a world that goes on for ever is a failure.
const STEPS_MAX: u64 = 2_000_000;
/// The whole state is compared with the journal's at every so-manieth step, and at every crash.
const COMPARED_EVERY: u64 = 16;

/// Which faults this world has: drawn per seed, so that some worlds have few and some have all.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) crashes: bool,
    pub(crate) downtime: bool,
    pub(crate) clock_steps: bool,
    pub(crate) reloads: bool,
    pub(crate) operators: bool,
    pub(crate) lost: bool,
    /// The host goes down, and boots anew.
    pub(crate) boots: bool,
    /// More falls due in an outage than an event writes rows for.
    pub(crate) floods: bool,
    /// Folders of another journal are in `runs/`.
    pub(crate) strangers: bool,
}

/// A schedule that was in force from an instant on.
pub(crate) struct Period {
    pub(crate) batch: BatchName,
    pub(crate) schedule: Option<Arc<batchd::model::schedule::Schedule>>,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

pub(crate) struct World {
    /// The daemon has taken over what its predecessor left, and schedules.
    has_begun: bool,
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    pub(crate) clock_is_set: bool,
    /// When this world's life begins.
    begin: Instant,
    /// The boot of the host.
    boot: u64,
    pub(crate) reboots: Reboots,
    /// Real time, in milliseconds; the clock shows it plus the offset.
    real: i64,
    offset: i64,
    pub(crate) journal: FakeJournal,
    pub(crate) proof: Proof,
    scheduler: Option<Scheduler>,
    /// It asks what was decided ahead of a corrected clock.
    reads_ahead: bool,
    disk: Disk,
    place: FakePlace,
    /// The runs whose batch allowed no other beside them when they began.
    alone: BTreeSet<RunId>,
    next_fault: i64,
    pub(crate) periods: Vec<Period>,
    in_force: Arc<Graph>,
    steps: u64,
    request_last: u64,
    pub(crate) story: Vec<String>,
    pub(crate) counted: BTreeMap<&'static str, u64>,
}

/// For which boots a batch with `@reboot` has to have had a row.
#[derive(Default)]
pub(crate) struct Reboots {
    /// The boot in which it was in force last.
    seen: BTreeMap<BatchName, u64>,
    /// How many rows.
    pub(crate) due: BTreeMap<BatchName, usize>,
}

type Checked<T = ()> = Result<T, String>;

fn boot_id(number: u64) -> String {
    format!("boot {number}")
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let faults = Faults {
            crashes: rng.chance(70),
            downtime: rng.chance(60),
            clock_steps: rng.chance(30),
            reloads: rng.chance(70),
            operators: rng.chance(60),
            lost: rng.chance(40),
            strangers: rng.chance(20),
            boots: rng.chance(40),
            floods: rng.chance(15),
        };
        Self::with(rng, faults)
    }

    /// A world in which everything goes its way: see [`crate::naive`].
    pub(crate) fn plain(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let lost = rng.chance(40);
        Self::with(rng, Faults { lost, ..Faults::default() })
    }

    fn with(mut rng: Rng, faults: Faults) -> Self {
        let disk = Disk::random(&mut rng);
        let begin = *rng.pick(&BEGINS);
        Self {
            has_begun: false,
            rng,
            clock_is_set: faults.clock_steps,
            faults,
            begin,
            boot: 1,
            reboots: Reboots::default(),
            real: begin.as_ms(),
            offset: 0,
            journal: FakeJournal::default(),
            proof: Proof::default(),
            scheduler: None,
            reads_ahead: false,
            disk,
            place: FakePlace::new(&boot_id(1)),
            alone: BTreeSet::new(),
            next_fault: begin.as_ms(),
            periods: Vec::new(),
            in_force: Arc::new(Graph::default()),
            steps: 0,
            request_last: 0,
            story: Vec::new(),
            counted: BTreeMap::new(),
        }
    }

    fn now(&self) -> Instant {
        self.clock().at(self.real)
    }

    fn clock(&self) -> Now {
        Now { real: self.real, offset: self.offset }
    }

    /// Lives for [`DAYS`] days, then lets everything come to rest.
    pub(crate) fn live(&mut self) -> Checked {
        self.schedule_fault();
        self.live_to_the_last_day()?;
        self.faults = Faults::default();
        self.disk = self.disk.at_rest();
        self.swap_to(|disk, _| disk.graph(&Graph::default()))?;
        while self.scheduler().live().next().is_some() {
            if self.place.next_report_at().is_none() && self.scheduler().next_wakeup().is_none() {
                let stuck: Vec<String> =
                    self.scheduler().live().map(|run| format!("{} {:?}", run.id, run.state)).collect();
                return Err(format!("nothing will ever happen to {stuck:?}"));
            }
            self.step(i64::MAX)?;
        }
        self.close_periods();
        Ok(())
    }

    fn live_to_the_last_day(&mut self) -> Checked {
        self.begin()?;
        while self.real < self.end_ms() {
            self.step(self.end_ms())?;
        }
        Ok(())
    }

    /// Lives for [`DAYS`] days, and compares all runs with what the naive model says.
    pub(crate) fn live_as_predicted(&mut self) -> Checked {
        self.live_to_the_last_day()?;
        let end_ms = self.end_ms();
        let nodes = || self.in_force.iter().map(|(_, node)| node);
        let due_of = |node: &Node| {
            let schedule = node.entry.schedule.clone();
            let next = move |after: &Instant| schedule.as_ref().and_then(|schedule| schedule.next_after(*after));
            let instants = std::iter::successors(next(&self.begin), next).map(|at| at.as_ms());
            let name = node.definition().name.clone();
            // The first daemon begins at a whole second, and at none of those a boot is due.
            let boot = node.entry.reboot.then(|| self.begin.as_ms() - 1);
            boot.into_iter()
                .chain(instants)
                .take_while(|at| *at <= end_ms)
                .map(|at| (at, name.clone()))
                .collect::<Vec<_>>()
        };
        let mut due: Vec<(i64, BatchName)> = nodes().flat_map(due_of).collect();
        due.sort();
        let jitter_of = |definition: &Definition| jitter_offset(&definition.name, definition.jitter).as_millis() as i64;
        let given = naive::Given {
            definitions: nodes().map(|node| node.definition().as_ref()).collect(),
            due,
            jitter_ms: nodes().map(|n| (n.definition().name.clone(), jitter_of(n.definition()))).collect(),
            max_running: self.in_force.limits().max_running as usize,
            pools: &self.in_force.limits().pools,
            scripts: &self.place.scripts,
            until: end_ms + 1,
        };
        let predicted = naive::predict(&given)?;
        let lived = self.journal.runs.values().map(|run| (run.id.clone(), naive::Row::of(run))).collect();
        naive::differences(&predicted, &lived)
    }

    fn end_ms(&self) -> i64 {
        self.begin.as_ms() + DAYS * 24 * HOUR_MS as i64
    }

    fn scheduler(&self) -> &Scheduler {
        self.scheduler.as_ref().expect("a daemon lives between its begin and its crash")
    }

    fn count(&mut self, what: &'static str) {
        *self.counted.entry(what).or_default() += 1;
    }

    /// The next thing happens.
    fn step(&mut self, end: i64) -> Checked {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err("it goes on for ever".to_owned());
        }
        let wakeup = self.scheduler().next_wakeup().map_or(i64::MAX, |at| at.as_ms() - self.offset);
        let report = self.place.next_report_at().unwrap_or(i64::MAX);
        let fault = if self.any_fault() { self.next_fault } else { i64::MAX };
        let next = wakeup.min(report).min(fault).min(end);
        self.real = self.real.max(next);
        if next == end && end != wakeup && end != report {
            return Ok(());
        }
        if next == report {
            return self.hear();
        }
        if next == fault {
            self.schedule_fault();
            return self.misfortune();
        }
        self.handle(Event::Wake)
    }

    /// The place reports. The pidfd and the notice may both lead to the same report.
    fn hear(&mut self) -> Checked {
        let Some((run, report)) = self.place.take_report() else { return Ok(()) };
        if self.rng.chance(5) {
            self.handle(Event::Report { run: run.clone(), report: report.clone() })?;
        }
        self.handle(Event::Report { run, report })
    }

    /// What is on the disk comes into force.
    fn swap(&mut self) -> Checked {
        self.swap_to(Disk::graph)
    }

    /// What `fit` makes of the disk and of what is in force comes into force.
    fn swap_to(&mut self, fit: impl FnOnce(&Disk, &Graph) -> Arc<Graph>) -> Checked {
        self.count("reloads");
        self.handle(Event::Wake)?;
        let graph = fit(&self.disk, self.scheduler().graph());
        self.tell(format!("reload: {} batches", graph.len()));
        self.note_graph(&graph, false);
        self.handle(Event::Reload(graph))
    }

    /// A daemon starts: it recovers, adopts, and begins.
    fn begin(&mut self) -> Checked {
        (self.has_begun, self.reads_ahead) = (false, false);
        let recovered = self.journal.recover();
        let of = |in_force: &InForce| in_force.definition.clone().map(|definition| entry(definition, in_force.held));
        let entries = recovered.in_force.iter().filter_map(of).collect();
        let before = Arc::new(Graph::new(entries, self.disk.limits.clone()).expect("what was in force makes a graph"));
        let under_way: Vec<Run> = recovered.runs.iter().filter(|run| run.is_under_way()).cloned().collect();
        self.scheduler = Some(Scheduler::recover(recovered, before.clone(), boot_id(self.boot)));
        for run in under_way {
            self.find(&run)?;
        }
        while let Some((run, report)) = self.place.take_report_at(self.real) {
            self.handle(Event::Report { run, report })?;
        }
        let graph = self.disk.graph(&before);
        self.note_graph(&graph, true);
        self.handle(Event::Begin(graph))?;
        self.has_begun = true;
        Ok(())
    }

    /// The daemon dies, and another one starts after a while.
    fn crash(&mut self, down_ms: i64) -> Checked {
        self.tell(format!("crash, down for {} min", down_ms / 60_000));
        self.count("crashes");
        self.scheduler = None;
        self.place.daemon_dies();
        self.real += down_ms;
        self.begin()
    }

    /// One event: decided, checked, committed, carried out. The daemon may die between any two of these.
    fn handle(&mut self, event: Event) -> Checked {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let now = self.now();
            let mut effects = Vec::new();
            let is_answer = matches!(event, Event::DecidedAhead(_));
            let scheduler = self.scheduler.as_mut().expect("a daemon lives between its begin and its crash");
            scheduler.handle(now, event, &mut effects);
            let first_act = effects.iter().position(|effect| !matches!(effect, Effect::Record(_)));
            let last_record = effects.iter().rposition(|effect| matches!(effect, Effect::Record(_)));
            if let (Some(act), Some(record)) = (first_act, last_record)
                && act < record
            {
                return Err(format!("an act before a record: {effects:?}"));
            }
            if self.dies_here() {
                return self.crash(0);
            }
            let records: Vec<Record> = effects
                .iter()
                .filter_map(|e| if let Effect::Record(record) = e { Some(record.clone()) } else { None })
                .collect();
            for record in &records {
                if let Record::Run(run) = record {
                    self.tell(format!("{} {:?} {:?}", run.id, run.trigger, run.state));
                }
            }
            let decided: Vec<&Run> = records.iter().filter_map(|r| self.newly_decided(r)).collect();
            let decided: Vec<Run> = decided.into_iter().cloned().collect();
            self.journal.commit(&records)?;
            self.proof.commit(&records);
            self.check_bounds(&records)?;
            decided.iter().try_for_each(|run| self.check_decision(run))?;
            for record in &records {
                if let Record::Run(run) = record {
                    self.check_number(run)?;
                    self.check_follower(run)?;
                }
            }
            self.check_wakeup()?;
            // Until what was decided ahead of a corrected clock is read, memory lacks it.
            self.reads_ahead &= !is_answer;
            self.reads_ahead |= effects.iter().any(|effect| matches!(effect, Effect::ReadAhead { .. }));
            if self.steps.is_multiple_of(COMPARED_EVERY) && !self.reads_ahead {
                self.compare()?;
            }
            for effect in effects {
                if self.dies_here() {
                    return self.crash(0);
                }
                events.extend(self.carry_out(effect)?);
            }
            self.check_limits()?;
            self.check_no_slot_is_wasted()?;
            self.check_waits()?;
        }
        Ok(())
    }

    fn dies_here(&mut self) -> bool {
        self.faults.crashes && self.rng.below(3000) == 0
    }

    /// What the effect leads to at once, the last of it first.
    fn carry_out(&mut self, effect: Effect) -> Checked<Vec<Event>> {
        match effect {
            Effect::Record(_) => {}
            Effect::Start { run, .. } => {
                self.check_start(&run)?;
                self.launch(&run)?;
            }
            Effect::Stop { run } => self.place.stop(self.clock(), &run),
            Effect::Settle { run } => self.place.collect(&run),
            Effect::Reply { .. } => {}
            Effect::ReadAhead { after } => {
                let answer = Event::DecidedAhead(self.journal.decided_after(|_| after));
                // Somebody may be faster than the answer.
                let request = Request::Disable { batch: name(self.rng.below(12)), until: None, reason: None };
                let (by, history, inputs) = ("uid 1".to_owned(), Vec::new(), BTreeSet::new());
                let faster = Event::Request { id: 0, by, request, history, inputs };
                return Ok(if self.rng.chance(30) { vec![answer, faster] } else { vec![answer] });
            }
        }
        Ok(Vec::new())
    }

    fn launch(&mut self, run: &Run) -> Checked {
        self.count("starts");
        if self.faults.strangers && self.rng.chance(1) {
            self.count("folders taken");
            self.place.occupy(&run.id);
        }
        let will = self.will(run);
        self.place.launch(self.clock(), &run.id, will)
    }

    /// What the script of a run that begins now will do.
    fn will(&mut self, run: &Run) -> Will {
        let minutes = *self.rng.pick(&[0, 0, 1, 3, 20, 100, 700]);
        let ms = 1 + self.rng.below(1000) as i64 + minutes * 60_000;
        let ending = match self.rng.below(20) {
            0..=2 => Ending::Exit(1),
            3 => Ending::CouldNotRun,
            4 => Ending::TimedOut,
            5 if self.faults.lost => Ending::Lost,
            6 if !run.upstreams.is_empty() => Ending::InputIncomplete,
            _ => Ending::Exit(0),
        };
        let node = self.in_force.get(&run.id.batch);
        if node.is_none_or(|node| node.definition().overlap != Overlap::Allow) {
            self.alone.insert(run.id.clone());
        }
        Will { ms: Some(ms), ending, timeout: None, is_hindered: self.rng.chance(3) }
    }

    /// A daemon that starts asks the place for a run that is under way by its row.
    fn find(&mut self, run: &Run) -> Checked {
        let will = (!self.place.scripts.contains_key(&run.id)).then(|| self.will(run));
        let begun = self.place.find(self.clock(), run, || will.expect("it has no script"))?;
        if begun {
            self.count("starts");
            self.count("begun by adoption");
        }
        Ok(())
    }

    fn tell(&mut self, what: String) {
        if self.story.len() >= 400 {
            self.story.drain(..200);
        }
        self.story.push(format!("{} {what}", self.now()));
    }
}

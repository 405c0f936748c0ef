//! The world around one scheduler in virtual time: a clock that can be set, a journal that outlives crashes, scripts that
//! outlive daemons, an editor, and operators. Everything that it does comes from one seed.

mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use batchd::model::definition::Overlap;
use batchd::model::graph::Graph;
use batchd::model::id::{BatchName, RunId};
use batchd::model::launch::{ExitCause, Report};
use batchd::model::record::Record;
use batchd::model::request::{Request, RerunMode};
use batchd::model::run::{Exit, Follow, Given, Run};
use batchd::model::time::Instant;
use batchd::scheduler::{Effect, Event, Scheduler};

use crate::graphs::{Disk, entry, name};
use crate::journal::FakeJournal;
use crate::rng::Rng;

/// 2026-03-01T00:00:00Z.
const BEGIN: Instant = Instant::from_s(1_772_323_200);
const DAY_MS: i64 = 86_400_000;
pub(crate) const DAYS: i64 = 30;
/// Far more events than any seed needs: a world that goes on for ever is a failure.
const STEPS_MAX: u64 = 2_000_000;
/// The whole state is compared with the journal's at every so-manieth step, and at every crash.
const COMPARED_EVERY: u64 = 16;

/// Which faults this world has: drawn per seed, so that some worlds have few and some have all.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(crate) crashes: bool,
    pub(crate) downtime: bool,
    pub(crate) clock_steps: bool,
    pub(crate) reloads: bool,
    pub(crate) operators: bool,
    pub(crate) lost: bool,
}

/// A script, living or ended.
struct Script {
    started_at: i64,
    ends_at: i64,
    ending: Ending,
    stopped: bool,
    batch_alone: bool,
    pool: Option<String>,
    caught_up: bool,
    settled: bool,
}

#[derive(Clone, Copy)]
enum Ending {
    Success,
    Failure,
    CouldNotRun,
    Lost,
    Timeout,
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
    /// Real time, in milliseconds; the clock shows it plus the offset.
    real: i64,
    offset: i64,
    pub(crate) journal: FakeJournal,
    scheduler: Option<Scheduler>,
    disk: Disk,
    scripts: BTreeMap<RunId, Script>,
    /// What the place will tell: at a real time.
    reports: BTreeSet<(i64, u64, RunId)>,
    report_of: BTreeMap<u64, Report>,
    report_last: u64,
    next_fault: i64,
    pub(crate) periods: Vec<Period>,
    in_force: Arc<Graph>,
    steps: u64,
    request_last: u64,
    pub(crate) story: Vec<String>,
    pub(crate) counted: BTreeMap<&'static str, u64>,
}

type Checked<T = ()> = Result<T, String>;

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
        };
        let disk = Disk::random(&mut rng);
        Self {
            has_begun: false,
            rng,
            clock_is_set: faults.clock_steps,
            faults,
            real: BEGIN.as_ms(),
            offset: 0,
            journal: FakeJournal::default(),
            scheduler: None,
            disk,
            scripts: BTreeMap::new(),
            reports: BTreeSet::new(),
            report_of: BTreeMap::new(),
            report_last: 0,
            next_fault: BEGIN.as_ms(),
            periods: Vec::new(),
            in_force: Arc::new(Graph::default()),
            steps: 0,
            request_last: 0,
            story: Vec::new(),
            counted: BTreeMap::new(),
        }
    }

    fn now(&self) -> Instant {
        Instant::from_ms(self.real + self.offset)
    }

    /// Lives for [`DAYS`] days, then lets everything come to rest.
    pub(crate) fn live(&mut self) -> Checked {
        self.begin()?;
        let end = BEGIN.as_ms() + DAYS * DAY_MS;
        self.schedule_fault();
        while self.real < end {
            self.step(end)?;
        }
        self.faults = Faults {
            crashes: false,
            downtime: false,
            clock_steps: false,
            reloads: false,
            operators: false,
            lost: false,
        };
        self.disk = self.disk.at_rest();
        self.swap()?;
        while self.scheduler().live().next().is_some() {
            if self.reports.is_empty() && self.scheduler().next_wakeup().is_none() {
                let stuck: Vec<String> =
                    self.scheduler().live().map(|run| format!("{} {:?}", run.id, run.state)).collect();
                return Err(format!("nothing will ever happen to {stuck:?}"));
            }
            self.step(i64::MAX)?;
        }
        self.close_periods();
        Ok(())
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
        let report = self.reports.first().map_or(i64::MAX, |(at, _, _)| *at);
        let fault = if self.any_fault() { self.next_fault } else { i64::MAX };
        let next = wakeup.min(report).min(fault).min(end);
        self.real = self.real.max(next);
        if next == end && end != wakeup && end != report {
            return Ok(());
        }
        if next == report {
            let Some((_, key, run)) = self.reports.pop_first() else { return Ok(()) };
            let report = self.report_of.remove(&key).expect("each has one");
            return self.handle(Event::Report { run, report });
        }
        if next == fault {
            self.schedule_fault();
            return self.misfortune();
        }
        self.handle(Event::Wake)
    }

    fn any_fault(&self) -> bool {
        let faults = &self.faults;
        faults.crashes || faults.downtime || faults.clock_steps || faults.reloads || faults.operators
    }

    fn schedule_fault(&mut self) {
        self.next_fault = self.real + 1 + self.rng.below(12 * 3_600_000) as i64;
    }

    fn misfortune(&mut self) -> Checked {
        match self.rng.below(10) {
            0 if self.faults.crashes => self.crash(0),
            1 if self.faults.downtime => {
                let hours = *self.rng.pick(&[1, 3, 26, 24 * 9]);
                self.crash(self.rng_below(hours * 3_600_000))
            }
            2 if self.faults.clock_steps => {
                let minutes = *self.rng.pick(&[-1, -20, -150, -300, -3000, 1, 30, 200, 3000]);
                self.tell(format!("clock {minutes:+} minutes"));
                self.count("clock steps");
                self.offset += minutes * 60_000;
                self.handle(Event::Wake)
            }
            3 | 4 if self.faults.reloads => {
                let mut rng = std::mem::replace(&mut self.rng, Rng::new(0));
                self.disk.change(&mut rng);
                self.rng = rng;
                self.swap()
            }
            5..=9 if self.faults.operators => self.operate(),
            _ => Ok(()),
        }
    }

    fn rng_below(&self, below: i64) -> i64 {
        // Of the fault's own time: the world's numbers go on from there.
        self.next_fault.rem_euclid(below.max(1))
    }

    fn operate(&mut self) -> Checked {
        let batch = name(self.rng.below(12));
        let runs: Vec<RunId> = self.journal.runs.keys().filter(|id| id.batch == batch).cloned().collect();
        let live: Vec<RunId> = self.scheduler().live().map(|run| run.id.clone()).collect();
        let follow = *self.rng.pick(&[Follow::Nothing, Follow::Chain, Follow::Everything]);
        let modes = [RerunMode::Unsucceeded, RerunMode::Only, RerunMode::Downstream, RerunMode::OnlyDownstream];
        let request = match self.rng.below(6) {
            0 | 1 => {
                let (queue, force) = (self.rng.chance(50), self.rng.chance(30));
                Request::Start { batch, follow, given: Given::default(), queue, force }
            }
            2 if !live.is_empty() => Request::Stop { run: self.rng.pick(&live).clone(), reason: None },
            3 if !runs.is_empty() => {
                let run = self.rng.pick(&runs[runs.len().saturating_sub(5)..]).clone();
                Request::Rerun { run, mode: *self.rng.pick(&modes) }
            }
            4 => {
                let until = self.rng.chance(50).then(|| self.now() + Duration::from_secs(self.rng.below(86_400)));
                Request::Disable { batch, until, reason: None }
            }
            _ => Request::Enable { batch },
        };
        self.tell(format!("operator {request:?}"));
        self.count("requests");
        let history = match &request {
            Request::Rerun { run, .. } => self.journal.chain(run),
            _ => Vec::new(),
        };
        self.request_last += 1;
        self.handle(Event::Request { id: self.request_last, by: "uid 1".to_owned(), request, history })
    }

    /// What is on the disk comes into force.
    fn swap(&mut self) -> Checked {
        let graph = self.disk.graph();
        self.tell(format!("reload: {} batches", graph.len()));
        self.count("reloads");
        self.handle(Event::Wake)?;
        self.note_periods(&graph);
        self.handle(Event::Reload(graph))
    }

    /// A daemon starts: it recovers, adopts, and begins.
    fn begin(&mut self) -> Checked {
        self.has_begun = false;
        let recovered = self.journal.recover();
        let entries = recovered.in_force.iter().filter_map(|in_force| in_force.definition.clone().map(entry)).collect();
        let before = Arc::new(Graph::new(entries, self.disk.limits.clone()).expect("what was in force makes a graph"));
        let under_way: Vec<Run> = recovered.runs.iter().filter(|run| run.is_under_way()).cloned().collect();
        self.scheduler = Some(Scheduler::recover(recovered, before, "boot".to_owned()));
        for run in under_way {
            self.find(&run);
        }
        while self.reports.first().is_some_and(|(at, _, _)| *at <= self.real) {
            let Some((_, key, run)) = self.reports.pop_first() else { break };
            let report = self.report_of.remove(&key).expect("each has one");
            self.handle(Event::Report { run, report })?;
        }
        let graph = self.disk.graph();
        self.note_periods(&graph);
        self.handle(Event::Begin(graph))?;
        self.has_begun = true;
        Ok(())
    }

    /// The daemon dies, and another one starts after a while.
    fn crash(&mut self, down_ms: i64) -> Checked {
        self.tell(format!("crash, down for {} min", down_ms / 60_000));
        self.count("crashes");
        self.scheduler = None;
        self.reports.clear();
        self.report_of.clear();
        self.real += down_ms;
        self.begin()
    }

    /// One event: decided, checked, committed, carried out. The daemon may die between any two of these.
    fn handle(&mut self, event: Event) -> Checked {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let now = self.now();
            let mut effects = Vec::new();
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
            decided.iter().try_for_each(|run| self.check_decision(run))?;
            for record in &records {
                if let Record::Run(run) = record {
                    self.check_follower(run)?;
                }
            }
            self.check_wakeup()?;
            // Until what was decided ahead of a corrected clock is read, memory lacks it.
            let reads_ahead = effects.iter().any(|effect| matches!(effect, Effect::ReadAhead { .. }));
            if self.steps.is_multiple_of(COMPARED_EVERY) && !reads_ahead {
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
        }
        Ok(())
    }

    fn dies_here(&mut self) -> bool {
        self.faults.crashes && self.rng.below(3000) == 0
    }

    fn carry_out(&mut self, effect: Effect) -> Checked<Option<Event>> {
        match effect {
            Effect::Record(_) => {}
            Effect::Start { run, .. } => {
                if self.scripts.contains_key(&run.id) {
                    return Err(format!("{} is started twice", run.id));
                }
                self.check_start(&run)?;
                self.launch(&run);
            }
            Effect::Stop { run } => self.stop(&run),
            Effect::Settle { run } => {
                if let Some(script) = self.scripts.get_mut(&run) {
                    script.settled = true;
                }
            }
            Effect::Reply { .. } => {}
            Effect::ReadAhead { after } => return Ok(Some(Event::DecidedAhead(self.journal.decided_after(|_| after)))),
        }
        Ok(None)
    }

    /// What must be true of every start, by the journal and the scripts that live.
    fn launch(&mut self, run: &Run) {
        self.count("starts");
        let minutes = *self.rng.pick(&[0, 0, 1, 3, 20, 100, 700]);
        let ms = 1 + self.rng.below(1000) as i64 + minutes * 60_000;
        let ending = match self.rng.below(20) {
            0..=2 => Ending::Failure,
            3 => Ending::CouldNotRun,
            4 => Ending::Timeout,
            5 if self.faults.lost => Ending::Lost,
            _ => Ending::Success,
        };
        let node = self.in_force.get(&run.id.batch);
        let script = Script {
            started_at: self.real,
            ends_at: self.real + ms,
            ending,
            stopped: false,
            batch_alone: node.is_none_or(|node| node.definition().overlap != Overlap::Allow),
            pool: run.pool.clone(),
            caught_up: run.caught_up,
            settled: false,
        };
        self.scripts.insert(run.id.clone(), script);
        self.report_both(&run.id);
    }

    /// What the place tells of a script, from now on.
    fn report_both(&mut self, id: &RunId) {
        let script = &self.scripts[id];
        let at = |real: i64| Instant::from_ms(real + self.offset);
        let (started_at, ended_at) = (at(script.started_at), at(script.ends_at));
        let exited = |success, cause| Report::Exited {
            started_at,
            ended_at,
            exit: Exit { exit_code: Some(0), ..Exit::default() },
            success,
            cause,
        };
        let end = match (script.stopped, script.ending) {
            (true, _) => exited(false, ExitCause::Stop),
            (false, Ending::Success) => exited(true, ExitCause::Itself),
            (false, Ending::Failure) => exited(false, ExitCause::Itself),
            (false, Ending::Timeout) => exited(false, ExitCause::Timeout),
            (false, Ending::CouldNotRun) => Report::CouldNotRun { at: ended_at, reason: "no interpreter".to_owned() },
            (false, Ending::Lost) => Report::Lost { at: ended_at, reason: "shim killed".to_owned() },
        };
        let could_not_run = matches!(end, Report::CouldNotRun { .. });
        let ends_at = script.ends_at.max(self.real);
        // A script that is faster than the one who looks has no report of its start.
        let unseen = ends_at == self.real || self.rng.chance(5);
        if !could_not_run && !unseen {
            self.report(self.real, id, Report::Started { at: started_at });
        }
        self.report(ends_at, id, end.clone());
        if self.rng.chance(5) {
            // The pidfd and the notice may both lead to the same report.
            self.report(ends_at, id, end);
        }
    }

    fn report(&mut self, at: i64, id: &RunId, report: Report) {
        self.report_last += 1;
        self.reports.insert((at, self.report_last, id.clone()));
        self.report_of.insert(self.report_last, report);
    }

    fn find(&mut self, run: &Run) {
        if self.scripts.contains_key(&run.id) {
            self.report_both(&run.id);
        } else if run.stop.is_some() {
            self.report(self.real, &run.id, Report::StoppedBeforeStart { at: self.now() });
        } else {
            self.count("begun by adoption");
            self.launch(run);
        }
        if run.stop.is_some() {
            self.stop(&run.id);
        }
    }

    fn stop(&mut self, id: &RunId) {
        let real = self.real;
        let Some(script) = self.scripts.get_mut(id).filter(|script| script.ends_at > real && !script.stopped) else {
            return;
        };
        script.stopped = true;
        script.ends_at = real + 1 + (script.ends_at - real).min(10_000);
        self.reports.retain(|(at, _, run)| run != id || *at <= real);
        self.report_both(id);
    }

    /// Slots, pools and overlap, by the scripts that live now.
    fn tell(&mut self, what: String) {
        if self.story.len() >= 400 {
            self.story.drain(..200);
        }
        self.story.push(format!("{} {what}", self.now()));
    }
}

//! What happens to a world: deaths of the daemon and of the host, outages, clocks that are set, edits, operators.

use std::collections::BTreeSet;
use std::time::Duration;

use batchd::model::id::RunId;
use batchd::model::request::{Request, RerunMode};
use batchd::model::run::{Follow, Given};
use batchd::scheduler::Event;

use crate::graphs::name;

use super::{Checked, HOUR_MS, World, boot_id};

impl World {
    pub(super) fn any_fault(&self) -> bool {
        let faults = &self.faults;
        faults.crashes
            || faults.downtime
            || faults.clock_steps
            || faults.reloads
            || faults.operators
            || faults.boots
            || faults.floods
    }

    pub(super) fn schedule_fault(&mut self) {
        self.next_fault = self.real + 1 + self.rng.below(12 * HOUR_MS) as i64;
    }

    /// Something happens of what this world has.
    pub(super) fn misfortune(&mut self) -> Checked {
        match self.rng.below(12) {
            0 if self.faults.crashes => self.crash(0),
            1 if self.faults.downtime => {
                let hours = *self.rng.pick(&[1, 3, 26, 24 * 9]);
                self.crash(self.rng_below(hours * HOUR_MS))
            }
            2 if self.faults.clock_steps => {
                let minutes = *self.rng.pick(&[-1, -20, -150, -300, -3000, 1, 30, 200, 3000]);
                self.tell(format!("clock {minutes:+} minutes"));
                self.count("clock steps");
                self.offset += minutes * 60_000;
                self.handle(Event::Wake)
            }
            3 | 4 if self.faults.reloads => {
                self.disk.change(&mut self.rng);
                self.swap()
            }
            5..=9 if self.faults.operators => self.operate(),
            10 if self.faults.boots => self.reboot(),
            11 if self.faults.floods => self.flood(),
            _ => Ok(()),
        }
    }

    fn rng_below(&self, below: u64) -> i64 {
        // Of the fault's own time: the world's numbers go on from there.
        self.next_fault.rem_euclid(below.max(1) as i64)
    }

    /// The host goes down for a while, and with it all that runs; what it had written last may be gone.
    fn reboot(&mut self) -> Checked {
        self.boot += 1;
        self.tell(format!("the host goes down, and comes back with boot {}", self.boot));
        self.count("boots");
        self.place.host_dies(self.clock(), &boot_id(self.boot), || self.rng.chance(70));
        let minutes = *self.rng.pick(&[1, 5, 240]);
        self.crash(self.rng_below(minutes * 60_000))
    }

    /// A batch that is due all the time comes into force, and nobody is there for long. It goes while nobody is there, or
    /// once what it has missed is decided.
    fn flood(&mut self) -> Checked {
        self.count("floods");
        let (name, hours) = self.disk.flood(&mut self.rng);
        self.swap()?;
        let hours = hours / 2 + self.rng.below(hours / 2);
        let goes_early = self.rng.chance(30);
        if goes_early {
            self.disk.definitions.remove(&name);
        }
        self.crash((hours * HOUR_MS) as i64)?;
        self.disk.definitions.remove(&name);
        if goes_early { Ok(()) } else { self.swap() }
    }

    fn operate(&mut self) -> Checked {
        let batch = name(self.rng.below(12));
        let runs: Vec<RunId> = self.journal.runs.from(&batch, 0).map(|run| run.id.clone()).collect();
        let live: Vec<RunId> = self.scheduler().live().map(|run| run.id.clone()).collect();
        let follow = *self.rng.pick(&[Follow::Nothing, Follow::Chain, Follow::Everything]);
        let modes = [RerunMode::Unsucceeded, RerunMode::Only, RerunMode::Downstream, RerunMode::MarkSucceeded];
        let request = match self.rng.below(7) {
            0 | 1 => {
                let (queue, force) = (self.rng.chance(50), self.rng.chance(30));
                Request::Start { batch, follow, given: Given::default(), queue, force }
            }
            2 if !live.is_empty() => Request::Stop { run: self.rng.pick(&live).clone(), reason: None },
            3 if !runs.is_empty() => {
                let run = self.rng.pick(&runs[runs.len().saturating_sub(5)..]).clone();
                Request::Rerun { run, mode: *self.rng.pick(&modes), force: self.rng.chance(30) }
            }
            4 => {
                let until = self.rng.chance(50).then(|| self.now() + Duration::from_secs(self.rng.below(86_400)));
                Request::Disable { batch, until, reason: None }
            }
            5 if self.rng.chance(20) => Request::StopAll { reason: None },
            _ => Request::Enable { batch },
        };
        self.tell(format!("operator {request:?}"));
        self.count("requests");
        let history = match &request {
            Request::Rerun { run, .. } => self.journal.history(run),
            Request::Stop { run, .. } => self.journal.runs.get(run).cloned().into_iter().collect(),
            _ => Vec::new(),
        };
        self.request_last += 1;
        let (id, by, inputs) = (self.request_last, "uid 1".to_owned(), BTreeSet::new());
        self.handle(Event::Request { id, by, request, history, inputs })
    }
}

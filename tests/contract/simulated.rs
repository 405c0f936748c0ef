//! The simulation's stand-in for the place where runs live, put to the same test as the real one.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use batchd::model::id::{BatchName, DefinitionHash, JournalId, RunId, Token};
use batchd::model::launch::{Launch, Report};

use crate::place::{Does, Place};
use crate::simulated_place::{Ending, FakePlace, Now, Will};
use crate::world;

/// The boot of the host that the stand-in is.
const BOOT: &str = "boot";

pub(crate) struct Simulated {
    place: RefCell<FakePlace>,
    /// What each script does, by its run.
    does: RefCell<Vec<(RunId, Does)>>,
    now: Cell<Now>,
    daemon_lives: bool,
}

impl Simulated {
    pub(crate) fn new() -> Self {
        Self {
            place: RefCell::new(FakePlace::new(BOOT)),
            does: RefCell::default(),
            now: Cell::new(Now { real: 1_000_000, offset: 0 }),
            daemon_lives: true,
        }
    }

    fn will(&self, launch: &Launch) -> Will {
        let does = self.does.borrow();
        let (_, does) = does.iter().find(|(run, _)| *run == launch.run.id).expect("it was planned");
        let (ms, ending) = match does {
            Does::Exit(code) => (Some(3), Ending::Exit(*code)),
            Does::Wait => (None, Ending::Exit(0)),
            Does::NoInterpreter => (Some(1), Ending::CouldNotRun),
            Does::ShortInput => (Some(1), Ending::InputIncomplete),
        };
        Will { ms, ending, timeout: launch.definition.as_ref().unwrap().execution.timeout, is_hindered: false }
    }

    /// Time passes.
    fn pass(&self, until: i64) {
        let now = self.now.get();
        self.now.set(Now { real: now.real.max(until), ..now });
    }
}

impl Place for Simulated {
    fn plan(&self, batch: &str, does: Does) -> Launch {
        let batch = BatchName::new(batch).unwrap();
        let hash = DefinitionHash([0; 32]);
        let definition = world::definition(&batch, hash);
        let mut run = world::run(batch.run(1), hash);
        run.boot = Some(BOOT.to_owned());
        self.does.borrow_mut().push((run.id.clone(), does));
        Launch {
            token: Token { journal: JournalId("journal".to_owned()), run: run.id.clone(), queued_at: run.queued_at },
            run,
            definition: Some(Arc::new(definition)),
            due_at_local: "2026-11-23T01:00:00+01:00".to_owned(),
            upstreams: Vec::new(),
            given_input: None,
            alert: None,
        }
    }

    fn launch(&self, launch: &Launch) {
        self.place.borrow_mut().launch(self.now.get(), &launch.run.id, self.will(launch)).unwrap();
    }

    fn find(&self, launch: &Launch) {
        self.place.borrow_mut().find(self.now.get(), &launch.run, || self.will(launch)).unwrap();
    }

    fn stop(&self, launch: &Launch) {
        self.place.borrow_mut().stop(self.now.get(), &launch.run.id);
    }

    fn collect(&self, launch: &Launch) {
        self.place.borrow_mut().collect(&launch.run.id);
    }

    fn report(&mut self) -> (RunId, Report) {
        let at = self.place.borrow().next_report_at().expect("nothing will ever be reported");
        self.pass(at);
        self.place.borrow_mut().take_report().expect("there is one")
    }

    fn release(&self, launch: &Launch) {
        self.place.borrow_mut().release(self.now.get(), &launch.run.id, self.daemon_lives);
    }

    fn daemon_dies(&mut self) {
        self.daemon_lives = false;
        self.place.borrow_mut().daemon_dies();
    }

    fn daemon_starts(&mut self) {
        self.daemon_lives = true;
    }

    fn wait_for_end(&self, launch: &Launch) {
        let ends_at = self.place.borrow().scripts[&launch.run.id].ends_at;
        self.pass(ends_at);
    }

    fn occupy(&self, launch: &Launch) {
        self.place.borrow_mut().occupy(&launch.run.id);
    }
}

//! What is around the scheduler of a story: the disk, the clock, a journal, and the place where runs live.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use batchd::folders;
use batchd::load::{self, Context, Diagnosis, Fitted, Input, Loaded, SettingsFile};
use batchd::model::files::{FileContent, Files};
use batchd::model::graph::{Entry, Graph};
use batchd::model::id::{BatchName, RunId};
use batchd::model::input::InputId;
use batchd::model::launch::{ExitCause, Report};
use batchd::model::record::Record;
use batchd::model::request::{Request, RerunMode};
use batchd::model::run::{self, Exit, Follow, Given};
use batchd::model::time::{Instant, parse_duration};
use batchd::scheduler::{Effect, Event, Scheduler};
use batchd::zones::Zones;

use crate::journal::FakeJournal;
use crate::telling;

/// The cores of the host: so many caught-up runs at once.
const CORES: u32 = 2;

pub(crate) struct World {
    zones: Zones,
    settings: String,
    /// The text of each `batch.toml` on the disk.
    disk: BTreeMap<BatchName, String>,
    now: Instant,
    boot: u32,
    journal: FakeJournal,
    scheduler: Option<Scheduler>,
    /// What became of runs while no daemon was there.
    unreported: Vec<(RunId, Report)>,
    told: Vec<String>,
    /// The stored inputs that are there.
    inputs: BTreeSet<InputId>,
}

type Done<T = ()> = Result<T, String>;

impl World {
    pub(crate) fn new() -> Self {
        Self {
            zones: Zones::new(None, Some("UTC".to_owned())),
            settings: String::new(),
            disk: BTreeMap::new(),
            now: Instant::from_ms(0),
            boot: 1,
            journal: FakeJournal::default(),
            scheduler: None,
            unreported: Vec::new(),
            told: Vec::new(),
            inputs: BTreeSet::new(),
        }
    }

    /// Takes one step. What the scheduler wants done for it, as lines; "nothing" if it was asked and wants nothing.
    pub(crate) fn step(&mut self, line: &str) -> Done<Vec<String>> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "settings:" => self.settings = toml_of(rest),
            "batch" => {
                let (name, keys) = rest.split_once(':').ok_or("batch NAME: KEY = VALUE, ...")?;
                self.disk.insert(batch(name)?, toml_of(keys));
            }
            "remove" => drop(self.disk.remove(&batch(rest)?).ok_or("it is not there")?),
            "begins" => self.begin(rest)?,
            "dies" => drop(self.scheduler.take().ok_or("no daemon is there")?),
            "at" => self.live_until(self.instant(rest)?)?,
            "clock" => {
                let to = rest.strip_prefix("jumps to ").ok_or("clock jumps to INSTANT")?;
                self.now = self.instant(to.trim_end_matches(" unseen"))?;
                if self.scheduler.is_some() && !to.ends_with(" unseen") {
                    self.handle(Event::Wake)?;
                }
            }
            "reload" => {
                let graph = self.fit()?;
                self.handle(Event::Reload(graph))?;
            }
            "runs" | "waits" | "ends" => self.report(verb, rest)?,
            "next" => self.tell_next()?,
            "inputs" => self.inputs.clear(),
            _ => self.request(line)?,
        }
        let is_edit = matches!(verb, "settings:" | "batch" | "remove" | "inputs" | "dies") || line.ends_with(" unseen");
        if self.told.is_empty() && !is_edit && self.scheduler.is_some() {
            self.told.push("nothing".to_owned());
        }
        Ok(std::mem::take(&mut self.told))
    }

    fn begin(&mut self, how: &str) -> Done {
        match how {
            "" => {}
            "after a boot" => self.boot += 1,
            _ => return Err("begins, or begins after a boot".to_owned()),
        }
        let recovered = self.journal.recover();
        let settings = self.settings()?;
        let entry = |definition: &Arc<batchd::model::definition::Definition>, held| {
            let (schedule, reboot) = folders::schedule(&self.zones, definition).map_err(|diagnosis| diagnosis.what)?;
            Ok(Entry { definition: definition.clone(), schedule, reboot, held })
        };
        let entries = recovered.in_force.iter().filter_map(|f| f.definition.as_ref().map(|d| entry(d, f.held)));
        let entries = entries.collect::<Done<Vec<Entry>>>()?;
        let graph = Graph::new(entries, settings.settings.limits).map_err(|misfits| format!("{misfits:?}"))?;
        self.scheduler = Some(Scheduler::recover(recovered, Arc::new(graph), format!("boot {}", self.boot)));
        for (run, report) in std::mem::take(&mut self.unreported) {
            self.handle(Event::Report { run, report })?;
        }
        let graph = self.fit()?;
        self.handle(Event::Begin(graph))
    }

    /// Time passes. A daemon is woken whenever it wants to be.
    fn live_until(&mut self, until: Instant) -> Done {
        let wakeup = |world: &Self| world.scheduler.as_ref().and_then(Scheduler::next_wakeup);
        while let Some(at) = wakeup(self).filter(|at| *at <= until) {
            self.now = at;
            let told = self.told.len();
            self.handle(Event::Wake)?;
            if at < until {
                let at = telling::instant(at, until);
                self.told[told..].iter_mut().for_each(|line| *line = format!("[{at}] {line}"));
            }
        }
        self.now = until;
        Ok(())
    }

    /// One event, as the daemon's loop has it: decided, committed, carried out.
    fn handle(&mut self, event: Event) -> Done {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let scheduler = self.scheduler.as_mut().ok_or("no daemon is there")?;
            let mut effects = Vec::new();
            scheduler.handle(self.now, event, &mut effects);
            if scheduler.next_wakeup().is_some_and(|at| at <= self.now) {
                return Err("it wants to be woken in the past".to_owned());
            }
            let is_record = |effect: &Effect| matches!(effect, Effect::Record(_));
            if !effects.is_sorted_by_key(|effect| !is_record(effect)) {
                return Err("an act stands before a record".to_owned());
            }
            self.told.extend(telling::lines(&self.journal, &effects, self.now));
            let records = effects.iter().filter_map(|effect| match effect {
                Effect::Record(record) => Some(record.clone()),
                _ => None,
            });
            self.journal.commit(&records.collect::<Vec<Record>>())?;
            for effect in effects {
                if let Effect::ReadAhead { after } = effect {
                    events.push(Event::DecidedAhead(self.journal.decided_after(|_| after)));
                }
            }
        }
        Ok(())
    }

    fn report(&mut self, verb: &str, rest: &str) -> Done {
        let (run, how) = rest.split_once(' ').unwrap_or((rest, ""));
        let run: RunId = run.parse().map_err(|_| format!("`{run}` is no run"))?;
        let row = self.journal.runs.get(&run).ok_or("no such run")?;
        let (at, started_at) = (self.now, row.started_at.or(row.starting_at).unwrap_or(self.now));
        let exited = |exit_code, success, cause| {
            let exit = Exit { exit_code, ..Exit::default() };
            Report::Exited { started_at, ended_at: at, exit, success, cause }
        };
        let report = match (verb, how) {
            ("runs", "") => Report::Started { at },
            ("waits", "") => Report::Waiting { reason: "the disk is full".to_owned() },
            ("ends", "succeeded") => exited(Some(0), true, ExitCause::Itself),
            ("ends", "failed") => exited(Some(1), false, ExitCause::Itself),
            ("ends", "timed_out") => exited(None, false, ExitCause::Timeout),
            ("ends", "stopped") => exited(None, false, ExitCause::Stop),
            ("ends", "lost") => Report::Lost { at, reason: "its shim was killed".to_owned() },
            ("ends", "before its start") => Report::StoppedBeforeStart { at },
            ("ends", "without an interpreter") => Report::CouldNotRun { at, reason: "no interpreter".to_owned() },
            ("ends", "without its input") => Report::InputIncomplete { at, reason: "it is short".to_owned() },
            ("ends", "because its folder is taken") => Report::FolderTaken,
            _ => return Err(format!("`{verb}` knows no `{how}`")),
        };
        if self.scheduler.is_none() {
            self.unreported.push((run, report));
            return Ok(());
        }
        self.handle(Event::Report { run, report })
    }

    fn request(&mut self, line: &str) -> Done {
        let mut words: Vec<&str> = line.split(' ').collect();
        let mut flag = |name: &str| {
            let at = words.iter().position(|word| *word == name);
            at.map(|at| words.remove(at)).is_some()
        };
        let (only, downstream, mark_succeeded) = (flag("--only"), flag("--downstream"), flag("--mark-succeeded"));
        let (queue, force) = (flag("--queue"), flag("--force"));
        let input = words.iter().position(|word| *word == "--input").map(|at| words.drain(at..).collect::<Vec<_>>());
        let run = |text: &str| text.parse::<RunId>().map_err(|_| format!("`{text}` is no run"));
        let request = match words[..] {
            ["start", name] => {
                let follow = match (only, downstream) {
                    (true, _) => Follow::Nothing,
                    (false, true) => Follow::Everything,
                    (false, false) => Follow::Chain,
                };
                let input = input.map(|words| self.input(&words[1..])).transpose()?;
                Request::Start { batch: batch(name)?, follow, given: Given { input, ..Given::default() }, queue, force }
            }
            ["stop", "all"] => Request::StopAll { reason: None },
            ["stop", id] => Request::Stop { run: run(id)?, reason: None },
            ["rerun", id] => {
                let mode = match (only, downstream, mark_succeeded) {
                    (true, ..) => RerunMode::Only,
                    (_, true, _) => RerunMode::Downstream,
                    (.., true) => RerunMode::MarkSucceeded,
                    _ => RerunMode::Unsucceeded,
                };
                Request::Rerun { run: run(id)?, mode, force }
            }
            ["enable", name] => Request::Enable { batch: batch(name)? },
            ["disable", name] => Request::Disable { batch: batch(name)?, until: None, reason: None },
            ["disable", name, "until", ref at @ ..] => {
                Request::Disable { batch: batch(name)?, until: Some(self.instant(&at.join(" "))?), reason: None }
            }
            _ => return Err(format!("there is no step `{line}`")),
        };
        let history = match &request {
            Request::Rerun { run, .. } => self.journal.history(run),
            Request::Stop { run, .. }
            | Request::Start { given: Given { input: Some(run::Input::Run(run)), .. }, .. } => {
                self.journal.runs.get(run).cloned().into_iter().collect()
            }
            _ => Vec::new(),
        };
        let inputs = self.inputs.clone();
        self.handle(Event::Request { id: 1, by: "ann".to_owned(), request, history, inputs })
    }

    /// What stands behind `--input`; `-` sends one along.
    fn input(&mut self, words: &[&str]) -> Done<run::Input> {
        match words {
            ["-"] => {
                let id = InputId::of_random(self.inputs.len() as u128);
                self.inputs.insert(id.clone());
                Ok(run::Input::Stored(id))
            }
            ["gone"] => Ok(run::Input::Stored(InputId::of_random(u128::MAX))),
            [path] if path.starts_with('/') => Ok(run::Input::File((*path).to_owned())),
            [id] => Ok(run::Input::Run(id.parse().map_err(|_| format!("`{id}` is no run"))?)),
            _ => Err("--input RUN, /FILE, - or gone".to_owned()),
        }
    }

    fn tell_next(&mut self) -> Done {
        let scheduler = self.scheduler.as_ref().ok_or("no daemon is there")?;
        self.told.extend(scheduler.upcoming().map(|(at, name)| format!("{name} {}", telling::instant(at, self.now))));
        Ok(())
    }

    fn settings(&self) -> Done<SettingsFile> {
        let known = |zone: &str| self.zone_known(zone);
        let (mut settings, diagnostics) = load::settings("batchd.toml", self.settings.as_bytes(), &known);
        if let Some(diagnostic) = diagnostics.first() {
            return Err(diagnostic.to_string());
        }
        settings.settings.limits.catch_up_running_max = CORES;
        Ok(settings)
    }

    /// What is on the disk, as far as it fits. What does not is told.
    fn fit(&mut self) -> Done<Arc<Graph>> {
        let settings = self.settings()?;
        let known = |zone: &str| self.zone_known(zone);
        let context = Context { settings: &settings, host: "host", batches: "batches.d", zone_known: &known };
        let candidates: Vec<Arc<Loaded>> =
            self.disk.iter().map(|(name, toml)| Arc::new(definition(name, toml, &context))).collect();
        let in_force = self.scheduler.iter().flat_map(|scheduler| scheduler.graph().iter());
        let previous = in_force.map(|(name, node)| (name.clone(), node.definition().clone())).collect();
        let Fitted { graph, diagnostics, stale, held } =
            load::fit(&candidates, &previous, &settings, &|definition| folders::schedule(&self.zones, definition));
        self.told.extend(diagnostics.iter().map(|diagnostic| format!("diagnostic: {}", diagnostic.what)));
        self.told.extend(stale.iter().map(|name| format!("{name} falls back to its last good definition")));
        self.told.extend(held.iter().map(|name| format!("{name} is held")));
        Ok(Arc::new(graph))
    }

    fn zone_known(&self, zone: &str) -> Result<(), Diagnosis> {
        self.zones.get(zone).map(|_| ()).map_err(|error| Diagnosis { what: error.what, hint: error.hint })
    }

    /// `2026-03-10 02:00[:00]`, `02:00`: the next time that clocks show it, or `+10m`.
    fn instant(&self, text: &str) -> Done<Instant> {
        if let Some(later) = text.strip_prefix('+') {
            return Ok(self.now + parse_duration(later)?);
        }
        let (day, time) = match text.split_once(' ') {
            Some((day, time)) => (day.to_owned(), time),
            None => (self.now.to_string()[..10].to_owned(), text),
        };
        let seconds = if time.len() == 5 { ":00" } else { "" };
        let at = Instant::parse(&format!("{day}T{time}{seconds}Z")).ok_or_else(|| format!("`{text}` is no instant"))?;
        let is_over = !text.contains(' ') && at <= self.now;
        Ok(if is_over { Instant::from_ms(at.as_ms() + 86_400_000) } else { at })
    }
}

fn definition(name: &BatchName, toml: &str, context: &Context<'_>) -> Loaded {
    let mut files = Files::default();
    for (path, text) in [("batch.toml", toml), ("script.sh", "#!/bin/bash\n")] {
        files.0.insert(path.to_owned(), FileContent { bytes: text.as_bytes().to_vec(), mode: 0o644 });
    }
    let input = Input { name, toml: Some(toml.as_bytes()), files: &files, zip: None, missing_includes: &[] };
    load::definition(&input, context)
}

fn batch(name: &str) -> Done<BatchName> {
    BatchName::new(name).map_err(|error| error.to_string())
}

/// Keys on one line as lines: a comma outside of quotes and brackets ends one.
fn toml_of(keys: &str) -> String {
    let (mut quoted, mut depth) = (false, 0);
    let line_of = |c: char| {
        match c {
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth -= 1,
            _ => {}
        }
        if c == ',' && !quoted && depth == 0 { '\n' } else { c }
    };
    let text: String = keys.chars().map(line_of).collect();
    text.lines().map(|line| format!("{}\n", line.trim())).collect()
}

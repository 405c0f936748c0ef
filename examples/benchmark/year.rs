//! A year of the scheduler in virtual time: how fast it is by itself, and so how fast it can be tested.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use batchd::folders;
use batchd::load::{self, Context, Input, SettingsFile};
use batchd::model::files::{FileContent, Files};
use batchd::model::graph::{Entry, Graph};
use batchd::model::id::JournalId;
use batchd::model::record::{Record, Recovered};
use batchd::model::time::Instant;
use batchd::scheduler::{Effect, Event, Scheduler};
use batchd::zones::Zones;

use crate::Line;
use crate::measure::cpu_seconds;
use crate::simulated_journal::FakeJournal;
use crate::simulated_place::{Ending, FakePlace, Now, Will};

/// 2026-01-01T00:00:00Z.
const BEGIN_MS: i64 = 1_767_225_600_000;
const YEAR_MS: i64 = 365 * 86_400_000;
/// Batches, each due every hour.
const BATCHES: usize = 50;
const RUNS: usize = BATCHES * 365 * 24;
/// How long each script takes.
const SCRIPT_MS: i64 = 5 * 60_000;
const BOOT: &str = "boot";

/// One year of hourly batches, with the journal and the place of the simulation.
pub(crate) fn year() -> Result<Vec<Line>> {
    let (before, graph) = (cpu_seconds(std::process::id())?, Arc::new(graph()?));
    let journal = live(graph)?;
    let seconds = cpu_seconds(std::process::id())? - before;
    let ended = journal.runs.values().filter(|run| run.succeeded()).count();
    ensure!(ended == RUNS, "{ended} runs have ended, not {RUNS}");
    Ok(vec![Line {
        what: format!("a virtual year of {BATCHES} hourly batches, {RUNS} runs, CPU"),
        batchd: format!("{seconds:.2} s"),
        raw: String::new(),
        ratio: String::new(),
        target: "< 5 s",
        reached: seconds < 5.0,
    }])
}

/// The batches, each at a minute of its own.
fn graph() -> Result<Graph> {
    let (zones, settings) = (Zones::new(None, Some("UTC".to_owned())), SettingsFile::default());
    let context = Context { settings: &settings, host: "host", batches: "batches.d", zone_known: &|_| Ok(()) };
    let entry = |index: usize| {
        let name =
            load::batch_name("batches.d", &format!("b{index:02}")).map_err(|diagnostic| anyhow!("{diagnostic}"))?;
        let toml = format!("cron = \"{index} * * * *\"\ntimezone = \"UTC\"\n");
        let mut files = Files::default();
        for (path, text) in [("batch.toml", toml.as_str()), ("script.sh", "true\n")] {
            files.0.insert(path.to_owned(), FileContent { bytes: text.as_bytes().to_vec(), mode: 0o644 });
        }
        let input = Input { name: &name, toml: Some(toml.as_bytes()), files: &files, zip: None, missing_includes: &[] };
        let definition = load::definition(&input, &context).definition.context("the definition is refused")?;
        let (schedule, reboot) = folders::schedule(&zones, &definition).map_err(|diagnosis| anyhow!(diagnosis.what))?;
        Ok(Entry { definition, schedule, reboot, held: false })
    };
    let entries = (0..BATCHES).map(entry).collect::<Result<Vec<Entry>>>()?;
    Graph::new(entries, settings.settings.limits.clone()).map_err(|misfits| anyhow!("no graph: {misfits:?}"))
}

/// Lives through the year, and gives its journal.
fn live(graph: Arc<Graph>) -> Result<FakeJournal> {
    let recovered = Recovered::empty(JournalId("year".to_owned()));
    let mut scheduler = Scheduler::recover(recovered, Arc::new(Graph::default()), BOOT.to_owned());
    let (mut journal, mut place) = (FakeJournal::default(), FakePlace::new(BOOT));
    // The hour that begins with the year is due, and the one that ends with it is not.
    let (mut now, end) = (BEGIN_MS - 1, BEGIN_MS + YEAR_MS - 1);
    let mut event = Event::Begin(graph);
    loop {
        carry_out(&mut scheduler, now, event, &mut journal, &mut place)?;
        let wakeup = scheduler.next_wakeup().map(Instant::as_ms).filter(|at| *at <= end);
        let report = place.next_report_at();
        let Some(next) = wakeup.into_iter().chain(report).min() else { break };
        now = next;
        event = match place.take_report_at(now) {
            Some((run, report)) => Event::Report { run, report },
            None => Event::Wake,
        };
    }
    Ok(journal)
}

/// One event, as the daemon's loop has it: decided, committed, carried out.
fn carry_out(
    scheduler: &mut Scheduler,
    now: i64,
    event: Event,
    journal: &mut FakeJournal,
    place: &mut FakePlace,
) -> Result<()> {
    let mut effects = Vec::new();
    scheduler.handle(Instant::from_ms(now), event, &mut effects);
    let first_act = effects.iter().position(|effect| !matches!(effect, Effect::Record(_)));
    let acts = effects.split_off(first_act.unwrap_or(effects.len()));
    let record = |effect| if let Effect::Record(record) = effect { Some(record) } else { None };
    journal
        .commit(&effects.into_iter().filter_map(record).collect::<Vec<Record>>())
        .map_err(|problem| anyhow!(problem))?;
    let will = Will { ms: Some(SCRIPT_MS), ending: Ending::Exit(0), timeout: None, is_hindered: false };
    for act in acts {
        match act {
            Effect::Start { run, .. } => {
                let clock = Now { real: now, offset: 0 };
                place.launch(clock, &run.id, will).map_err(|problem| anyhow!(problem))?;
            }
            Effect::Settle { run } => place.collect(&run),
            Effect::Record(_) | Effect::Stop { .. } | Effect::Reply { .. } | Effect::ReadAhead { .. } => {}
        }
    }
    Ok(())
}

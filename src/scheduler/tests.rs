//! Rules that the simulation does not meet, each as a small story.

use super::*;
use crate::model::cron::Expression;
use crate::model::graph::Entry;
use crate::model::request::RerunMode;
use crate::model::run::{Exit, Follow, Given, Outcome, Trigger};
use crate::model::schedule::Schedule;
use crate::model::settings::Limits;
use crate::model::zone::Zone;

mod clock;
mod waits;

/// 2026-03-01T00:00:00Z.
const BEGIN: Instant = Instant::from_s(1_772_323_200);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A scheduler with what it has recorded and what it wants done since the last look.
struct World {
    scheduler: Scheduler,
    now: Instant,
    effects: Vec<Effect>,
    /// Every row as it was recorded last.
    rows: BTreeMap<RunId, Run>,
}

fn name(text: &str) -> BatchName {
    BatchName::new(text).unwrap()
}

/// A definition that holds `change`, a JSON object of its keys, beside what every definition has.
fn definition(batch: &str, change: &str) -> Definition {
    let hash = "0".repeat(64);
    let mut json: serde_json::Value = serde_json::from_str(&format!(
        r#"{{"name": "{batch}", "hash": "{hash}", "enabled": true, "overlap": "skip", "catch_up": "last",
            "catch_up_within_ms": 604800000, "jitter_ms": 0,
            "retry": {{"retries": 0, "delay_ms": 10000, "backoff": 2.0, "delay_max_ms": 600000, "on_lost": false}},
            "execution": {{"script": "script.sh", "interpreter": ["bash"], "umask": 18, "stop_grace_ms": 10000,
                "success_exit_codes": [0], "log_bytes_max": 1}}}}"#
    ))
    .unwrap();
    let change: serde_json::Map<String, serde_json::Value> = serde_json::from_str(change).unwrap();
    json.as_object_mut().unwrap().extend(change);
    serde_json::from_value(json).unwrap()
}

fn entry(definition: Definition, zone: &Arc<Zone>) -> Entry {
    let times = definition.cron.iter().filter_map(|text| match Expression::parse(text).unwrap() {
        Expression::Times(cron) => Some(cron),
        Expression::Reboot => None,
    });
    let times: Vec<_> = times.collect();
    let reboot = definition.cron.iter().any(|text| text == "@reboot");
    let schedule = (!times.is_empty()).then(|| Arc::new(Schedule::new(times, zone.clone())));
    Entry { definition: Arc::new(definition), schedule, reboot, held: false }
}

fn graph(entries: Vec<Entry>, limits: &Limits) -> Arc<Graph> {
    Arc::new(Graph::new(entries, limits.clone()).unwrap())
}

/// A graph in UTC with slots for all.
fn plain(definitions: Vec<Definition>) -> Arc<Graph> {
    graph(definitions.into_iter().map(|definition| entry(definition, &Zone::utc())).collect(), &Limits::default())
}

impl World {
    fn new(graph: Arc<Graph>) -> Self {
        let empty = Recovered::empty(JournalId("test".to_owned()));
        Self::recovered(empty, Arc::new(Graph::default()), graph, BEGIN)
    }

    /// A daemon that begins at `now` with what another one has left.
    fn recovered(recovered: Recovered, before: Arc<Graph>, graph: Arc<Graph>, now: Instant) -> Self {
        let rows = recovered.runs.iter().map(|run| (run.id.clone(), run.clone())).collect();
        let scheduler = Scheduler::recover(recovered, before, "boot".to_owned());
        let mut world = Self { scheduler, now, effects: Vec::new(), rows };
        world.handle(Event::Begin(graph));
        world
    }

    fn handle(&mut self, event: Event) {
        self.effects.clear();
        self.scheduler.handle(self.now, event, &mut self.effects);
        for effect in &self.effects {
            if let Effect::Record(Record::Run(run)) = effect {
                self.rows.insert(run.id.clone(), Run::clone(run));
            }
        }
        assert!(self.scheduler.next_wakeup().is_none_or(|at| at > self.now), "it would be woken for what is over");
    }

    fn wake_after(&mut self, wait: Duration) {
        self.now = self.now + wait;
        self.handle(Event::Wake);
    }

    fn start(&mut self, batch: &str) {
        let batch = name(batch);
        let request =
            Request::Start { batch, follow: Follow::Chain, given: Given::default(), queue: true, force: false };
        self.ask(request, Vec::new());
    }

    fn ask(&mut self, request: Request, history: Vec<Run>) {
        let by = "uid 1".to_owned();
        self.handle(Event::Request { id: 1, by, request, history, inputs: BTreeSet::new() });
    }

    fn report(&mut self, run: &str, report: Report) {
        self.handle(Event::Report { run: run.parse().unwrap(), report });
    }

    fn exit(&mut self, run: &str, success: bool) {
        let (at, exit) = (self.now, Exit { exit_code: Some(u8::from(!success)), ..Exit::default() });
        let report = Report::Exited { started_at: at, ended_at: at, exit, success, cause: ExitCause::Itself };
        self.report(run, report);
    }

    fn row(&self, run: &str) -> &Run {
        &self.rows[&run.parse::<RunId>().unwrap()]
    }

    /// The outcomes of a batch's rows, by number; none where it has not ended.
    fn outcomes(&self, batch: &str) -> Vec<Option<Outcome>> {
        self.rows.values().filter(|run| run.id.batch == name(batch)).map(Run::outcome).collect()
    }
}

#[test]
fn c14_a_clock_that_is_corrected_keeps_no_retry_waiting() {
    let retries =
        r#"{"retry": {"retries": 1, "delay_ms": 10000, "backoff": 2.0, "delay_max_ms": 600000, "on_lost": false}}"#;
    let mut world =
        World::new(plain(vec![definition("hourly", r#"{"cron": ["0 * * * *"]}"#), definition("a", retries)]));
    world.wake_after(24 * 365 * HOUR);
    world.start("a");
    world.exit("a.1", false);
    assert_eq!(world.row("a.2").start_at, Some(world.now + Duration::from_secs(10)));
    // The clock was a year ahead.
    world.now = BEGIN + MINUTE;
    world.handle(Event::Wake);
    assert!(world.effects.iter().any(|effect| matches!(effect, Effect::ReadAhead { .. })));
    world.handle(Event::DecidedAhead(Vec::new()));
    assert_eq!(world.row("a.2").start_at, Some(world.now + Duration::from_secs(10)));
    world.wake_after(Duration::from_secs(10));
    assert_eq!(world.row("a.2").state, State::Starting);
}

#[test]
fn a_retry_without_a_wait_is_ready_at_once() {
    let retries = r#"{"retry": {"retries": 1, "delay_ms": 0, "backoff": 2.0, "delay_max_ms": 0, "on_lost": false}}"#;
    let mut world = World::new(plain(vec![definition("a", retries)]));
    world.start("a");
    world.exit("a.1", false);
    assert_eq!((world.row("a.2").trigger, &world.row("a.2").state), (Trigger::Retry, &State::Starting));
}

#[test]
fn a_folder_of_another_journal_is_left_alone() {
    let mut world = World::new(plain(vec![definition("a", "{}")]));
    world.start("a");
    world.handle(Event::Reload(plain(Vec::new())));
    world.report("a.1", Report::FolderTaken);
    assert_eq!(world.outcomes("a"), [Some(Outcome::Failed)]);
    assert!(!world.effects.iter().any(|effect| matches!(effect, Effect::Settle { .. })), "{:?}", world.effects);
}

#[test]
fn c9_new_time_zone_data_fires_nothing_that_is_over() {
    let hours = |hours: i32| Arc::new(Zone::new("Test/Moved", hours * 3600, [], None));
    let of = |zone| graph(vec![entry(definition("a", r#"{"cron": ["30 2 * * *"]}"#), &zone)], &Limits::default());
    let mut world = World::new(of(hours(0)));
    // 02:10 by the old data is 03:10 by the new.
    world.wake_after(2 * HOUR + 10 * MINUTE);
    world.handle(Event::Reload(of(hours(1))));
    assert_eq!(world.outcomes("a"), []);
    assert_eq!(world.scheduler.next_wakeup(), Some(BEGIN + 25 * HOUR + 30 * MINUTE));
}

#[test]
fn what_fell_due_while_a_batch_was_off_is_not_caught_up_once_it_is_on() {
    let (off, on) = (r#"{"cron": ["0 * * * *"], "enabled": false}"#, r#"{"cron": ["0 * * * *"]}"#);
    let before = plain(vec![definition("a", off)]);
    let world = World::new(before.clone());
    let world =
        World::recovered(world.scheduler.facts(), before, plain(vec![definition("a", on)]), BEGIN + 150 * MINUTE);
    assert_eq!(world.outcomes("a"), [Some(Outcome::Skipped); 2]);
}

#[test]
fn what_falls_due_while_a_batch_is_held_has_its_row() {
    let hourly = || entry(definition("a", r#"{"cron": ["0 * * * *"]}"#), &Zone::utc());
    let of = |held| graph(vec![Entry { held, ..hourly() }], &Limits::default());
    let mut world = World::new(of(false));
    world.handle(Event::Reload(of(true)));
    world.wake_after(HOUR);
    assert_eq!(world.outcomes("a"), [Some(Outcome::Skipped)]);
    world.wake_after(30 * MINUTE);
    world.handle(Event::Reload(of(false)));
    world.wake_after(30 * MINUTE);
    assert_eq!(world.outcomes("a"), [Some(Outcome::Skipped), None]);
}

/// Slots of a pool go by the queue: with priority first, and nobody behind is kept waiting by a pool that is full.
#[test]
fn a_full_pool_keeps_only_its_own_waiting() {
    let limits = Limits { max_running: 3, pools: BTreeMap::from([("one".to_owned(), 1)]), catch_up_running_max: 1 };
    let batches = [("a", r#"{"pool": "one"}"#), ("b", r#"{"pool": "one"}"#), ("c", "{}"), ("d", "{}"), ("e", "{}")];
    let entries = batches.iter().map(|(batch, change)| entry(definition(batch, change), &Zone::utc()));
    let mut world = World::new(graph(entries.collect(), &limits));
    batches.iter().for_each(|(batch, _)| world.start(batch));
    let starting = |world: &World| -> Vec<String> {
        let under_way = world.rows.values().filter(|run| run.is_under_way());
        under_way.map(|run| run.id.to_string()).collect()
    };
    assert_eq!(starting(&world), ["a.1", "c.1", "d.1"]);
    world.exit("a.1", true);
    assert_eq!(starting(&world), ["b.1", "c.1", "d.1"]);
    world.exit("c.1", true);
    assert_eq!(starting(&world), ["b.1", "d.1", "e.1"]);
}

/// Lets this many diamonds, all due at the same time, run to their ends in two slots.
fn live_diamonds(count: usize) {
    let limits = Limits { max_running: 2, ..Limits::default() };
    let mut entries = Vec::new();
    for index in 0..count {
        let after = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| format!("\"{name}{index}\"")).collect();
            format!(r#"{{"after": [{}], "overlap": "queue"}}"#, names.join(", "))
        };
        let batches = [
            ("a", r#"{"cron": ["0 1 * * *"]}"#.to_owned()),
            ("b", after(&["a"])),
            // The last of all that wait: by then there is a join in every chain.
            ("c", after(&["a"]).replace('}', r#", "priority": -1}"#)),
            ("d", after(&["b", "c"])),
        ];
        entries.extend(
            batches.iter().map(|(batch, change)| entry(definition(&format!("{batch}{index}"), change), &Zone::utc())),
        );
    }
    let mut world = World::new(graph(entries, &limits));
    world.wake_after(HOUR);
    assert_eq!(world.scheduler.live().count(), count);
    loop {
        let Some(run) = world.scheduler.book.under_way().next().map(|run| run.id.to_string()) else { break };
        world.exit(&run, true);
    }
    let ended = world.rows.values().filter(|run| run.succeeded()).count();
    assert_eq!(ended, 4 * count, "{:?}", world.scheduler.live().collect::<Vec<_>>());
}

/// Every event costs what it touches. By the square of what waits, this would take minutes.
#[test]
fn thousands_may_wait() {
    live_diamonds(2500);
}

/// A batch that is due every second, with one slot.
fn every_second(change: &str) -> World {
    let limits = Limits { max_running: 1, ..Limits::default() };
    let change = format!(r#"{{"cron": ["* * * * * *"]{change}}}"#);
    World::new(graph(vec![entry(definition("a", &change), &Zone::utc())], &limits))
}

#[test]
fn what_may_overlap_waits_in_no_longer_queue_than_what_may_not() {
    for overlap in ["allow", "queue"] {
        let mut world = every_second(&format!(r#", "overlap": "{overlap}""#));
        (0..150).for_each(|_| world.wake_after(Duration::from_secs(1)));
        let outcomes = world.outcomes("a");
        assert_eq!(outcomes[..101], [None; 101], "{overlap}");
        assert_eq!(outcomes[101..], [Some(Outcome::Skipped); 49], "{overlap}");
    }
}

#[test]
fn c24_weeks_of_many_batches_are_few_rows() {
    let batch = |index: usize| definition(&format!("b{index}"), r#"{"cron": ["0 * * * *"]}"#);
    let before = plain((0..50).map(batch).collect());
    let days = |days: u64| Duration::from_secs(days * 86_400);
    // Once with the same schedules, and once with others, by which nothing is caught up.
    let other = |index: usize| definition(&format!("b{index}"), r#"{"cron": ["30 * * * *"]}"#);
    for (graph, caught_up) in [(before.clone(), 50), (plain((0..50).map(other).collect()), 0)] {
        let world = World::new(before.clone());
        let now = BEGIN + days(42) + 30 * MINUTE;
        let world = World::recovered(world.scheduler.facts(), before.clone(), graph, now);
        let covered: u64 = world.rows.values().map(|run| run.range.as_ref().map_or(1, |range| range.count)).sum();
        assert_eq!(covered, 50 * 42 * 24);
        assert_eq!(world.rows.values().filter(|run| run.caught_up).count(), caught_up);
        assert!(world.rows.len() <= ROWS_AT_ONCE_MAX + 50 + 50 + caught_up, "{} rows", world.rows.len());
    }
}

#[test]
fn nothing_is_caught_up_for_one_that_is_on_time() {
    for overlap in ["skip", "queue"] {
        let hourly = format!(r#"{{"cron": ["0 * * * *"], "overlap": "{overlap}"}}"#);
        let before = plain(vec![definition("a", &hourly)]);
        let world = World::new(before.clone());
        let now = BEGIN + 3 * HOUR + MINUTE / 2;
        let world = World::recovered(world.scheduler.facts(), before.clone(), before, now);
        assert_eq!(world.outcomes("a"), [Some(Outcome::Missed), Some(Outcome::Missed), None], "{overlap}");
        assert_eq!((world.row("a.3").caught_up, &world.row("a.3").state), (false, &State::Starting));
    }
}

/// What a daemon that is back after `down` with a wrong clock has left, in a world whose clock is right again.
fn corrected_after(down: Duration) -> World {
    let before = plain(vec![definition("a", r#"{"cron": ["0 * * * *"], "overlap": "queue"}"#)]);
    let world = World::new(before.clone());
    let mut world = World::recovered(world.scheduler.facts(), before.clone(), before, BEGIN + down);
    world.now = BEGIN + MINUTE;
    world.handle(Event::Wake);
    let rows = world.rows.values().filter(|run| run.trigger == Trigger::Schedule && run.due_at > world.now);
    let row = |run: &Run| {
        let from = run.range.as_ref().map_or(run.due_at, |range| range.from);
        DecidedAhead { batch: run.id.batch.clone(), to: run.due_at, from }
    };
    let rows = rows.map(row).collect();
    world.handle(Event::DecidedAhead(rows));
    world
}

#[test]
fn c14_what_a_row_stands_for_does_not_come_again() {
    let mut world = corrected_after(2000 * HOUR);
    let rows = world.rows.len();
    assert!(world.rows.values().any(|run| run.range.is_some()));
    (0..3).for_each(|_| world.wake_after(HOUR));
    assert_eq!(world.rows.len(), rows);
}

#[test]
fn a_row_for_many_leaves_out_what_has_a_row() {
    let mut world = corrected_after(1500 * HOUR);
    let rows = world.rows.clone();
    // Down again, until behind what the wrong clock had decided: its end lies among what is now one row.
    let (graph, facts) = (world.scheduler.graph().clone(), world.scheduler.facts());
    world = World::recovered(facts, graph.clone(), graph, BEGIN + 3000 * HOUR);
    let new = world.rows.values().filter(|run| !rows.contains_key(&run.id));
    let covered: u64 = new.map(|run| run.range.as_ref().map_or(1, |range| range.count)).sum();
    assert_eq!(covered, 1500);
    // The same where the last instant of the row for many is one that was decided ahead.
    let mut world = corrected_after(3 * HOUR + 3 * HOUR);
    world.wake_after(Duration::ZERO);
    let (graph, facts) = (world.scheduler.graph().clone(), world.scheduler.facts());
    let decided = world.rows.len() as u64;
    let world = World::recovered(facts, graph.clone(), graph, BEGIN + 1006 * HOUR);
    let new = world.rows.values().filter(|run| run.queued_at == world.now);
    let covered: u64 = new.map(|run| run.range.as_ref().map_or(1, |range| range.count)).sum();
    assert_eq!(covered + decided, 1006);
}

/// The last boot decided nothing since its begin; this one begins in the very instant of an occurrence.
#[test]
fn a_boot_and_an_occurrence_of_the_same_instant_have_a_row_each() {
    let hourly = |minute: u32| {
        let cron = format!(r#"{{"cron": ["@reboot", "{minute} * * * *"], "overlap": "queue"}}"#);
        plain(vec![definition("a", &cron)])
    };
    for (graph, outcomes) in [(hourly(0), [None, None]), (hourly(1), [Some(Outcome::Missed), None])] {
        let mut facts = World::new(hourly(0)).scheduler.facts();
        facts.runs.clear();
        facts.batches[0].next_number = 1;
        facts.batches[0].reboot_boot = Some("the boot before".to_owned());
        let world = World::recovered(facts, hourly(0), graph, BEGIN + HOUR);
        assert_eq!(world.outcomes("a"), outcomes);
        assert_ne!(world.row("a.1").due_at, world.row("a.2").due_at);
    }
}

#[test]
fn the_row_of_a_boot_is_known_in_memory_as_in_the_journal() {
    let graph = plain(vec![definition("a", r#"{"cron": ["@reboot", "0 * * * *"]}"#)]);
    let mut facts = World::new(graph.clone()).scheduler.facts();
    facts.batches[0].reboot_boot = Some("the boot before".to_owned());
    let world = World::recovered(facts, graph.clone(), graph, BEGIN + MINUTE);
    let (batch, at) = (name("a"), world.row("a.1").due_at);
    assert!(!at.is_whole_second());
    assert_eq!(world.scheduler.facts().decided_ahead, [], "{batch}: no schedule yields it");
}

/// A clock that was a year ahead for a while has decided each second of it in one row. By looking at each of them again, the
/// outage behind the correction would take minutes.
#[test]
fn what_was_decided_ahead_is_walked_around() {
    let before = plain(vec![definition("a", r#"{"cron": ["* * * * * *"], "catch_up_within_ms": 315360000000}"#)]);
    let year = 365 * 24 * HOUR;
    let facts = World::new(before.clone()).scheduler.facts();
    let mut world = World::recovered(facts, before.clone(), before.clone(), BEGIN + year);
    let rows = world.rows.values().filter(|run| run.due_at > BEGIN + MINUTE);
    let ahead = |run: &Run| {
        let from = run.range.as_ref().map_or(run.due_at, |range| range.from);
        DecidedAhead { batch: run.id.batch.clone(), to: run.due_at, from }
    };
    let rows = rows.map(ahead).collect();
    world.now = BEGIN + MINUTE;
    world.handle(Event::Wake);
    world.handle(Event::DecidedAhead(rows));
    let (facts, decided) = (world.scheduler.facts(), world.rows.len());
    let mut world = World::recovered(facts, before.clone(), before, BEGIN + year);
    world.wake_after(HOUR);
    let new = world.rows.values().filter(|run| run.queued_at == world.now);
    let covered: u64 = new.map(|run| run.range.as_ref().map_or(1, |range| range.count)).sum();
    assert_eq!((covered, decided > 1000), (3600, true));
}

#[test]
fn c14_no_event_is_taken_before_it_is_known_what_was_decided_ahead() {
    let of = |cron: &str| plain(vec![definition("a", &format!(r#"{{"cron": ["{cron}"]}}"#))]);
    let mut world = World::new(of("0 * * * *"));
    world.wake_after(24 * HOUR);
    world.now = BEGIN + MINUTE;
    world.handle(Event::Wake);
    let rows = world.rows.len();
    // An hour passes before the answer comes; meanwhile the schedule is another.
    world.now = BEGIN + HOUR + MINUTE / 2;
    world.handle(Event::Reload(of("30 * * * *")));
    world.handle(Event::DecidedAhead(Vec::new()));
    assert_eq!(world.rows.len(), rows + 1, "01:00 fell due by the schedule that was in force");
    assert_eq!(world.scheduler.next_wakeup(), Some(BEGIN + HOUR + 30 * MINUTE));
}

#[test]
fn what_a_schedule_made_due_that_cannot_be_read_any_more_has_one_row() {
    let hourly = || definition("a", r#"{"cron": ["0 * * * *"], "timezone": "Mars/Olympus"}"#);
    let unreadable = || {
        let entry = Entry { schedule: None, held: true, ..entry(hourly(), &Zone::utc()) };
        graph(vec![entry], &Limits::default())
    };
    let readable = || plain(vec![definition("a", r#"{"cron": ["0 * * * *"]}"#)]);
    let facts = World::new(readable()).scheduler.facts();
    let rows = |world: &World| {
        let row =
            |run: &Run| (run.outcome(), run.range.as_ref().map(|range| (range.from, range.count, range.at_least)));
        world.rows.values().map(row).collect::<Vec<_>>()
    };
    let unknown = (Some(Outcome::Missed), Some((BEGIN, 0, true)));
    // It is mended, or removed, while nobody is there.
    for graph in [readable(), plain(Vec::new())] {
        let world = World::recovered(facts.clone(), unreadable(), graph, BEGIN + 150 * MINUTE);
        assert_eq!(rows(&world), [unknown]);
    }
    // It is held until it is mended.
    let mut world = World::recovered(facts, unreadable(), unreadable(), BEGIN + 150 * MINUTE);
    assert_eq!(rows(&world), []);
    world.now = BEGIN + 200 * MINUTE;
    world.handle(Event::Reload(readable()));
    assert_eq!(rows(&world), [unknown]);
    assert_eq!(world.scheduler.next_wakeup(), Some(BEGIN + 240 * MINUTE));
}

#[test]
fn what_no_script_can_be_given_is_refused() {
    let mut world = World::new(plain(vec![definition("load", "{}")]));
    let mut check = |given: &str, expected: Option<&str>| {
        let given: Given = serde_json::from_str(given).unwrap();
        let request = Request::Start { batch: name("load"), follow: Follow::Chain, given, queue: true, force: false };
        world.ask(request, Vec::new());
        let refused = world.effects.iter().find_map(|effect| match effect {
            Effect::Reply { reply: Reply::Refused { what, .. }, .. } => Some(what.as_str()),
            _ => None,
        });
        assert!(
            refused.map_or(expected.is_none(), |what| expected.is_some_and(|part| what.contains(part))),
            "{refused:?}"
        );
    };
    check(r#"{"env": {"A": "x\nB=y"}, "args": ["", "-x"], "input": {"file": "/x"}}"#, None);
    check(r#"{"env": {"A=B": "x"}}"#, Some("`A=B` can't be the name"));
    check(r#"{"env": {"A\n": "x"}}"#, Some("can't be the name"));
    check(r#"{"env": {"": "x"}}"#, Some("can't be the name"));
    check(r#"{"env": {"BATCHD_RUN": "x"}}"#, Some("reserved"));
    check(&format!(r#"{{"env": {{"{}": "x"}}}}"#, "N".repeat(129)), Some("more than the 128 allowed"));
    check(r#"{"env": {"A": "\u0000"}}"#, Some("NUL"));
    check(r#"{"args": ["\u0000"]}"#, Some("NUL"));
    check(r#"{"input": {"file": "x"}}"#, Some("not an absolute path"));
    let many: Vec<String> = (0..1001).map(|n| format!("\"N{n}\": \"\"")).collect();
    check(&format!(r#"{{"env": {{{}}}}}"#, many.join(", ")), Some("1001 variables"));
}

//! What a run that has not begun says it waits for.

use super::*;
use crate::model::wait::WaitsFor;

impl World {
    /// What waits, and for what, a line each.
    fn waiting(&self) -> Vec<String> {
        let waiting = self.scheduler.waiting(self.now).into_iter();
        waiting.map(|(run, waits_for)| format!("{run} {}", serde_json::to_string(&waits_for).unwrap())).collect()
    }

    #[track_caller]
    fn waits(&self, expected: &[&str]) {
        assert_eq!(self.waiting(), expected);
    }
}

#[test]
fn what_waits_says_for_which_slot_and_batch() {
    let limits = Limits { max_running: 2, pools: BTreeMap::from([("db".to_owned(), 1)]), catch_up_running_max: 1 };
    let pool = |priority: i32| format!(r#"{{"pool": "db", "priority": {priority}}}"#);
    let batches = [("a", pool(0)), ("b", pool(0)), ("c", pool(5)), ("d", "{}".to_owned()), ("e", "{}".to_owned())];
    let entries = || batches.iter().map(|(batch, change)| entry(definition(batch, change), &Zone::utc()));
    let mut world = World::new(graph(entries().collect(), &limits));
    world.start("a");
    world.waits(&[]);
    ["a", "b", "c", "d", "e"].iter().for_each(|batch| world.start(batch));
    let a = r#"a.2 {"what":"batch","run":"a.1"}"#;
    let e = r#"e.1 {"what":"max_running","limit":2,"runs":["a.1","d.1"],"ahead":0}"#;
    world.waits(&[
        a,
        r#"b.1 {"what":"pool","pool":"db","limit":1,"runs":["a.1"],"ahead":1}"#,
        r#"c.1 {"what":"pool","pool":"db","limit":1,"runs":["a.1"],"ahead":0}"#,
        e,
    ]);
    let hold = |entry: Entry| Entry { held: entry.definition.name == name("b"), ..entry };
    world.handle(Event::Reload(graph(entries().map(hold).collect(), &limits)));
    world.report("a.1", Report::Waiting { reason: "no space".to_owned() });
    world.waits(&[
        r#"a.1 {"what":"start","reason":"no space"}"#,
        a,
        r#"b.1 {"what":"held"}"#,
        r#"c.1 {"what":"pool","pool":"db","limit":1,"runs":["a.1"],"ahead":0}"#,
        e,
    ]);
}

#[test]
fn what_is_caught_up_says_that_it_waits_for_such_a_slot() {
    let hourly = r#"{"cron": ["0 * * * *"], "catch_up": "last"}"#;
    let before = plain(vec![definition("a", hourly), definition("b", hourly)]);
    let world = World::new(before.clone());
    let world = World::recovered(world.scheduler.facts(), before.clone(), before, BEGIN + 90 * MINUTE);
    world.waits(&[r#"b.1 {"what":"catch_up","limit":1,"runs":["a.1"],"ahead":0}"#]);
}

#[test]
fn a_join_says_for_which_upstreams_it_waits() {
    let after = |names: &str| format!(r#"{{"after": [{names}]}}"#);
    let batches = [
        ("top", "{}".to_owned()),
        ("left", after(r#""top""#)),
        ("on_the_way", after(r#""top""#)),
        ("right", after(r#""on_the_way""#)),
        ("join", after(r#""left", "right""#)),
    ];
    let mut world = World::new(plain(batches.iter().map(|(batch, change)| definition(batch, change)).collect()));
    world.start("top");
    world.exit("top.1", true);
    world.exit("left.1", true);
    world.waits(&[r#"join.1 {"what":"upstreams","batches":["right"],"runs":["on_the_way.1"]}"#]);
    world.exit("on_the_way.1", true);
    world.waits(&[r#"join.1 {"what":"upstreams","batches":["right"],"runs":["right.1"]}"#]);
    world.exit("right.1", true);
    world.waits(&[]);
}

#[test]
fn a_retry_says_how_long_it_waits_and_then_for_a_daemon() {
    let mut flaky = definition("a", "{}");
    flaky.retry.retries = 1;
    let graph = plain(vec![flaky]);
    let mut world = World::new(graph.clone());
    world.start("a");
    world.exit("a.1", false);
    world.waits(&[r#"a.2 {"what":"time","until":"2026-03-01T00:00:10.000Z"}"#]);
    // Nobody was there at its time.
    let recovered = Scheduler::recover(world.scheduler.facts(), graph, "boot".to_owned());
    assert_eq!(recovered.waiting(BEGIN + MINUTE).into_values().collect::<Vec<_>>(), [WaitsFor::Daemon]);
}

#[test]
fn a_start_that_is_skipped_says_so() {
    let mut world = World::new(plain(vec![definition("a", "{}")]));
    (0..101).for_each(|_| world.start("a"));
    let reply = |world: &World| {
        world.effects.iter().find_map(|effect| match effect {
            Effect::Reply { reply, .. } => Some(reply.clone()),
            _ => None,
        })
    };
    assert!(matches!(reply(&world), Some(Reply::Queued { waits: true, .. })), "{:?}", world.effects);
    world.start("a");
    let (run, reason) = ("a.102".parse().unwrap(), "overlap: 100 runs of this batch wait already".to_owned());
    assert_eq!(reply(&world), Some(Reply::Skipped { run, reason }));
    // So does a rerun.
    world.exit("a.1", true);
    world.start("a");
    let request = Request::Rerun { run: "a.1".parse().unwrap(), mode: RerunMode::Only, force: false };
    let history = vec![world.row("a.1").clone()];
    world.ask(request, history);
    assert!(matches!(reply(&world), Some(Reply::Skipped { .. })), "{:?}", world.effects);
}

//! Clocks that do not go evenly.

use std::collections::BTreeSet;

use super::*;

/// A batch that is due every second and runs whatever else runs.
fn ticks() -> World {
    World::new(plain(vec![definition("ticks", r#"{"cron": ["* * * * * *"], "overlap": "allow"}"#)]))
}

/// An hour in which the clock is five seconds ahead and five behind in turns, ten times a second.
#[test]
fn c16_a_clock_that_swings_for_an_hour_decides_nothing_twice_and_tells_nobody() {
    let mut world = ticks();
    let mut effects = 0;
    for step in 0..36_000_u64 {
        let swing = Duration::from_secs(5);
        let even = BEGIN + Duration::from_millis(step * 100);
        world.now = if step % 2 == 0 { even + swing } else { even - swing };
        world.handle(Event::Wake);
        effects += world.effects.len();
        let events = world.effects.iter().any(|effect| matches!(effect, Effect::Record(Record::Event { .. })));
        assert!(!events, "a swing is no correction");
        let begun = world.effects.iter().filter_map(|effect| match effect {
            Effect::Start { run, .. } => Some(run.id.to_string()),
            _ => None,
        });
        let begun: Vec<String> = begun.collect();
        begun.iter().for_each(|run| world.exit(run, true));
    }
    let due: BTreeSet<Instant> = world.rows.values().map(|run| run.due_at).collect();
    assert_eq!((world.rows.len(), due.len()), (3604, 3604));
    assert!(effects <= 4 * due.len(), "{effects} effects for {} runs", due.len());
}

/// A leap second as Linux has it: the last second of the day comes twice. As one that is smeared it is no step at all.
#[test]
fn c20_a_second_that_comes_twice_is_one() {
    let mut world = ticks();
    let second = Duration::from_secs(1);
    world.wake_after(second);
    world.wake_after(second);
    assert_eq!(world.outcomes("ticks").len(), 2);
    world.now = world.now - second;
    world.handle(Event::Wake);
    world.wake_after(Duration::from_millis(500));
    world.wake_after(Duration::from_millis(500));
    assert_eq!(world.outcomes("ticks").len(), 2, "it has come before");
    world.wake_after(second);
    assert_eq!(world.outcomes("ticks").len(), 3);
    assert_eq!(world.scheduler.next_wakeup(), Some(world.now + second));
}

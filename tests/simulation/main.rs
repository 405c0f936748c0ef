//! The scheduler in a simulated world: months of virtual time with crashes, clocks that are set, reloads and operators.
//!
//! `SIM_SEED=17 cargo test --test simulation` lives one world again and tells its last steps; `SIM_SEEDS=5000` lives more.

mod by_id;
mod doctor;
mod graphs;
mod journal;
mod naive;
#[expect(dead_code, reason = "the contract asks for more than the simulation")]
mod place;
mod rng;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;

use batchd::model::id::BatchName;
use batchd::model::run::{Outcome, Run, Trigger};
use batchd::model::time::Instant;

use world::World;

/// How many worlds every run of the tests lives.
const SEEDS: u64 = 200;

#[test]
fn c24_h5_h11_worlds_keep_the_invariants() {
    let seeds = seeds();
    let mut counted: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in seeds.clone() {
        let mut world = World::new(seed);
        let result = world
            .live()
            .and_then(|()| each_occurrence_has_one_row(&world))
            .and_then(|()| each_boot_has_one_row(&world))
            .and_then(|()| doctor::check(&world.journal, &world.proof));
        if let Err(violation) = result {
            let story = &world.story[world.story.len().saturating_sub(60)..];
            panic!("SIM_SEED={seed} ({:?}):\n{}\n{violation}", world.faults, story.join("\n"));
        }
        world.counted.iter().for_each(|(what, count)| *counted.entry(what).or_default() += count);
    }
    println!("{} worlds of {} days: {counted:?}", seeds.count(), world::DAYS);
    // A world in which nothing happens proves nothing.
    let met = [
        "starts",
        "crashes",
        "reloads",
        "requests",
        "clock steps",
        "begun by adoption",
        "folders taken",
        "boots",
        "due at boot",
        "graphs with held batches",
        "floods",
        "rows for many",
        "rows for at least so many",
    ];
    for what in met {
        assert!(number("SIM_SEED").is_some() || counted.contains_key(what), "no {what}");
    }
}

#[test]
fn h5_plain_worlds_are_as_a_naive_model_says() {
    let mut runs: BTreeMap<Option<Outcome>, usize> = BTreeMap::new();
    for seed in seeds() {
        let mut world = World::plain(seed);
        if let Err(difference) = world.live_as_predicted() {
            panic!("SIM_SEED={seed}, a plain world: {difference}");
        }
        world.journal.runs.values().for_each(|run| *runs.entry(run.outcome()).or_default() += 1);
    }
    println!("{} plain worlds: {runs:?}", seeds().count());
    for outcome in [Outcome::Succeeded, Outcome::Cancelled, Outcome::Lost, Outcome::Aborted, Outcome::Skipped] {
        assert!(number("SIM_SEED").is_some() || runs.contains_key(&Some(outcome)), "no {outcome}");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn seeds() -> Range<u64> {
    match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("SIM_SEEDS").unwrap_or(SEEDS),
    }
}

/// Every instant that a schedule yields while it is in force has exactly one row, alone or in a range; and no other has.
///
/// Where the clock was set, an instant can be in force twice or never; those worlds are checked for rows that come twice by
/// the journal alone.
fn each_occurrence_has_one_row(world: &World) -> Result<(), String> {
    if world.clock_is_set {
        return Ok(());
    }
    let mut expected: BTreeMap<BatchName, Vec<Instant>> = BTreeMap::new();
    for period in &world.periods {
        let Some(schedule) = &period.schedule else { continue };
        let mut at = period.from;
        while let Some(next) = schedule.next_after(at).filter(|next| *next <= period.until) {
            expected.entry(period.batch.clone()).or_default().push(next);
            at = next;
        }
    }
    let mut rows: BTreeMap<BatchName, Vec<Instant>> = BTreeMap::new();
    let of_schedule = |run: &&Run| run.trigger == Trigger::Schedule && !is_of_a_boot(run);
    for run in world.journal.runs.values().filter(of_schedule) {
        let instants = rows.entry(run.id.batch.clone()).or_default();
        match &run.range {
            None => instants.push(run.due_at),
            Some(range) => {
                let covered = expected.get(&run.id.batch).into_iter().flatten();
                let covered: Vec<Instant> =
                    covered.filter(|at| (range.from..=run.due_at).contains(at)).copied().collect();
                let counted = covered.len() as u64;
                if counted != range.count && !(range.at_least && counted > range.count) {
                    return Err(format!("{} stands for {} occurrences, and covers {}", run.id, range.count, counted));
                }
                instants.extend(covered);
            }
        }
    }
    rows.values_mut().for_each(|instants| instants.sort());
    for (batch, expected) in &expected {
        let found = rows.remove(batch).unwrap_or_default();
        if *expected != found {
            let missing: Vec<_> = expected.iter().filter(|at| !found.contains(at)).take(5).collect();
            let extra: Vec<_> = found.iter().filter(|at| !expected.contains(at)).take(5).collect();
            return Err(format!("{batch}: no row for {missing:?}, rows for nothing {extra:?}"));
        }
    }
    rows.retain(|_, instants| !instants.is_empty());
    if rows.is_empty() { Ok(()) } else { Err(format!("rows of batches without a schedule: {rows:?}")) }
}

/// Each batch with `@reboot` has a row for each boot of the host in which that was due.
fn each_boot_has_one_row(world: &World) -> Result<(), String> {
    let mut found: BTreeMap<BatchName, usize> = BTreeMap::new();
    for run in world.journal.runs.values().filter(|run| run.trigger == Trigger::Schedule && is_of_a_boot(run)) {
        *found.entry(run.id.batch.clone()).or_default() += 1;
    }
    let due = &world.reboots.due;
    if found == *due { Ok(()) } else { Err(format!("{due:?} were due at boots, and there are rows for {found:?}")) }
}

/// A schedule yields whole seconds; a boot is due at none.
fn is_of_a_boot(run: &Run) -> bool {
    !run.due_at.is_whole_second()
}

//! What a reader finds, and that it need not search for it.

use super::*;
use crate::journal::query::{Filter, Page, PageMark};
use crate::model::run::{Exit, StateWord};

/// A journal of several batches, triggers and outcomes, with instants that are not in the order of the numbers.
fn history() -> (tempfile::TempDir, Reader, Vec<Run>) {
    let (folder, path, mut journal) = new_journal();
    let mut runs = Vec::new();
    for number in 1..=120_u64 {
        let batch = ["a", "b", "c"][number as usize % 3];
        let mut run = run(&format!("{batch}.{number}"));
        run.chain = format!("a.{}", number / 10 * 10 + 1).parse().unwrap();
        run.trigger = Trigger::ALL[number as usize % Trigger::ALL.len()];
        // Several at the same instant, and one clock step back.
        run.queued_at = at((number as i64 / 4 * 1000) % 20_000);
        let outcome = Outcome::ALL[number as usize % Outcome::ALL.len()];
        runs.push(if number % 7 == 0 { run } else { ended(&run, outcome) });
    }
    journal.commit(&runs.iter().map(record).collect::<Vec<_>>()).unwrap();
    let reader = Reader::open(&path).unwrap();
    (folder, reader, runs)
}

fn filters() -> Vec<Filter> {
    let none = Filter::default;
    let mut filters = vec![
        none(),
        Filter { batch: Some(name("b")), ..none() },
        Filter { chain: Some("a.31".parse().unwrap()), ..none() },
        Filter { since: Some(at(3000)), until: Some(at(9000)), ..none() },
        Filter { batch: Some(name("a")), since: Some(at(3000)), ..none() },
        Filter { batch: Some(name("a")), outcome: Some(Outcome::Failed), until: Some(at(9000)), ..none() },
        Filter { batch: Some(name("nobody")), ..none() },
        Filter { failed: true, ..none() },
    ];
    filters.extend(Outcome::ALL.iter().map(|outcome| Filter { outcome: Some(*outcome), ..none() }));
    filters.extend(Trigger::ALL.iter().map(|trigger| Filter { trigger: Some(*trigger), ..none() }));
    filters.extend(StateWord::ALL.iter().map(|state| Filter { state: Some(*state), ..none() }));
    filters
}

fn passes(filter: &Filter, run: &Run) -> bool {
    filter.batch.as_ref().is_none_or(|batch| run.id.batch == *batch)
        && filter.chain.as_ref().is_none_or(|chain| run.chain == *chain)
        && filter.outcome.is_none_or(|outcome| run.outcome() == Some(outcome))
        && (!filter.failed || matches!(run.outcome(), Some(Outcome::Failed | Outcome::TimedOut | Outcome::Lost)))
        && filter.trigger.is_none_or(|trigger| run.trigger == trigger)
        && filter.state.is_none_or(|state| run.state.word() == state)
        && filter.since.is_none_or(|since| run.queued_at >= since)
        && filter.until.is_none_or(|until| run.queued_at < until)
}

#[test]
fn pages_together_are_all() {
    let (_folder, reader, runs) = history();
    for filter in filters() {
        // Stable: those of one instant stay in the order of their rows, which is turned round with all the rest.
        let mut expected: Vec<Run> = runs.iter().filter(|run| passes(&filter, run)).cloned().collect();
        expected.sort_by_key(|run| run.queued_at);
        expected.reverse();
        for size in [1, 7, 40, 1000] {
            let mut found = Vec::new();
            let mut mark: Option<PageMark> = None;
            loop {
                let Page { runs, marks, next } = reader.runs(&filter, mark.as_ref(), size).unwrap();
                assert!(runs.len() <= size as usize);
                assert_eq!(marks.len(), runs.len());
                if let Some(last) = marks.last() {
                    let from_last = reader.runs(&filter, Some(last), 1).unwrap();
                    assert_eq!(from_last.runs.first(), runs.last(), "{filter:?}");
                }
                found.extend(runs);
                let Some(next) = next else { break };
                mark = Some(next.to_string().parse().unwrap());
            }
            assert_eq!(found, expected, "{filter:?} by {size}");
        }
    }
    assert!("".parse::<PageMark>().is_err() && "1-x".parse::<PageMark>().is_err());
    assert_eq!("-5-7".parse::<PageMark>().unwrap().to_string(), "-5-7");
}

#[test]
fn chains_and_attempts() {
    let (_folder, path, mut journal) = new_journal();
    let first = ended(&run("a.1"), Outcome::Failed);
    let retry = |id: &str, of: &Run, attempt| Run {
        previous: Some(of.id.clone()),
        trigger: Trigger::Retry,
        chain: first.chain.clone(),
        attempt,
        ..run(id)
    };
    let second = ended(&retry("a.2", &first, 2), Outcome::Failed);
    let third = retry("a.4", &second, 3);
    let below = Run { chain: first.chain.clone(), trigger: Trigger::Error, ..run("mail.1") };
    let rerun = Run { trigger: Trigger::Rerun, attempt: 1, ..retry("a.5", &first, 1) };
    let other = run("a.3");
    let started = Run { started_at: Some(at(5)), ..second.clone() };
    let all = [&first, &started, &other, &third, &below, &rerun];
    journal.commit(&all.map(record)).unwrap();
    let reader = Reader::open(&path).unwrap();

    let ids = |runs: Vec<Run>| runs.iter().map(|run| run.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(reader.chain(&third.id).unwrap()), ["a.1", "a.2", "a.4", "mail.1", "a.5"]);
    assert_eq!(ids(reader.live().unwrap()), ["a.3", "a.4", "a.5", "mail.1"]);
    assert_eq!(reader.chain(&"a.99".parse().unwrap()).unwrap(), []);
    for id in ["a.1", "a.2", "a.4"] {
        assert_eq!(reader.last_attempt(&id.parse().unwrap()).unwrap().as_ref(), Some(&third));
    }
    assert_eq!(reader.last_attempt(&rerun.id).unwrap(), Some(rerun));
    assert_eq!(reader.latest_begun(&name("a")).unwrap(), Some(started));
    assert_eq!(reader.latest_begun(&name("mail")).unwrap(), None);
    assert_eq!(reader.run(&"a.9223372036854775807".parse().unwrap()).unwrap(), None);
}

#[test]
fn whose_output_counts() {
    let (_folder, path, mut journal) = new_journal();
    let exit = Exit { stdout_bytes: 7, ..Exit::default() };
    let end = End { outcome: Outcome::Failed, reason: None, at: at(9), exit: Some(exit.clone()) };
    let ran = Run { state: State::Ended(end), started_at: Some(at(8)), ..run("a.1") };
    let counts = |id: &str, of: &Run| Run { trigger: Trigger::Rerun, previous: Some(of.id.clone()), ..run(id) };
    let once = ended(&counts("a.2", &ran), Outcome::Succeeded);
    let twice = ended(&counts("a.3", &once), Outcome::Succeeded);
    let skipped = ended(&counts("a.4", &once), Outcome::Skipped);
    let waits = counts("a.5", &once);
    journal.commit(&[&ran, &once, &twice, &skipped, &waits].map(record)).unwrap();
    let reader = Reader::open(&path).unwrap();
    let check = |of: &Run, output_of: &Run, exit: Option<Exit>| {
        let found = reader.upstream_end(&of.id).unwrap().unwrap();
        assert_eq!((&found.run, &found.output_of), (&of.id, &output_of.id));
        assert_eq!((Some(found.outcome), found.exit), (of.outcome(), exit));
    };
    check(&ran, &ran, Some(exit.clone()));
    check(&once, &ran, Some(exit.clone()));
    check(&twice, &ran, Some(exit));
    check(&skipped, &skipped, None);
    assert_eq!(reader.upstream_end(&waits.id).unwrap(), None);
    assert_eq!(reader.upstream_end(&"z.1".parse().unwrap()).unwrap(), None);
}

#[test]
fn batches_with_their_latest_run() {
    let (_folder, path, mut journal) = new_journal();
    let mut random = Random::new(1);
    let nobody = BTreeMap::new();
    let mut records: Vec<Record> = (0..200).map(|_| random.record(&nobody)).collect();
    records.retain(|record| matches!(record, Record::Batch(_) | Record::Definition(_)));
    records.extend([record(&run("a.1")), record(&run("a.2"))]);
    journal.commit(&records).unwrap();
    let recovered = journal.recover().unwrap();
    let reader = Reader::open(&path).unwrap();
    let rows = reader.batches().unwrap();
    assert_eq!(rows.iter().map(|row| row.facts.clone()).collect::<Vec<_>>(), recovered.batches);
    let in_force: Vec<InForce> = rows.iter().filter_map(|row| row.in_force.clone()).collect();
    assert_eq!(in_force, recovered.in_force);
    assert_eq!(rows[0].latest, Some(run("a.2")));
    assert_eq!(rows[1].latest, None);
    assert_eq!(reader.in_force(&in_force[0].batch).unwrap().as_ref(), Some(&in_force[0]));
    assert_eq!(reader.journal_id().unwrap(), recovered.journal);
}

#[test]
fn a10_the_last_run_that_began_and_what_was_skipped_since() {
    let (_folder, path, mut journal) = new_journal();
    let began = |run: &Run| Run { started_at: Some(at(5)), ..run.clone() };
    let failed = began(&ended(&run("a.1"), Outcome::Failed));
    let running = Run { state: State::Running, ..began(&run("a.2")) };
    let skipped = ended(&run("a.3"), Outcome::Skipped);
    let range = crate::model::run::Range { from: at(1), count: 5, at_least: false };
    let missed = Run { range: Some(range), ..ended(&run("a.4"), Outcome::Missed) };
    let batch = crate::model::record::BatchFacts {
        name: name("a"),
        next_number: 5,
        cursor: None,
        reboot_boot: None,
        disabled: None,
    };
    let runs = [&failed, &running, &skipped, &missed].map(record);
    journal.commit(&[vec![Record::Batch(batch)], runs.to_vec()].concat()).unwrap();
    let reader = Reader::open(&path).unwrap();
    let row = &reader.batches().unwrap()[0];
    assert_eq!(row.latest.as_ref().map(|run| run.id.number), Some(4));
    assert_eq!(row.last_ended.as_ref().map(|run| run.id.number), Some(1));
    assert_eq!(row.since, BTreeMap::from([(Outcome::Skipped, 1), (Outcome::Missed, 5)]));
    assert_eq!(reader.latest_with_logs(&name("a")).unwrap().map(|run| run.id.number), Some(2));
    let after = reader.runs_after(&name("a"), 2, 1).unwrap();
    assert_eq!(after.iter().map(|run| run.id.number).collect::<Vec<_>>(), [4]);
}

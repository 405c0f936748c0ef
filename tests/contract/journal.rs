//! A journal: the contract of [`batchd::journal::Journal`]'s `commit` and `recover`.

use std::path::PathBuf;

use batchd::model::id::{BatchName, RunId};
use batchd::model::record::{BatchFacts, DecidedAhead, EdgeFacts, InForce, Record, Recovered};
use batchd::model::run::{End, Follow, Given, Outcome, Range, Run, State, Trigger};
use batchd::model::time::Instant;

/// A journal under test.
trait Journal: Sized {
    /// Commits all of these, or none: then why.
    fn commit(&mut self, records: &[Record]) -> Result<(), String>;
    /// What a daemon that starts is given.
    fn recover(&self) -> Recovered;
    /// The same journal, behind a crash of the daemon.
    fn reopen(self) -> Self;
}

/// Makes a test of each case of the suite, for one journal.
macro_rules! journal_suite {
    ($name:ident, $new:expr, [$($case:ident),* $(,)?]) => {
        mod $name {
            $(#[test]
            fn $case() {
                super::$case($new);
            })*
        }
    };
}

journal_suite!(
    sqlite,
    super::Sqlite::new(),
    [
        a_new_one_is_empty,
        what_is_committed_is_recovered,
        a_chain_at_rest_is_not_recovered,
        a_commit_is_whole,
        an_ended_run_never_changes,
        what_a_run_is_born_with_never_changes,
        an_occurrence_has_one_row,
        two_boots_may_be_due_at_the_same_instant,
        what_is_removed_keeps_its_numbers,
        places_in_the_queue_never_come_back,
        what_is_ahead_of_the_clock_is_told,
    ]
);

journal_suite!(
    simulated,
    crate::simulated_journal::FakeJournal::default(),
    [
        a_new_one_is_empty,
        what_is_committed_is_recovered,
        a_chain_at_rest_is_not_recovered,
        a_commit_is_whole,
        an_ended_run_never_changes,
        what_a_run_is_born_with_never_changes,
        an_occurrence_has_one_row,
        two_boots_may_be_due_at_the_same_instant,
        what_is_removed_keeps_its_numbers,
        places_in_the_queue_never_come_back,
        what_is_ahead_of_the_clock_is_told,
    ]
);

fn a_new_one_is_empty(journal: impl Journal) {
    let recovered = journal.recover();
    assert_eq!(recovered, Recovered::empty(recovered.journal.clone()));
    let name = recovered.journal;
    assert_eq!(journal.reopen().recover().journal, name, "its name stays");
}

fn what_is_committed_is_recovered(mut journal: impl Journal) {
    let queued = run("a.1");
    let started = Run { state: State::Starting, boot: Some("boot".to_owned()), ..queued.clone() };
    let edge = EdgeFacts { downstream: name("j"), upstream: name("a"), cursor: 4, unused: None };
    journal.commit(&[facts("a", 2, Some(5)), record(&queued), Record::Edge(edge.clone())]).unwrap();
    // Each record is the whole of its row: the later one counts, also within one commit.
    let edge = EdgeFacts { cursor: 6, ..edge };
    journal.commit(&[record(&started), facts("a", 3, None), Record::Edge(edge.clone())]).unwrap();
    journal.commit(&[facts("a", 4, None), facts("a", 5, Some(7_000_000))]).unwrap();
    let before = journal.recover();
    assert_eq!(before.runs, [started]);
    assert_eq!(before.edges, [edge]);
    assert_eq!(before.batches.iter().map(|facts| facts.next_number).collect::<Vec<_>>(), [5]);
    assert_eq!(journal.reopen().recover(), before);
}

fn a_chain_at_rest_is_not_recovered(mut journal: impl Journal) {
    let first = ended(&run("a.1"), Outcome::Succeeded);
    let second = Run { chain: first.id.clone(), trigger: Trigger::Upstream, ..run("b.1") };
    let alone = ended(&run("c.1"), Outcome::Failed);
    journal.commit(&[record(&first), record(&second), record(&alone)]).unwrap();
    // The ended run of a chain that is under way is still decided by.
    assert_eq!(journal.recover().runs, [first, second.clone()]);
    journal.commit(&[record(&ended(&second, Outcome::Succeeded))]).unwrap();
    assert_eq!(journal.recover().runs, []);
}

fn a_commit_is_whole(mut journal: impl Journal) {
    let first = run("a.1");
    journal.commit(&[record(&first)]).unwrap();
    let before = journal.recover();
    let again = Run { due_at: first.due_at, ..run("a.2") };
    let edge = EdgeFacts { downstream: name("j"), upstream: name("a"), cursor: 4, unused: None };
    let good = [facts("b", 9, Some(9)), record(&run("b.8")), Record::Edge(edge)];
    let mut bad_last = good.to_vec();
    bad_last.push(record(&again));
    journal.commit(&bad_last).unwrap_err();
    assert_eq!(journal.recover(), before, "nothing of it is there");
    journal.commit(&good).unwrap();
    assert_ne!(journal.recover(), before);
}

fn an_ended_run_never_changes(mut journal: impl Journal) {
    let queued = run("a.1");
    let succeeded = ended(&queued, Outcome::Succeeded);
    journal.commit(&[record(&queued)]).unwrap();
    journal.commit(&[record(&succeeded)]).unwrap();
    // The same once more is what a daemon does that does not know whether a commit has succeeded.
    journal.commit(&[record(&succeeded)]).unwrap();
    for late in [queued.clone(), ended(&queued, Outcome::Failed)] {
        let problem = journal.commit(&[record(&late)]).unwrap_err();
        assert!(problem.contains("a.1"), "{problem}");
    }
    assert_eq!(journal.reopen().recover().runs, []);
}

fn what_a_run_is_born_with_never_changes(mut journal: impl Journal) {
    let born = run("a.1");
    journal.commit(&[record(&born)]).unwrap();
    let changes = [
        Run { chain: "b.1".parse().unwrap(), ..born.clone() },
        Run { trigger: Trigger::Manual, ..born.clone() },
        Run { attempt: 2, ..born.clone() },
        Run { due_at: at(1), ..born.clone() },
        Run { queued_at: at(1), ..born.clone() },
    ];
    for changed in changes {
        journal.commit(&[record(&changed)]).unwrap_err();
    }
    assert_eq!(journal.recover().runs, [born]);
}

fn an_occurrence_has_one_row(mut journal: impl Journal) {
    let first = run("a.1");
    journal.commit(&[record(&ended(&first, Outcome::Missed))]).unwrap();
    let second = Run { due_at: first.due_at, ..run("a.2") };
    let problem = journal.commit(&[record(&second)]).unwrap_err();
    assert!(problem.contains("a.2"), "{problem}");
    let retry = Run { trigger: Trigger::Retry, attempt: 2, ..second.clone() };
    let by_hand = Run { trigger: Trigger::Manual, id: id("a.3"), ..second.clone() };
    let of_another = Run { id: id("b.1"), ..second };
    journal.commit(&[record(&retry), record(&by_hand), record(&of_another)]).unwrap();
}

fn two_boots_may_be_due_at_the_same_instant(mut journal: impl Journal) {
    let of_boot = |text| ended(&Run { due_at: at(1_000_999), ..run(text) }, Outcome::Skipped);
    journal.commit(&[facts("a", 3, Some(1_000_000)), record(&of_boot("a.1"))]).unwrap();
    journal.commit(&[record(&of_boot("a.2"))]).unwrap();
    assert_eq!(journal.recover().decided_ahead, [], "no schedule yields it again");
}

fn what_is_removed_keeps_its_numbers(mut journal: impl Journal) {
    let removed = InForce { batch: name("a"), definition: None, held: false };
    let (downstream, upstream) = (name("a"), name("b"));
    let edge = EdgeFacts { downstream: downstream.clone(), upstream: upstream.clone(), cursor: 0, unused: None };
    journal.commit(&[facts("a", 41, None), Record::Edge(edge)]).unwrap();
    journal.commit(&[Record::Definition(removed), Record::EdgeRemoved { downstream, upstream }]).unwrap();
    let recovered = journal.reopen().recover();
    assert_eq!((recovered.in_force.as_slice(), recovered.edges.as_slice()), ([].as_slice(), [].as_slice()));
    assert_eq!(recovered.batches.iter().map(|facts| facts.next_number).collect::<Vec<_>>(), [41]);
}

fn places_in_the_queue_never_come_back(mut journal: impl Journal) {
    let late = Run { queue_position: 70, ..ended(&run("a.1"), Outcome::Skipped) };
    journal.commit(&[record(&late)]).unwrap();
    journal.commit(&[record(&Run { queue_position: 3, ..run("a.2") })]).unwrap();
    assert_eq!(journal.recover().queue_position_next, 71);
    assert_eq!(journal.reopen().recover().queue_position_next, 71);
}

fn what_is_ahead_of_the_clock_is_told(mut journal: impl Journal) {
    let run = |text: &str, due_s: i64| Run { due_at: Instant::from_s(due_s), ..ended(&run(text), Outcome::Succeeded) };
    let by_hand = Run { trigger: Trigger::Manual, ..run("a.4", 900) };
    let many = Run { range: Some(Range { from: Instant::from_s(350), count: 2, at_least: false }), ..run("a.5", 400) };
    let rows = [run("a.1", 100), run("a.2", 200), run("a.3", 300), by_hand, many].map(|run| record(&run));
    journal.commit(&rows).unwrap();
    journal.commit(&[facts("a", 6, Some(150_000))]).unwrap();
    let row = |from, to| DecidedAhead { batch: name("a"), to: Instant::from_s(to), from: Instant::from_s(from) };
    assert_eq!(journal.recover().decided_ahead, [row(200, 200), row(300, 300), row(350, 400)]);
}

fn name(text: &str) -> BatchName {
    BatchName::new(text).unwrap()
}

fn id(text: &str) -> RunId {
    text.parse().unwrap()
}

fn at(ms: i64) -> Instant {
    Instant::from_ms(ms)
}

fn record(run: &Run) -> Record {
    Record::Run(Box::new(run.clone()))
}

fn facts(batch: &str, next_number: u64, cursor_ms: Option<i64>) -> Record {
    let (cursor, reboot_boot, disabled) = (cursor_ms.map(at), None, None);
    Record::Batch(BatchFacts { name: name(batch), next_number, cursor, reboot_boot, disabled })
}

/// A queued run of a schedule, which begins its own chain.
fn run(text: &str) -> Run {
    let id = id(text);
    Run {
        chain: id.clone(),
        pass: 1,
        follow: Follow::Everything,
        trigger: Trigger::Schedule,
        attempt: 1,
        previous: None,
        state: State::Queued,
        due_at: at(1_000_000 + 1000 * i64::try_from(id.number).unwrap()),
        start_at: None,
        queued_at: at(2_000_000),
        queue_position: id.number,
        joining: false,
        caught_up: false,
        priority: 0,
        pool: None,
        upstreams: Vec::new(),
        definition: None,
        boot: None,
        starting_at: None,
        started_at: None,
        started_by: None,
        remark: None,
        stop: None,
        given: Given::default(),
        range: None,
        id,
    }
}

fn ended(run: &Run, outcome: Outcome) -> Run {
    let end = End { outcome, reason: None, at: at(3_000_000), exit: None };
    Run { state: State::Ended(end), ..run.clone() }
}

/// The real one, in a file.
struct Sqlite {
    path: PathBuf,
    journal: batchd::journal::Journal,
    folder: tempfile::TempDir,
}

impl Sqlite {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        Self { journal: batchd::journal::Journal::open(&path).unwrap(), path, folder }
    }
}

impl Journal for Sqlite {
    fn commit(&mut self, records: &[Record]) -> Result<(), String> {
        self.journal.commit(records).map_err(|problem| problem.to_string())
    }

    fn recover(&self) -> Recovered {
        self.journal.recover().unwrap()
    }

    fn reopen(self) -> Self {
        let Self { path, journal, folder } = self;
        drop(journal);
        Self { journal: batchd::journal::Journal::open(&path).unwrap(), path, folder }
    }
}

/// The simulation's: a crash of the daemon does not touch it.
impl Journal for crate::simulated_journal::FakeJournal {
    fn commit(&mut self, records: &[Record]) -> Result<(), String> {
        self.commit(records)
    }

    fn recover(&self) -> Recovered {
        self.recover()
    }

    fn reopen(self) -> Self {
        self
    }
}

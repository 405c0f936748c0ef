//! What the journal stores, and what a daemon gets back from it when it starts: [`Record`] and [`Recovered`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::id::{BatchName, JournalId};
use super::run::Run;
use super::settings::Limits;
use super::time::Instant;

/// One fact for the journal. Each is the whole of its row: it replaces what the journal had under the same key.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A run; key: its id.
    Run(Box<Run>),
    /// What is known of a batch beside its definition; key: its name.
    Batch(BatchFacts),
    /// Which definition of a batch is in force; key: its name.
    Definition(InForce),
    /// How far a join across chains has used an upstream; key: downstream and upstream.
    Edge(EdgeFacts),
    /// An edge of a join across chains that is no more.
    EdgeRemoved {
        /// The join.
        downstream: BatchName,
        /// Its upstream.
        upstream: BatchName,
    },
    /// What is in force for a batch is another from here on.
    Period(PeriodChange),
    /// These limits are in force from here on.
    Limits(Limits),
    /// Something that people should find later: a clock that was set, a daemon that started.
    Event {
        /// When.
        at: Instant,
        /// One sentence.
        text: String,
    },
    /// The daemon's own time zone, in which batches without a `timezone` are scheduled.
    Zone {
        /// Its IANA name; `localtime` for an `/etc/localtime` that is a copy without a known name.
        name: String,
    },
}

/// What counts as one boot. Processes outlive a daemon within a boot of the host; `@reboot` also counts each start of a
/// container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The boot of the host.
    pub host: String,
    /// The container within it, if the daemon is in one.
    pub container: Option<String>,
}

impl Boot {
    /// The name for `@reboot`, which is decided once for each.
    pub fn of_reboot(&self) -> String {
        match &self.container {
            Some(container) => format!("{}/{container}", self.host),
            None => self.host.clone(),
        }
    }
}

impl From<String> for Boot {
    fn from(host: String) -> Self {
        Self { host, container: None }
    }
}

/// In place of a boot in [`BatchFacts::reboot_boot`]: the journal was restored or rebuilt, and nobody knows for which boot
/// `@reboot` was decided. So it is not decided for the present one, in which the batch may have run.
pub const REBOOT_UNKNOWN: &str = "unknown";

/// What is known of a batch beside its definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchFacts {
    /// The batch. Its row stays when it is removed: numbers never come back.
    pub name: BatchName,
    /// The number of its next run.
    pub next_number: u64,
    /// The last instant decided for its schedule; none if it never had one.
    pub cursor: Option<Instant>,
    /// The boot for which `@reboot` was decided last: see [`Boot::of_reboot`].
    pub reboot_boot: Option<String>,
    /// The operator's no.
    pub disabled: Option<Disabled>,
}

/// An operator's `disable`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    /// When it ends by itself.
    pub until: Option<Instant>,
    /// Why.
    pub reason: Option<String>,
    /// Who: `uid 1000`.
    pub by: String,
    /// Since when.
    pub at: Instant,
}

impl Disabled {
    /// Whether it holds at `at`.
    pub fn holds_at(&self, at: Instant) -> bool {
        self.until.is_none_or(|until| at < until)
    }
}

/// Which definition of a batch is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    /// The batch.
    pub batch: BatchName,
    /// Its definition; none once the batch is removed.
    pub definition: Option<Arc<Definition>>,
    /// It does not fit the graph: it starts nothing.
    pub held: bool,
}

/// What is in force for a batch is another from here on: one period ends, the next begins.
///
/// In a period one definition was in force, its schedule meant the same instants, and the clock was not corrected: so it can
/// be shown afterwards that everything that fell due in it was decided, and what was to follow an end.
#[derive(Clone, Debug, PartialEq)]
pub struct PeriodChange {
    /// The batch.
    pub batch: BatchName,
    /// When.
    pub at: Instant,
    /// Up to here the schedule of the period that ends, if there is one, has been decided.
    pub decided_until: Option<Instant>,
    /// What begins; none: the batch is removed.
    pub begins: Option<PeriodStart>,
}

/// The period that begins.
#[derive(Clone, Debug, PartialEq)]
pub struct PeriodStart {
    /// What is later than this is decided by its schedule.
    pub decides_after: Option<Instant>,
    /// The zone of its schedule, if it has one.
    pub zone: Option<ZoneMark>,
    /// It does not fit the graph.
    pub held: bool,
    /// What is in force.
    pub definition: Arc<Definition>,
}

/// Which zone it was, and which data: a later release of the time-zone database may say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneMark {
    /// The zone's name.
    pub name: String,
    /// The fingerprint of its data.
    pub fingerprint: String,
}

/// How far a join across chains has used one of its upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeFacts {
    /// The join.
    pub downstream: BatchName,
    /// Its upstream.
    pub upstream: BatchName,
    /// The number of the last upstream run that was used or passed over; 0: none.
    pub cursor: u64,
    /// The latest end after the cursor, not used yet.
    pub unused: Option<UnusedEnd>,
}

/// An upstream's end that a join across chains has not used yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedEnd {
    /// The number of the upstream's run.
    pub number: u64,
    /// It succeeded.
    pub succeeded: bool,
    /// When that run was due.
    pub due_at: Instant,
}

/// Occurrences that have a row although they are later than the cursor of their batch: the clock was set back. Ordered by
/// batch and time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DecidedAhead {
    /// The batch.
    pub batch: BatchName,
    /// The instant of the row; the last of those that it stands for.
    pub to: Instant,
    /// The first that the row stands for: `to` itself, unless it stands for many.
    pub from: Instant,
}

/// All that a scheduler needs to go on where the last one ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// The journal's own name.
    pub journal: JournalId,
    /// Every batch that the journal knows.
    pub batches: Vec<BatchFacts>,
    /// The definitions that were in force.
    pub in_force: Vec<InForce>,
    /// Every run, ended or not, of every chain that has a run which has not ended; by batch and number.
    pub runs: Vec<Run>,
    /// Every edge of a join across chains.
    pub edges: Vec<EdgeFacts>,
    /// Greater than every queue position in the journal.
    pub queue_position_next: u64,
    /// The zone of each period that has not ended; none for a batch without a schedule.
    pub periods: BTreeMap<BatchName, Option<ZoneMark>>,
    /// The limits in force, once they are recorded.
    pub limits: Option<Limits>,
    /// What has a row although it is later than the cursor of its batch, by batch and time.
    pub decided_ahead: Vec<DecidedAhead>,
}

impl Recovered {
    /// What a new journal gives back.
    pub fn empty(journal: JournalId) -> Self {
        Self {
            journal,
            batches: Vec::new(),
            in_force: Vec::new(),
            runs: Vec::new(),
            edges: Vec::new(),
            queue_position_next: 1,
            periods: BTreeMap::new(),
            limits: None,
            decided_ahead: Vec::new(),
        }
    }
}

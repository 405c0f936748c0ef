//! Random graphs, and random edits of them.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use batchd::folders;
use batchd::model::definition::{CatchUp, Definition, Execution, Overlap, RetryPolicy};
use batchd::model::graph::{Entry, Graph, Misfit};
use batchd::model::id::{BatchName, DefinitionHash};
use batchd::model::settings::Limits;
use batchd::model::time::Instant;
use batchd::zones::Zones;

use crate::rng::Rng;

/// Some are due in the hour that clocks skip or show twice.
const CRONS: [&str; 11] = [
    "0 */4 * * *",
    "30 2 * * *",
    "*/20 1-2 * * *",
    "15 0-3 * * *",
    "@reboot",
    "0 0 * * 1",
    "17 5,17 * * *",
    "*/40 8-9 * * *",
    "0 12 * * *",
    "0 12 * * *",
    "5 0 1,15 * *",
];

/// In each the clocks change in one of the months that worlds live in, or never.
const ZONES: [&str; 5] = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"];

/// Schedules that yield more in an outage than an event writes rows for: by each ten minutes, minute and second; and the
/// hours for which a daemon is away at most. Of seconds more fall due than are counted.
const FLOODS: [(&str, u64); 3] = [("*/10 * * * *", 24 * 15), ("* * * * *", 24 * 3), ("* * * * * *", 40)];

static DATABASE: LazyLock<Zones> = LazyLock::new(|| Zones::new(None, Some("UTC".to_owned())));

/// What is on the disk.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) definitions: BTreeMap<BatchName, Definition>,
    pub(crate) limits: Limits,
    edits: u64,
}

/// The index of the batch that makes floods: nothing names it.
const FLOOD: u64 = 99;

pub(crate) fn name(index: u64) -> BatchName {
    BatchName::new(&format!("b{index}")).unwrap()
}

/// The offset from UTC of a zone by its name.
pub(crate) fn offset_s(zone: &str, at: Instant) -> i32 {
    DATABASE.get(zone).expect("worlds use zones that are there").offset_s(at)
}

/// How far a definition on the disk has fallen because it does not fit: as `load::fit` has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fallen {
    /// The last one that was in force is.
    Back,
    /// It is, and starts nothing.
    Held,
}

impl Disk {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let pools = BTreeMap::from([("few".to_owned(), 1)]);
        let limits =
            Limits { max_running: 1 + rng.below(5) as u32, pools, catch_up_running_max: 1 + rng.below(2) as u32 };
        let mut disk = Self { definitions: BTreeMap::new(), limits, edits: 0 };
        for index in 0..3 + rng.below(9) {
            disk.edit(rng, index);
        }
        disk
    }

    /// Writes or removes some batches.
    pub(crate) fn change(&mut self, rng: &mut Rng) {
        for _ in 0..1 + rng.below(3) {
            let index = rng.below(12);
            if rng.chance(15) {
                self.definitions.remove(&name(index));
            } else {
                self.edit(rng, index);
            }
        }
    }

    fn edit(&mut self, rng: &mut Rng, index: u64) {
        self.edits += 1;
        let mut definition = plain(name(index), self.edits);
        match rng.below(10) {
            0..4 => definition.cron.extend((0..1 + rng.below(2)).map(|_| (*rng.pick(&CRONS)).to_owned())),
            4..9 if index > 0 => {
                for _ in 0..1 + rng.below(3) {
                    let upstream = name(rng.below(index));
                    if !definition.after.contains(&upstream) {
                        definition.after.push(upstream);
                    }
                }
            }
            _ => {}
        }
        definition.cron.dedup();
        definition.timezone = Some((*rng.pick(&ZONES)).to_owned());
        definition.independent = rng.chance(30);
        if rng.chance(30) {
            definition.on_error.push(name(index + 1 + rng.below(3)));
        }
        definition.enabled = !rng.chance(5);
        definition.retry.retries = if rng.chance(30) { 1 + rng.below(2) as u32 } else { 0 };
        definition.retry.on_lost = rng.chance(30);
        definition.overlap = *rng.pick(&[Overlap::Skip, Overlap::Queue, Overlap::Allow, Overlap::Replace]);
        definition.catch_up = *rng.pick(&[CatchUp::Last, CatchUp::None, CatchUp::All]);
        definition.jitter = if rng.chance(20) { Duration::from_secs(600) } else { Duration::ZERO };
        definition.priority = rng.below(3) as i32;
        definition.pool = rng.chance(20).then(|| "few".to_owned());
        self.definitions.insert(definition.name.clone(), definition);
    }

    /// Writes a batch that makes a flood of what is due, and returns its name and for how long nobody is there at most.
    pub(crate) fn flood(&mut self, rng: &mut Rng) -> (BatchName, u64) {
        let (name, (cron, hours)) = (name(FLOOD), *rng.pick(&FLOODS));
        self.edit(rng, FLOOD);
        let definition = self.definitions.get_mut(&name).expect("it was just written");
        (definition.cron, definition.jitter) = (vec![cron.to_owned()], Duration::ZERO);
        definition.after.clear();
        definition.on_error.clear();
        (name, hours)
    }

    /// The graph of what fits. What does not falls back to what was in force before, and is held if that does not fit either;
    /// what was never in force is left out.
    pub(crate) fn graph(&self, before: &Graph) -> Arc<Graph> {
        let mut fallen: BTreeMap<BatchName, Fallen> = BTreeMap::new();
        loop {
            let in_force = |(name, on_disk): (&BatchName, &Definition)| {
                let last = || before.get(name).map(|node| node.definition().clone());
                match fallen.get(name) {
                    None => Some(entry(Arc::new(on_disk.clone()), false)),
                    Some(Fallen::Back) => last().map(|last| entry(last, false)),
                    Some(Fallen::Held) => last().map(|last| entry(last, true)),
                }
            };
            match Graph::new(self.definitions.iter().filter_map(in_force).collect(), self.limits.clone()) {
                Ok(graph) => return Arc::new(graph),
                Err(misfits) => {
                    for misfit in misfits {
                        let blamed = match misfit {
                            Misfit::UnknownName { batch, .. }
                            | Misfit::TargetIsStarted { batch, .. }
                            | Misfit::MixedJoin { batch, .. } => batch,
                            Misfit::Cycle { batches } => batches[0].clone(),
                        };
                        let next = if fallen.contains_key(&blamed) { Fallen::Held } else { Fallen::Back };
                        fallen.insert(blamed, next);
                    }
                }
            }
        }
    }

    /// The same without anything that starts by itself.
    pub(crate) fn at_rest(&self) -> Self {
        let mut disk = self.clone();
        disk.definitions.values_mut().for_each(|definition| definition.cron.clear());
        disk
    }
}

pub(crate) fn entry(definition: Arc<Definition>, held: bool) -> Entry {
    let (schedule, reboot) = folders::schedule(&DATABASE, &definition).expect("worlds use zones that are there");
    Entry { definition, schedule, reboot, held }
}

fn plain(name: BatchName, edit: u64) -> Definition {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&edit.to_be_bytes());
    Definition {
        name,
        hash: DefinitionHash(hash),
        description: String::new(),
        tags: Vec::new(),
        cron: Vec::new(),
        timezone: None,
        after: Vec::new(),
        independent: false,
        use_previous_output: false,
        on_error: Vec::new(),
        enabled: true,
        hosts: Vec::new(),
        execution: Execution {
            script: "script.sh".to_owned(),
            include: Vec::new(),
            interpreter: vec!["bash".to_owned()],
            args: Vec::new(),
            env: BTreeMap::new(),
            pass_env: Vec::new(),
            env_file: None,
            working_dir: None,
            user: None,
            umask: 0o022,
            no_new_privs: false,
            timeout: None,
            stop_grace: Duration::from_secs(10),
            success_exit_codes: vec![0],
            log_bytes_max: 1,
            merge_output: false,
        },
        retry: RetryPolicy {
            retries: 0,
            delay: Duration::from_secs(60),
            backoff: 2.0,
            delay_max: Duration::from_secs(600),
            on_lost: false,
        },
        overlap: Overlap::Skip,
        catch_up: CatchUp::Last,
        catch_up_within: Duration::from_secs(7 * 86_400),
        jitter: Duration::ZERO,
        priority: 0,
        pool: None,
    }
}

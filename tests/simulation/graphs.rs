//! Random graphs, and random edits of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use batchd::model::cron::Expression;
use batchd::model::definition::{CatchUp, Definition, Execution, Overlap, RetryPolicy};
use batchd::model::graph::{Entry, Graph, Misfit};
use batchd::model::id::{BatchName, DefinitionHash};
use batchd::model::schedule::Schedule;
use batchd::model::settings::Limits;
use batchd::model::zone::Zone;

use crate::rng::Rng;

const CRONS: [&str; 8] = [
    "0 */4 * * *",
    "30 2 * * *",
    "0 0 * * 1",
    "17 5,17 * * *",
    "*/40 8-9 * * *",
    "0 12 * * *",
    "0 12 * * *",
    "5 0 1,15 * *",
];

/// What is on the disk.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) definitions: BTreeMap<BatchName, Definition>,
    pub(crate) limits: Limits,
    edits: u64,
}

pub(crate) fn name(index: u64) -> BatchName {
    BatchName::new(&format!("b{index}")).unwrap()
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

    /// The graph of what fits; what does not is left out, as if it had never been good.
    pub(crate) fn graph(&self) -> Arc<Graph> {
        let mut definitions = self.definitions.clone();
        loop {
            let entries = definitions.values().map(|definition| entry(Arc::new(definition.clone()))).collect();
            match Graph::new(entries, self.limits.clone()) {
                Ok(graph) => return Arc::new(graph),
                Err(misfits) => {
                    for misfit in misfits {
                        let blamed = match misfit {
                            Misfit::UnknownName { batch, .. }
                            | Misfit::TargetIsStarted { batch, .. }
                            | Misfit::MixedJoin { batch, .. } => batch,
                            Misfit::Cycle { batches } => batches[0].clone(),
                        };
                        definitions.remove(&blamed);
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

pub(crate) fn entry(definition: Arc<Definition>) -> Entry {
    let times: Vec<_> = definition
        .cron
        .iter()
        .filter_map(|text| match Expression::parse(text).unwrap() {
            Expression::Times(cron) => Some(cron),
            Expression::Reboot => None,
        })
        .collect();
    let schedule = (!times.is_empty()).then(|| Arc::new(Schedule::new(times, Zone::utc())));
    Entry { definition, schedule, reboot: false, held: false }
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
            interpreter: vec!["bash".to_owned()],
            args: Vec::new(),
            env: BTreeMap::new(),
            env_file: None,
            working_dir: None,
            user: None,
            umask: 0o022,
            no_new_privs: false,
            timeout: None,
            stop_grace: Duration::from_secs(10),
            success_exit_codes: vec![0],
            log_bytes_max: 1,
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

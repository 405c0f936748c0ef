//! From a [`Launch`] to what is written for it: the shim's order, and `run.json`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::definition::Overlap;
use crate::model::launch::Launch;
use crate::model::run::{Exit, Input};
use crate::rundir::access::Access;
use crate::rundir::records::{RunRecord, UpstreamRecord, VERSION};
use crate::shim::order::{Order, Stdin};
use crate::shim::user::User;

/// Where programs are looked for if the daemon's own environment does not say.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The locale if the daemon's own environment does not say: text is UTF-8, and nothing is sorted or translated by
/// surprise.
const LANG_DEFAULT: &str = "C.UTF-8";

/// Users, beside root and the daemon's, who may own files of `batches`; none: everybody. It changes with the settings.
pub type TrustedOwners = Arc<Mutex<Option<Vec<String>>>>;

/// Where the local place works, and what is the same for all its runs.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The folder of all runs, absolute.
    pub runs: PathBuf,
    /// The daemon's own folder, absolute.
    pub state: PathBuf,
    /// The folder of all batches, absolute.
    pub batches: PathBuf,
    /// See [`TrustedOwners`].
    pub trusted_owners: TrustedOwners,
    /// The boot of the host, as /proc/sys/kernel/random/boot_id names it.
    pub boot: String,
    /// The variables that every script gets: [`clean_environment`] and the four paths.
    pub environment: Vec<(String, String)>,
    /// The daemon's own environment, for `pass_env`.
    pub inherited: BTreeMap<String, String>,
    /// The program to exec as a launcher, with [`super::launcher::VERB`].
    pub program: PathBuf,
    /// Who may read what runs write.
    pub access: Access,
}

/// `PATH HOME USER LOGNAME SHELL LANG TZ`, from the daemon's own environment (`variable` looks one up) and the user
/// database: nothing else of the daemon's environment reaches a script.
pub fn clean_environment(variable: impl Fn(&str) -> Option<String>) -> Vec<(String, String)> {
    let mut environment = vec![
        ("PATH".to_owned(), variable("PATH").unwrap_or_else(|| PATH_DEFAULT.to_owned())),
        ("LANG".to_owned(), variable("LANG").unwrap_or_else(|| LANG_DEFAULT.to_owned())),
    ];
    environment.extend(variable("TZ").map(|zone| ("TZ".to_owned(), zone)));
    // A user without an entry (a container's) has what the daemon's own environment says.
    match User::by_uid(rustix::process::geteuid().as_raw()) {
        Ok(Some(user)) => environment.extend(user.variables()),
        Ok(None) | Err(_) => {
            for name in ["HOME", "USER", "LOGNAME", "SHELL"] {
                environment.extend(variable(name).map(|value| (name.to_owned(), value)));
            }
        }
    }
    environment
}

/// The value of `BATCHD_TOKEN`: by it the processes of a run are known, wherever they have gone.
pub(super) fn token_text(launch: &Launch) -> String {
    let token = &launch.token;
    format!("{}/{}/{}", token.journal.0, token.run, token.queued_at.as_ms())
}

/// The order for a launch, or why there can't be one.
pub(super) fn order(launch: &Launch, around: &Surroundings, serial: u64) -> Result<Order, &'static str> {
    let run = &launch.run;
    let hash = run.definition.ok_or("the run's row in the journal has no definition; this is a bug in batchd")?;
    let gone = "the batch and its stored definition are gone; restore the batch, then start it again";
    let definition = launch.definition.as_ref().ok_or(gone)?;
    // Runs beside each other must not change each other's scripts.
    let own_workspace = definition.overlap == Overlap::Allow;
    let stdin = match (&run.given.input, &launch.given_input) {
        (_, Some(end)) => Stdin::Run(end.clone()),
        (Some(Input::File(path)), None) => Stdin::File(PathBuf::from(path)),
        (Some(Input::Stored(id)), None) => Stdin::File(id.path(&around.state)),
        (Some(Input::Run(_)) | None, None) if definition.use_previous_output && !launch.upstreams.is_empty() => {
            Stdin::Upstreams
        }
        (Some(Input::Run(_)) | None, None) => Stdin::Empty,
    };
    let mut base = around.environment.clone();
    let passed = definition.execution.pass_env.iter();
    base.extend(passed.filter_map(|name| Some((name.clone(), around.inherited.get(name)?.clone()))));
    base.extend(definition.timezone.clone().map(|zone| ("TZ".to_owned(), zone)));
    Ok(Order {
        serial,
        token: launch.token.clone(),
        boot: around.boot.clone(),
        runs: around.runs.clone(),
        state: around.state.clone(),
        batches: around.batches.clone(),
        trusted_owners: around.trusted_owners.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        definition: hash,
        own_workspace,
        execution: definition.execution.clone(),
        given: run.given.clone(),
        base,
        facts: facts(launch, around),
        upstreams: launch.upstreams.clone(),
        stdin,
        access: around.access,
    })
}

/// `run.json` for an order.
pub(super) fn run_record(launch: &Launch, order: &Order) -> RunRecord {
    let run = &launch.run;
    let upstream = |end: &crate::model::launch::UpstreamEnd| UpstreamRecord {
        run: end.run.clone(),
        output_of: end.output_of.clone(),
        outcome: end.outcome,
    };
    let pairs = order.base.iter().chain(&order.facts).map(|(name, _)| name);
    let mut variables: Vec<String> =
        pairs.chain(order.execution.env.keys()).chain(order.given.env.keys()).cloned().collect();
    variables.sort_unstable();
    variables.dedup();
    RunRecord {
        version: VERSION,
        token: launch.token.clone(),
        definition: order.definition,
        chain: run.chain.clone(),
        trigger: run.trigger,
        attempt: run.attempt,
        due_at: run.due_at,
        upstreams: launch.upstreams.iter().map(upstream).collect(),
        input: run.given.input.clone(),
        variables,
        env_file: order.execution.env_file.clone(),
    }
}

/// What a script is told about itself. Nothing that a batch or an operator sets overrides it.
fn facts(launch: &Launch, around: &Surroundings) -> Vec<(String, String)> {
    let run = &launch.run;
    let folder = around.runs.join(run.id.to_string());
    let mut facts = vec![
        ("BATCHD_BATCH", run.id.batch.to_string()),
        ("BATCHD_RUN", run.id.to_string()),
        ("BATCHD_RUN_DIR", folder.to_string_lossy().into_owned()),
        ("BATCHD_CHAIN", run.chain.to_string()),
        ("BATCHD_TRIGGER", run.trigger.to_string()),
        ("BATCHD_DUE_AT", launch.due_at_local.clone()),
        ("BATCHD_ATTEMPT", run.attempt.to_string()),
        ("BATCHD_PROGRESS", folder.join("io/progress").to_string_lossy().into_owned()),
        ("BATCHD_TOKEN", token_text(launch)),
    ];
    if let Some(first) = launch.upstreams.first() {
        facts.push(("BATCHD_UPSTREAM_RUN", first.run.to_string()));
        facts.push(("BATCHD_UPSTREAM_OUTCOME", first.outcome.to_string()));
        let code = first.exit.as_ref().and_then(exit_code);
        facts.push(("BATCHD_UPSTREAM_EXIT_CODE", code.map_or(String::new(), |code| code.to_string())));
    }
    if let Some(alert) = &launch.alert {
        facts.push(("BATCHD_FAILURES_IN_A_ROW", alert.failures_in_a_row.to_string()));
        facts.push(("BATCHD_LAST_SUCCESS_AT", alert.last_success_at.clone().unwrap_or_default()));
    }
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// As a shell gives it in `$?`: 128 and the number for a signal.
fn exit_code(exit: &Exit) -> Option<i32> {
    exit.exit_code.map(i32::from).or(exit.signal.map(|signal| 128 + signal))
}

//! `batchd.toml` to settings: [`settings`].

use std::collections::BTreeMap;

use super::findings::Findings;
use super::policies::{Policies, Surroundings, plain};
use super::reader::{At, Reader, Shape};
use super::{Diagnosis, syntax, values, words};
use crate::model::diagnostic::Diagnostic;
use crate::model::id::BatchName;
use crate::model::settings::{Limits, RUNS_MODE_DEFAULT, Settings};
use crate::model::text::quoted;

/// The most slots, of all batches or of a pool: more processes than Linux has ids for by default.
const SLOTS_MAX: i64 = 32_768;

/// Keys of a `batch.toml` that are no policies, so that they can't be defaults.
const BATCH_ONLY: [&str; 12] = [
    "description",
    "tags",
    "cron",
    "after",
    "independent",
    "use_previous_output",
    "enabled",
    "script",
    "interpreter",
    "args",
    "include",
    "working_dir",
];

/// What `batchd.toml` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SettingsFile {
    /// Its path, for diagnostics.
    pub file: String,
    /// `batches`, `runs` and `state`.
    pub paths: Paths,
    /// `max_running` (whole number, 100), `trusted_owners` (list of user names, none), `socket_group` (name of a group,
    /// none), `runs_mode` (octal, 0750), `log_output` (false) and `[pools]` (names, each with its number of slots).
    pub settings: Settings,
    /// `[defaults]`: what batches leave open.
    pub defaults: Policies,
}

/// Where things are, as written: absolute, or relative to where the daemon starts. None: not said here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// `batches`: the folder with the definitions.
    pub batches: Option<String>,
    /// `runs`: the folder with one folder per run.
    pub runs: Option<String>,
    /// `state`: the daemon's own folder.
    pub state: Option<String>,
}

/// Reads and checks the settings: what can be understood, and all that is wrong with the rest.
///
/// `file` is the path that diagnostics show. Whoever asked decides whether settings with diagnostics are used.
pub fn settings(
    file: &str,
    bytes: &[u8],
    zone_known: &dyn Fn(&str) -> Result<(), Diagnosis>,
) -> (SettingsFile, Vec<Diagnostic>) {
    let (text, complaint) = syntax::text_of(None, file, "", bytes);
    let mut diagnostics: Vec<Diagnostic> = complaint.into_iter().collect();
    let mut read = SettingsFile { file: file.to_owned(), ..SettingsFile::default() };
    let Some(text) = text else { return (read, diagnostics) };

    let mut findings = Findings::new(None, file, text);
    let table = syntax::table(&mut findings);
    let mut reader = Reader::new(&table, &mut findings);
    let path = |reader: &mut Reader<'_, '_>, key| reader.value(key, values::path).map(At::into_inner);
    read.paths = Paths {
        batches: path(&mut reader, "batches"),
        runs: path(&mut reader, "runs"),
        state: path(&mut reader, "state"),
    };
    read.settings = Settings {
        limits: limits(&mut reader),
        trusted_owners: reader.list("trusted_owners", Shape::List, values::account).map(plain).unwrap_or_default(),
        socket_group: reader.value("socket_group", values::account).map(At::into_inner),
        log_output: reader.value("log_output", values::flag).is_some_and(At::into_inner),
        runs_mode: reader.value("runs_mode", values::runs_mode).map_or(RUNS_MODE_DEFAULT, At::into_inner),
    };
    let surroundings = Surroundings { zone_known, pools: &read.settings.limits.pools };
    let defaults = reader.section("defaults", "`[defaults]`", &BATCH_ONLY, |reader| {
        let defaults = Policies::read(reader, surroundings);
        defaults.check_retry_delays(reader);
        defaults
    });
    read.defaults = defaults.unwrap_or_default();
    reader.finish("the settings", &BATCH_ONLY);
    diagnostics.extend(findings.into_diagnostics());
    (read, diagnostics)
}

fn limits(reader: &mut Reader<'_, '_>) -> Limits {
    let slots = |at: At<i64>| u32::try_from(at.into_inner()).ok();
    let pools = reader.table("pools", check_pool_name, values::whole(1..=SLOTS_MAX)).unwrap_or_default();
    let pools: BTreeMap<String, u32> =
        pools.into_iter().filter_map(|(name, number)| Some((name, slots(number)?))).collect();
    let defaults = Limits::default();
    let max_running = reader.value("max_running", values::whole(1..=SLOTS_MAX)).and_then(slots);
    Limits { max_running: max_running.unwrap_or(defaults.max_running), pools, ..defaults }
}

/// A pool's name has the grammar of a batch's.
fn check_pool_name(name: &str) -> Result<(), Diagnosis> {
    if words::SETTINGS_KEYS.contains(&name) {
        let hint = "move it above the line `[pools]`";
        return Err(Diagnosis::hinted(format!("`{name}` is below `[pools]`, so it names a pool"), hint));
    }
    if name == values::NONE || BatchName::new(name).is_err() {
        let hint = "a name begins with a-z or 0-9 and continues with a-z, 0-9, `_` or `-`; `none` means no pool";
        return Err(Diagnosis::hinted(format!("`{}` can't be the name of a pool", quoted(name)), hint));
    }
    Ok(())
}

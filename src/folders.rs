//! The folders of `batches.d` to definitions that have been checked: [`Folders`].
//!
//! It brings together what `store` reads and `load` checks, for the daemon's reloads and for `batchd check` alike, and
//! remembers each folder, so that only what has changed is read again. It does not know when to look: that is the caller's
//! affair; and it decides nothing about what is in force but through [`load::fit`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags};

use crate::load::{self, Diagnosis, Fitted, Loaded, SettingsFile};
use crate::model::cron::Expression;
use crate::model::definition::Definition;
use crate::model::diagnostic::{Diagnostic, errors};
use crate::model::files::{DEFINITION_BYTES_MAX, DEFINITION_FILES_MAX, FILE_NAME_BYTES_MAX, Files};
use crate::model::id::BatchName;
use crate::model::schedule::Schedule;
use crate::model::text::shown;
use crate::model::time::Instant;
use crate::store::env_file;
use crate::store::read::{BatchesDir, Fingerprint, Listing, ReadError, Unfinished};
use crate::store::trust::Trust;
use crate::store::unpack;
use crate::store::writers::{self, Writers, writers_of};
use crate::zones::Zones;

/// The file in a batch's folder that makes it one.
pub const BATCH_TOML: &str = "batch.toml";
/// The permission bits of a file's owner.
const OWNER_BITS: u32 = 0o700;

/// A change within this time before a folder was looked at may be followed by another that leaves no trace in its
/// fingerprint: file systems stamp changes by coarse clocks, up to 2 s over a network.
const COARSE_CLOCK: Duration = Duration::from_secs(2);

/// What checking a definition depends on beside its folder.
pub struct Surroundings {
    /// The zones of this host.
    pub zones: Zones,
    /// This host's name.
    pub host: String,
    /// The settings.
    pub settings: SettingsFile,
    /// Who may write definitions.
    pub trust: Trust,
    /// The daemon's user. None: everybody may write definitions (`--insecure-permissions`).
    pub daemon_uid: Option<u32>,
    /// Who writes the settings.
    pub settings_writers: Writers,
    /// batchd itself, to unpack zips in a process of their own.
    pub program: PathBuf,
}

/// The bytes of the settings, and who was writing them then. Neither a pipe in their place nor a file without end keeps the daemon.
fn read_bounded(settings: &Path) -> io::Result<(Vec<u8>, Writers)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(settings, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    let limit = load::TEXT_BYTES_MAX as u64;
    if (&file).take(limit + 1).read_to_end(&mut bytes)? as u64 > limit {
        return Err(io::Error::other(format!("more than {limit} bytes; check that it is the right file")));
    }
    // After the bytes: whoever wrote some of them and is not done has the file open now.
    let writers = writers_of(&file);
    Ok((bytes, writers))
}

/// Who is writing the settings now. Nobody writes settings that can't be read.
pub fn settings_writers(settings: &Path) -> Writers {
    read_bounded(settings).map(|(_, writers)| writers).unwrap_or_default()
}

/// What is known of every folder that was there when it was last looked at.
#[derive(Debug, Default)]
pub struct Folders {
    known: BTreeMap<BatchName, Known>,
}

/// What came of reading one folder.
#[derive(Debug)]
struct Known {
    /// Of the folder, and of each that it includes. None: read it again next time.
    looks: Option<Vec<(String, Fingerprint)>>,
    /// The `_folders` that it includes.
    includes: Vec<String>,
    loaded: Arc<Loaded>,
}

/// What a look at `batches.d` depends on.
pub struct Look<'l> {
    /// The folders to look at; none: all.
    pub only: Option<&'l BTreeSet<BatchName>>,
    /// What is in force: a definition that says the same is kept once.
    pub in_force: &'l BTreeMap<BatchName, Arc<Definition>>,
    /// When the look happens.
    pub now: Instant,
    /// Whether a file, a path below `batches.d` modified at that time, may still be written; `true`: its batch has other
    /// content in force. Asked where the kernel doesn't say: for other owners' files and on network file systems.
    pub may_be_open: &'l dyn Fn(&str, Instant, bool) -> bool,
}

/// What a look at `batches.d` has found.
#[derive(Debug, Default)]
pub struct Looked {
    /// Whether anything was read anew, or is gone.
    pub changed: bool,
    /// Folders that changed while they were read: look at them again.
    pub restless: Vec<BatchName>,
    /// Folders with a file that is being written, a path below `batches.d`: they stay as they were.
    pub open: BTreeMap<BatchName, String>,
    /// The content of what was read anew, by batch: for the store, if it comes into force.
    pub contents: BTreeMap<BatchName, Files>,
}

impl Surroundings {
    /// Reads the settings (a missing file says nothing), and looks at the host. What is wrong with the settings is given
    /// back, too; without what is wrong they count. `daemon_uid` is the daemon's user, whoever asks; none: everybody is
    /// trusted.
    pub fn read(settings: &Path, daemon_uid: Option<u32>) -> Result<(Self, Vec<Diagnostic>)> {
        let zones = Zones::of_environment();
        let (bytes, settings_writers) = match read_bounded(settings) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Default::default(),
            Err(error) => return Err(error).with_context(|| format!("can't read {}", settings.display())),
        };
        let label = settings.display().to_string();
        let (mut settings, diagnostics) = load::settings(&label, &bytes, &|name| zone_known(&zones, name));
        let cores = thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
        settings.settings.limits.catch_up_running_max = cores;
        let trust = match daemon_uid {
            None => Trust::insecure(),
            Some(uid) => {
                let owners = &settings.settings.trusted_owners;
                Trust::new(uid, owners).with_context(|| format!("{label}: trusted_owners"))?
            }
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok((Self { zones, host, settings, trust, daemon_uid, settings_writers, program: own_program()? }, diagnostics))
    }

    /// The definition of a batch whose content is whole: a zip's entries, and what is included, in their places.
    pub fn definition(&self, name: &BatchName, files: &Files) -> Option<Arc<Definition>> {
        let toml = files.0.get(BATCH_TOML).map(|file| file.bytes.as_slice());
        let outline = load::outline(&String::from_utf8_lossy(toml.unwrap_or_default()));
        let zip = outline.script.as_deref().filter(|script| is_zip(script));
        self.check(&load::Input { name, toml, files, zip, missing_includes: &[] }, "").definition
    }

    /// Users, beside root and the daemon's, who may own what a run reads from `batches.d`; none: everybody.
    pub fn trusted_owners(&self) -> Option<Vec<String>> {
        self.daemon_uid.map(|_| self.settings.settings.trusted_owners.clone())
    }

    /// The `env_file` of a batch, as written.
    fn env_file<'o>(&'o self, outline: &'o load::Outline) -> Option<&'o str> {
        outline.env_file.as_deref().or(self.settings.defaults.env_file.as_deref())
    }

    /// The relative `env_file` that a `batch.toml` of these bytes names, as its path beside the script.
    pub fn env_file_of(&self, toml: &[u8]) -> Option<String> {
        let outline = load::outline(&String::from_utf8_lossy(toml));
        self.env_file(&outline).filter(|file| !file.starts_with('/')).map(str::to_owned)
    }

    fn check(&self, input: &load::Input<'_>, batches: &str) -> Loaded {
        let zone_known = |zone: &str| zone_known(&self.zones, zone);
        let context = load::Context { settings: &self.settings, host: &self.host, batches, zone_known: &zone_known };
        load::definition(input, &context)
    }

    /// The schedule of a definition, and whether it has `@reboot`; or what is wrong with its zone.
    pub fn schedule(&self, definition: &Definition) -> std::result::Result<(Option<Arc<Schedule>>, bool), Diagnosis> {
        schedule(&self.zones, definition)
    }
}

/// A `batches.d` without any batch, where there were some: perhaps a file system that is not mounted, and nobody's will.
pub fn suddenly_empty(batches: &Path, listing: &Listing) -> Diagnostic {
    let hint = match listing.is_bare {
        true => {
            "check that its file system is mounted; to remove all batches, put any file into the folder and run `batchd reload`"
        }
        false => "to remove all batches, run `batchd reload`",
    };
    let what = "this folder is suddenly empty; its batches stay in force";
    Diagnostic::of_file(None, batches.display().to_string(), what).with_hint(hint)
}

/// This program, even if its file has been replaced meanwhile.
pub fn own_program() -> Result<PathBuf> {
    let program = PathBuf::from("/proc/self/exe");
    if program.exists() { Ok(program) } else { std::env::current_exe().context("can't find batchd's own program") }
}

fn zone_known(zones: &Zones, name: &str) -> std::result::Result<(), Diagnosis> {
    zones.get(name).map(|_| ()).map_err(|error| Diagnosis { what: error.what, hint: error.hint })
}

/// The schedule of a definition in its zone, and whether it has `@reboot`; or what is wrong with its zone.
pub fn schedule(
    zones: &Zones,
    definition: &Definition,
) -> std::result::Result<(Option<Arc<Schedule>>, bool), Diagnosis> {
    let (mut times, mut reboot) = (Vec::new(), false);
    for text in &definition.cron {
        match Expression::parse(text).map_err(|error| Diagnosis { what: error.what, hint: error.hint })? {
            Expression::Reboot => reboot = true,
            Expression::Times(cron) => times.push(cron),
        }
    }
    if times.is_empty() {
        return Ok((None, reboot));
    }
    let zone = match &definition.timezone {
        Some(name) => zones.get(name).map_err(|error| Diagnosis { what: error.what, hint: error.hint })?,
        None => zones.system().zone.clone(),
    };
    Ok((Some(Arc::new(Schedule::new(times, zone))), reboot))
}

impl Folders {
    /// Looks at the folders of `dir` that are `present`, and reads those that have changed.
    pub fn look(&mut self, around: &Surroundings, dir: &BatchesDir, present: &[BatchName], look: &Look<'_>) -> Looked {
        let mut looked = Looked::default();
        let asked = |name: &BatchName| look.only.is_none_or(|only| only.contains(name));
        for name in present.iter().filter(|name| asked(name)) {
            if self.is_unchanged(dir, name, look.now) {
                continue;
            }
            match read(around, dir, name, look) {
                Ok((known, content)) => {
                    looked.changed |= self.known.get(name).is_none_or(|before| before.loaded != known.loaded);
                    looked.contents.extend(content.map(|content| (name.clone(), content)));
                    self.known.insert(name.clone(), known);
                }
                Err(ReadError::Changed) => looked.restless.push(name.clone()),
                Err(ReadError::Open(file)) => drop(looked.open.insert(name.clone(), file)),
                // It was there when the folder was listed, and will be missed at the next look.
                Err(ReadError::Gone) => {}
                Err(ReadError::Refused(diagnostics)) => {
                    let loaded = Arc::new(Loaded::refused(name.clone(), diagnostics));
                    looked.changed |= self.known.get(name).is_none_or(|before| before.loaded != loaded);
                    self.known.insert(name.clone(), Known { looks: None, includes: Vec::new(), loaded });
                }
            }
        }
        looked
    }

    /// The batches that were found so far.
    pub fn names(&self) -> impl Iterator<Item = &BatchName> {
        self.known.keys()
    }

    /// The batches that include `folder`.
    pub fn including<'f>(&'f self, folder: &'f str) -> impl Iterator<Item = &'f BatchName> {
        self.known
            .iter()
            .filter(move |(_, known)| known.includes.iter().any(|name| name == folder))
            .map(|(name, _)| name)
    }

    /// Knows of a batch that is in force, and whose folder has not been looked at yet: until it is, it stays as it is.
    pub fn remember(&mut self, name: &BatchName) {
        let unread =
            || Known { looks: None, includes: Vec::new(), loaded: Arc::new(Loaded::refused(name.clone(), Vec::new())) };
        self.known.entry(name.clone()).or_insert_with(unread);
    }

    /// Batches of which nothing is known but that they are there: whoever asks can't read them.
    pub fn unread(&self) -> impl Iterator<Item = &BatchName> {
        let is_unread =
            |loaded: &Loaded| loaded.definition.is_none() && loaded.applies && errors(&loaded.diagnostics) == 0;
        self.known.iter().filter(move |(_, known)| is_unread(&known.loaded)).map(|(name, _)| name)
    }

    /// Forgets a batch: its folder is gone.
    pub fn forget(&mut self, name: &BatchName) {
        self.known.remove(name);
    }

    /// Reads everything again at the next look: what all definitions depend on has changed.
    pub fn forget_looks(&mut self) {
        self.known.values_mut().for_each(|known| known.looks = None);
    }

    /// Leaves a batch as it is in force, with this complaint, until it is read again. Whether the complaint is new.
    pub fn complain(&mut self, name: &BatchName, diagnostic: Diagnostic) -> bool {
        let known = self.known.get(name);
        let mut diagnostics = known.map(|known| known.loaded.diagnostics.clone()).unwrap_or_default();
        if diagnostics.contains(&diagnostic) {
            return false;
        }
        diagnostics.insert(0, diagnostic);
        let includes = known.map(|known| known.includes.clone()).unwrap_or_default();
        let loaded = Arc::new(Loaded::refused(name.clone(), diagnostics));
        self.known.insert(name.clone(), Known { looks: None, includes, loaded });
        true
    }

    /// Fits everything together. `previous` is what is in force until now.
    pub fn fit(&self, around: &Surroundings, previous: &BTreeMap<BatchName, Arc<Definition>>) -> Fitted {
        let candidates: Vec<Arc<Loaded>> = self.known.values().map(|known| known.loaded.clone()).collect();
        load::fit(&candidates, previous, &around.settings, &|definition| around.schedule(definition))
    }

    fn is_unchanged(&self, dir: &BatchesDir, name: &BatchName, now: Instant) -> bool {
        let Some(looks) = self.known.get(name).and_then(|known| known.looks.as_ref()) else { return false };
        looks.iter().all(|(folder, before)| {
            // The second condition: the content was read when the last change was safely over.
            is_settled(before, now) && dir.looks_like(folder, before)
        })
    }
}

/// Whether the last change that a fingerprint shows was over when it was taken, so that a later one would show.
fn is_settled(look: &Fingerprint, taken_at: Instant) -> bool {
    look.newest_change_at + COARSE_CLOCK < taken_at
}

/// Reads and checks one folder, with what it includes and what its zip holds.
fn read(
    around: &Surroundings,
    dir: &BatchesDir,
    name: &BatchName,
    look: &Look<'_>,
) -> std::result::Result<(Known, Option<Files>), ReadError> {
    let raw = dir.read(name.as_str(), &around.trust)?;
    let mut looks = vec![(name.to_string(), raw.fingerprint)];
    let (mut files, unfinished) = (raw.files, raw.unfinished);
    let toml = files.0.get(BATCH_TOML).map(|file| file.bytes.clone());
    let outline = load::outline(&String::from_utf8_lossy(toml.as_deref().unwrap_or_default()));
    let env_file = around.env_file(&outline).and_then(|file| env_file::beside_script(file, dir.path(), name));
    let unfinished = unfinished.into_iter().filter(|file| env_file.as_ref() != Some(&file.path));
    let mut unclear = written_paths(name.as_str(), unfinished)?;
    let mut diagnostics = Vec::new();
    let zip = zip_of(outline.script.as_deref(), &files);
    if let Some(zip) = &zip {
        diagnostics.extend(open_zip(around, name, (zip, env_file.as_deref()), &mut files));
    }
    let mut missing_includes = Vec::new();
    for include in outline.include.iter().filter(|include| is_includable(include)) {
        match dir.read(include, &around.trust) {
            Ok(raw) => {
                unclear.extend(written_paths(include, raw.unfinished.into_iter())?);
                looks.push((include.clone(), raw.fingerprint));
                files.0.extend(raw.files.0.into_iter().map(|(path, file)| (format!("{include}/{path}"), file)));
            }
            Err(ReadError::Gone) => missing_includes.push(include.clone()),
            Err(error @ (ReadError::Changed | ReadError::Open(_))) => return Err(error),
            Err(ReadError::Refused(mut refused)) => diagnostics.append(&mut refused),
        }
    }
    // It is read when a run starts, and never kept; nor is the file that it is a link to.
    if let Some(secrets) = env_file.and_then(|file| files.0.remove(&file)).filter(|file| !file.bytes.is_empty()) {
        files.0.retain(|path, file| path == BATCH_TOML || file.bytes != secrets.bytes);
    }
    check_closed(name, &unclear, &files, look)?;
    diagnostics.extend(too_large(name, &files));
    let mut loaded = if diagnostics.is_empty() {
        let (toml, zip, missing_includes) = (toml.as_deref(), zip.as_deref(), missing_includes.as_slice());
        let batches = dir.path().display().to_string();
        around.check(&load::Input { name, toml, files: &files, zip, missing_includes }, &batches)
    } else {
        Loaded::refused(name.clone(), diagnostics)
    };
    if let Some(in_force) = look.in_force.get(name).filter(|in_force| loaded.definition.as_ref() == Some(in_force)) {
        loaded.definition = Some(in_force.clone());
    }
    let content = loaded.definition.is_some().then_some(files);
    let settled = looks.iter().all(|(_, seen)| is_settled(seen, look.now)) && missing_includes.is_empty();
    let known = Known { looks: settled.then_some(looks), includes: outline.include, loaded: Arc::new(loaded) };
    Ok((known, content))
}

/// The paths below `batches.d` of files that may still be written, each with the time of its last change. An error if one
/// is being written for certain: quiet is not complete.
fn written_paths(
    folder: &str,
    unfinished: impl Iterator<Item = Unfinished>,
) -> std::result::Result<Vec<(String, Instant)>, ReadError> {
    let path_of = |file: Unfinished| (format!("{folder}/{}", file.path), file.unknown_since);
    unfinished
        .map(path_of)
        .map(|(path, since)| since.map(|at| (path.clone(), at)).ok_or(ReadError::Open(path)))
        .collect()
}

/// Refuses a folder with a file that may still be written, unless its content is in force already.
fn check_closed(
    name: &BatchName,
    unclear: &[(String, Instant)],
    files: &Files,
    look: &Look<'_>,
) -> std::result::Result<(), ReadError> {
    let in_force = look.in_force.get(name);
    if unclear.is_empty() || in_force.is_some_and(|definition| definition.hash == files.hash()) {
        return Ok(());
    }
    match unclear.iter().find(|(path, modified_at)| (look.may_be_open)(path, *modified_at, in_force.is_some())) {
        Some((path, _)) => Err(ReadError::Open(path.clone())),
        None => Ok(()),
    }
}

/// The complaint about a file below `batches`, a path in it, that has been open for writing for a while.
pub fn still_open(batches: &Path, batch: &BatchName, file: &str) -> Diagnostic {
    let hint =
        "the last good definition stays in force until the file is closed; write to a copy, then rename the copy";
    let what = writers::still_open(&batches.join(file));
    Diagnostic::of_file(Some(batch.clone()), shown(file), what).with_hint(hint)
}

/// The same about the settings.
pub fn settings_still_open(settings: &str) -> Diagnostic {
    let hint = "the settings stay as they were until the file is closed; to write slowly, write a copy and rename it";
    Diagnostic::of_file(None, shown(settings), writers::still_open(Path::new(settings))).with_hint(hint)
}

/// The zip whose entries are the batch: the one that `script` names, else, without a `script.sh`, the only one.
fn zip_of(script: Option<&str>, files: &Files) -> Option<String> {
    match script {
        Some(script) => (is_zip(script) && files.0.contains_key(script)).then(|| script.to_owned()),
        None if files.0.contains_key("script.sh") => None,
        None => {
            let mut zips = files.0.keys().filter(|path| is_zip(path) && !path.contains('/'));
            zips.next().filter(|_| zips.next().is_none()).cloned()
        }
    }
}

fn is_zip(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".zip")
}

/// Puts a zip's entries in its place, as if they lay in the folder; or what is wrong with it.
fn open_zip(
    around: &Surroundings,
    name: &BatchName,
    (zip, env_file): (&str, Option<&str>),
    files: &mut Files,
) -> Option<Diagnostic> {
    let archive = files.0.remove(zip)?;
    let file = format!("{name}/{zip}");
    let mut entries = match unpack::unzip_in_child(&around.program, &archive.bytes) {
        Ok(entries) => entries,
        Err(error) => return Some(error.diagnostic(Some(name.clone()), file)),
    };
    if let Some(path) = entries.0.keys().find(|path| files.0.contains_key(*path)) {
        let what = format!("`{}` is both in the zip and next to it", shown(path));
        let hint = "remove one of the two; the zip is unpacked into the batch's folder";
        return Some(Diagnostic::of_file(Some(name.clone()), file, what).with_hint(hint));
    }
    if let Some(path) = env_file.filter(|path| entries.0.contains_key(*path)) {
        let what = format!(
            "the `env_file` `{path}` is inside the zip, and batchd stores zips, so the secrets would be copied"
        );
        let hint = format!("remove `{path}` from the zip, and put it next to the zip");
        return Some(Diagnostic::of_file(Some(name.clone()), file, what).with_hint(hint));
    }
    // Whoever can't read the archive can't read what was in it.
    entries.0.values_mut().for_each(|entry| entry.mode &= archive.mode | OWNER_BITS);
    files.0.extend(entries.0);
    None
}

/// Only `_folders` of `batches.d` itself can be included; what else is written there, `load` complains about.
fn is_includable(include: &str) -> bool {
    include.starts_with('_') && !include.contains('/') && include.len() <= FILE_NAME_BYTES_MAX
}

/// The limits of a definition, for a folder with what it includes.
fn too_large(name: &BatchName, files: &Files) -> Option<Diagnostic> {
    let hint = "keep data in another folder, and read it from there";
    let of_file = |what: String| Diagnostic::of_file(Some(name.clone()), name.to_string(), what).with_hint(hint);
    if files.0.len() > DEFINITION_FILES_MAX {
        return Some(of_file(format!(
            "the batch has {} files, more than the {DEFINITION_FILES_MAX} allowed",
            files.0.len()
        )));
    }
    let bytes = files.bytes_total();
    (bytes > DEFINITION_BYTES_MAX).then(|| {
        of_file(format!("the batch has {bytes} bytes, more than the {} MiB allowed", DEFINITION_BYTES_MAX >> 20))
    })
}

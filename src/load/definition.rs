//! One batch folder to a definition: [`definition`].

use std::sync::Arc;
use std::time::Duration;

use super::findings::Findings;
use super::policies::{Policies, Surroundings, names, plain};
use super::reader::{At, Reader, Shape, Wrong};
use super::script::{self, SCRIPT_DEFAULT, Script};
use super::settings::SettingsFile;
use super::{Diagnosis, Named, line_ends, syntax, unexpanded, values, words};
use crate::model::cron::Expression;
use crate::model::definition::{CatchUp, Definition, Execution, Overlap};
use crate::model::diagnostic::{Diagnostic, Place};
use crate::model::files::Files;
use crate::model::id::BatchName;
use crate::model::text::{quoted, shell_path};
use toml::de::DeValue;

const UMASK_DEFAULT: u32 = 0o022;
const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);
const CATCH_UP_WITHIN_DEFAULT: Duration = Duration::from_secs(7 * 86_400);
const LOG_BYTES_MAX_DEFAULT: u64 = 100 << 20;

/// What is known of a batch folder.
pub struct Input<'i> {
    /// The folder's name.
    pub name: &'i BatchName,
    /// The bytes of its `batch.toml`; none: it has none.
    pub toml: Option<&'i [u8]>,
    /// Everything that belongs to the definition: the folder, or the zip's entries in its place, and what is included.
    pub files: &'i Files,
    /// The zip whose entries are among `files`, by its name in the folder.
    pub zip: Option<&'i str>,
    /// Names in `include` for which `batches.d` has no folder.
    pub missing_includes: &'i [String],
}

/// What a batch's definition depends on beside its folder.
#[derive(Clone, Copy)]
pub struct Context<'c> {
    /// The settings, with defaults and pools.
    pub settings: &'c SettingsFile,
    /// The host's name.
    pub host: &'c str,
    /// The folder of batches, as a command that somebody pastes has to name it.
    pub batches: &'c str,
    /// Whether the host knows a time zone; if not, what is wrong.
    pub zone_known: &'c dyn Fn(&str) -> Result<(), Diagnosis>,
}

/// What came of reading one batch folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The batch.
    pub name: BatchName,
    /// Its definition; none if there is a diagnostic. A default `on_error` is not in it yet: see [`super::fit()`].
    pub definition: Option<Arc<Definition>>,
    /// Its `hosts`, as far as they can be read, let it be in force on this host.
    pub applies: bool,
    /// It has an `on_error` of its own, if only an empty one: the settings' default is not for it.
    pub explicit_on_error: bool,
    /// Where what may not fit the other batches stands.
    pub places: Places,
    /// Everything that is wrong with it by itself.
    pub diagnostics: Vec<Diagnostic>,
}

/// Where the entries of a `batch.toml` stand that may not fit the other batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The entries of `after`.
    pub after: Vec<Named>,
    /// The entries of its own `on_error`.
    pub on_error: Vec<Named>,
    /// The key `cron`.
    pub cron: Option<Place>,
}

impl Loaded {
    /// A batch whose folder could not be read as one, and why.
    pub fn refused(name: BatchName, diagnostics: Vec<Diagnostic>) -> Self {
        let places = Places::default();
        Self { name, definition: None, applies: true, explicit_on_error: false, places, diagnostics }
    }
}

/// Reads and checks one batch folder. All that is wrong with it is in the result's diagnostics.
pub fn definition(input: &Input<'_>, context: &Context<'_>) -> Loaded {
    let file = format!("{}/batch.toml", input.name);
    let batch = Some(input.name);
    let Some(bytes) = input.toml else {
        return Loaded::refused(input.name.clone(), vec![no_batch_toml(input, context.batches)]);
    };
    let (text, complaint) = syntax::text_of(batch, &file, context.batches, bytes);
    let Some(text) = text else {
        return Loaded::refused(input.name.clone(), complaint.into_iter().collect());
    };
    let mut findings = Findings::new(batch.cloned(), file, text);
    let table = syntax::table(&mut findings);
    let mut reader = Reader::new(&table, &mut findings);
    let written = Written::read(&mut reader, input, context);
    reader.finish("batch.toml", &[]);

    let own_on_error = written.own.on_error.clone();
    let policies = written.own.clone().with_defaults(&context.settings.defaults);
    let mut diagnostics: Vec<Diagnostic> = complaint.into_iter().collect();
    diagnostics.extend(written.script.complaint.clone());
    let is_good = !findings.has_errors() && diagnostics.is_empty();
    diagnostics.extend(findings.into_diagnostics());
    diagnostics.extend(line_ends::remarks(input, &written.script.path, context.batches));
    Loaded {
        name: input.name.clone(),
        applies: policies.apply_on(context.host),
        explicit_on_error: own_on_error.is_some(),
        places: Places {
            after: written.after.clone(),
            on_error: own_on_error.unwrap_or_default(),
            cron: written.cron_place.clone(),
        },
        definition: is_good.then(|| Arc::new(written.meaning(input, policies))),
        diagnostics,
    }
}

/// A `batch.toml` as written: each key that is there and right.
struct Written {
    description: String,
    tags: Vec<String>,
    cron: Vec<String>,
    cron_place: Option<Place>,
    after: Vec<Named>,
    independent: bool,
    use_previous_output: bool,
    enabled: bool,
    script: Script,
    include: Vec<String>,
    args: Vec<String>,
    working_dir: Option<String>,
    own: Policies,
}

impl Written {
    fn read(reader: &mut Reader<'_, '_>, input: &Input<'_>, context: &Context<'_>) -> Self {
        let surroundings =
            Surroundings { zone_known: context.zone_known, pools: &context.settings.settings.limits.pools };
        let own = Policies::read(reader, surroundings);
        let cron_place = reader.key_span("cron").map(|span| reader.findings.place(span));
        let written = Self {
            description: reader.value("description", values::line).map(At::into_inner).unwrap_or_default(),
            tags: reader.list("tags", Shape::List, values::filled_text).map(plain).unwrap_or_default(),
            cron: cron(reader),
            cron_place,
            after: names(reader, "after").unwrap_or_default(),
            independent: flag(reader, "independent").unwrap_or(false),
            use_previous_output: flag(reader, "use_previous_output").unwrap_or(false),
            enabled: flag(reader, "enabled").unwrap_or(true),
            script: script::read(reader, input, context.batches),
            include: includes(reader, input),
            args: reader.list("args", Shape::List, values::text).map(plain).unwrap_or_default(),
            working_dir: unexpanded::path(reader, "working_dir", values::absolute_path),
            own,
        };
        written.check_edges(reader, input.name);
        written.own.clone().with_defaults(&context.settings.defaults).check_retry_delays(reader);
        written
    }

    /// What can be wrong between keys that are right by themselves.
    fn check_edges(&self, reader: &mut Reader<'_, '_>, name: &BatchName) {
        let has_after = !self.after.is_empty();
        if let (Some(span), true) = (reader.key_span("cron"), has_after) {
            let what = "a batch can't have both `cron` and `after`";
            let hint = "keep `after` and move `cron` to the first batch of the chain, or make two batches that `include` the \
                        same script";
            reader.findings.at(span, Diagnosis::hinted(what, hint));
        }
        if let (Some(span), true, true, false) =
            (reader.key_span("use_previous_output"), self.use_previous_output, !self.cron.is_empty(), has_after)
        {
            let what = "`use_previous_output` needs `after`; a schedule provides no previous output";
            let hint = "name the batch that writes the output in `after`, and move `cron` to that batch";
            reader.findings.at(span, Diagnosis::hinted(what, hint));
        }
        let on_error = self.own.on_error.iter().flatten();
        let keys = [
            ("after", "remove the name; a batch can't follow itself"),
            ("on_error", "to run the same batch again after a failure, write `retries = 3`"),
        ];
        for (entries, (key, hint)) in [self.after.iter().collect::<Vec<_>>(), on_error.collect()].into_iter().zip(keys)
        {
            if let Some(own) = entries.into_iter().find(|entry| entry.name == *name) {
                reader
                    .findings
                    .at_place(own.place.clone(), Diagnosis::hinted(format!("`{key}` names the batch itself"), hint));
            }
        }
    }

    /// The definition, given the policies with the defaults applied. Only called when nothing is wrong.
    fn meaning(self, input: &Input<'_>, policies: Policies) -> Definition {
        let retry = policies.retry();
        let overlap_default = if self.cron.is_empty() { Overlap::Queue } else { Overlap::Skip };
        let names = |entries: Vec<Named>| entries.into_iter().map(|entry| entry.name).collect();
        Definition {
            name: input.name.clone(),
            hash: input.files.hash(),
            description: self.description,
            tags: self.tags,
            timezone: policies.timezone,
            after: names(self.after),
            independent: self.independent,
            use_previous_output: self.use_previous_output,
            on_error: names(policies.on_error.unwrap_or_default()),
            enabled: self.enabled,
            hosts: policies.hosts.unwrap_or_default(),
            execution: Execution {
                script: self.script.path,
                include: self.include,
                interpreter: self.script.interpreter,
                args: self.args,
                env: policies.env,
                pass_env: policies.pass_env.unwrap_or_default(),
                env_file: policies.env_file,
                working_dir: self.working_dir,
                user: policies.user,
                umask: policies.umask.unwrap_or(UMASK_DEFAULT),
                no_new_privs: policies.no_new_privs.unwrap_or(false),
                timeout: policies.timeout.flatten(),
                stop_grace: policies.stop_grace.unwrap_or(STOP_GRACE_DEFAULT),
                success_exit_codes: policies.success_exit_codes.unwrap_or_else(|| vec![0]),
                log_bytes_max: policies.log_bytes_max.unwrap_or(LOG_BYTES_MAX_DEFAULT),
                merge_output: policies.merge_output.unwrap_or(false),
            },
            retry,
            overlap: policies.overlap.unwrap_or(overlap_default),
            cron: self.cron,
            catch_up: policies.catch_up.unwrap_or(CatchUp::Last),
            catch_up_within: policies.catch_up_within.unwrap_or(CATCH_UP_WITHIN_DEFAULT),
            jitter: policies.jitter.unwrap_or(Duration::ZERO),
            priority: policies.priority.unwrap_or(0),
            pool: policies.pool.flatten(),
        }
    }
}

fn flag(reader: &mut Reader<'_, '_>, key: &'static str) -> Option<bool> {
    reader.value(key, values::flag).map(At::into_inner)
}

/// The expressions of `cron`, each of which parses.
fn cron(reader: &mut Reader<'_, '_>) -> Vec<String> {
    let expression = |key: &str, value: &DeValue<'_>| {
        let text = values::text(key, value)?;
        match Expression::parse(&text) {
            Ok(_) => Ok(text),
            Err(error) => Err(Wrong::Part(error.span, Diagnosis { what: error.what, hint: error.hint })),
        }
    };
    let Some(list) = reader.list("cron", Shape::OneOrList, expression) else { return Vec::new() };
    let span = list.span();
    let before = reader.findings.text()[span.clone()].trim_matches(['[', ']']).trim();
    if list.get_ref().is_empty() && before.is_empty() {
        let hint = "remove `cron`; a batch without it starts after another batch, through `on_error`, or by hand";
        reader.findings.at(span, Diagnosis::hinted("`cron` is an empty list", hint));
    }
    for entry in list.get_ref() {
        remark_on_days(reader, entry);
    }
    plain(list)
}

/// The days of the month on which the first, second, third and fourth of each weekday fall.
const WEEKS: [&str; 4] = ["1-7", "8-14", "15-21", "22-28"];

/// Remarks on an expression that restricts both day fields: either one matches then, and most people expect both.
fn remark_on_days(reader: &mut Reader<'_, '_>, entry: &At<String>) {
    let words: Vec<&str> = entry.get_ref().split_ascii_whitespace().collect();
    let ([.., month_day, _, weekday], 5..=6) = (words.as_slice(), words.len()) else { return };
    if month_day.starts_with('*') || weekday.starts_with('*') {
        return;
    }
    let what = format!(
        "this runs on days of the month `{}`, and also on days of the week `{}`",
        quoted(month_day),
        quoted(weekday)
    );
    let times = words[..words.len() - 3].join(" ");
    let month = words[words.len() - 2];
    let is_single = weekday.chars().all(|c| c.is_ascii_alphanumeric()) && !weekday.ends_with(['L', 'l']);
    let week = WEEKS.iter().position(|days| *days == *month_day).map(|index| index + 1);
    let hint = match week.filter(|_| is_single) {
        Some(week) => {
            let which = ["first", "second", "third", "fourth"][week - 1];
            let instead = format!("{times} * {month} {weekday}#{week}");
            format!(
                "as in crontab(5), either day field is enough; for the {which} such day of the month, write `{}`",
                quoted(&instead)
            )
        }
        None => {
            "as in crontab(5), either day field is enough; to restrict only one, write `*` in the other; to require \
                 both, check one of them in the script"
                .to_owned()
        }
    };
    reader.findings.remark(entry.span(), Diagnosis::hinted(what, hint));
}

/// The folders that are included. Complains about what can't be.
fn includes(reader: &mut Reader<'_, '_>, input: &Input<'_>) -> Vec<String> {
    let folder = |key: &str, value: &DeValue<'_>| {
        let name = values::path(key, value)?;
        let plain = name.trim_end_matches('/');
        if !plain.starts_with('_') || plain.contains('/') {
            let what = format!("`{}` can't be included", quoted(&name));
            let hint = "name a folder in `batches.d` that begins with `_`, such as `_common`";
            return Err(Wrong::Value(Diagnosis::hinted(what, hint)));
        }
        Ok(plain.to_owned())
    };
    let entries = reader.list("include", Shape::List, folder).map(At::into_inner).unwrap_or_default();
    for entry in &entries {
        if input.missing_includes.contains(entry.get_ref()) {
            let what = format!("there is no folder `{}` in `batches.d`", quoted(entry.get_ref()));
            reader
                .findings
                .at(entry.span(), Diagnosis::hinted(what, "create the folder, or remove its name from `include`"));
        }
    }
    entries.into_iter().map(At::into_inner).collect()
}

/// What to write as the `batch.toml` that is missing.
fn without_toml(input: &Input<'_>, toml: &str) -> String {
    let paths = || input.files.0.keys().map(String::as_str);
    if let Some(other) = paths().find(|path| path.ends_with(".yml") || path.ends_with(".yaml")) {
        return format!("batchd does not read `{}`; write its schedule and options in {toml}", quoted(other));
    }
    let scripts: Vec<&str> = paths().filter(|path| !path.contains(['/', '\'', '"', '\\'])).collect();
    match scripts.as_slice() {
        [only] if *only != SCRIPT_DEFAULT => {
            format!(
                "create it: `echo 'script = \"{}\"' > {toml}`; without a schedule, the batch is started manually",
                quoted(only)
            )
        }
        _ => format!(
            "create it: `touch {toml}`; an empty one makes a batch that is started manually; if the folder is not a batch, \
             rename it to `_{}`",
            input.name
        ),
    }
}

/// A folder that is no batch, with a guess at where its `batch.toml` is or what it is called.
fn no_batch_toml(input: &Input<'_>, batches: &str) -> Diagnostic {
    let name = input.name.as_str();
    let paths = || input.files.0.keys().map(String::as_str);
    let looks_like = |path: &&str| !path.contains('/') && (path.contains("toml") || path.contains("tml"));
    let near = paths().find(|path| path.starts_with("batch.toml.")).or_else(|| {
        let names = paths().filter(looks_like);
        words::nearest("batch.toml", names)
    });
    let at = |path: &str| shell_path(&format!("{batches}/{path}"));
    let nested = paths().find_map(|path| path.strip_suffix("/batch.toml"));
    let hint = match (near, nested) {
        (Some(near), _) => {
            format!("rename the file: `mv -n {} {}`", at(&format!("{name}/{near}")), at(&format!("{name}/batch.toml")))
        }
        (None, Some(nested)) => {
            let last = nested.rsplit('/').next().unwrap_or(nested);
            let better = BatchName::suggestion(last).map_or_else(|| last.to_owned(), |name| name.to_string());
            // The folder around it is not needed any more, if that is all there is in it.
            let is_all = !nested.contains('/') && paths().all(|path| path.starts_with(&format!("{nested}/")));
            let remove = if is_all { format!(" && rmdir {}", at(name)) } else { String::new() };
            format!(
                "a batch is a folder directly in `batches.d`; move it up: `mv -T {} {}{remove}`",
                at(&format!("{name}/{nested}")),
                at(&better)
            )
        }
        (None, None) => without_toml(input, &at(&format!("{name}/batch.toml"))),
    };
    Diagnostic::of_file(Some(input.name.clone()), name, "the folder has no `batch.toml`").with_hint(hint)
}

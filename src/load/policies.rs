//! The keys that can stand in a `batch.toml` and in the settings' `[defaults]`: [`Policies`].

use std::collections::BTreeMap;
use std::time::Duration;

use globset::GlobBuilder;
use toml::de::DeValue;

use super::reader::{At, Reader, Shape, Wrong};
use super::{Diagnosis, Named, unexpanded, values, words};
use crate::model::definition::{CatchUp, Overlap, RetryPolicy, check_variable_name};
use crate::model::text::quoted;
use crate::model::time::format_duration;

/// The most retries of one run: with the longest usual delay, ten minutes, they last a week.
pub const RETRIES_MAX: i64 = 1000;
/// The largest `retry_backoff`: a wait that grows faster is at its `retry_delay_max` at once.
pub const RETRY_BACKOFF_MAX: f64 = 100.0;
/// The longest `jitter`: a week, the longest usual time between two occurrences.
pub const JITTER_MAX: Duration = Duration::from_secs(7 * 86_400);
/// The largest distance of a `priority` from 0: enough levels for anybody, and easy to compare by eye.
const PRIORITY_MAX: i64 = 1000;

const RETRY_DELAY_DEFAULT: Duration = Duration::from_secs(10);
const RETRY_DELAY_MAX_DEFAULT: Duration = Duration::from_secs(600);
const RETRY_BACKOFF_DEFAULT: f64 = 2.0;

const OVERLAPS: &[(&str, Overlap)] =
    &[("skip", Overlap::Skip), ("queue", Overlap::Queue), ("allow", Overlap::Allow), ("replace", Overlap::Replace)];
const CATCH_UPS: &[(&str, CatchUp)] = &[("last", CatchUp::Last), ("none", CatchUp::None), ("all", CatchUp::All)];

/// The keys marked * in the design's table, as written; each none if it is not there. [`super::definition()`] applies the
/// settings' ones to what a batch leaves open: a key of the batch replaces the default whole, `env` name by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    /// `timezone`: an IANA name that the host knows.
    pub timezone: Option<String>,
    /// `on_error`. [`super::fit()`] applies the default, since it must not be applied to targets and what follows them.
    pub on_error: Option<Vec<Named>>,
    /// `hosts`: globs, each valid.
    pub hosts: Option<Vec<String>>,
    /// `env`.
    pub env: BTreeMap<String, String>,
    /// `pass_env`; default none.
    pub pass_env: Option<Vec<String>>,
    /// `env_file`: absolute, or relative to the batch's folder.
    pub env_file: Option<String>,
    /// `user`.
    pub user: Option<String>,
    /// `umask`; default 022.
    pub umask: Option<u32>,
    /// `no_new_privs`; default false.
    pub no_new_privs: Option<bool>,
    /// `timeout`; `Some(None)` is `"none"`, the default.
    pub timeout: Option<Option<Duration>>,
    /// `stop_grace`; default 10 s.
    pub stop_grace: Option<Duration>,
    /// `retries`; default 0.
    pub retries: Option<u32>,
    /// `retry_delay`; default 10 s.
    pub retry_delay: Option<Duration>,
    /// `retry_backoff`; default 2.0.
    pub retry_backoff: Option<f64>,
    /// `retry_delay_max`; default 10 minutes.
    pub retry_delay_max: Option<Duration>,
    /// `retry_on_lost`; default false.
    pub retry_on_lost: Option<bool>,
    /// `success_exit_codes`; default 0.
    pub success_exit_codes: Option<Vec<u8>>,
    /// `overlap`; default `skip` with `cron`, else `queue`.
    pub overlap: Option<Overlap>,
    /// `catch_up`; default `last`.
    pub catch_up: Option<CatchUp>,
    /// `catch_up_within`; default 7 days.
    pub catch_up_within: Option<Duration>,
    /// `jitter`; default 0.
    pub jitter: Option<Duration>,
    /// `priority`; default 0.
    pub priority: Option<i32>,
    /// `pool`; `Some(None)` is `"none"`, the default.
    pub pool: Option<Option<String>>,
    /// `log_bytes_max`, in bytes; default 100 MiB.
    pub log_bytes_max: Option<u64>,
    /// `merge_output`; default false.
    pub merge_output: Option<bool>,
}

/// What the values of some keys are checked against.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'s> {
    /// Whether the host knows a time zone.
    pub(super) zone_known: &'s dyn Fn(&str) -> Result<(), Diagnosis>,
    /// The settings' `[pools]`.
    pub(super) pools: &'s BTreeMap<String, u32>,
}

impl Policies {
    /// Reads all of them from a table.
    pub(super) fn read(reader: &mut Reader<'_, '_>, surroundings: Surroundings<'_>) -> Self {
        let zone = |key: &str, value: &DeValue<'_>| known_zone(key, value, surroundings.zone_known);
        let pool = |key: &str, value: &DeValue<'_>| known_pool(key, value, surroundings.pools);
        let small = |at: At<i64>| u32::try_from(at.into_inner()).ok();
        Self {
            timezone: reader.value("timezone", zone).map(At::into_inner),
            on_error: names(reader, "on_error"),
            hosts: reader.list("hosts", Shape::List, host_glob).map(plain),
            env: env(reader),
            pass_env: reader.list("pass_env", Shape::List, variable_name).map(plain),
            env_file: unexpanded::path(reader, "env_file", values::contained_path),
            user: reader.value("user", values::account).map(At::into_inner),
            umask: reader.value("umask", values::umask).map(At::into_inner),
            no_new_privs: reader.value("no_new_privs", values::flag).map(At::into_inner),
            timeout: reader.value("timeout", values::timeout).map(At::into_inner),
            stop_grace: reader.value("stop_grace", values::duration).map(At::into_inner),
            retries: reader.value("retries", values::whole(0..=RETRIES_MAX)).and_then(small),
            retry_delay: reader.value("retry_delay", values::duration).map(At::into_inner),
            retry_backoff: reader.value("retry_backoff", values::factor(RETRY_BACKOFF_MAX)).map(At::into_inner),
            retry_delay_max: reader.value("retry_delay_max", values::duration).map(At::into_inner),
            retry_on_lost: reader.value("retry_on_lost", values::flag).map(At::into_inner),
            success_exit_codes: success_exit_codes(reader),
            overlap: reader.value("overlap", values::word(OVERLAPS)).map(At::into_inner),
            catch_up: reader.value("catch_up", values::word(CATCH_UPS)).map(At::into_inner),
            catch_up_within: reader.value("catch_up_within", values::duration).map(At::into_inner),
            jitter: reader.value("jitter", values::duration_within(JITTER_MAX)).map(At::into_inner),
            priority: reader
                .value("priority", values::whole(-PRIORITY_MAX..=PRIORITY_MAX))
                .and_then(|at| i32::try_from(at.into_inner()).ok()),
            pool: reader.value("pool", pool).map(At::into_inner),
            log_bytes_max: reader.value("log_bytes_max", values::size).map(At::into_inner),
            merge_output: reader.value("merge_output", values::flag).map(At::into_inner),
        }
    }

    /// These, and the defaults where these say nothing. `on_error` stays as it is.
    pub(super) fn with_defaults(self, defaults: &Self) -> Self {
        let mut env = defaults.env.clone();
        env.extend(self.env);
        Self {
            timezone: self.timezone.or_else(|| defaults.timezone.clone()),
            on_error: self.on_error,
            hosts: self.hosts.or_else(|| defaults.hosts.clone()),
            env,
            pass_env: self.pass_env.or_else(|| defaults.pass_env.clone()),
            env_file: self.env_file.or_else(|| defaults.env_file.clone()),
            user: self.user.or_else(|| defaults.user.clone()),
            umask: self.umask.or(defaults.umask),
            no_new_privs: self.no_new_privs.or(defaults.no_new_privs),
            timeout: self.timeout.or(defaults.timeout),
            stop_grace: self.stop_grace.or(defaults.stop_grace),
            retries: self.retries.or(defaults.retries),
            retry_delay: self.retry_delay.or(defaults.retry_delay),
            retry_backoff: self.retry_backoff.or(defaults.retry_backoff),
            retry_delay_max: self.retry_delay_max.or(defaults.retry_delay_max),
            retry_on_lost: self.retry_on_lost.or(defaults.retry_on_lost),
            success_exit_codes: self.success_exit_codes.or_else(|| defaults.success_exit_codes.clone()),
            overlap: self.overlap.or(defaults.overlap),
            catch_up: self.catch_up.or(defaults.catch_up),
            catch_up_within: self.catch_up_within.or(defaults.catch_up_within),
            jitter: self.jitter.or(defaults.jitter),
            priority: self.priority.or(defaults.priority),
            pool: self.pool.or_else(|| defaults.pool.clone()),
            log_bytes_max: self.log_bytes_max.or(defaults.log_bytes_max),
            merge_output: self.merge_output.or(defaults.merge_output),
        }
    }

    /// Whether, and when, a failed run is tried again.
    pub(super) fn retry(&self) -> RetryPolicy {
        RetryPolicy {
            retries: self.retries.unwrap_or(0),
            delay: self.retry_delay.unwrap_or(RETRY_DELAY_DEFAULT),
            backoff: self.retry_backoff.unwrap_or(RETRY_BACKOFF_DEFAULT),
            delay_max: self.retry_delay_max.unwrap_or(RETRY_DELAY_MAX_DEFAULT),
            on_lost: self.retry_on_lost.unwrap_or(false),
        }
    }

    /// Complains if the first wait is longer than the longest: it would be cut without a word.
    pub(super) fn check_retry_delays(&self, reader: &mut Reader<'_, '_>) {
        let RetryPolicy { delay, delay_max, .. } = self.retry();
        if delay <= delay_max {
            return;
        }
        let Some(span) = reader.key_span("retry_delay").or_else(|| reader.key_span("retry_delay_max")) else { return };
        let (delay, delay_max) = (format_duration(delay), format_duration(delay_max));
        let written = if self.retry_delay_max.is_some() { "" } else { ", the default" };
        let what = format!("`retry_delay` ({delay}) is longer than `retry_delay_max` ({delay_max}{written})");
        reader.findings.at(
            span,
            Diagnosis::hinted(what, format!("write `retry_delay_max = \"{delay}\"`, or shorten `retry_delay`")),
        );
    }

    /// Whether a batch with these is in force on the host: one of the globs matches its name, or the part of it before the
    /// first dot, in any case of letters; or there are none.
    pub(super) fn apply_on(&self, host: &str) -> bool {
        let globs = self.hosts.as_deref().unwrap_or_default();
        let short = host.split('.').next().unwrap_or(host);
        let matches = |glob: &String| matcher(glob).is_ok_and(|glob| glob.is_match(host) || glob.is_match(short));
        globs.is_empty() || globs.iter().any(matches)
    }
}

/// The values of a list, without their places.
pub(super) fn plain<T>(list: At<Vec<At<T>>>) -> Vec<T> {
    list.into_inner().into_iter().map(At::into_inner).collect()
}

/// The batches that `key` names, each once.
pub(super) fn names(reader: &mut Reader<'_, '_>, key: &'static str) -> Option<Vec<Named>> {
    let mut names: Vec<Named> = Vec::new();
    for entry in reader.list(key, Shape::OneOrList, values::batch)?.into_inner() {
        let span = entry.span();
        let named = Named { name: entry.into_inner(), place: reader.findings.place(span.clone()) };
        if names.iter().any(|other| other.name == named.name) {
            let what = format!("`{key}` names `{}` twice", named.name);
            reader.findings.at(span, Diagnosis::hinted(what, "remove one of them"));
        } else {
            names.push(named);
        }
    }
    Some(names)
}

fn matcher(glob: &str) -> Result<globset::GlobMatcher, globset::Error> {
    GlobBuilder::new(glob).case_insensitive(true).build().map(|glob| glob.compile_matcher())
}

fn host_glob(key: &str, value: &DeValue<'_>) -> Result<String, Wrong> {
    let glob = values::filled_text(key, value)?;
    if let Err(error) = matcher(&glob) {
        let what = format!("`{}` is not a valid pattern: {}", quoted(&glob), quoted(&error.kind().to_string()));
        return Err(Wrong::Value(Diagnosis::hinted(
            what,
            "`*` matches any text, `?` any character, `[ab]` one of these characters, `{db,web}` one of these words",
        )));
    }
    Ok(glob)
}

fn known_zone(key: &str, value: &DeValue<'_>, known: &dyn Fn(&str) -> Result<(), Diagnosis>) -> Result<String, Wrong> {
    let zone = values::filled_text(key, value)?;
    known(&zone).map_err(Wrong::Value)?;
    Ok(zone)
}

fn known_pool(key: &str, value: &DeValue<'_>, pools: &BTreeMap<String, u32>) -> Result<Option<String>, Wrong> {
    let pool = values::filled_text(key, value)?;
    if pool == values::NONE {
        return Ok(None);
    }
    if pools.contains_key(&pool) {
        return Ok(Some(pool));
    }
    let hint = match words::nearest(&pool, pools.keys().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add a line `{} = 4` below `[pools]` in `batchd.toml`", quoted(&pool)),
    };
    Err(Wrong::Value(Diagnosis::hinted(format!("unknown pool `{}`", quoted(&pool)), hint)))
}

fn env(reader: &mut Reader<'_, '_>) -> BTreeMap<String, String> {
    let entries = reader.table("env", check_variable, values::text).unwrap_or_default();
    for (name, value) in &entries {
        unexpanded::variable(reader.findings, name, value.get_ref(), value.span());
    }
    entries.into_iter().map(|(name, value)| (name, value.into_inner())).collect()
}

fn variable_name(key: &str, value: &DeValue<'_>) -> Result<String, Wrong> {
    let name = values::filled_text(key, value)?;
    check_variable(&name).map_err(Wrong::Value)?;
    Ok(name)
}

fn check_variable(name: &str) -> Result<(), Diagnosis> {
    check_variable_name(name).map_err(|error| Diagnosis::hinted(error.to_string(), error.hint()))
}

fn success_exit_codes(reader: &mut Reader<'_, '_>) -> Option<Vec<u8>> {
    let key = "success_exit_codes";
    let list = reader.list(key, Shape::List, values::whole(0..=255))?;
    if list.get_ref().is_empty() {
        let hint = "remove the key for the default, `[0]`";
        reader.findings.at(list.span(), Diagnosis::hinted(format!("`{key}` is empty, so no run could succeed"), hint));
        return None;
    }
    Some(plain(list).into_iter().filter_map(|code| u8::try_from(code).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_whole_and_short_names() {
        let check = |globs: &[&str], host: &str, expected: bool| {
            let hosts = Some(globs.iter().map(|glob| (*glob).to_owned()).collect());
            assert_eq!(Policies { hosts, ..Policies::default() }.apply_on(host), expected, "{globs:?} {host}");
        };
        check(&[], "web1", true);
        check(&["web*"], "web1", true);
        check(&["WEB?"], "web1.example.org", true);
        check(&["*.example.org"], "web1.example.org", true);
        check(&["db*", "{a,b}1"], "b1", true);
        check(&["web"], "web1", false);
    }
}

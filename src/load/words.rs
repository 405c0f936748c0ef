//! What somebody may have meant: the nearest name, and the words that other schedulers use.

use crate::model::text::{QUOTED_CHARACTERS_MAX, quoted};

/// The one of `known` that `word` is probably a slip of, if there is one: at most a third of its letters are wrong.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // No name is that long, and the distance takes the product of both lengths.
    if word.len() > QUOTED_CHARACTERS_MAX {
        return None;
    }
    let plain = plain(word);
    let distance = |candidate: &str| strsim::damerau_levenshtein(&plain, candidate);
    let (best, distance) = known.into_iter().map(|known| (known, distance(known))).min_by_key(|(_, d)| *d)?;
    let allowed = (plain.chars().count().max(best.chars().count()) / 3).max(1);
    (distance <= allowed && distance < best.chars().count()).then_some(best)
}

/// What to write instead of the unknown key `key` with the value `raw`, given the keys that are known where it stands;
/// `is_table` if its value is one.
pub(super) fn unknown_key_hint(key: &str, raw: &str, known: &[&str], is_table: bool) -> String {
    let plain = plain(key);
    if known.contains(&plain.as_str()) {
        return format!("write `{plain}`");
    }
    // The words of other schedulers come before likeness: `needs` is not a slip of `tags`.
    let foreign = FOREIGN.iter().find(|(words, key, _)| words.contains(&plain.as_str()) && known.contains(key));
    if let Some((_, key, how)) = foreign {
        return format!("batchd calls it `{key}`: {}", with_value(how, key, raw));
    }
    if let Some((_, hint)) = NO_KEY.iter().find(|(words, _)| !is_table && words.contains(&plain.as_str())) {
        return (*hint).to_owned();
    }
    if plain == "defaults" {
        return "move defaults for all batches to `batchd.toml`; in a batch, write the keys at the top of the file"
            .to_owned();
    }
    if SETTINGS_KEYS.contains(&plain.as_str()) {
        return "this is a setting of the daemon; move it to `batchd.toml`, above `[defaults]`".to_owned();
    }
    match nearest(&plain, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if is_table => format!("remove `[{}]`, and write its keys at the top of the file", quoted(key)),
        None => {
            let mut known = known.to_vec();
            known.sort_unstable();
            format!("the known keys are {}", known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "))
        }
    }
}

/// The example `how` with the value that is there, if that is of the same kind: whoever pastes it changes nothing else.
fn with_value(how: &str, key: &str, raw: &str) -> String {
    let begins = format!("`{key} = ");
    let Some(example) = how.strip_prefix(&begins) else { return how.to_owned() };
    let kind = |text: &str| match text.chars().next() {
        Some('"' | '[') if ["cron", "after"].contains(&key) => Some('['),
        Some(c) if c.is_ascii_digit() => Some('0'),
        first => first.filter(|c| ['"', '[', '{'].contains(c)),
    };
    let fits = raw.len() <= QUOTED_CHARACTERS_MAX && !raw.contains(['\n', '`']);
    if !fits || kind(raw).is_none() || kind(raw) != kind(example) {
        return how.to_owned();
    }
    let rest = example.split_once('`').map_or("", |(_, rest)| rest);
    format!("{begins}{raw}`{rest}")
}

/// A key as batchd would spell it: `Retry-Delay` and `retryDelay` are `retry_delay`.
fn plain(key: &str) -> String {
    let mut plain = String::new();
    let mut before_is_lower = false;
    for c in key.chars() {
        if c.is_uppercase() && before_is_lower {
            plain.push('_');
        }
        before_is_lower = c.is_lowercase();
        plain.extend(if c == '-' || c == ' ' { '_' } else { c }.to_lowercase());
    }
    plain
}

/// What cron, systemd, Airflow, Dagu, Kubernetes, GitLab CI and Slurm call it; batchd's key; how that is written.
const FOREIGN: &[(&[&str], &str, &str)] = &[
    (
        &[
            "schedule",
            "schedules",
            "crontab",
            "cron_expression",
            "cron_schedule",
            "expression",
            "on_calendar",
            "when",
            "at",
        ],
        "cron",
        "`cron = \"30 2 * * *\"`",
    ),
    (&["interval", "every", "on_unit_active_sec", "period"], "cron", "every 5 minutes is `cron = \"*/5 * * * *\"`"),
    (
        &["depends", "depends_on", "dependencies", "dependency", "deps", "needs", "requires", "wants", "upstream"],
        "after",
        "`after = [\"load\"]`",
    ),
    (
        &["upstreams", "parent", "parents", "previous", "predecessors", "runs_after", "triggered_by"],
        "after",
        "`after = [\"load\"]`",
    ),
    (
        &[
            "command",
            "commands",
            "cmd",
            "run",
            "exec",
            "exec_start",
            "entrypoint",
            "steps",
            "executable",
            "program",
            "file",
        ],
        "script",
        "the name of a file next to `batch.toml`; the default is `script.sh`",
    ),
    (&["shell"], "interpreter", "`interpreter = [\"bash\", \"-eu\"]`; the default is the script's `#!` line"),
    (&["arguments", "parameters", "params", "argv"], "args", "`args = [\"--full\"]`"),
    (&["environment", "env_vars", "envs", "variables", "vars", "environ"], "env", "`env = { NAME = \"value\" }`"),
    (
        &["envfile", "environment_file", "dotenv", "env_files", "secrets"],
        "env_file",
        "`env_file = \"/etc/batchd/report.env\"`",
    ),
    (&["tz", "time_zone", "zone", "cron_tz", "location"], "timezone", "`timezone = \"Europe/Berlin\"`"),
    (
        &["retry", "max_retries", "attempts", "retry_count", "max_attempts", "retry_limit", "backoff_limit", "restart"],
        "retries",
        "`retries = 3`",
    ),
    (&["retry_interval", "restart_sec", "retry_wait", "retry_interval_sec"], "retry_delay", "`retry_delay = \"10s\"`"),
    (&["backoff", "retry_exponential_backoff", "backoff_factor"], "retry_backoff", "`retry_backoff = 2.0`"),
    (&["max_retry_delay", "retry_max_delay", "max_backoff"], "retry_delay_max", "`retry_delay_max = \"10m\"`"),
    (
        &[
            "on_failure",
            "on_fail",
            "onerror",
            "onfailure",
            "failure",
            "on_failure_callback",
            "notify",
            "mail",
            "mailto",
            "handler_on",
        ],
        "on_error",
        "the batches to start when this batch fails, `on_error = [\"alert\"]`",
    ),
    (
        &["concurrency", "concurrency_policy", "max_active_runs", "allow_concurrent", "concurrent", "singleton"],
        "overlap",
        "`skip`, `queue`, `allow` or `replace`",
    ),
    (
        &["catchup", "misfire", "persistent", "misfire_policy", "coalesce", "backfill"],
        "catch_up",
        "`last`, `all` or `none`",
    ),
    (
        &["starting_deadline", "starting_deadline_seconds", "misfire_grace_time", "catchup_window"],
        "catch_up_within",
        "`catch_up_within = \"7d\"`",
    ),
    (
        &[
            "time_limit",
            "max_runtime",
            "timeout_sec",
            "timeout_seconds",
            "deadline",
            "execution_timeout",
            "max_duration",
            "runtime_max_sec",
            "max_time",
        ],
        "timeout",
        "`timeout = \"2h\"`",
    ),
    (
        &["kill_timeout", "grace", "grace_period", "timeout_stop_sec", "kill_after", "max_clean_up_time_sec"],
        "stop_grace",
        "`stop_grace = \"10s\"`",
    ),
    (
        &["disabled", "suspend", "suspended", "paused", "active", "is_paused"],
        "enabled",
        "`enabled = false` turns the batch off",
    ),
    (
        &["cwd", "workdir", "dir", "directory", "working_directory", "chdir", "work_dir"],
        "working_dir",
        "`working_dir = \"/srv/data\"`",
    ),
    (&["run_as", "owner", "username", "run_as_user", "runas", "uid"], "user", "`user = \"backup\"`"),
    (&["host", "hostname", "nodes", "node", "machines", "nodelist"], "hosts", "`hosts = [\"db*\"]`"),
    (&["title", "summary", "comment", "desc", "info"], "description", "`description = \"...\"`"),
    (&["labels", "tag", "label", "keywords", "group"], "tags", "`tags = [\"nightly\"]`"),
    (
        &["queue", "resource_group", "limit", "semaphore", "partition"],
        "pool",
        "the name of a limit in the settings' `[pools]`",
    ),
    (&["nice", "weight", "priority_weight"], "priority", "`priority = 10`; higher goes first"),
    (
        &["always", "ignore_errors", "run_always", "trigger_rule", "allow_failure", "continue_on", "when_failed"],
        "independent",
        "`independent = true` runs the batch even if an upstream did not succeed",
    ),
    (
        &["input", "stdin", "pipe", "use_output", "previous_output"],
        "use_previous_output",
        "`use_previous_output = true`",
    ),
    (
        &["log_size", "max_log_size", "log_size_max", "max_log_bytes", "log_limit"],
        "log_bytes_max",
        "`log_bytes_max = \"100MiB\"`",
    ),
    (&["random_delay", "randomized_delay_sec", "splay", "random_delay_sec"], "jitter", "`jitter = \"5m\"`"),
    (
        &["exit_codes", "success_exit_status", "success_codes", "ok_codes"],
        "success_exit_codes",
        "`success_exit_codes = [0, 3]`",
    ),
    (&["includes", "common", "shared", "libs", "files"], "include", "`include = [\"_common\"]`"),
    (
        &["max_concurrent", "max_parallel", "parallelism", "max_jobs", "workers", "concurrency", "max_runs"],
        "max_running",
        "`max_running = 100`",
    ),
    (&["batches_dir", "definitions", "jobs", "dags"], "batches", "the folder of the batches"),
    (&["runs_dir", "logs", "log_dir", "log"], "runs", "the folder with one folder per run"),
    (&["state_dir", "data", "data_dir", "db"], "state", "the daemon's own folder"),
    (&["default"], "defaults", "`[defaults]`"),
    (&["pool"], "pools", "`[pools]`, one line per pool: `name = slots`"),
];

/// The keys at the top of the settings.
pub(super) const SETTINGS_KEYS: [&str; 10] = [
    "batches",
    "runs",
    "state",
    "max_running",
    "trusted_owners",
    "socket_group",
    "runs_mode",
    "log_output",
    "pools",
    "defaults",
];

/// Words for what is no key at all.
const NO_KEY: &[(&[&str], &str)] = &[
    (&["name", "id", "job", "job_name", "batch"], "the folder's name is the batch's name; remove this line"),
    (
        &["on_success", "then", "before", "downstream", "downstreams", "next", "children", "triggers", "followed_by"],
        "name this batch in the `after` of the batch that follows",
    ),
    (&["version", "schema", "api_version", "kind"], "definitions have no version; remove this line"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        let check =
            |word: &str, expected: Option<&str>| assert_eq!(nearest(word, ["load", "report", "x"]), expected, "{word}");
        check("lod", Some("load"));
        check("Report", Some("report"));
        check("reprot", Some("report"));
        check("transform", None);
        check("y", None);
    }

    #[test]
    fn hints_for_unknown_keys() {
        let known = ["cron", "after", "retry_delay", "retries", "tags"];
        let check = |key: &str, expected: &str| {
            let hint = unknown_key_hint(key, "true", &known, false);
            assert!(hint.starts_with(expected), "{key}: {hint}");
        };
        check("retryDelay", "write `retry_delay`");
        check("RETRIES", "write `retries`");
        check("OnCalendar", "batchd calls it `cron`");
        check("needs", "batchd calls it `after`");
        check("retrys", "did you mean `retries`?");
        check("name", "the folder's name");
        check("max_running", "this is a setting");
        check("zzz", "the known keys are `after`, `cron`");
    }

    #[test]
    fn hints_keep_the_value() {
        let check = |key: &str, raw: &str, expected: &str| {
            let hint = unknown_key_hint(key, raw, &["cron", "after", "retries", "enabled", "timeout"], false);
            assert!(hint.ends_with(expected), "{key} = {raw}: {hint}");
        };
        check("schedule", "\"0 2 * * *\"", "`cron = \"0 2 * * *\"`");
        check("depends_on", "\"at\"", "`after = \"at\"`");
        check("depends_on", "[\"a\", \"b\"]", "`after = [\"a\", \"b\"]`");
        check("max_attempts", "5", "`retries = 5`");
        check("time_limit", "60", "`timeout = \"2h\"`");
        check("disabled", "true", "`enabled = false` turns the batch off");
        check("schedule", "[\n\"a\"]", "`cron = \"30 2 * * *\"`");
    }

    /// A foreign word that is a key of ours would hide the key.
    #[test]
    fn foreign_words_are_spelt_plainly_and_stand_once_for_a_key() {
        for (words, key, _) in FOREIGN {
            for word in *words {
                assert_eq!(plain(word), *word);
                let again = FOREIGN.iter().filter(|(words, other, _)| other == key && words.contains(word)).count();
                assert_eq!(again, 1, "{word} for {key}");
            }
        }
    }
}

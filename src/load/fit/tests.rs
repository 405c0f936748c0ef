//! Reloads in a row: what is in force after each, and what is said.

use super::*;
use crate::load::{Context, Input, definition, settings};
use crate::model::files::{FileContent, Files};
use crate::model::zone::Zone;

/// A host's batches as a daemon sees them over several reloads.
struct Host {
    previous: BTreeMap<BatchName, Arc<Definition>>,
    settings: SettingsFile,
}

/// What a reload came to, in words: `a b~ c!` are a fresh, a stale and a held batch; and what was said, a line each.
struct Outcome {
    in_force: String,
    said: String,
}

impl Host {
    fn new(settings_text: &str) -> Self {
        let (settings, diagnostics) = settings("batchd.toml", settings_text.as_bytes(), &|_| Ok(()));
        assert_eq!(diagnostics, []);
        Self { previous: BTreeMap::new(), settings }
    }

    /// Reloads with these batches on disk, each a name and the text of its `batch.toml`.
    fn reload(&mut self, batches: &[(&str, &str)]) -> Outcome {
        self.reload_with(batches, &|_| Ok((None, false)))
    }

    fn reload_with(&mut self, batches: &[(&str, &str)], schedules_of: &SchedulesOf<'_>) -> Outcome {
        let candidates: Vec<Arc<Loaded>> = batches.iter().map(|(name, toml)| Arc::new(self.load(name, toml))).collect();
        let fitted = fit(&candidates, &self.previous, &self.settings, schedules_of);
        let word = |(name, node): (&BatchName, &crate::model::graph::Node)| {
            assert_eq!(node.entry.held, fitted.held.contains(name));
            let mark = if fitted.held.contains(name) { "!" } else { "" };
            let stale = if fitted.stale.contains(name) { "~" } else { "" };
            format!("{name}{stale}{mark}")
        };
        let in_force: Vec<String> = fitted.graph.iter().map(word).collect();
        let said = fitted.diagnostics.iter().map(|diagnostic| {
            let line = diagnostic.place.as_ref().map_or(String::new(), |place| format!(":{}", place.line));
            format!("{}{line}: {}\n", diagnostic.file, diagnostic.what)
        });
        let said = said.collect();
        self.previous = fitted.graph.iter().map(|(name, node)| (name.clone(), Arc::clone(node.definition()))).collect();
        Outcome { in_force: in_force.join(" "), said }
    }

    fn load(&self, name: &str, toml: &str) -> Loaded {
        let content = |text: &str| FileContent { bytes: text.as_bytes().to_vec(), mode: 0o644 };
        let files = [("batch.toml", content(toml)), ("script.sh", content("true\n"))];
        let files = Files(files.into_iter().map(|(path, file)| (path.to_owned(), file)).collect());
        let name = BatchName::new(name).unwrap();
        let input = Input { name: &name, toml: Some(toml.as_bytes()), files: &files, zip: None, missing_includes: &[] };
        definition(
            &input,
            &Context { settings: &self.settings, host: "host", batches: "batches.d", zone_known: &|_| Ok(()) },
        )
    }

    fn on_error_of(&self, name: &str) -> Vec<&str> {
        self.previous[&BatchName::new(name).unwrap()].on_error.iter().map(BatchName::as_str).collect()
    }
}

/// Two reloads after each other, the first without fault: what the second one comes to, and each part of what is said.
fn check(before: &[(&str, &str)], now: &[(&str, &str)], in_force: &str, said: &[&str]) {
    let mut host = Host::new("");
    let first = host.reload(before);
    assert_eq!(first.said, "", "{before:?}");
    let second = host.reload(now);
    assert_eq!(second.in_force, in_force, "{now:?}\n{}", second.said);
    for part in said {
        assert!(second.said.contains(part), "{part:?} is not in\n{}", second.said);
    }
    assert_eq!(second.said.lines().count(), said.len(), "{}", second.said);
}

#[test]
fn what_fits_is_in_force() {
    check(&[], &[("a", ""), ("b", "after = 'a'")], "a b", &[]);
    check(&[("a", "")], &[("a", "retries = 1")], "a", &[]);
    check(&[("a", "")], &[], "", &[]);
}

#[test]
fn an_own_error_falls_back() {
    let bad = "unknown key `x`";
    check(&[("a", ""), ("b", "after = 'a'")], &[("a", "x = 1"), ("b", "after = 'a'")], "a~ b", &[bad]);
    check(&[("a", "")], &[("a", ""), ("new", "x = 1")], "a", &[bad]);
    let unusable = "new/batch.toml:1: unknown batch `bad` in `after`";
    check(&[], &[("bad", "x = 1"), ("new", "after = 'bad'"), ("z", "")], "z", &[bad, unusable]);
}

/// The batch that nobody edited goes on with what it has, and nothing is said of it.
#[test]
fn a_cycle_is_refused_where_it_was_edited() {
    let before = [("a", ""), ("b", "after = 'a'"), ("c", "after = 'b'"), ("d", "")];
    let cycle = "a/batch.toml:1: these batches form a cycle: `a` → `b` → `c` → `a`";
    check(&before, &[("a", "after = 'c'"), before[1], before[2], before[3]], "a~ b c d", &[cycle]);
    // The place is the edge that is new.
    check(
        &before,
        &[before[0], before[1], ("c", "after = 'b'\non_error = 'a'"), before[3]],
        "a b c~ d",
        &["c/batch.toml:2: these batches form a cycle: `a` → `b` → `c` → `a`"],
    );
}

#[test]
fn a_cycle_of_new_batches_leaves_all_of_them_out() {
    let new = [("a", "after = 'b'"), ("b", "after = 'a'"), ("c", "after = 'c2'"), ("c2", "on_error = 'd'"), ("d", "")];
    check(
        &[],
        &new,
        "c c2 d",
        &["a/batch.toml:1: these batches form a cycle", "b/batch.toml:1: these batches form a cycle"],
    );
}

#[test]
fn two_cycles_are_both_told() {
    let new = [("a", "after = 'b'"), ("b", "after = 'a'"), ("x", "after = 'y'"), ("y", "after = 'x'")];
    let both = ["a/batch.toml:1", "b/batch.toml:1", "x/batch.toml:1", "y/batch.toml:1"];
    check(&[], &new, "", &both);
}

#[test]
fn a_removed_upstream_holds_what_follows() {
    let before = [("a", ""), ("b", "after = 'a'"), ("c", "after = 'b'")];
    check(&before, &before[1..], "b! c", &["b/batch.toml:1: unknown batch `a` in `after`"]);
    // Its last good definition names the same batch, so another edit of it changes nothing.
    let edited = [("b", "after = 'a'\nretries = 1"), ("c", "after = 'b'")];
    check(&before, &edited, "b! c", &["b/batch.toml:1: unknown batch `a`"]);
    // One that falls back to what does not fit any more either says both.
    let renamed = [("b", "after = 'zzz'"), ("c", "after = 'b'")];
    check(
        &before,
        &renamed,
        "b! c",
        &[
            "unknown batch `zzz`",
            "the batch is held, since its last good definition has an error too: unknown batch `a`",
        ],
    );
}

#[test]
fn a_held_batch_comes_back() {
    let mut host = Host::new("");
    let all = [("a", ""), ("b", "after = 'a'")];
    assert_eq!(host.reload(&all).in_force, "a b");
    assert_eq!(host.reload(&all[1..]).in_force, "b!");
    assert_eq!(host.reload(&all[1..]).in_force, "b!");
    assert_eq!(host.reload(&all).in_force, "a b");
}

#[test]
fn cascades() {
    // A new batch that is bad takes with it what is new and follows it, and nothing else.
    let new = [("a", "x = 1"), ("b", "after = 'a'"), ("c", "after = 'b'"), ("d", "")];
    check(&[("d", "")], &new, "d", &["unknown key", "unknown batch `a`", "unknown batch `b`"]);
    // What has a last good definition ends the cascade.
    let old = [("b", ""), ("c", "after = 'b'")];
    check(&old, &new, "b~ c d", &["unknown key", "b/batch.toml:1: unknown batch `a`"]);
}

/// A batch becomes what `on_error` of an untouched one may not name: its own edit is refused, the other goes on.
#[test]
fn a_target_that_is_edited_to_follow_something() {
    let before = [("a", "on_error = 'alert'"), ("alert", ""), ("b", "")];
    let now = [before[0], ("alert", "after = 'b'"), before[2]];
    check(
        &before,
        &now,
        "a alert~ b",
        &["alert/batch.toml:1: `a` starts this batch with `on_error`, so it can't have `after`"],
    );
    // Where the edge itself is new, it is the edge that is refused.
    let other = [("a", "on_error = 'b'"), ("alert", ""), ("b", "after = 'alert'")];
    check(&[("a", ""), other[1], other[2]], &other, "a~ alert b", &["a/batch.toml:1: `on_error` can't start `b`"]);
}

#[test]
fn a_join_that_another_edit_mixes() {
    let before = [("join", "after = ['x', 'y']"), ("x", ""), ("y", ""), ("z", "")];
    let now = [before[0], before[1], before[2], ("z", "on_error = 'x'")];
    check(&before, &now, "join x y z~", &["z/batch.toml: with this edit, `after` in `join` joins `x`"]);
    let joined = [("join", "after = ['x', 'y']"), ("x", ""), ("y", ""), ("z", "on_error = 'x'")];
    check(
        &[("join", ""), joined[1], joined[2], joined[3]],
        &joined,
        "join~ x y z",
        &["join/batch.toml:1: `after` joins"],
    );
}

#[test]
fn hosts_leave_out() {
    let before = [("a", ""), ("b", "after = 'a'")];
    let now = [("a", "hosts = ['other']"), before[1]];
    check(&before, &now, "b!", &["b/batch.toml:1: unknown batch `a`"]);
    // A batch of another host does not fall back, whatever is wrong with it.
    check(&[("a", "")], &[("a", "hosts = ['other']\nx = 1")], "", &["unknown key"]);
}

#[test]
fn the_default_on_error_spares_targets_and_what_follows_them() {
    let mut host = Host::new("[defaults]\non_error = 'alert'");
    let batches = [
        ("alert", ""),
        ("escalate", "after = 'alert'"),
        ("page", ""),
        ("quiet", "on_error = []"),
        ("repair", "on_error = 'page'"),
        ("work", ""),
        ("own", "on_error = 'repair'"),
        ("later", "after = 'work'"),
    ];
    let outcome = host.reload(&batches);
    assert_eq!(outcome.said, "");
    for name in ["alert", "escalate", "page", "quiet"] {
        assert_eq!(host.on_error_of(name), [""; 0], "{name}");
    }
    assert_eq!(host.on_error_of("repair"), ["page"]);
    assert_eq!(host.on_error_of("own"), ["repair"]);
    assert_eq!(host.on_error_of("work"), ["alert"]);
    assert_eq!(host.on_error_of("later"), ["alert"]);
    // The same files again: nothing is stale for having taken the default.
    assert_eq!(host.reload(&batches).in_force, outcome.in_force);
}

#[test]
fn a_default_on_error_that_is_not_there_is_told_once_and_stops_nobody() {
    let mut host = Host::new("[defaults]\non_error = 'alert'");
    let outcome = host.reload(&[("a", ""), ("b", ""), ("c", "after = 'a'")]);
    assert_eq!(outcome.in_force, "a b c");
    assert_eq!(outcome.said, "batchd.toml:2: unknown batch `alert` in `on_error`\n");
    let outcome = host.reload(&[("a", ""), ("alert", "after = 'a'")]);
    assert_eq!(outcome.in_force, "a alert");
    assert!(
        outcome.said.starts_with("batchd.toml:2: `on_error` can't start `alert`, because that batch has `after`"),
        "{}",
        outcome.said
    );
}

#[test]
fn a_schedule_that_cannot_be_used_falls_back() {
    let mut host = Host::new("");
    host.reload(&[("a", ""), ("b", "after = 'a'")]);
    let gone = || Err(Diagnosis::new("the zone is gone"));
    let batches = [("a", "retries = 1"), ("b", "after = 'a'")];
    let outcome = host.reload_with(&batches, &|new| if new.retry.retries == 1 { gone() } else { Ok((None, false)) });
    assert_eq!((outcome.in_force.as_str(), outcome.said.as_str()), ("a~ b", "a/batch.toml: the zone is gone\n"));
    assert_eq!(host.reload(&batches).in_force, "a b");
    // Neither can be used: it stays known, so that what follows it stays too.
    let outcome = host.reload_with(&batches, &|any| if any.name.as_str() == "a" { gone() } else { Ok((None, false)) });
    assert_eq!(outcome.in_force, "a! b");
}

/// Whatever the edges, fitting ends, and nobody who was good and is still there is lost.
#[test]
fn random_edges_always_come_to_an_end() {
    let names = ["a", "b", "c", "d", "e"];
    let mut seed = 42_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut host = Host::new("[defaults]\non_error = 'e'");
    for _ in 0..300 {
        let mut texts = Vec::new();
        for name in names {
            if random(10) == 0 {
                continue;
            }
            let mut list = |key: &str| {
                let chosen: Vec<String> = names.iter().filter(|_| random(5) == 0).map(|n| format!("'{n}'")).collect();
                if chosen.is_empty() { String::new() } else { format!("{key} = [{}]\n", chosen.join(", ")) }
            };
            texts.push((name, list("after") + &list("on_error")));
        }
        let batches: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let known: Vec<BatchName> = host.previous.keys().cloned().collect();
        host.reload(&batches);
        for name in known.iter().filter(|name| batches.iter().any(|(there, _)| *there == name.as_str())) {
            assert!(host.previous.contains_key(name), "{name} was lost by {batches:?}");
        }
    }
}

/// What falls due while a batch is held is recorded as not run: that takes its schedule.
#[test]
fn a_held_batch_keeps_its_schedule() {
    let schedules_of = |definition: &Definition| {
        let daily = (!definition.cron.is_empty()).then(|| Arc::new(Schedule::new(Vec::new(), Zone::utc())));
        Ok((daily, false))
    };
    let report = ("report", "cron = '@daily'\non_error = 'alarm'");
    let mut host = Host::new("");
    assert_eq!(host.reload_with(&[("alarm", ""), report], &schedules_of).in_force, "alarm report");
    let candidates = [Arc::new(host.load(report.0, report.1))];
    let fitted = fit(&candidates, &host.previous, &host.settings, &schedules_of);
    let node = fitted.graph.get(&BatchName::new("report").unwrap()).unwrap();
    assert!(node.entry.held && node.entry.schedule.is_some(), "{:?}", node.entry);
}

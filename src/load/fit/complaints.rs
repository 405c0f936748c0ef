//! What is said of batches that do not fit, and where.

use super::{Fitting, Member, Stage};
use crate::load::{Diagnosis, Named, words};
use crate::model::diagnostic::{Diagnostic, Place, Severity};
use crate::model::graph::{EdgeKey, Misfit};
use crate::model::id::BatchName;

/// The most names that a hint lists.
const NAMES_LISTED_MAX: usize = 8;

/// The `batch.toml` of a batch, as diagnostics name it.
pub(super) fn file_of(batch: &BatchName) -> String {
    format!("{batch}/batch.toml")
}

impl Fitting<'_> {
    /// The complaint about a batch's part in a misfit; none if it was made when the same edges did not fit before.
    pub(super) fn complaint(&self, misfit: &Misfit, name: &BatchName) -> Option<Diagnostic> {
        let member = self.members.get(name)?;
        let Diagnosis { what, hint } = self.diagnosis(misfit, name);
        let file = file_of(name);
        let (batch, severity) = (Some(name.clone()), Severity::Error);
        match member.stage {
            Stage::Fresh => Some(Diagnostic { batch, file, place: place(misfit, member), severity, what, hint }),
            Stage::Stale if member.has_same_edges() => None,
            Stage::Stale | Stage::Held | Stage::Out => {
                let what = format!("the batch is held, since its last good definition has an error too: {what}");
                Some(Diagnostic { batch, file, place: None, severity, what, hint })
            }
        }
    }

    /// Complaints about entries of the default `on_error` that can't be targets; no batch takes them.
    pub(super) fn complain_about_defaults(&mut self) {
        let usable: Vec<&Named> = self.default_targets().collect();
        for named in self.settings.defaults.on_error.iter().flatten().filter(|named| !usable.contains(named)) {
            let definition = self.members.get(&named.name).and_then(Member::definition);
            let Diagnosis { what, hint } = match definition {
                None => self.unknown(None, &named.name, EdgeKey::OnError),
                Some(definition) => {
                    started_target(&named.name, if definition.cron.is_empty() { "after" } else { "cron" })
                }
            };
            let (file, place) = (self.settings.file.clone(), Some(named.place.clone()));
            self.diagnostics.insert(Diagnostic { batch: None, file, place, severity: Severity::Error, what, hint });
        }
    }

    fn diagnosis(&self, misfit: &Misfit, name: &BatchName) -> Diagnosis {
        match misfit {
            Misfit::UnknownName { batch, key, name } => self.unknown(Some(batch), name, *key),
            Misfit::Cycle { batches } => {
                let around = batches.iter().chain(batches.first());
                let path: Vec<String> = around.map(|name| format!("`{name}`")).collect();
                let hint = "remove one of these names from its `after` or `on_error`";
                Diagnosis::hinted(format!("these batches form a cycle: {}", path.join(" → ")), hint)
            }
            Misfit::TargetIsStarted { batch, target, key } if name == target => {
                let hint = format!("remove `{key}`, or name another batch in the `on_error` of `{batch}`");
                let what = format!("`{batch}` starts this batch with `on_error`, so it can't have `{key}`");
                Diagnosis::hinted(what, hint)
            }
            Misfit::TargetIsStarted { target, key, .. } => started_target(target, key),
            Misfit::MixedJoin { batch, inside, outside } => {
                let joins = if name == batch {
                    "`after` joins".to_owned()
                } else {
                    format!("with this edit, `after` in `{batch}` joins")
                };
                let what = format!(
                    "{joins} `{inside}`, which only runs after a failure, and `{outside}`; they never run in the same chain"
                );
                let hint =
                    "name only one of them in `after`, or split it into two batches that `include` the same script";
                Diagnosis::hinted(what, hint)
            }
        }
    }

    /// A name that no batch in force has, in an edge of `of`.
    fn unknown(&self, of: Option<&BatchName>, name: &BatchName, key: EdgeKey) -> Diagnosis {
        let what = format!("unknown batch `{name}` in `{}`", key.word());
        let others = self.members.iter().filter(|(other, member)| member.stage != Stage::Out && Some(**other) != of);
        let others: Vec<&str> = others.map(|(other, _)| other.as_str()).collect();
        let hint = if self.elsewhere.contains(name) {
            format!("`hosts` in `{name}` does not match this host")
        } else if self.members.contains_key(name) {
            format!("`{name}` has errors of its own; fix them first")
        } else if let Some(near) = words::nearest(name.as_str(), others.iter().copied()) {
            format!("did you mean `{near}`?")
        } else if self.previous.contains_key(name) {
            format!("the folder of `{name}` is gone; restore it, or remove the name from `{}`", key.word())
        } else if others.is_empty() {
            "there are no other batches".to_owned()
        } else {
            let names: Vec<String> = others.iter().take(NAMES_LISTED_MAX).map(|name| format!("`{name}`")).collect();
            let more = if others.len() > NAMES_LISTED_MAX { ", ..." } else { "" };
            format!("the batches are {}{more}", names.join(", "))
        };
        Diagnosis::hinted(what, hint)
    }
}

fn started_target(target: &BatchName, key: &str) -> Diagnosis {
    let what = format!("`on_error` can't start `{target}`, because that batch has `{key}`");
    let hint =
        format!("remove `{key}` from `{target}`, or name another batch; two batches can `include` the same script");
    Diagnosis::hinted(what, hint)
}

/// Where a member's part in a misfit stands.
fn place(misfit: &Misfit, member: &Member<'_>) -> Option<Place> {
    let places = &member.loaded.places;
    let own = &member.loaded.name;
    let find = |entries: &[Named], name: &BatchName| {
        entries.iter().find(|entry| entry.name == *name).map(|entry| entry.place.clone())
    };
    match misfit {
        Misfit::UnknownName { key: EdgeKey::After, name, .. } => find(&places.after, name),
        Misfit::UnknownName { key: EdgeKey::OnError, name, .. } => find(&places.on_error, name),
        Misfit::TargetIsStarted { target, key, .. } if own == target => match *key {
            "cron" => places.cron.clone(),
            _ => places.after.first().map(|entry| entry.place.clone()),
        },
        Misfit::TargetIsStarted { target, .. } => find(&places.on_error, target),
        Misfit::MixedJoin { outside, .. } => find(&places.after, outside),
        Misfit::Cycle { batches } => {
            let at = batches.iter().position(|name| name == own)?;
            let before = &batches[(at + batches.len() - 1) % batches.len()];
            let behind = &batches[(at + 1) % batches.len()];
            let (after, on_error) = (find(&places.after, before), find(&places.on_error, behind));
            // Of two edges in the cycle, the one that is new is to blame.
            let after_is_old = member.last_good.is_some_and(|last| last.after.contains(before));
            if after_is_old { on_error.or(after) } else { after.or(on_error) }
        }
    }
}

//! What is said of batches that do not fit, and where.

use super::{Fitting, Member, Stage};
use crate::load::{Diagnosis, Named, words};
use crate::model::diagnostic::{Diagnostic, Place};
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
        let batch = Some(name.clone());
        match member.stage {
            Stage::Fresh => Some(Diagnostic { batch, file, place: place(misfit, member), what, hint }),
            Stage::Stale if member.has_same_edges() => None,
            Stage::Stale | Stage::Held | Stage::Out => {
                let what = format!("its last good definition does not fit either, so the batch is held: {what}");
                Some(Diagnostic { batch, file, place: None, what, hint })
            }
        }
    }

    /// Complaints about entries of the default `on_error` that can't be targets; no batch takes them.
    pub(super) fn complain_about_defaults(&mut self) {
        let usable: Vec<&Named> = self.default_targets().collect();
        for named in self.settings.defaults.on_error.iter().flatten().filter(|named| !usable.contains(named)) {
            let definition = self.members.get(&named.name).and_then(Member::definition);
            let Diagnosis { what, hint } = match definition {
                None => self.unknown(&named.name, EdgeKey::OnError),
                Some(definition) => {
                    started_target(&named.name, if definition.cron.is_empty() { "after" } else { "cron" })
                }
            };
            let (file, place) = (self.settings.file.clone(), Some(named.place.clone()));
            self.diagnostics.insert(Diagnostic { batch: None, file, place, what, hint });
        }
    }

    fn diagnosis(&self, misfit: &Misfit, name: &BatchName) -> Diagnosis {
        match misfit {
            Misfit::UnknownName { key, name, .. } => self.unknown(name, *key),
            Misfit::Cycle { batches } => {
                let around = batches.iter().chain(batches.first());
                let path: Vec<String> = around.map(|name| format!("`{name}`")).collect();
                let hint = "a batch cannot wait for itself: take one of these edges out of `after` or `on_error`";
                Diagnosis::hinted(format!("the batches lead around in a cycle: {}", path.join(" → ")), hint)
            }
            Misfit::TargetIsStarted { batch, target, key } if name == target => {
                let hint = format!("take `{key}` out, or name another batch in the `on_error` of `{batch}`");
                let what =
                    format!("`{batch}` names this batch in its `on_error`: a target has neither `cron` nor `after`");
                Diagnosis::hinted(what, hint)
            }
            Misfit::TargetIsStarted { target, key, .. } => started_target(target, key),
            Misfit::MixedJoin { batch, inside, outside } => {
                let joins =
                    if name == batch { "`after` joins".to_owned() } else { format!("with this edit, `{batch}` joins") };
                let what =
                    format!("{joins} `{inside}`, which runs only after a failure, with `{outside}`, which does not");
                let hint = "such a join would wait in vain: let it follow one of the two, or make two batches that `include` the same script";
                Diagnosis::hinted(what, hint)
            }
        }
    }

    /// A name that no batch in force has.
    fn unknown(&self, name: &BatchName, key: EdgeKey) -> Diagnosis {
        let what = format!("unknown batch `{name}` in `{}`", key.word());
        let in_force = || self.members.iter().filter(|(_, member)| member.stage != Stage::Out);
        let hint = if self.elsewhere.contains(name) {
            format!("`{name}` is there, but its `hosts` keep it from this host")
        } else if self.members.contains_key(name) {
            format!("`{name}` is there, but cannot be used before what is wrong with it is mended")
        } else if let Some(near) = words::nearest(name.as_str(), in_force().map(|(name, _)| name.as_str())) {
            format!("did you mean `{near}`?")
        } else if self.previous.contains_key(name) {
            format!("its folder is gone: bring `{name}` back, or take it out of `{}`", key.word())
        } else {
            let names: Vec<String> = in_force().take(NAMES_LISTED_MAX).map(|(name, _)| format!("`{name}`")).collect();
            let more = if in_force().count() > NAMES_LISTED_MAX { ", ..." } else { "" };
            if names.is_empty() { "there are no batches".to_owned() } else { format!("there are {}{more}", names.join(", ")) }
        };
        Diagnosis::hinted(what, hint)
    }
}

fn started_target(target: &BatchName, key: &str) -> Diagnosis {
    let what = format!("`on_error` names `{target}`, which has `{key}`: a target has neither `cron` nor `after`");
    let hint =
        format!("take `{key}` out of `{target}`, or name another batch; two batches can `include` the same script");
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
            find(&places.after, before).or_else(|| find(&places.on_error, behind))
        }
    }
}

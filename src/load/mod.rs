//! Text to definitions and diagnostics: what `batch.toml`, the script beside it and `batchd.toml` say, and which batches
//! fit together.
//!
//! Pure: it is given bytes and never reads a file, a clock or the host; it does not know where the bytes come from, who
//! may have written them, or what becomes of a definition. Every complaint has its place, and all of them come at once.
//!
//! The order of calls: [`settings()`] once; for each folder [`outline()`], which says what else belongs to it, then
//! [`definition()`]; then [`fit()`] over all of them, which makes the graph.

mod definition;
mod findings;
mod fit;
mod line_ends;
mod outline;
mod policies;
mod reader;
mod script;
mod settings;
mod syntax;
mod unexpanded;
mod values;
mod words;

use crate::model::diagnostic::{Diagnostic, Place, not_a_batch_name};
use crate::model::id::BatchName;

pub use definition::{Context, Input, Loaded, Places, definition};
pub use findings::DIAGNOSTICS_PER_FILE_MAX;
pub use fit::{Fitted, SchedulesOf, fit};
pub use outline::{Outline, outline};
pub use policies::{JITTER_MAX, Policies, RETRIES_MAX, RETRY_BACKOFF_MAX};
pub use reader::LIST_ENTRIES_MAX;
pub use settings::{Paths, SettingsFile, settings};
pub use syntax::TEXT_BYTES_MAX;
pub use words::nearest;

/// What is wrong and what to do about it, without a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What is wrong: one sentence without a full stop.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A batch that is named somewhere, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: BatchName,
    /// Where it stands.
    pub place: Place,
}

impl Diagnosis {
    /// Only what is wrong.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    /// What is wrong and what to do.
    pub fn hinted(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: Some(hint.into()) }
    }
}

/// The batch whose folder in `batches.d` is called `folder`, or why no batch can be called so. `batches` is the path of
/// `batches.d` for a command that somebody pastes.
pub fn batch_name(batches: &str, folder: &str) -> Result<BatchName, Box<Diagnostic>> {
    BatchName::new(folder).map_err(|_| Box::new(not_a_batch_name(batches, folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_no_name_gets_a_better_one() {
        let check = |folder: &str, expected: &str| {
            let diagnostic = batch_name("b.d", folder).unwrap_err();
            assert!(diagnostic.hint.as_ref().unwrap().contains(expected), "{diagnostic}");
        };
        check("Nightly Report", "mv -T 'b.d/Nightly Report' b.d/nightly-report");
        check("-x", "mv -T b.d/-x b.d/x");
        check("x'; reboot; '", r"mv -T 'b.d/x'\''; reboot; '\''' b.d/x-reboot");
        check("x\ny", r"mv -T $'b.d/x\x0ay' b.d/x-y");
        check("übung", "mv -T 'b.d/übung' b.d/uebung");
        check("Façade_2", "mv -T 'b.d/Façade_2' b.d/facade_2");
        check("日本", "rename it; if");
        assert_eq!(batch_name("", "report").unwrap().as_str(), "report");
    }
}

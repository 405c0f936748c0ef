//! `batch.toml` and the script beside it: a definition or diagnostics, never neither and never both. The journal gives a
//! definition back as it was, and diagnostics are short and hold nothing that moves a cursor.

use std::collections::BTreeMap;
use std::sync::Arc;

use batchd::load::{self, Context, DIAGNOSTICS_PER_FILE_MAX, Input};
use batchd::model::definition::Definition;
use batchd::model::diagnostic::{Diagnostic, errors};
use batchd::model::files::{FileContent, Files};
use batchd::model::id::BatchName;
use batchd::model::text::QUOTED_CHARACTERS_MAX;

pub(crate) fn check(bytes: &[u8]) {
    let name = BatchName::new("fuzzed").expect("the name is a good one");
    let zone_known = |_: &str| Ok(());
    let (settings, _) = load::settings("batchd.toml", b"pools.few = 2", &zone_known);
    let outline = load::outline(&String::from_utf8_lossy(bytes));
    let content = |bytes: &[u8]| FileContent { bytes: bytes.to_vec(), mode: 0o644 };
    let files = [("batch.toml", content(bytes)), ("script.sh", content(bytes)), ("a.py", content(b"print(1)"))];
    let files = Files(files.into_iter().map(|(path, file)| (path.to_owned(), file)).collect());
    let context = Context { settings: &settings, host: "host", batches: "batches.d", zone_known: &zone_known };
    let input = Input { name: &name, toml: Some(bytes), files: &files, zip: None, missing_includes: &outline.include };
    let loaded = load::definition(&input, &context);
    assert_eq!(loaded.definition.is_none(), errors(&loaded.diagnostics) > 0);
    if let Some(definition) = &loaded.definition {
        let json = serde_json::to_string(definition).expect("it is plain data");
        let back: Definition = serde_json::from_str(&json).expect("what was written can be read");
        assert_eq!(back, **definition);
    }
    assert_bounded(&loaded.diagnostics);
    load::fit(&[Arc::new(loaded)], &BTreeMap::new(), &settings, &|_| Ok((None, false)));
}

/// However wrong a file is, what is said of it can be read.
pub(crate) fn assert_bounded(diagnostics: &[Diagnostic]) {
    // One about the script, and one about each of two files beside it.
    assert!(diagnostics.len() <= DIAGNOSTICS_PER_FILE_MAX + 4, "{} diagnostics", diagnostics.len());
    for diagnostic in diagnostics {
        let place = diagnostic.place.as_ref();
        let excerpt = place.map_or("", |place| place.excerpt.as_str());
        assert!(excerpt.chars().count() <= QUOTED_CHARACTERS_MAX + 2);
        assert!(!excerpt.contains(|c: char| c.is_control() && c != '\t'), "{excerpt:?}");
        assert!(!diagnostic.to_string().is_empty());
    }
}

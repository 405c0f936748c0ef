//! Any bytes as `batch.toml`, as its script, and as the settings: no panic, and a definition or a diagnostic, never neither.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use batchd::load::{self, Context, Input};
use batchd::model::files::{FileContent, Files};
use batchd::model::id::BatchName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let name = BatchName::new("fuzzed").expect("the name is a good one");
    let zone_known = |_: &str| Ok(());
    let (settings, _) = load::settings("batchd.toml", bytes, &zone_known);
    let outline = load::outline(&String::from_utf8_lossy(bytes));
    let content = |bytes: &[u8]| FileContent { bytes: bytes.to_vec(), executable: false };
    let files = [("batch.toml", content(bytes)), ("script.sh", content(bytes)), ("a.py", content(b"print(1)"))];
    let files = Files(files.into_iter().map(|(path, file)| (path.to_owned(), file)).collect());
    let context = Context { settings: &settings, host: "host", zone_known: &zone_known };
    let input =
        Input { name: &name, toml: Some(bytes), files: &files, zip: None, missing_includes: &outline.include };
    let loaded = load::definition(&input, &context);
    assert_eq!(loaded.definition.is_none(), !loaded.diagnostics.is_empty());
    for diagnostic in &loaded.diagnostics {
        assert!(!diagnostic.to_string().is_empty());
    }
    load::fit(&[Arc::new(loaded)], &BTreeMap::new(), &settings, &|_| Ok((None, false)));
});

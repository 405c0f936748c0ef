//! The corpus: small trees of batches, each with what `load` says of it.
//!
//! `invalid/<what_is_wrong>/` holds `expected.txt`, all diagnostics as they are printed; `valid/<what>/` gives none, and
//! holds `expected.json`, the definitions in force. `BLESS=1 cargo test --test definitions` writes them anew: read the
//! difference. A folder whose name ends in `.zip` stands for a zip of what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchd::load::{self, Context, Diagnosis, Fitted, Input, Loaded};
use batchd::model::files::{FileContent, Files};

/// The zones that the host of the corpus knows; what is said of others is the zones' affair, and not shown here.
const ZONES: [&str; 3] = ["UTC", "Europe/Berlin", "America/New_York"];
/// Its name.
const HOST: &str = "web1.example.org";

#[test]
fn invalid_definitions_are_explained() {
    check_all("invalid", "expected.txt", |case| {
        let diagnostics = read_case(case).1;
        assert!(!diagnostics.is_empty(), "{} is valid", case.display());
        diagnostics.join("\n\n") + "\n"
    });
}

#[test]
fn valid_definitions_mean_what_they_say() {
    check_all("valid", "expected.json", |case| {
        let (fitted, diagnostics) = read_case(case);
        assert!(diagnostics.is_empty(), "{}:\n{}", case.display(), diagnostics.join("\n\n"));
        let definitions: Vec<serde_json::Value> = fitted.graph.iter().map(|(_, node)| without_hash(node)).collect();
        serde_json::to_string_pretty(&definitions).unwrap() + "\n"
    });
}

/// Every file of the corpus with bytes changed, taken away and put in, from a fixed seed: no panic, and a definition or a
/// diagnostic, never neither and never both.
#[test]
fn damaged_definitions_are_refused_or_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/definitions");
    let cases = ["valid", "invalid"].into_iter().flat_map(|kind| entries(&root.join(kind)));
    let folders = cases.flat_map(|case| entries(&case));
    let texts: Vec<Vec<u8>> = folders.filter_map(|folder| fs::read(folder.join("batch.toml")).ok()).collect();
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let name = load::batch_name("damaged").unwrap();
    for round in 0..5000 {
        let mut text = texts[round % texts.len()].clone();
        for _ in 0..=random(4) {
            let at = random(text.len() + 1);
            let other = &texts[random(texts.len())];
            match random(4) {
                0 => text.truncate(at),
                1 => text.insert(at, b"[]{}\"'=#\n\\.,\xff\r\0 "[random(16)]),
                2 => text.extend_from_slice(&other[random(other.len() + 1)..]),
                _ => drop(text.drain(at..(at + random(9)).min(text.len()))),
            }
        }
        let (settings, _) = load::settings("batchd.toml", &text, &zone_known);
        let context = Context { settings: &settings, host: HOST, zone_known: &zone_known };
        let mut files = Files::default();
        add(&mut files, "script.sh".to_owned(), text.clone());
        let input = Input { name: &name, toml: Some(&text), files: &files, zip: None, missing_includes: &[] };
        let loaded = load::definition(&input, &context);
        let shown = String::from_utf8_lossy(&text);
        assert_eq!(loaded.definition.is_none(), !loaded.diagnostics.is_empty(), "{shown}");
        loaded.diagnostics.iter().for_each(|diagnostic| assert!(!diagnostic.to_string().is_empty(), "{shown}"));
    }
}

/// Compares what `outcome` says of each case with the file beside it; all differences at once.
fn check_all(kind: &str, expected_name: &str, outcome: impl Fn(&Path) -> String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/definitions").join(kind);
    let cases: Vec<PathBuf> = entries(&root).into_iter().filter(|path| path.is_dir()).collect();
    assert!(cases.len() > 3, "the corpus is gone");
    let mut differences = Vec::new();
    for case in cases {
        let found = outcome(&case);
        let expected_path = case.join(expected_name);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected_path, &found).unwrap();
        } else if found != fs::read_to_string(&expected_path).unwrap_or_default() {
            differences.push(format!("=== {}\n{found}", case.display()));
        }
    }
    assert!(differences.is_empty(), "other than expected (BLESS=1 accepts it):\n{}", differences.join("\n"));
}

/// What is in force of a case, and all its diagnostics as printed.
fn read_case(case: &Path) -> (Fitted, Vec<String>) {
    let bytes = fs::read(case.join("batchd.toml")).unwrap_or_default();
    let (settings, settings_diagnostics) = load::settings("batchd.toml", &bytes, &zone_known);
    let context = Context { settings: &settings, host: HOST, zone_known: &zone_known };
    let mut diagnostics: Vec<String> = settings_diagnostics.iter().map(ToString::to_string).collect();
    let mut candidates = Vec::new();
    for folder in entries(case).into_iter().filter(|path| path.is_dir()) {
        let name = file_name(&folder);
        if name.starts_with(['_', '.']) {
            continue;
        }
        match load::batch_name(&name) {
            Ok(name) => candidates.push(Arc::new(read_batch(case, &name, &context))),
            Err(diagnostic) => diagnostics.push(diagnostic.to_string()),
        }
    }
    let fitted = load::fit(&candidates, &BTreeMap::new(), &settings, &|_| Ok((None, false)));
    diagnostics.extend(fitted.diagnostics.iter().map(ToString::to_string));
    (fitted, diagnostics)
}

fn read_batch(case: &Path, name: &batchd::model::id::BatchName, context: &Context<'_>) -> Loaded {
    let folder = case.join(name.as_str());
    let toml = fs::read(folder.join("batch.toml")).ok();
    let outline = load::outline(&String::from_utf8_lossy(toml.as_deref().unwrap_or_default()));
    let mut files = Files::default();
    let zip = entries(&folder).into_iter().find(|path| path.is_dir() && file_name(path).ends_with(".zip"));
    if let Some(zip) = &zip {
        add_files(&mut files, zip, "");
        fs::read(folder.join("batch.toml")).map(|bytes| add(&mut files, "batch.toml".to_owned(), bytes)).unwrap();
    } else {
        add_files(&mut files, &folder, "");
    }
    let (there, missing): (Vec<String>, Vec<String>) =
        outline.include.into_iter().partition(|include| case.join(include).is_dir());
    for include in there {
        add_files(&mut files, &case.join(&include), &format!("{include}/"));
    }
    let zip = zip.as_deref().map(file_name);
    let input = Input { name, toml: toml.as_deref(), files: &files, zip: zip.as_deref(), missing_includes: &missing };
    load::definition(&input, context)
}

fn add_files(files: &mut Files, folder: &Path, prefix: &str) {
    for path in entries(folder) {
        let name = format!("{prefix}{}", file_name(&path));
        if path.is_dir() {
            add_files(files, &path, &format!("{name}/"));
        } else {
            add(files, name, fs::read(&path).unwrap());
        }
    }
}

fn add(files: &mut Files, name: String, bytes: Vec<u8>) {
    files.0.insert(name, FileContent { bytes, mode: 0o644 });
}

/// A folder's entries by name; none of a folder that is not there.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn zone_known(zone: &str) -> Result<(), Diagnosis> {
    if ZONES.contains(&zone) { Ok(()) } else { Err(Diagnosis::new(format!("unknown time zone `{zone}`"))) }
}

/// The hash depends on every byte of the case, and says nothing about what was understood.
fn without_hash(node: &batchd::model::graph::Node) -> serde_json::Value {
    let mut value = serde_json::to_value(&**node.definition()).unwrap();
    value.as_object_mut().unwrap().remove("hash");
    value
}

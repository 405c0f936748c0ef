//! The corpus: small trees of batches, each with what `load` says of it.
//!
//! `invalid/<what_is_wrong>/` holds `expected.txt`, all diagnostics as they are printed; `valid/<what>/` gives none, and
//! holds `expected.json`, the definitions in force; `remarks/<what>/` gives remarks only, in `expected.txt`. `BLESS=1 cargo test --test definitions` writes them anew: read the
//! difference. A folder whose name ends in `.zip` stands for a zip of what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use batchd::load::{self, Context, Diagnosis, Fitted, Input, Loaded};
use batchd::model::diagnostic::errors;
use batchd::model::files::{FileContent, Files};
use batchd::model::text::{QUOTED_CHARACTERS_MAX, quoted};

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

/// Remarks keep nothing out of force.
#[test]
fn remarks_are_explained_and_keep_nothing_out_of_force() {
    check_all("remarks", "expected.txt", |case| {
        let (fitted, diagnostics) = read_case(case);
        assert!(!diagnostics.is_empty(), "{}: nothing is remarked on", case.display());
        let errors: Vec<&String> = diagnostics.iter().filter(|text| !text.contains(": remark: ")).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", case.display());
        let batches = entries(case).into_iter().filter(|path| path.is_dir() && !file_name(path).starts_with('_'));
        assert_eq!(fitted.graph.len(), batches.count(), "{}", case.display());
        diagnostics.join("\n\n") + "\n"
    });
}

/// The commands in a hint, each in backticks. A `cd` alone would not stay.
fn commands(hint: &str) -> Vec<&str> {
    const PROGRAMS: [&str; 9] = ["mv ", "sed ", "iconv ", "chmod ", "chown ", "rm ", "mkdir ", "touch ", "(cd "];
    let quoted = hint.split('`').skip(1).step_by(2);
    quoted.filter(|text| PROGRAMS.iter().any(|program| text.starts_with(program))).collect()
}

/// Every command in a hint of the corpus, pasted into a shell where `batchd check` was run, works, and ends what the hint is
/// about. Real files, the real binary, and zips in place of the folders that stand for them.
#[test]
fn commands_in_hints_work_where_they_are_pasted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/definitions");
    let mut pasted = 0;
    for case in ["invalid", "remarks"].into_iter().flat_map(|kind| entries(&root.join(kind))) {
        let home = tempfile::tempdir().unwrap();
        let batches = home.path().join("batches.d");
        fs::create_dir(&batches).unwrap();
        for path in entries(&case).into_iter().filter(|path| path.is_dir()) {
            copy(&path, &batches.join(file_name(&path)));
        }
        if let Ok(settings) = fs::read(case.join("batchd.toml")) {
            fs::write(home.path().join("batchd.toml"), settings).unwrap();
        }
        for (headline, hint) in check_for_real(home.path()) {
            for command in commands(&hint) {
                pasted += 1;
                let shell = Command::new("bash").args(["-ec", command]).current_dir(home.path()).output().unwrap();
                assert!(shell.status.success(), "{}: {command}: {shell:?}", case.display());
                let still = check_for_real(home.path()).into_iter().any(|(other, _)| other == headline);
                assert!(!still, "{}: {command} did not help against {headline}", case.display());
            }
        }
    }
    assert!(pasted > 10, "the hints have lost their commands: {pasted}");
}

/// What the real binary says of a folder with a `batches.d`: file and complaint, and the hint.
fn check_for_real(home: &Path) -> Vec<(String, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batchd"));
    let output = command.args(["check", "--json"]).current_dir(home).env_clear().env("PATH", "/usr/bin:/bin").output();
    let output = output.unwrap();
    // Settings that don't say where the folders are end everything, and have no command.
    if output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("/batchd.toml: ") {
        return Vec::new();
    }
    let checked: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let text = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let of = |one: &serde_json::Value| (text(one, "file") + ": " + &text(one, "what"), text(one, "hint"));
    checked["diagnostics"].as_array().unwrap().iter().map(of).collect()
}

/// Copies a folder; one whose name ends in `.zip` becomes a zip.
fn copy(from: &Path, to: &Path) {
    if file_name(from).ends_with(".zip") {
        let made = Command::new("python3")
            .args(["-c", "import shutil, sys; shutil.make_archive(sys.argv[2][:-4], 'zip', sys.argv[1])"])
            .args([from, to])
            .status();
        assert!(made.unwrap().success());
        return;
    }
    fs::create_dir(to).unwrap();
    for path in entries(from) {
        let to = to.join(file_name(&path));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Places for a text that is far too long, each at an `@`.
const PLACES: &[&str] = &[
    "@ = 1",
    "\"@ @\" = 1",
    "[@]\na = 1",
    "[env]\n@ = \"x\"\n\"@=\" = 1",
    "env = { A = \"$@\" }",
    "cron = \"@\"",
    "cron = \"@ * * * *\"",
    "cron = [\"* * * * * @\"]",
    "cron = \"0 8 1@ 1@ 1\"",
    "timezone = \"@\"",
    "after = \"@\"",
    "after = \"a, @\"",
    "on_error = [\"@ @\"]",
    "hosts = [\"[@\"]",
    "timeout = \"@\"",
    "timeout = 1@",
    "retries = 1@",
    "retries = \"1@\"",
    "log_bytes_max = \"9@\"",
    "log_bytes_max = \"@\"",
    "log_bytes_max = \"9M@\"",
    "pool = \"@\"",
    "user = \"@ \"",
    "user = \"1@\"",
    "umask = \"@\"",
    "umask = 1@",
    "overlap = \"@\"",
    "working_dir = \"@\"",
    "env_file = \"../@\"",
    "env_file = \"@\"",
    "env_file = \"/@\"",
    "working_dir = \"/@\"",
    "batches = \"@\"",
    "runs_mode = \"@\"",
    "script = \"@\"",
    "script = \"/@\"",
    "include = [\"@\"]",
    "include = [\"_@\"]",
    "tags = \"@\"",
    "args = \"@ @\"",
    "description = @",
    "@",
    "@: @",
    "@ = @",
    "description = \"@",
];

/// A text of 1,000,000 characters in any place of a `batch.toml`, of the settings or of a script is quoted by its beginning.
#[test]
fn a16_a_million_characters_are_never_quoted_whole() {
    /// A hint that lists all keys is the longest text that is ours.
    const OURS_MAX: usize = 1500;
    let name = load::batch_name("batches.d", "long").unwrap();
    for place in PLACES {
        for filling in ["x", "7", "ä", "x ", ",1"] {
            let times = (1_000_000 / filling.len()) / place.matches('@').count();
            let text = place.replace('@', &filling.repeat(times));
            let (settings, mut diagnostics) = load::settings("batchd.toml", text.as_bytes(), &zone_known);
            let context = Context { settings: &settings, host: HOST, batches: "batches.d", zone_known: &zone_known };
            let mut files = Files::default();
            let script = format!("#!{}", filling.repeat(1_000_000 / filling.len()));
            add(&mut files, "script.sh".to_owned(), script.into_bytes());
            let toml = Some(text.as_bytes());
            let input = Input { name: &name, toml, files: &files, zip: None, missing_includes: &[] };
            diagnostics.extend(load::definition(&input, &context).diagnostics);
            assert!(!diagnostics.is_empty(), "{place}");
            for diagnostic in diagnostics {
                let excerpt = diagnostic.place.iter().map(|place| place.excerpt.chars().count()).max().unwrap_or(0);
                assert!(excerpt <= QUOTED_CHARACTERS_MAX + 2, "{place} {filling}: {excerpt} characters");
                let said = diagnostic.what.chars().count() + diagnostic.hint.map_or(0, |hint| hint.chars().count());
                assert!(said <= OURS_MAX, "{place} {filling}: {said} characters: {:.300}", diagnostic.what);
            }
        }
    }
}

/// Every file of the corpus with bytes changed, taken away and put in, from a fixed seed: no panic, and a definition or a
/// diagnostic, never neither and never both.
#[test]
fn damaged_definitions_are_refused_or_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/definitions");
    let cases = ["valid", "invalid", "remarks"].into_iter().flat_map(|kind| entries(&root.join(kind)));
    let folders = cases.flat_map(|case| entries(&case));
    let texts: Vec<Vec<u8>> = folders.filter_map(|folder| fs::read(folder.join("batch.toml")).ok()).collect();
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let name = load::batch_name("batches.d", "damaged").unwrap();
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
        let context = Context { settings: &settings, host: HOST, batches: "batches.d", zone_known: &zone_known };
        let mut files = Files::default();
        add(&mut files, "script.sh".to_owned(), text.clone());
        let input = Input { name: &name, toml: Some(&text), files: &files, zip: None, missing_includes: &[] };
        let loaded = load::definition(&input, &context);
        let shown = String::from_utf8_lossy(&text);
        assert_eq!(loaded.definition.is_none(), errors(&loaded.diagnostics) > 0, "{shown}");
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
    let context = Context { settings: &settings, host: HOST, batches: "batches.d", zone_known: &zone_known };
    let mut diagnostics: Vec<String> = settings_diagnostics.iter().map(ToString::to_string).collect();
    let mut candidates = Vec::new();
    for folder in entries(case).into_iter().filter(|path| path.is_dir()) {
        let name = file_name(&folder);
        if name.starts_with(['_', '.']) {
            continue;
        }
        match load::batch_name("batches.d", &name) {
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
    if ZONES.contains(&zone) { Ok(()) } else { Err(Diagnosis::new(format!("unknown time zone `{}`", quoted(zone)))) }
}

/// The hash depends on every byte of the case, and says nothing about what was understood.
fn without_hash(node: &batchd::model::graph::Node) -> serde_json::Value {
    let mut value = serde_json::to_value(&**node.definition()).unwrap();
    value.as_object_mut().unwrap().remove("hash");
    value
}

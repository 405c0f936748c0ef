//! `batchd.toml`, which two read: the loader, which complains of everything, and whoever looks for the paths, before anything
//! else is known. Where the loader has no complaint, both say the same.

use std::path::Path;

use batchd::load;
use batchd::model::diagnostic::errors;
use batchd::paths;

use super::batch_toml::assert_bounded;

pub(crate) fn check(bytes: &[u8]) {
    let (settings, diagnostics) = load::settings("batchd.toml", bytes, &|_| Ok(()));
    assert_bounded(&diagnostics);
    let Ok(text) = std::str::from_utf8(bytes) else {
        assert!(!diagnostics.is_empty(), "it is not UTF-8, and nobody says so");
        return;
    };
    let keys = paths::parse_keys(Path::new("batchd.toml"), text);
    if errors(&diagnostics) > 0 {
        return;
    }
    let keys = keys.expect("the loader has no complaint");
    let path = |path: &Option<String>| path.as_ref().map(Into::into);
    let load::Paths { batches, runs, state } = &settings.paths;
    assert_eq!((keys.batches, keys.runs, keys.state), (path(batches), path(runs), path(state)));
    let limits = settings.settings.limits;
    assert!(limits.max_running > 0 && limits.pools.values().all(|slots| *slots > 0));
}

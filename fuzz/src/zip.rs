//! Zips: what is unpacked is a definition's files, each of which stays below the folder that it will lie in, and no more of
//! them than the archive's size allows.

use std::collections::BTreeSet;

use batchd::model::files::{DEFINITION_BYTES_MAX, DEFINITION_FILES_MAX, Files};
use batchd::store::zip::{ZIP_PATH_BYTES_MAX, ZIP_RATIO_MAX, ZIP_SCRIPT, unzip};

pub(crate) fn check(bytes: &[u8]) {
    match unzip(bytes) {
        Ok(files) => {
            assert_sound(&files);
            assert!(files.bytes_total() <= ZIP_RATIO_MAX * bytes.len() as u64);
        }
        Err(error) => {
            let said = error.diagnostic(None, "a.zip").to_string();
            assert!(said.len() < 5000 && !said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
        }
    }
}

pub(crate) fn assert_sound(files: &Files) {
    assert!(files.0.contains_key(ZIP_SCRIPT));
    assert!(files.0.len() <= DEFINITION_FILES_MAX && files.bytes_total() <= DEFINITION_BYTES_MAX);
    for path in files.0.keys() {
        let stays = path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains(['\\', '\0']);
        assert!(stays && path.len() <= ZIP_PATH_BYTES_MAX, "{path:?}");
        let mut folders = path.match_indices('/').map(|(end, _)| &path[..end]);
        assert!(folders.all(|folder| !files.0.contains_key(folder)), "{path:?} is below a file");
    }
    let lower: BTreeSet<String> = files.0.keys().map(|path| path.to_lowercase()).collect();
    assert_eq!(lower.len(), files.0.len(), "two paths are one on some file systems");
}

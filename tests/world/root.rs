//! Tests that take root.

/// Whether the test can do what takes root; else it says so, and is to end. `BATCHD_TESTS_SKIP_NOTHING=1` makes that a failure.
#[must_use]
pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        let strict = std::env::var_os("BATCHD_TESTS_SKIP_NOTHING").is_some_and(|value| value == "1");
        assert!(!strict, "this test takes root, and nothing may be skipped");
        println!("skipped: it takes root; `sudo -E cargo test` runs it");
    }
    is_root
}

//! Runs tests of this binary again in a guest where their files are on NFS, with a real server and two real clients.

use std::path::Path;
use std::process::Command;

/// The most seconds that a guest may take: then something hangs.
const SECONDS_MAX: &str = "120";

/// What `nfs-run.sh` exits with if something that it needs is missing. A failed test exits with another code.
const MISSING: i32 = 2;

/// Runs the tests that match `filters`, those for the guest alone (`#[ignore]`) among them, with their folders on the first
/// client (`/mnt/a`) and the daemon's state on a local file system. Without a guest this test says so and ends;
/// `BATCHD_TESTS_SKIP_NOTHING=1` makes that a failure.
pub(crate) fn run(filters: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nfs/nfs-run.sh");
    let mut command = Command::new("bash");
    command.arg(script).arg(folder.path()).args(["env", "TMPDIR=/mnt/a", "BATCHD_TESTS_STATE_IN=/mnt"]);
    // The guest has one processor: what waits for another test's turn there waits for nothing.
    command.arg(std::env::current_exe().unwrap()).args(filters).args(["--include-ignored", "--test-threads=1"]);
    let output = command.env("NFS_SECONDS", SECONDS_MAX).env_remove("TMPDIR").output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.code() == Some(MISSING) {
        let strict = std::env::var_os("BATCHD_TESTS_SKIP_NOTHING").is_some_and(|value| value == "1");
        assert!(!strict, "this test needs a guest, and nothing may be skipped: {}", text[1]);
        println!("skipped: {}", text[1]);
        return;
    }
    let console = || std::fs::read_to_string(folder.path().join("boot.log")).unwrap_or_default();
    assert!(output.status.success(), "{}\n{}\n{}", text[0], text[1], console());
    let passed = text[0].lines().filter(|line| line.ends_with("... ok")).count();
    assert!(
        passed >= filters.iter().filter(|filter| !filter.starts_with('-')).count(),
        "tests are missing: {}",
        text[0]
    );
}

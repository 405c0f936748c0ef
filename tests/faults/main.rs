//! What the host can do to batchd: disks that are full, processes and descriptors that can't be had, journals that are gone,
//! old, damaged or held. Each test has the number of its case in the fault catalogue; docs/reliability.md has the table.
//!
//! Most take root, for small file systems and other users: `sudo -E cargo test --test faults`. Without, they say that they
//! are skipped; `BATCHD_TESTS_SKIP_NOTHING=1` makes that a failure.

#[path = "../world/mod.rs"]
mod world;

mod disk;
mod full_runs;
mod host;
mod journal;
mod runs_folder;
mod shortage;

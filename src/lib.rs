//! batchd runs batches: scripts with a schedule, edges and policies, one folder each in `batches.d`.
//!
//! The map of the modules, and what each may use, stands in `ARCHITECTURE.md`; `tests/tidy.rs` holds them to it.

pub mod api;
pub mod checkup;
pub mod cli;
pub mod clock;
pub mod daemon;
pub mod doctor;
pub mod folders;
pub mod journal;
pub mod load;
pub mod model;
pub mod os;
pub mod paths;
#[cfg(test)]
#[path = "../tests/world/root.rs"]
mod root;
pub mod rundir;
pub mod scheduler;
pub mod shim;
pub mod store;
pub mod supervisor;
pub mod watcher;
pub mod zones;

//! batchd runs batches: scripts with a schedule, edges and policies, one folder each in `batches.d`.
//!
//! The map of the modules, and what each may use, stands in `ARCHITECTURE.md`; `tests/tidy.rs` holds them to it.

pub mod model;
pub mod store;

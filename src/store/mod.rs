//! Definitions and workspaces on disk.

pub mod workspace;

//! Launcher, shim and supervisor with real processes, real files and real bash. Every wait is for something that happens.

mod access;
mod adopt;
mod crash;
#[path = "../nfs/guest.rs"]
mod guest;
mod inputs;
mod nfs;
mod outputs;
#[path = "../world/root.rs"]
mod root;
mod scripts;
mod strangers;
mod trees;
mod world;

//! The real binary, real bash, real files: what a user of batchd does, from a folder in `batches.d` to a row in the journal.

#[path = "../world/mod.rs"]
mod world;

mod acts;
mod backup;
mod chains;
mod clock;
mod commands;
mod daemon;
mod durable;
#[path = "../nfs/guest.rs"]
mod guest;
mod hints;
mod inputs;
mod lifecycle;
mod logs;
mod long;
mod manager;
mod nfs;
mod outputs;
mod privacy;
mod reading;
mod reload;
mod shutdown;
mod start;
mod trust;
mod writers;

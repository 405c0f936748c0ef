//! The one binary: daemon, launcher, shim and command line.

fn main() {}

//! What an adapter owes to the daemon, as suites that the real one and every stand-in for it have to pass.
//!
//! A suite knows its adapter only by a trait. To put another one to the same test, implement the trait for it and add a
//! line with the suite's macro.

#[path = "../simulation/by_id.rs"]
mod by_id;
mod journal;
mod place;
mod simulated;
#[expect(dead_code, reason = "the suite asks for what a daemon asks for; the simulation looks into it, too")]
#[path = "../simulation/journal.rs"]
mod simulated_journal;
#[expect(dead_code, reason = "no shim of this one is killed: the suite could not do that to the real one")]
#[path = "../simulation/place.rs"]
mod simulated_place;
#[expect(dead_code, reason = "these tests need a part of what those of single processes do")]
#[path = "../processes/world.rs"]
mod world;

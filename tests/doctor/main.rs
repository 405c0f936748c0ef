//! `batchd doctor`: a world that a real daemon has made is clean; whatever is then broken by hand is found, and named.

#[path = "../world/mod.rs"]
mod world;

mod broken;
mod clean;
mod made;
mod rebuild;

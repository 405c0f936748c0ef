//! Kills the real daemon, its launcher and its shims: at every named point of the start and end protocols, and at random
//! under load. After each death the next daemon goes on. In the end three records that know nothing of each other have to
//! say the same: the journal, the run folders, and a file to which the scripts themselves append.

#[path = "../world/mod.rs"]
mod world;

mod load;
mod points;
mod random;
mod records;

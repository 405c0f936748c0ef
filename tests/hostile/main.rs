//! Input that was made to hurt, against the real binary: definitions, archives, names, clients, output, scripts that reach for
//! what is not theirs. Each test is named after its case in the catalogue of faults (group I); cases of the parsers alone are
//! in `fuzz/`, and beside the parsers.

#[path = "../world/mod.rs"]
mod world;

mod access;
mod definitions;
mod outputs;
mod records;
mod scripts;

use world::World;

/// What a command line shows on a terminal that script(1) makes.
#[track_caller]
fn on_a_terminal(world: &World, arguments: &str) -> String {
    let binary = env!("CARGO_BIN_EXE_batchd");
    world.bash(&format!("script -qc '{binary} {arguments}' /dev/null </dev/null | cat"))
}

/// Fails if anything in it would move the cursor, change a colour, or turn the direction of the text.
#[track_caller]
fn assert_harmless(shown: &str) {
    // The terminal itself puts a carriage return before each line end.
    let harms = |c: char| (c.is_control() && !"\r\n\t".contains(c)) || "\u{202e}\u{2066}\u{200f}".contains(c);
    assert!(!shown.contains(harms), "{shown:?}");
}

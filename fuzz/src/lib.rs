//! What is fuzzed: one function for each parser of bytes that batchd did not write itself, or that somebody may have changed.
//!
//! Each takes any bytes, and panics if the parser does, or if what it promises does not hold. It has to be fast, and the same
//! each time. `main.rs` gives them to libFuzzer, and `tests/fuzz.rs` replays the corpus, and
//! changes of it, with the ordinary compiler.

mod batch_toml;
mod cron;
mod env_file;
mod rebuild;
mod records;
mod request;
mod settings;
mod terminal;
mod times;
mod tzif;
mod unpacked;
mod zip;

/// Checks one input.
pub type Check = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: &[(&str, Check)] = &[
    ("batch_toml", batch_toml::check),
    ("cron", cron::check),
    ("env_file", env_file::check),
    ("rebuild", rebuild::check),
    ("records", records::check),
    ("request", request::check),
    ("settings", settings::check),
    ("terminal", terminal::check),
    ("times", times::check),
    ("tzif", tzif::check),
    ("unpacked", unpacked::check),
    ("zip", zip::check),
];

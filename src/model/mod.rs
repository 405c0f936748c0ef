//! The nouns of batchd: values that every other module shares.
//!
//! Pure: nothing in here reads a file, a clock, the environment, or a random number, and nothing iterates a hash map.
//! What a thing *is* stands here; what *happens* to it is decided in [`crate::scheduler`] and done at the edges.

pub mod cron;
pub mod definition;
pub mod diagnostic;
pub mod files;
pub mod graph;
pub mod id;
pub mod input;
pub mod launch;
pub mod missing;
pub mod record;
pub mod request;
pub mod run;
pub mod schedule;
pub mod settings;
pub mod text;
pub mod time;
pub mod wait;
pub mod zone;

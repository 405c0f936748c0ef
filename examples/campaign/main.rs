//! The campaign: a real daemon with hundreds of batches, to which everything happens at once.
//!
//! `cargo build --release && cargo run --release --example campaign -- --minutes N --seed S`. Daemon, launcher, shims and
//! scripts are killed and stopped, the disk fills up and is freed, definitions are broken and mended, operators start, stop
//! and disable. Then all comes to rest. `batchd doctor` has to be content, and what the scripts themselves wrote down has to
//! say the same as the journal, run by run. The seed draws the faults and their order; when each meets which run, it does not.

mod disk;
mod faults;
mod load;
mod random;
mod verdict;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use faults::Faults;
use random::Random;
use world::World;

/// How long, if the command line does not say.
const MINUTES_DEFAULT: u64 = 2;

/// What the command line asks for.
struct Arguments {
    minutes: u64,
    seed: u64,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| campaign(&arguments)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("campaign: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let mut arguments = Arguments { minutes: MINUTES_DEFAULT, seed: u64::from(since_1970.subsec_nanos()) };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().with_context(|| format!("`{word}` wants a number"))?;
            value.parse().with_context(|| format!("`{word} {value}`: not a number"))
        };
        match word.as_str() {
            "--minutes" => arguments.minutes = number()?,
            "--seed" => arguments.seed = number()?,
            other => bail!("unknown argument `{other}`; there are --minutes N and --seed S"),
        }
    }
    Ok(arguments)
}

/// Runs it, and gives the number of violations.
fn campaign(arguments: &Arguments) -> Result<usize> {
    println!("campaign of {} minutes, --seed {}", arguments.minutes, arguments.seed);
    let mut world = World::new()?;
    println!("everything is in {}", world.root().display());
    let batches = load::write(&world)?;
    let count = batches.len();
    let mut faults = Faults::new(Random::new(arguments.seed), batches);
    world.keep_daemon()?;
    let end = Instant::now() + Duration::from_secs(arguments.minutes * 60);
    while Instant::now() < end {
        faults.wait_and_strike(&mut world)?;
    }
    faults.mend(&mut world)?;
    let found = verdict::reach(&mut world, faults.kills_of_shims())?;
    println!("{count} batches; {}", faults.summary());
    println!("{}", found.summary);
    for violation in &found.violations {
        println!("VIOLATION: {violation}");
    }
    println!("{} violations", found.violations.len());
    world.leave(found.violations.is_empty())?;
    Ok(found.violations.len())
}

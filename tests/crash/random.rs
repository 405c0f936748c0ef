//! Deaths at any moment.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;

use crate::load;
use crate::records;
use crate::world::World;

/// How often the daemon is killed.
const DEATHS: u32 = 50;
/// It is killed within this time after it was started: its start takes a part of it, so some die before they are ready.
const LIFE_MAX: Duration = Duration::from_millis(500);
/// The seed of an earlier run, to see it again.
const SEED: &str = "BATCHD_TESTS_SEED";

/// xorshift64: all that is asked of it is to be the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A world under load, and the numbers that its test draws.
fn begun() -> (World, Random) {
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().expect("a seed is a number"),
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1,
    };
    println!("{SEED}={seed}");
    let world = World::new();
    load::write(&world);
    load::tick(&world, true);
    (world, Random(seed))
}

#[test]
fn a21_b10_h1_a_daemon_that_dies_at_random_under_load() {
    let (mut world, mut random) = begun();
    for _ in 0..DEATHS {
        world.spawn(&[], &[]);
        // Not to wait for anything: the moment of a death is what is drawn here.
        std::thread::sleep(Duration::from_micros(random.below(LIFE_MAX.as_micros() as u64)));
        assert_eq!(world.end_daemon(Signal::KILL), -9);
    }
    let compared = records::compare_at_rest(&mut world);
    assert_eq!(compared.lost, 0, "{compared:?}");
    assert!(compared.chains >= 10, "{compared:?}");
}

/// Restarts as a service manager does them, with a signal to the one process: at any moment of its life, and as soon as
/// it is ready. It never ends what runs, and never says that it failed.
#[test]
fn k1_k7_a_daemon_that_is_restarted_at_random_under_load() {
    let (mut world, mut random) = begun();
    for restart in 0..DEATHS {
        world.spawn(&[], &[]);
        // As soon as it has a log it listens to signals.
        world.daemon().line("its first line", |_| true);
        if restart % 2 == 0 {
            std::thread::sleep(Duration::from_micros(random.below(LIFE_MAX.as_micros() as u64)));
        }
        assert_eq!(world.end_daemon(Signal::TERM), 0);
    }
    let compared = records::compare_at_rest(&mut world);
    assert_eq!(compared.lost, 0, "{compared:?}");
    // Half of the lives last a quarter of a second on average, the others no longer than a start: six seconds at least.
    assert!(compared.chains >= 3, "{compared:?}");
}

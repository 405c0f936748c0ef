//! A fresh folder with batches, and a real daemon on it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rusqlite::{Connection, OpenFlags};

use crate::measure::{self, now};

/// What the daemon says when scheduling has begun.
const READY: &str = "is ready";
/// Between two looks at what is waited for; small beside everything that is measured so.
const LOOK: Duration = Duration::from_millis(1);
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(180);
/// A folder that was changed a moment ago is read again by the next scan, as file systems stamp changes by coarse clocks.
const SETTLED: Duration = Duration::from_secs(3);

/// Where all of one benchmark lies.
pub(crate) fn base() -> Result<PathBuf> {
    let target = std::env::current_exe()?;
    let target = target.ancestors().nth(3).context("this program is not below cargo's target folder")?;
    Ok(target.join("benchmark").join(std::process::id().to_string()))
}

/// One fresh folder.
pub(crate) struct World {
    pub(crate) root: PathBuf,
}

/// A daemon that is ready. Dropped, it is killed.
pub(crate) struct Daemon {
    process: Child,
    /// From the fork to the line that says that it is ready.
    pub(crate) start_seconds: f64,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = base()?.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir_all(root.join("batches.d"))?;
        fs::write(root.join("batchd.toml"), "")?;
        // What the figures before have written would be in the way of what this one commits.
        rustix::fs::sync();
        Ok(Self { root })
    }

    /// Makes a batch, and gives the path of its script.
    pub(crate) fn batch(&self, name: &str, toml: &str, script: &str) -> Result<PathBuf> {
        let folder = self.root.join("batches.d").join(name);
        fs::create_dir(&folder)?;
        fs::write(folder.join("batch.toml"), toml)?;
        fs::write(folder.join("script.sh"), script)?;
        Ok(folder.join("script.sh"))
    }

    /// Makes many alike, `b0000` and so on.
    pub(crate) fn batches(&self, count: usize, toml: &str, script: &str) -> Result<Vec<PathBuf>> {
        (0..count).map(|index| self.batch(&format!("b{index:04}"), toml, script)).collect()
    }

    /// Lets the folders come to rest, and starts a daemon.
    pub(crate) fn settled_daemon(&self) -> Result<Daemon> {
        thread::sleep(SETTLED);
        self.daemon()
    }

    /// Starts a daemon, and waits until it is ready.
    pub(crate) fn daemon(&self) -> Result<Daemon> {
        let path = self.root.join("daemon.log");
        let begin = Instant::now();
        let process = self.command(&["daemon"])?.stderr(File::create(&path)?).stdin(Stdio::null()).spawn()?;
        let mut daemon = Daemon { process, start_seconds: 0.0 };
        wait_until("the daemon is ready", || {
            if let Some(status) = daemon.process.try_wait()? {
                bail!("the daemon ended ({status}); it said why in {}", path.display());
            }
            Ok(fs::read_to_string(&path)?.contains(READY))
        })?;
        daemon.start_seconds = begin.elapsed().as_secs_f64();
        Ok(daemon)
    }

    /// Runs a verb of the command line.
    pub(crate) fn batchd(&self, arguments: &[&str]) -> Result<()> {
        let output = self.command(arguments)?.output()?;
        if !output.status.success() {
            bail!("batchd {arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts a verb of the command line.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Result<Child> {
        Ok(self.command(arguments)?.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?)
    }

    /// Waits until a file has so many lines.
    pub(crate) fn wait_for_lines(&self, name: &str, count: usize) -> Result<()> {
        let path = self.root.join(name);
        wait_until("scripts have said that they are up", || {
            Ok(fs::read_to_string(&path).is_ok_and(|text| text.lines().count() >= count))
        })
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let own = std::env::current_exe()?;
        let program = own.ancestors().nth(2).context("no folder above")?.join("batchd");
        if !program.exists() {
            bail!("there is no {}: `cargo build --release` makes it", program.display());
        }
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.root);
        Ok(command)
    }

    /// The journal, for reading.
    pub(crate) fn journal(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(Connection::open_with_flags(self.journal_path(), flags)?)
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.root.join("state/journal.db")
    }

    /// Waits until the journal has so many runs that have ended, and gives the instant, in seconds since 1970.
    pub(crate) fn wait_for_ends(&self, count: usize) -> Result<f64> {
        let journal = self.journal()?;
        let version = |journal: &Connection| journal.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0));
        let mut seen = -1;
        wait_until("all runs have ended", || {
            let now = version(&journal)?;
            if now == seen {
                return Ok(false);
            }
            seen = now;
            // The first of two looks is cheap, as most of them find no end of the work.
            let last = "SELECT count(*) FROM run WHERE state = 'ended'";
            thread::sleep(LOOK * 10);
            Ok(journal.query_row(last, [], |row| row.get::<_, usize>(0))? >= count)
        })?;
        Ok(now())
    }

    /// How many runs ended other than well.
    pub(crate) fn ended_otherwise(&self) -> Result<usize> {
        let sql = "SELECT count(*) FROM run WHERE outcome IS NOT 'succeeded'";
        Ok(self.journal()?.query_row(sql, [], |row| row.get(0))?)
    }

    /// The instants that the script of this run has printed.
    pub(crate) fn printed(&self, run: &str) -> Result<Vec<f64>> {
        instants(&self.root.join("runs").join(run).join("stdout.log"))
    }
}

impl Daemon {
    /// The daemon and what it has forked for itself.
    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        let own = self.process.id();
        Ok([vec![own], measure::children(own)?].concat())
    }

    /// What all of it has used, in seconds of CPU.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        self.processes()?.into_iter().map(measure::cpu_seconds).sum()
    }

    /// The memory of all of it, in MB.
    pub(crate) fn pss_megabytes(&self) -> Result<f64> {
        self.processes()?.into_iter().map(measure::pss_megabytes).sum()
    }

    /// Ends it, and waits for that.
    pub(crate) fn end(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have been ended before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The numbers in a file.
pub(crate) fn instants(path: &Path) -> Result<Vec<f64>> {
    let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    text.split_whitespace().map(|word| Ok(word.parse::<f64>()?)).collect()
}

/// Looks every millisecond whether something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_so()? {
        if begin.elapsed() > PATIENCE {
            bail!("waited for {PATIENCE:?} until {what}, in vain");
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

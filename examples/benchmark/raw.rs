//! What the machine can do: the same scripts, spawned as fast as posix_spawn can (which is what `Command` uses).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};

/// Runs `bash script`, output to the file `log`, and waits for it.
pub(crate) fn run(script: &Path, log: &Path) -> Result<()> {
    let status = Command::new("bash").arg(script).stdin(Stdio::null()).stdout(File::create(log)?).status()?;
    ensure!(status.success(), "bash {} failed: {status}", script.display());
    Ok(())
}

/// Runs all these scripts, two at a time, each with a log of its own below `logs`. The seconds that it took.
pub(crate) fn two_at_a_time(scripts: &[PathBuf], logs: &Path) -> Result<f64> {
    std::fs::create_dir_all(logs)?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(script) = scripts.get(index) else { return Ok(()) };
            run(script, &logs.join(index.to_string()))?;
        }
    };
    let begin = Instant::now();
    thread::scope(|scope| {
        let other = scope.spawn(work);
        work().and(other.join().unwrap_or_else(|_| anyhow::bail!("a thread of the raw loop died")))
    })?;
    Ok(begin.elapsed().as_secs_f64())
}

/// The seconds in which a shell brings `bytes_from` through one pipe into the file `to`.
pub(crate) fn cat_through_a_pipe(from: &Path, to: &Path) -> Result<f64> {
    let begin = Instant::now();
    let status = Command::new("bash").args(["-c", "cat \"$1\" | cat > \"$2\"", "cat"]).arg(from).arg(to).status()?;
    ensure!(status.success(), "cat failed: {status}");
    Ok(begin.elapsed().as_secs_f64())
}

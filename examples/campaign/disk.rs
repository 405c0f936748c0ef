//! A small disk of its own for state and runs, so that it can be filled up.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// A sparse file: it takes what is written to it.
const BYTES: u64 = 16 << 30;
/// Where there are no loop devices: what it holds is in memory.
const BYTES_IN_MEMORY: &str = "size=2g";
/// A run has about ten files and folders for a moment, and half of them stay.
const BYTES_PER_INODE: &str = "8192";

/// An ext4 file system in a file, or one in memory.
pub(crate) struct Disk {
    image: PathBuf,
    folder: PathBuf,
    filled: bool,
}

impl Disk {
    /// Makes and mounts it at `folder`; the error says what this host or this user may not do.
    pub(crate) fn mount(image: PathBuf, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        File::create(&image)?.set_len(BYTES)?;
        if let Err(error) = mount_image(&image, &folder) {
            println!("no ext4 of its own ({error:#}); state and runs are in memory");
            let options = ["-t", "tmpfs", "-o", BYTES_IN_MEMORY, "batchd-campaign"];
            run(Command::new("mount").args(options).arg(&folder))?;
        }
        Ok(Self { image, folder, filled: false })
    }

    pub(crate) fn is_full(&self) -> bool {
        self.filled
    }

    /// Takes every free block.
    pub(crate) fn fill(&mut self) -> Result<()> {
        let ballast = File::create(self.ballast())?;
        self.filled = true;
        // Half as much whenever that much is not left, down to a block.
        let mut taken = 0;
        let system = statvfs(&self.folder)?;
        let mut step = system.f_bavail * system.f_frsize;
        while step >= system.f_frsize {
            match fallocate(&ballast, FallocateFlags::empty(), taken, step) {
                Ok(()) => taken += step,
                Err(rustix::io::Errno::NOSPC) => step /= 2,
                Err(error) => return Err(error).context("filling the disk"),
            }
        }
        Ok(())
    }

    pub(crate) fn free(&mut self) -> Result<()> {
        fs::remove_file(self.ballast())?;
        self.filled = false;
        Ok(())
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Unmounts it, and removes the image unless it is to be looked at.
    pub(crate) fn leave(&self, remove: bool) -> Result<()> {
        run(Command::new("umount").arg(&self.folder))?;
        if remove {
            fs::remove_file(&self.image)?;
        }
        Ok(())
    }
}

fn mount_image(image: &Path, folder: &Path) -> Result<()> {
    let options = ["-q", "-m", "0", "-i", BYTES_PER_INODE, "-E", "lazy_itable_init=1"];
    run(Command::new("mkfs.ext4").args(options).arg(image))?;
    run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(folder))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

//! What a test changes of its host: small disks, and limits of processes.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use batchd::shim::tree;

use crate::world::World;

/// A small file system of its own. It goes before the world whose folder it is mounted in.
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one at this folder of the world, with these options of tmpfs(5).
    pub(crate) fn new(world: &World, folder: &str, options: &str) -> Self {
        let path = world.path(folder);
        fs::create_dir_all(&path).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).status();
        assert!(mount.unwrap().success(), "no tmpfs can be mounted");
        Self { path }
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Leaves no room on it, but for so many bytes.
    pub(crate) fn fill_but(&self, bytes: u64) {
        let mut filler = File::create(self.filler()).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
        let length = filler.metadata().unwrap().len();
        filler.set_len(length - bytes).unwrap();
    }

    /// Makes room again.
    pub(crate) fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    /// Leaves so many inodes on it.
    pub(crate) fn use_up_inodes_but(&self, left: usize) {
        fs::create_dir(self.filler()).unwrap();
        let file = |number: usize| self.filler().join(number.to_string());
        let count = (0..).take_while(|number| File::create(file(*number)).is_ok()).count();
        (0..left).for_each(|number| fs::remove_file(file(count - 1 - number)).unwrap());
    }

    /// Gives them back.
    pub(crate) fn free_inodes(&self) {
        fs::remove_dir_all(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// The children of a process that bear this name.
pub(crate) fn children(pid: i32, name: &str) -> Vec<i32> {
    let is_it = |child: &i32| {
        let comm = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        comm.trim_end() == name && tree::stat(*child).is_some_and(|stat| stat.parent == pid)
    };
    tree::all().into_iter().filter(is_it).collect()
}

/// Sets the soft limit of a process, with the rights of that user: prlimit(1) with `--nproc`, `--nofile`.
pub(crate) fn limit(world: &World, uid: u32, pid: i32, what: &str, value: u64) {
    use std::os::unix::process::CommandExt as _;
    let mut command = world.command("prlimit");
    command.args([&format!("--pid={pid}"), &format!("--{what}={value}:")]).uid(uid).gid(uid).current_dir("/");
    world.output(command).expect(0);
}

/// The processor time of a process so far, in clock ticks: fields 14 and 15 of proc_pid_stat(5).
pub(crate) fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let behind_name = stat.rsplit_once(')').unwrap().1;
    behind_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

/// The lowest descriptor that a process does not have: its next one.
pub(crate) fn next_descriptor(pid: i32) -> u64 {
    (0..).find(|number| fs::symlink_metadata(Path::new(&format!("/proc/{pid}/fd/{number}"))).is_err()).unwrap()
}

//! What the system is short of: errors that pass, after which the same thing is tried again.

use std::io;

/// What to do about each. An error that is not among them is there the next time, too.
const REMEDIES: [(i32, &str); 11] = [
    (libc::ENOSPC, "free space on that disk (see `df` and `df -i`)"),
    (libc::EDQUOT, "raise the disk quota of the daemon's user, or free space"),
    (libc::EROFS, "mount that disk for writing"),
    (libc::ENOMEM, "the host is out of memory"),
    (libc::ENOBUFS, "the host is out of memory"),
    (libc::EMFILE, "raise the daemon's limit of open files (`ulimit -n`, `LimitNOFILE=`)"),
    (libc::ENFILE, "the host is out of open files (see `sysctl fs.file-max`)"),
    (libc::ENOLCK, "the host is out of file locks"),
    (libc::EAGAIN, "raise the limit of processes (`ulimit -u`, `TasksMax=`), or stop some"),
    (libc::EIO, "check the disk and the kernel's log (`dmesg`)"),
    // A signal came between: nothing is short.
    (libc::EINTR, "batchd tries again"),
];

/// Whether the system was short of something: such an error passes.
pub fn is_shortage(error: &io::Error) -> bool {
    remedy(error).is_some()
}

/// Whether a disk or a quota is full.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// The error, and what to do about it.
pub fn said(error: &io::Error) -> String {
    match remedy(error) {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    }
}

fn remedy(error: &io::Error) -> Option<&'static str> {
    let errno = error.raw_os_error()?;
    REMEDIES.iter().find(|(known, _)| *known == errno).map(|(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_says_what_to_do() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        assert!(is_shortage(&full) && said(&full).contains("df -i"), "{}", said(&full));
        let absent = io::Error::from_raw_os_error(libc::ENOENT);
        assert!(!is_shortage(&absent));
        assert_eq!(said(&absent), absent.to_string());
    }
}

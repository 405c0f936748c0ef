//! The host's users and groups, by name and by number. It knows nothing of what they may do.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;

/// The most bytes that one entry of the user or group database may have: a group of tens of thousands of members.
const ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The user whose rights this process has.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether `uid`, as stat(2) gives it, stands for all users that this user namespace doesn't show: user_namespaces(7).
pub fn is_hidden(uid: u32) -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    read("/proc/sys/kernel/overflowuid").trim_end() == uid.to_string() && !is_mapped(uid, &read("/proc/self/uid_map"))
}

/// Whether a map, lines of the first number inside, the first outside and how many, shows `uid` inside.
fn is_mapped(uid: u32, map: &str) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first + count).contains(&u64::from(uid)))
    })
}

/// The number of the user `name`, if there is one.
pub(super) fn uid_of(name: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    // SAFETY: the callback passes a valid entry, buffer, length and result to getpwnam_r, and `name` ends with NUL.
    lookup(|entry, buffer, length, found| unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found) })
        .map(|user| user.map(|(entry, _): (libc::passwd, _)| entry.pw_uid))
}

/// The name of the user `uid`, if it has one.
pub fn user_name(uid: u32) -> io::Result<Option<String>> {
    // SAFETY: the callback passes a valid entry, buffer, length and result to getpwuid_r.
    let user = lookup(|entry, buffer, length, found| unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) })?;
    Ok(user.map(|(entry, _buffer): (libc::passwd, _)| {
        // SAFETY: a found entry's name points to a text with NUL in the buffer, which is alive here.
        unsafe { CStr::from_ptr(entry.pw_name) }.to_string_lossy().into_owned()
    }))
}

/// A user for a message: the name, or the number of one that has none or can't be looked up.
pub fn shown(uid: u32) -> String {
    match user_name(uid) {
        Ok(Some(name)) => format!("`{name}`"),
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

/// The number of the group `name`, if there is one.
pub fn gid_of(name: &str) -> io::Result<Option<u32>> {
    let Ok(text) = CString::new(name) else { return Ok(None) };
    // SAFETY: the callback passes a valid entry, buffer, length and result to getgrnam_r, and `text` ends with NUL.
    let group = lookup(|entry, buffer, length, found| unsafe {
        libc::getgrnam_r(text.as_ptr(), entry, buffer, length, found)
    })?;
    Ok(group.map(|(entry, _buffer): (libc::group, _)| entry.gr_gid))
}

/// The number of the private group of the user `name`: the group of the same name, if it lists no other member.
pub(super) fn private_group(name: &str) -> io::Result<Option<u32>> {
    let Ok(text) = CString::new(name) else { return Ok(None) };
    // SAFETY: the callback passes a valid entry, buffer, length and result to getgrnam_r, and `text` ends with NUL.
    let group = lookup(|entry, buffer, length, found| unsafe {
        libc::getgrnam_r(text.as_ptr(), entry, buffer, length, found)
    })?;
    Ok(group.and_then(|(entry, _buffer): (libc::group, _)| {
        let mut member = entry.gr_mem;
        // SAFETY: a found entry's members are an array of texts with NUL, ended by a null pointer, in the buffer, which is
        // alive here; the walk stops at the null pointer.
        unsafe {
            while !(*member).is_null() {
                if CStr::from_ptr(*member) != text.as_c_str() {
                    return None;
                }
                member = member.add(1);
            }
        }
        Some(entry.gr_gid)
    }))
}

/// Calls one of the `get…_r` functions with a buffer that is as large as it wants. What the entry points to is in the
/// buffer that comes with it.
fn lookup<T>(
    call: impl Fn(*mut T, *mut c_char, usize, *mut *mut T) -> libc::c_int,
) -> io::Result<Option<(T, Vec<c_char>)>> {
    let mut length = 1024;
    loop {
        let mut buffer: Vec<c_char> = vec![0; length];
        let mut entry = MaybeUninit::uninit();
        let mut found = std::ptr::null_mut();
        match call(entry.as_mut_ptr(), buffer.as_mut_ptr(), length, &mut found) {
            // Some sources of names say "no such entry" by these instead of by a null result (getpwnam_r(3)).
            0 | libc::ENOENT | libc::ESRCH if found.is_null() => return Ok(None),
            // SAFETY: on success with a result, the whole entry has been written.
            0 => return Ok(Some((unsafe { entry.assume_init() }, buffer))),
            libc::EINTR => {}
            libc::ERANGE if length < ENTRY_BYTES_MAX => length *= 2,
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_that_a_namespace_hides() {
        assert!(is_mapped(65_534, "         0          0 4294967295\n"));
        assert!(is_mapped(65_534, "0 1000 1\n1 100000 65536\n"));
        assert!(!is_mapped(65_534, "0 1000 1\n"));
        assert!(!is_mapped(65_534, ""));
        assert!(!is_hidden(0));
    }

    #[test]
    fn root_is_there_and_nobody_else_is() {
        assert_eq!(uid_of("root").unwrap(), Some(0));
        assert_eq!(user_name(0).unwrap().as_deref(), Some("root"));
        assert_eq!(uid_of("no-such-user-here").unwrap(), None);
        assert_eq!(uid_of("a\0b").unwrap(), None);
        assert_eq!(user_name(3_999_999_999).unwrap(), None);
        assert_eq!(private_group("no-such-group-here").unwrap(), None);
        assert_eq!(private_group("root").unwrap(), Some(0));
    }
}

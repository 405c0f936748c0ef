//! The user whose rights a script has, as the system's user database knows it.

use std::ffi::{CStr, CString};
use std::io;

/// The most bytes that one entry of the user database may take: getpwnam_r(3) wants a buffer.
const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// The most groups of a user: what Linux takes (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The first group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// The home folder.
    pub home: String,
    /// The login shell.
    pub shell: String,
}

impl User {
    /// Looks a user up by name. `None`: there is none.
    pub fn by_name(name: &str) -> io::Result<Option<Self>> {
        let c_name =
            CString::new(name).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a zero byte in a name"))?;
        // SAFETY: the arguments are as `look_up` gives them, valid for the call.
        look_up(|entry, buffer, length, found| unsafe {
            libc::getpwnam_r(c_name.as_ptr(), entry, buffer, length, found)
        })
    }

    /// Looks a user up by number. `None`: there is none.
    pub fn by_uid(uid: u32) -> io::Result<Option<Self>> {
        // SAFETY: the arguments are as `look_up` gives them, valid for the call.
        look_up(|entry, buffer, length, found| unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) })
    }

    /// The variables that tell a script who it is.
    pub fn variables(&self) -> [(String, String); 4] {
        [("HOME", &self.home), ("USER", &self.name), ("LOGNAME", &self.name), ("SHELL", &self.shell)]
            .map(|(key, value)| (key.to_owned(), value.clone()))
    }
}

type Found = *mut *mut libc::passwd;

fn look_up(call: impl Fn(*mut libc::passwd, *mut libc::c_char, usize, Found) -> i32) -> io::Result<Option<User>> {
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    loop {
        // SAFETY: zeroes are a valid `passwd`: it has numbers and pointers that are not followed while null.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        match call(&raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: the call succeeded, so the strings of `entry` lie in `buffer` and end in zero bytes.
            0 => return unsafe { from_entry(&entry) }.map(Some),
            libc::ERANGE if buffer.len() < ENTRY_BYTES_MAX => buffer.resize(buffer.len() * 4, 0),
            // What the C library's modules say of a user that does not exist: getpwnam_r(3), NOTES.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// # Safety
/// The strings of `entry` are valid.
unsafe fn from_entry(entry: &libc::passwd) -> io::Result<User> {
    // SAFETY: the caller's promise.
    let text = |pointer| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned();
    // SAFETY: the caller's promise.
    let groups = groups(unsafe { CStr::from_ptr(entry.pw_name) }, entry.pw_gid)?;
    Ok(User {
        name: text(entry.pw_name),
        uid: entry.pw_uid,
        gid: entry.pw_gid,
        groups,
        home: text(entry.pw_dir),
        shell: text(entry.pw_shell),
    })
}

fn groups(name: &CStr, first: u32) -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let mut count = groups.len() as i32;
        // SAFETY: `groups` has room for `count` numbers; the call writes at most as many, and the true count.
        let result = unsafe { libc::getgrouplist(name.as_ptr(), first, groups.as_mut_ptr(), &raw mut count) };
        if result >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return Ok(groups);
        }
        if groups.len() >= GROUPS_MAX {
            return Err(io::Error::other("the user is in too many groups"));
        }
        groups.resize(groups.len() * 4, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let root = User::by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.home.as_str()), (0, "/root"));
        assert!(root.groups.contains(&0));
        assert_eq!(User::by_uid(0).unwrap(), Some(root));
        assert_eq!(User::by_name("no-such-user").unwrap(), None);
        assert!(User::by_name("a\0b").is_err());
    }
}

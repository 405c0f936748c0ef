//! Names of users. The journal has the number that the kernel gives, `uid 1000`; people know a user by the name.

use crate::store::users;

/// The text before a user's number in the journal.
const UID: &str = "uid ";

/// Replaces the numbers of users with their names, where they have one.
pub(super) fn named(text: &str) -> String {
    with_names(text, |uid| users::user_name(uid).ok().flatten())
}

fn with_names(text: &str, name: impl Fn(u32) -> Option<String>) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(UID) {
        let begins_a_word = !rest[..at].ends_with(|c: char| c.is_alphanumeric());
        let behind = &rest[at + UID.len()..];
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        let found = behind[..digits].parse().ok().filter(|_| begins_a_word).and_then(&name);
        shown.push_str(&rest[..at]);
        match found {
            Some(name) => shown.push_str(&name),
            None => shown.push_str(&rest[at..at + UID.len() + digits]),
        }
        rest = &behind[digits..];
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_names() {
        let check = |text: &str, expected: &str| {
            let name = |uid| (uid == 7).then(|| "ann".to_owned());
            assert_eq!(with_names(text, name), expected);
        };
        check("", "");
        check("uid 7", "ann");
        check("stopped by uid 7: no reason given", "stopped by ann: no reason given");
        check("uid 8, uid 7, uid 77", "uid 8, ann, uid 77");
        check("fluid 7 uid x uid", "fluid 7 uid x uid");
        check("uid 99999999999999", "uid 99999999999999");
    }
}

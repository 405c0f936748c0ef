//! When a folder has come to rest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// When folders have come to rest: nothing happens to them for [`Quiet::PERIOD`].
#[derive(Debug, Default)]
pub struct Quiet {
    /// Since when, and until when last, something has been happening to a folder.
    restless: BTreeMap<String, (Instant, Instant)>,
}

/// A folder that is to be looked at, or given up for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Its name.
    pub folder: String,
    /// It did not come to rest in time.
    pub unrest: bool,
}

impl Quiet {
    /// Nothing must happen to a folder for so long: an editor's save is several steps, and `git` writes many files.
    pub const PERIOD: Duration = Duration::from_millis(200);
    /// A folder to which something happens for so long is given up: a log in it, perhaps.
    pub const UNREST: Duration = Duration::from_secs(2);

    /// Something happens to `folder`.
    pub fn hint(&mut self, folder: &str, now: Instant) {
        match self.restless.get_mut(folder) {
            Some((_, last)) => *last = now,
            None => drop(self.restless.insert(folder.to_owned(), (now, now))),
        }
    }

    /// Takes the folders that have come to rest at `now`, or do not.
    pub fn ready(&mut self, now: Instant) -> Vec<Ready> {
        let due = |(first, last): &(Instant, Instant)| now >= *last + Self::PERIOD || now >= *first + Self::UNREST;
        let names: Vec<String> =
            self.restless.iter().filter(|(_, times)| due(times)).map(|(name, _)| name.clone()).collect();
        let mut ready = Vec::with_capacity(names.len());
        for folder in names {
            let times = self.restless.remove(&folder);
            let unrest = times.is_some_and(|(_, last)| now < last + Self::PERIOD);
            ready.push(Ready { folder, unrest });
        }
        ready
    }

    /// The folders that have not come to rest.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.restless.keys().map(String::as_str)
    }

    /// When there is a folder to be taken next.
    pub fn next(&self) -> Option<Instant> {
        self.restless.values().map(|(first, last)| (*last + Self::PERIOD).min(*first + Self::UNREST)).min()
    }

    /// Lets all folders wait for another period: something greater is going on.
    pub fn postpone(&mut self, now: Instant) {
        self.restless.values_mut().for_each(|times| *times = (now, now));
    }

    /// Takes all folders, at rest or not.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.restless).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_comes_to_rest() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut quiet = Quiet::default();
        quiet.hint("a", at(0));
        quiet.hint("a", at(150));
        assert_eq!(quiet.ready(at(349)), []);
        assert_eq!(quiet.next(), Some(at(350)));
        assert_eq!(quiet.ready(at(350)), [Ready { folder: "a".to_owned(), unrest: false }]);
        assert_eq!(quiet.next(), None);
    }

    #[test]
    fn a_folder_that_does_not_is_given_up() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut quiet = Quiet::default();
        (0..=20).for_each(|step| quiet.hint("a", at(step * 100)));
        assert_eq!(quiet.next(), Some(at(2000)));
        assert_eq!(quiet.ready(at(2000)), [Ready { folder: "a".to_owned(), unrest: true }]);
    }
}

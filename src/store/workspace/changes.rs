//! What a deployment changed, and what scripts had changed before: [`Changes`], and the remarks that a run makes on it.

use crate::model::text::shown;

/// So many files are named in a remark; of more, their number says enough.
const NAMES_SHOWN_MAX: usize = 5;
/// So much of a name stands in a remark.
const NAME_CHARACTERS_SHOWN: usize = 120;

/// All that a deployment did to a workspace. Paths are those in the workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// How many files were written.
    pub(super) written: usize,
    /// Files that are the definition's again after a script had changed or removed them.
    pub(super) restored: Vec<String>,
    /// Files that a script had made something else of, and where that is now.
    pub(super) kept: Vec<(String, String)>,
    /// What stood in the way, and where it is now.
    pub(super) set_aside: Vec<(String, String)>,
    /// Files that left the definition, and stay because a script had changed them.
    pub(super) stays: Vec<String>,
}

impl Changes {
    /// Whether a folder that the path leads through was set aside, with all that was in it.
    pub(super) fn has_set_aside_above(&self, path: &str) -> bool {
        let is_above = |above: &str| path.strip_prefix(above).is_some_and(|below| below.starts_with('/'));
        self.set_aside.iter().any(|(above, _)| is_above(above))
    }

    /// One sentence for each kind of change that somebody may wonder about.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if !self.restored.is_empty() {
            let files = list(&self.restored, |path| name(path));
            remarks.push(format!("restored {files}: changed or removed by an earlier run"));
        }
        if !self.kept.is_empty() {
            let files = list(&self.kept, |(path, kept)| format!("{} (now {})", name(path), name(kept)));
            remarks.push(format!("replaced by the definition's version, the earlier content is kept: {files}"));
        }
        if !self.set_aside.is_empty() {
            let files = list(&self.set_aside, |(path, aside)| format!("{} (now {})", name(path), name(aside)));
            remarks.push(format!("set aside, because a file of the definition belongs there: {files}"));
        }
        if !self.stays.is_empty() {
            let files = list(&self.stays, |path| name(path));
            remarks.push(format!("left the definition, but stays because an earlier run had changed it: {files}"));
        }
        remarks
    }
}

fn name(path: &str) -> String {
    let mut name: String = path.chars().take(NAME_CHARACTERS_SHOWN).collect();
    if name.len() < path.len() {
        name.push('…');
    }
    format!("`{}`", shown(&name))
}

fn list<T>(all: &[T], show: impl Fn(&T) -> String) -> String {
    let named: Vec<String> = all.iter().take(NAMES_SHOWN_MAX).map(show).collect();
    let more = all.len() - named.len();
    let named = named.join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_name_a_few_files_and_count_the_rest() {
        assert_eq!(Changes { written: 3, ..Changes::default() }.remarks(), Vec::<String>::new());
        let changes = Changes {
            written: 0,
            restored: (0..7).map(|n| format!("f{n}")).collect(),
            kept: vec![("a\n".to_owned(), "a\n.mine".to_owned())],
            set_aside: Vec::new(),
            stays: vec!["x".repeat(300)],
        };
        let long = "x".repeat(NAME_CHARACTERS_SHOWN);
        let expected = [
            "restored `f0`, `f1`, `f2`, `f3`, `f4` and 2 more: changed or removed by an earlier run".to_owned(),
            "replaced by the definition's version, the earlier content is kept: `a\\n` (now `a\\n.mine`)".to_owned(),
            format!("left the definition, but stays because an earlier run had changed it: `{long}…`"),
        ];
        assert_eq!(changes.remarks(), expected);
    }
}

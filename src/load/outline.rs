//! The little that must be known of a `batch.toml` before the rest of its folder can be read: [`Outline`].

use toml::de::{DeTable, DeValue};

/// What decides which bytes belong to a definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The key `script`, as written.
    pub script: Option<String>,
    /// The key `include`, without a `/` at the end of a name; what is no string is left out.
    pub include: Vec<String>,
    /// The key `env_file`, without `./` before it: a relative one is no part of the definition.
    pub env_file: Option<String>,
}

/// Reads these keys from the text of a `batch.toml`, as far as they can be read.
///
/// It complains of nothing: [`super::definition()`] reads the same text and does.
pub fn outline(text: &str) -> Outline {
    let (table, _) = DeTable::parse_recoverable(text);
    let value = |key: &str| table.get_ref().get(key).map(|value| value.get_ref());
    let text = |key: &str| value(key).and_then(DeValue::as_str).map(str::to_owned);
    let script = text("script");
    let env_file = text("env_file").map(|file| file.trim_start_matches("./").to_owned());
    let include = value("include").and_then(DeValue::as_array).into_iter().flat_map(|list| list.iter());
    let include = include.filter_map(|entry| entry.get_ref().as_str());
    let include = include.map(|name| name.trim_end_matches('/').to_owned()).collect();
    Outline { script, include, env_file }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlines() {
        let check = |text: &str, script: Option<&str>, include: &[&str]| {
            let expected = Outline {
                script: script.map(str::to_owned),
                include: include.iter().map(|name| (*name).to_owned()).collect(),
                env_file: None,
            };
            assert_eq!(outline(text), expected, "{text}");
        };
        check("", None, &[]);
        check("script = \"a.zip\"\ninclude = [\"_a\", 1, \"_b/\"]", Some("a.zip"), &["_a", "_b"]);
        check("script = 1\ninclude = \"_a\"", None, &[]);
        let env_file = |text: &str| outline(text).env_file;
        assert_eq!(env_file("env_file = \"./own.env\"").as_deref(), Some("own.env"));
        check("crn = = 3\nscript = \"a.sh\"", Some("a.sh"), &[]);
    }
}

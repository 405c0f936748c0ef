//! The little that must be known of a `batch.toml` before the rest of its folder can be read: [`Outline`].

use toml::de::{DeTable, DeValue};

/// What decides which bytes belong to a definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The key `script`, as written.
    pub script: Option<String>,
    /// The key `include`, as written; what is no string is left out.
    pub include: Vec<String>,
}

/// Reads `script` and `include` from the text of a `batch.toml`, as far as they can be read.
///
/// It complains of nothing: [`super::definition()`] reads the same text and does.
pub fn outline(text: &str) -> Outline {
    let (table, _) = DeTable::parse_recoverable(text);
    let value = |key: &str| table.get_ref().get(key).map(|value| value.get_ref());
    let script = value("script").and_then(DeValue::as_str).map(str::to_owned);
    let entries = value("include").and_then(DeValue::as_array).into_iter().flat_map(|list| list.iter());
    let include = entries.filter_map(|entry| entry.get_ref().as_str()).map(str::to_owned).collect();
    Outline { script, include }
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
            };
            assert_eq!(outline(text), expected, "{text}");
        };
        check("", None, &[]);
        check("script = \"a.zip\"\ninclude = [\"_a\", 1, \"_b\"]", Some("a.zip"), &["_a", "_b"]);
        check("script = 1\ninclude = \"_a\"", None, &[]);
        check("crn = = 3\nscript = \"a.sh\"", Some("a.sh"), &[]);
    }
}

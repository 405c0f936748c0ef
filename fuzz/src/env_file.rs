//! An `env_file`: what is read can be handed to a script, and means the same when it is written out again. An error names a
//! line, and no more: what stands in it may be a secret.

use batchd::store::env_file::parse;

pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse(text) {
        Ok(variables) => {
            for (name, value) in &variables {
                assert!(!name.is_empty() && !name.contains(['=', '\0', '\n']), "{name:?}");
                assert!(!value.contains('\0'), "{value:?}");
            }
            let written: String = variables.iter().map(|(name, value)| format!("{name}={}\n", quoted(value))).collect();
            // A value of several lines comes from `\n` in quotes, and is written so.
            assert_eq!(parse(&written), Ok(variables));
        }
        Err(wrong) => {
            assert!(!wrong.is_empty());
            for (line, _what) in wrong {
                assert!((1..=text.lines().count()).contains(&line), "line {line}");
            }
        }
    }
}

fn quoted(value: &str) -> String {
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '"' | '\\' | '$' | '`' => quoted.extend(['\\', c]),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

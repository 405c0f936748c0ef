//! What scripts print, on its way to a terminal: nothing that moves a cursor, changes a colour or turns the direction of the
//! text is left of it, whatever the pieces are in which it comes.
//!
//! Input: a byte that says how long the pieces are; then a log.

use batchd::cli::escape;

pub(crate) fn check(input: &[u8]) {
    let Some((size, log)) = input.split_first() else { return };
    let mut whole = String::new();
    let used = escape::log(log, &mut whole);
    assert!(used <= log.len() && log.len() - used <= 3, "{} bytes wait for more", log.len() - used);
    assert!(is_harmless(&whole, true), "{whole:?}");

    let mut in_pieces = String::new();
    let mut pending = Vec::new();
    for piece in log.chunks(usize::from(*size).max(1)) {
        pending.extend_from_slice(piece);
        let used = escape::log(&pending, &mut in_pieces);
        pending.drain(..used);
    }
    assert_eq!(in_pieces, whole);
    assert_eq!(pending, log[used..]);

    let text = String::from_utf8_lossy(log);
    assert!(is_harmless(&escape::line(&text), false) && is_harmless(&escape::text(&text), true), "{text:?}");
    // What is plain stays as it is.
    if std::str::from_utf8(log).is_ok_and(|text| is_harmless(text, true)) {
        assert_eq!((whole.as_str(), escape::text(&text).as_str()), (&*text, &*text));
    }
}

fn is_harmless(text: &str, has_layout: bool) -> bool {
    let is_layout = |c: char| has_layout && matches!(c, '\n' | '\t');
    let harms = |c: char| {
        let turns = matches!(c as u32, 0x061c | 0x200e | 0x200f | 0x2028..=0x202e | 0x2066..=0x2069);
        (c.is_control() && !is_layout(c)) || turns
    };
    !text.contains(harms)
}

//! The records of a run folder: what is believed carries the token that was asked for, comes back as it was written, and can
//! be put into the journal. Above all, no damage makes a success.
//!
//! Input: a byte that says which record; then the file.

use std::fmt::Debug;

use batchd::model::id::{JournalId, Token};
use batchd::rundir::records::{Claim, Damage, Ending, ExitRecord, Record, RunRecord, Started, decode, encode};

pub(crate) fn check(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 4 {
        0 => drop(known::<RunRecord>(bytes)),
        1 => drop(known::<Claim>(bytes)),
        2 => drop(known::<Started>(bytes)),
        _ => drop(known::<ExitRecord>(bytes).map(|record| sound(&record))),
    }
}

/// Reads a record with the token that it carries itself.
fn known<R: Record + PartialEq + Debug>(bytes: &[u8]) -> Option<R> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let token: Token = serde_json::from_value(value.get("token")?.clone()).ok()?;
    let record: R = decode(bytes, &token).ok()?;
    assert_eq!(decode::<R>(&encode(&record), &token).expect("what was written can be read"), record);
    let other = Token { journal: JournalId(format!("{}x", token.journal.0)), ..token };
    assert!(matches!(decode::<R>(bytes, &other), Err(Damage::Token { .. })));
    Some(record)
}

fn sound(record: &ExitRecord) {
    let Ending::Exited { success, exit, .. } = &record.end else { return };
    assert!(!success || exit.exit_code.is_some(), "a success without an exit code");
    let counts = [exit.stdout_bytes, exit.stdout_dropped_bytes, exit.stderr_bytes, exit.stderr_dropped_bytes];
    assert!(counts.iter().all(|count| i64::try_from(*count).is_ok()), "the journal can't hold it");
    assert!(exit.signal.is_none_or(|signal| (1..=64).contains(&signal)));
}

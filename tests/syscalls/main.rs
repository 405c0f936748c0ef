//! One system call fails, or kills: of the daemon, of its journal's thread, of a shim. A small scenario is run once under
//! `strace` to see which calls there are, and then again for a call each, with a kill and with each error that the kernel can
//! give there. Whatever the daemon makes of it, the next one goes on, and in the end `doctor` is content and every script
//! has run as often as its row says.
//!
//! `cargo test` runs a sample. All of it, a thousand cases in minutes: `SYSCALLS=all cargo test --test syscalls -- --nocapture`.

#[path = "../world/mod.rs"]
mod world;

mod calls;
mod scenario;

use std::fmt;

use calls::{Call, Fault, Target};
use scenario::Scenario;

/// Asks for all cases.
const VARIABLE: &str = "SYSCALLS";
/// So many cases of a target make a sample, spread evenly over all: CI has minutes, not hours.
const SAMPLE: usize = 8;

/// One call, and what becomes of it.
#[derive(Clone, Debug)]
struct Case {
    target: Target,
    call: Call,
    fault: Fault,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} of {} number {}", self.target, self.fault, self.call.name, self.call.number)
    }
}

/// Counts the calls of a target, and goes through them.
fn sweep(target: Target) {
    let counted = Scenario::count(target);
    assert!(!counted.is_empty(), "{target:?} makes none of these calls: is strace there, and may it trace?");
    let of_call = |call: Call| call.faults().map(move |fault| Case { target, call, fault });
    let all: Vec<Case> = counted.into_iter().flat_map(of_call).collect();
    let step = match std::env::var(VARIABLE).as_deref() {
        Ok("all") => 1,
        // Odd, so that it does not always meet the same fault of the two or four of a call.
        _ => all.len().div_ceil(SAMPLE) | 1,
    };
    let (mut struck, mut failed) = (0, Vec::new());
    for case in all.iter().step_by(step) {
        println!("{case}");
        // The others are looked at all the same: a whole sweep finds all that is wrong.
        match std::panic::catch_unwind(|| Scenario::run(case)) {
            Ok(was_struck) => struck += u32::from(was_struck),
            Err(_) => failed.push(case.to_string()),
        }
    }
    println!("{target:?}: {} cases of {}, of which {struck} struck", all.len().div_ceil(step), all.len());
    assert!(failed.is_empty(), "failed: {failed:#?}");
    assert!(struck > 0, "nothing was struck in {} cases", all.len().div_ceil(step));
}

#[test]
fn a3_d19_e4_g2_g3_calls_of_the_daemon() {
    sweep(Target::Daemon);
}

#[test]
fn e1_e3_e4_calls_of_the_journals_thread() {
    sweep(Target::Journal);
}

#[test]
fn a8_b7_g3_calls_of_the_shims() {
    sweep(Target::Shims);
}

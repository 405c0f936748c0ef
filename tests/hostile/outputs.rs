//! I13 and I14: what scripts print, and what operators write, on a terminal and as the input of others.

use crate::world::World;
use crate::{assert_harmless, on_a_terminal};

/// A colour, the title of the window, a link, the C1 form of a colour, a bell, text from right to left, bytes that are no UTF-8.
const HURTS: &str = r"\033[31mred \033]0;title\007 \033]8;;http://x\033\\click\033]8;;\033\\ \302\23331m \342\200\256gpj \377\376\0 \r back";

#[test]
fn i13_a_log_moves_no_cursor() {
    let mut world = World::new();
    let script =
        format!("printf '{HURTS}\\n'; printf '{HURTS}\\n' >&2; head -c 1000000 /dev/zero | tr '\\0' '\\033'\n");
    world.batch("hurts", "", &script);
    world.start();
    world.batchd(&["start", "hurts", "--wait"]).expect(0);
    let plain = std::fs::read(world.run_file("hurts.1", "stdout.log")).unwrap();
    assert!(plain.windows(5).any(|window| window == b"\x1b[31m"), "the file has every byte");
    for arguments in ["logs hurts", "logs --timestamps hurts", "logs --stderr hurts"] {
        let shown = on_a_terminal(&world, arguments);
        assert!(shown.contains("\\x1b[31mred") && shown.contains("\\xff\\xfe\\x00"), "{arguments}: {shown:.300}");
        assert_harmless(&shown);
    }
}

#[test]
fn i13_what_people_write_moves_no_cursor() {
    let mut world = World::new();
    let hurts = "\u{1b}[31mred\u{7}\u{9b}31m\u{202e}";
    let described = r#"description = "\u001b[31mred\u0007\u009b31m\u202e""#;
    world.batch("described", described, "echo\n");
    world.batch("report", r#"tags = ["\u001b[31mred\u202e"]"#, "exit 3\n");
    world.start();
    world.batchd(&["start", "report", "--wait", "--", hurts]).expect(3);
    world.batchd(&["disable", "report", "--reason", hurts]).expect(0);
    for arguments in ["list", "check", "reload", "runs", "show report", "start report", "graph", "doctor"] {
        assert_harmless(&on_a_terminal(&world, arguments));
    }
    assert!(on_a_terminal(&world, "start report").contains("\\x1b[31mred"), "the refusal names the reason");
    // What nobody knows is said as harmlessly.
    let shown = on_a_terminal(&world, "show $(printf \"\\\\033[31mred\")");
    assert!(shown.contains("red"), "{shown}");
    assert_harmless(&shown);
}

/// The daemon's own log, for people, on a terminal.
#[test]
fn i13_the_daemons_log_moves_no_cursor() {
    let world = World::new();
    let hurts = "\u{1b}[31mred\u{7}\u{9b}31m\n2026-11-25T00:00:00Z ERROR forged";
    world.batch("report", "", "echo\n");
    world.batch(hurts, "", "echo\n");
    let value = r#"pool = "\u001b[31mred\u009b31m\u202e\n2026-11-25T00:00:00Z ERROR forged""#;
    world.batch("value", value, "echo\n");
    let binary = env!("CARGO_BIN_EXE_batchd");
    let shown = world.bash(&format!(
        "script -qfc 'NO_COLOR=1 {binary} daemon' log </dev/null >/dev/null & until grep -q 'is ready' log; do :; done
         {binary} disable report --reason \"$(printf '\\033[31mred')\" >&2; pkill -TERM -P $!; wait; cat log"
    ));
    assert!(shown.contains("red"), "{shown}");
    assert_harmless(&shown);
    assert!(!shown.lines().any(|line| line.starts_with("2026-11-25T00:00:00Z ERROR forged")), "{shown}");
}

#[test]
fn i14_what_a_batch_prints_is_data_for_the_next() {
    let mut world = World::new();
    let prints =
        "LD_PRELOAD=/tmp/evil.so\n$(touch $W/hurt); `touch $W/hurt` && touch $W/hurt\n-rf\nBATCHD_RUN=forged.1\n";
    world.write("prints", prints);
    world.batch("load", "", "cat $W/prints; cat $W/prints >&2\n");
    let script =
        "cat > $W/stdin; cat \"$BATCHD_INPUT\" > $W/input; cat \"$BATCHD_INPUT_DIR/load.err\" > $W/err; env > $W/env\n";
    world.batch("report", "after = 'load'\nuse_previous_output = true\n", script);
    world.start();
    world.batchd(&["start", "load"]).expect(0);
    world.rest();
    for file in ["stdin", "input", "err"] {
        assert_eq!(world.read(file), prints, "{file}");
    }
    let env = world.read("env");
    assert!(!env.contains("evil") && env.contains("\nBATCHD_RUN=report.1\n"), "{env}");
    assert!(!world.path("hurt").exists());
}

//! I15 to I19: what a script gets that it must not have, and what it reaches for.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rustix::process::Signal;
use serde_json::Value;

use crate::world::root::is_root;
use crate::world::{World, file};

/// The daemon was started from somebody's shell, with all that hangs about there.
#[test]
fn i15_nothing_of_the_daemons_reaches_a_script() {
    let mut world = World::new();
    let script = "env | cut -d= -f1 | sort | tr '\\n' ' '; echo; ls /proc/self/fd | wc -l; umask; ulimit -c
        grep -E '^(SigBlk|SigIgn|Groups)' /proc/self/status; tty; readlink /proc/$$/cwd\n";
    world.batch("dump", "", script);
    let wrapper = "exec 7</etc/passwd; trap '' USR1 HUP; umask 077
        export SECRET=tiger LD_BIND_NOW=1 BASH_ENV=/tmp/evil ENV=/tmp/evil IFS=x; exec \"$@\"";
    world.start_under(&["bash", "-c", wrapper, "bash"]);
    let run = world.batchd(&["start", "dump", "--wait"]).expect(0);
    let printed = world.stdout(run.line());
    let lines: Vec<&str> = printed.lines().collect();
    // Of bash itself: PWD, SHLVL and _. `W` is the world's own.
    let expected = "BATCHD_ATTEMPT BATCHD_BATCH BATCHD_BATCHES BATCHD_CHAIN BATCHD_DUE_AT BATCHD_PROGRESS BATCHD_RUN \
        BATCHD_RUNS BATCHD_RUN_DIR BATCHD_SETTINGS BATCHD_STATE BATCHD_TOKEN BATCHD_TRIGGER HOME LANG LOGNAME PATH PWD \
        SHELL SHLVL USER W _ ";
    assert_eq!(lines[0], expected);
    // 0, 1, 2, and the folder that ls reads.
    assert_eq!(lines[1], "4", "{printed}");
    assert_eq!(lines[2], "0022");
    assert!(
        printed.contains("SigBlk:\t0000000000000000") && printed.contains("SigIgn:\t0000000000000000"),
        "{printed}"
    );
    assert!(printed.contains("not a tty"), "{printed}");
    assert_eq!(lines.last(), Some(&world.path("state/workspaces/dump").to_str().unwrap()));
}

/// A script of another user finds everything closed that decides what runs and what ran.
#[test]
fn i16_a_script_of_another_user_changes_nothing_of_batchds() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    world.batch("other", "", "echo other\n");
    let script = r#"
try() { if eval "$1" 2>/dev/null; then echo "could: $1"; fi; }
cd "$BATCHD_RUN_DIR"
for name in run.json exit.json claim started.json lock stdout.log times new; do try "echo x > $name"; try "rm -f $name && test ! -e $name -a $name != new -a $name != exit.json -a $name != times"; done
try 'echo x > ../other.1/stdout.log'; try 'mkdir ../forged.1'; try 'rm -rf ../other.1; test ! -e ../other.1'
S=$BATCHD_STATE
for file in $S/journal.db $S/journal.db-wal $S/daemon.lock $S/definitions/* $S/definitions/*/* $S/workspaces/.*.json; do
  try "echo x >> '$file'"; try "mv '$file' /tmp/stolen"; done
try "ls $S"; try "ls $S/socket"; try "mkdir $S/workspaces/forged"
try "kill -KILL $PPID"; try "kill -STOP $PPID"; try "cat /proc/$PPID/environ"; try "exec 9<lock && flock -n 9"
batchd=$(readlink /proc/$PPID/exe); try "$W/batchd stop $BATCHD_RUN"
echo done
"#;
    world.batch("reach", "user = 'nobody'\n", script);
    symlink(env!("CARGO_BIN_EXE_batchd"), world.path("batchd")).unwrap();
    world.start();
    world.batchd(&["start", "other", "--wait"]).expect(0);
    let run = world.batchd(&["start", "reach"]).expect(0);
    assert_eq!(world.end(run.line())["outcome"], "succeeded");
    assert_eq!(world.stdout(run.line()), "done\n");
    assert_eq!(world.stdout("other.1"), "other\n");
}

/// The input of another user's script is copied into a folder of that user, by root: nothing that is put in its place
/// meanwhile is read.
#[test]
fn i16_an_input_swapped_for_a_link_is_not_read() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    world.write("secret", "tiger\n");
    fs::set_permissions(world.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    world.batch("load", "", "head -c 60000000 /dev/zero\n");
    world.batch("report", "user = 'nobody'\n", "head -c 100 | tr '\\0' 0\n");
    world.start();
    world.batchd(&["start", "load", "--wait"]).expect(0);
    // As a process of the script's user does who waits for it: a moment ago it was a file, and then it is a link.
    let swap = "ln -s $W/secret planted; until [[ -f runs/report.1/io/input ]]; do :; done; mv -T planted runs/report.1/io/input";
    let mut swapper = world.command("bash").args(["-c", swap]).spawn().unwrap();
    world.batchd(&["start", "report", "--input", "load.1", "--wait"]).expect(0);
    assert!(swapper.wait().unwrap().success());
    assert_eq!(world.stdout("report.1"), "0".repeat(100));
}

/// A workspace is its user's, who may plant links there: an `env_file` is read from the batch's folder, and nowhere else.
#[test]
fn i16_an_env_file_planted_as_a_link_is_not_read() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    world.write("secret", "PASSWORD=tiger\n");
    fs::set_permissions(world.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let script = "echo \"[$PASSWORD$OWN]\"; ln -sf $W/secret own.env; echo OWN=planted > real.env\n";
    world.batch("plant", "user = 'nobody'\n", script);
    world.start();
    world.batchd(&["start", "plant", "--wait"]).expect(0);
    world.batch("plant", "user = 'nobody'\nenv_file = 'own.env'\n", script);
    world.batchd(&["reload"]).expect(0);
    let run = world.batchd(&["start", "plant", "--wait"]).expect(125);
    let missing = format!("env_file {}: can't read the file", world.path("batches.d/plant/own.env").display());
    assert!(run.err.contains(&missing), "{run:?}");
    // A link in the batch's folder may lead to a file in it.
    world.write("batches.d/plant/real.env", "OWN=own\n");
    symlink("real.env", world.path("batches.d/plant/link.env")).unwrap();
    world.batch("plant", "user = 'nobody'\nenv_file = 'link.env'\n", script);
    world.batchd(&["reload"]).expect(0);
    let run = world.batchd(&["start", "plant", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "[own]\n");
}

/// A FIFO in the place of a file that a shim or the daemon reads keeps nobody.
#[test]
fn i16_fifos_keep_nobody() {
    let mut world = World::new();
    world.batch("envfile", &format!("env_file = '{}'\n", world.path("pipe").display()), "echo\n");
    world.bash("mkfifo pipe");
    // The shim is the script's parent: the script knows the name that it writes to before it renames.
    let plants = "cd \"$BATCHD_RUN_DIR\"; boot=$(tr -d - < /proc/sys/kernel/random/boot_id)
process=$boot-$(stat -Lc %i /proc/self/ns/pid)-$PPID
for name in trouble exit.json.$process.new; do rm -f $name; mkfifo $name; done\n";
    world.batch("plants", "", plants);
    world.start();
    let run = world.batchd(&["start", "envfile", "--wait"]).expect(125);
    assert!(run.err.contains("not a regular file"), "{run:?}");
    world.batch("fifo", "", "echo\n");
    world.bash("rm batches.d/fifo/script.sh; mkfifo batches.d/fifo/script.sh; mkdir batches.d/toml; mkfifo batches.d/toml/batch.toml");
    let reload = world.batchd(&["reload"]).expect(1);
    assert_eq!(reload.out.matches("this is a FIFO").count(), 2, "{reload:?}");
    world.batchd(&["start", "plants"]).expect(0);
    world.rest();
}

/// Without `user`, a script has the daemon's own rights, and can forge how it ended. What is forged badly is found out, and
/// nothing that is forged stops the daemon.
#[test]
fn i16_an_end_that_is_forged_stops_nothing_else() {
    let mut world = World::new();
    let huge = "18446744073709551615";
    let exit = |bytes: &str, signal: &str| {
        format!(
            r#"{{"exit_code":0,"signal":{signal},"stdout_bytes":{bytes},"stdout_dropped_bytes":0,"stderr_bytes":0,"stderr_dropped_bytes":0,"cpu_user_ms":{bytes},"cpu_system_ms":{bytes},"memory_bytes_max":0,"left_running":0}}"#
        )
    };
    for (name, exit) in [("huge", exit(huge, "null")), ("signal", exit("0", "2147483647"))] {
        // The token is copied from run.json; the shim is killed, so that it says nothing more.
        let script = format!(
            r#"token=$(sed 's/.*"token":\({{[^}}]*}}\).*/\1/' "$BATCHD_RUN_DIR/run.json")
at=$(date -u +%FT%T.000Z)
printf '{{"version":1,"token":%s,"started_at":"%s","ended_at":"%s","end":{{"exited":{{"wait_status":0,"cause":"itself","success":true,"exit":%s}}}}}}\n' "$token" "$at" "$at" '{exit}' > "$BATCHD_RUN_DIR/exit.json"
kill -KILL $PPID
"#
        );
        world.batch(name, "", &script);
    }
    world.batch("good", "", "echo good\n");
    world.start();
    for name in ["huge", "signal"] {
        let run = world.batchd(&["start", name]).expect(0);
        let run = world.end(run.line());
        assert_eq!(run["outcome"], "lost", "{run}");
        assert!(run["reason"].as_str().unwrap().contains("exit.json is damaged"), "{run}");
    }
    world.batchd(&["start", "good", "--wait"]).expect(0);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.start();
    world.batchd(&["start", "good", "--wait"]).expect(0);
}

/// When the rights of another user can't be taken, nothing is executed with ours.
#[test]
fn i17_a_step_to_another_user_that_fails_executes_nothing() {
    if !is_root() {
        return;
    }
    for call in ["setgroups", "setresgid", "setresuid"] {
        for error in ["EAGAIN", "EPERM"] {
            let mut world = World::new();
            world.batch("other", "user = 'nobody'\n", "id -u > $W/ran\n");
            world.batch("own", "", "echo\n");
            let inject = format!("inject={call}:error={error}");
            world.start_under(&[
                "strace",
                "-D",
                "-f",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={call}"),
                "-e",
                &inject,
            ]);
            let run = world.batchd(&["start", "other"]).expect(0).line().to_owned();
            let why = "can't switch to `user`";
            if error == "EAGAIN" {
                // setresuid(2): a limit of processes, which passes. It waits, and here for ever.
                world
                    .daemon()
                    .line_after(0, why, |line| line["reason"].as_str().is_some_and(|text| text.contains(why)));
                world.batchd(&["stop", &run]).expect(0);
                assert_eq!(world.end(&run)["started_at"], serde_json::Value::Null);
            } else {
                let end = world.end(&run);
                assert_eq!(end["outcome"], "failed", "{call} {error}: {end}");
                assert!(end["reason"].as_str().unwrap().contains(why), "{call}: {end}");
            }
            assert!(!world.path("ran").exists(), "{call} {error}");
            world.batchd(&["start", "own", "--wait"]).expect(0);
        }
    }
}

/// `nobody` has no shell and no home; another user is not there.
#[test]
fn i18_users_without_a_home_and_users_that_are_gone() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    world.batch("homeless", "user = 'nobody'\n", "echo $HOME $SHELL; pwd; touch left\n");
    world.batch("gone", "user = 'batchd-no-such-user'\n", "echo\n");
    world.start();
    let run = world.batchd(&["start", "homeless", "--wait"]).expect(0);
    let workspace = world.path("state/workspaces/homeless");
    let printed = world.stdout(run.line());
    assert!(printed.starts_with('/') && printed.ends_with(&format!("\n{}\n", workspace.display())), "{printed}");
    file(&workspace.join("left"));
    let run = world.batchd(&["start", "gone"]).expect(0);
    let run: Value = world.end(run.line());
    assert_eq!(run["outcome"], "failed");
    assert!(run["reason"].as_str().unwrap().contains("user `batchd-no-such-user` doesn't exist"), "{run}");
}

#[test]
fn i19_a_secret_is_nowhere_but_in_the_script() {
    let mut world = World::new();
    let secret = "tiger-7f3a";
    world.write("secrets.env", format!("PASSWORD={secret}\n"));
    let toml = format!("env_file = '{}'\nretries = 1\nretry_delay = '0s'\n", world.path("secrets.env").display());
    world.batch("report", &toml, "[[ $PASSWORD == tiger* ]] && echo knows; exit 3\n");
    world.write("broken.env", format!("PASSWORD={secret}\n'{secret}\n"));
    world.batch("broken", &format!("env_file = '{}'\n", world.path("broken.env").display()), "echo\n");
    world.start();
    world.batchd(&["start", "report", "--wait"]).expect(3);
    world.batchd(&["start", "broken", "--wait"]).expect(125);
    assert_eq!(world.stdout("report.2"), "knows\n");
    let log = world.daemon().log_text();
    assert!(!log.contains(secret), "{log}");
    for verb in ["list", "runs", "show report.1", "show broken.1", "doctor"] {
        let shown = world.batchd(&verb.split(' ').chain(["--json"]).collect::<Vec<_>>());
        assert!(!shown.out.contains(secret) && !shown.err.contains(secret), "{verb}");
    }
    let processes = world.bash("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'");
    assert!(!processes.contains(secret));
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    assert_eq!(world.bash(&format!("grep -rl {secret} runs state || true")), "");
}

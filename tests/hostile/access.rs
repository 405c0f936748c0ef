//! I8 to I12: who may knock at the socket, and with what.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::world::root::is_root;
use crate::world::{Output, PATIENCE, World};

const NOBODY: u32 = 65_534;

fn socket(world: &World) -> PathBuf {
    world.path("state/socket/batchd.sock")
}

/// A command line of somebody who is neither root nor the daemon's user.
#[track_caller]
fn as_nobody(world: &World, arguments: &[&str]) -> Output {
    let mut command = world.command(env!("CARGO_BIN_EXE_batchd"));
    command.args(arguments).uid(NOBODY).gid(NOBODY);
    world.output(command)
}

/// Sends bytes to the daemon, and gives the whole answer.
fn sent(world: &World, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket(world)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may hang up before it has all of it.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[track_caller]
fn assert_answer(world: &World, request: &str, status: &str) {
    let answer = sent(world, request.as_bytes());
    assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:.300}: {answer}");
}

fn act(body: &str) -> String {
    let head = "POST /v1/acts HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    format!("{head}content-length: {}\r\n\r\n{body}", body.len())
}

const ACTS: [&[&str]; 8] = [
    &["start", "report"],
    &["start", "report", "--env", "X=1"],
    &["rerun", "report.1"],
    &["stop", "report.1"],
    &["enable", "report"],
    &["disable", "report"],
    &["reload"],
    &["start", "report", "--input", "/etc/passwd"],
];

#[test]
fn i8_a_stranger_can_do_nothing_and_a_member_of_the_group_brings_no_code() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    world.batch("report", "", "echo \"$X\"\n");
    world.settings("");
    world.start();
    world.batchd(&["start", "report", "--wait"]).expect(0);
    for arguments in ACTS {
        let refused = as_nobody(&world, arguments).expect(1);
        let command = format!("`sudo -u root batchd --state {} {}", world.path("state").display(), arguments[0]);
        assert!(refused.err.contains(&command), "{arguments:?}: {refused:?}");
        assert!(
            refused.err.contains("permission denied: only root, the daemon's user and members of `socket_group`"),
            "{arguments:?}: {refused:?}"
        );
    }
    assert_eq!(world.runs().len(), 1);
    world.end_daemon(Signal::TERM);

    world.settings("socket_group = 'nogroup'");
    world.start();
    let run = as_nobody(&world, &["start", "report"]).expect(0);
    world.end(run.line());
    for (option, value) in [("--env", "BASH_ENV=/tmp/evil"), ("--input", "/etc/passwd")] {
        let refused = as_nobody(&world, &["start", "report", option, value]).expect(1);
        assert!(refused.err.contains("only root and the daemon's user can"), "{refused:?}");
    }
    // An input that is sent names no path.
    as_nobody(&world, &["start", "report", "--input", "-", "--wait"]).expect(0);
    as_nobody(&world, &["disable", "report"]).expect(0);
    let row = world.json(&["list"])["batches"][0]["disabled"]["by"].clone();
    assert_eq!(row, format!("uid {NOBODY}"));
    assert_eq!(world.runs().len(), 3);
}

/// Between bind(2) and the last chmod(2) stands only a folder that nobody else can pass.
#[test]
fn i9_the_socket_is_never_open_to_others() {
    let mut world = World::new();
    world.bash("mkdir -p -m 711 state; mkdir -m 777 state/socket");
    let calls = world.path("calls");
    let trace =
        ["strace", "-D", "-f", "-o", calls.to_str().unwrap(), "-e", "trace=bind,mkdir,mkdirat,chmod,fchmod,fchmodat"];
    world.start_under(&trace);
    world.end_daemon(Signal::TERM);
    let calls = fs::read_to_string(calls).unwrap();
    let calls: Vec<&str> =
        calls.lines().filter(|line| line.contains("socket\"") || line.contains("batchd.sock")).collect();
    let bind = calls.iter().position(|line| line.contains("bind(")).unwrap_or_else(|| panic!("no bind: {calls:#?}"));
    let closed = calls[..bind].iter().rposition(|line| line.contains("chmod") && line.contains("0700"));
    assert!(closed.is_some(), "bound in an open folder: {calls:#?}");
    let opened = calls[bind..].iter().any(|line| line.contains("/socket\", 07"));
    assert!(!opened, "{calls:#?}");
}

#[test]
fn i10_requests_that_are_made_to_hurt() {
    let mut world = World::new();
    world.batch("report", "", "echo\n");
    world.start();
    let head = "POST /v1/acts HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    // What says that it is long is read up to the limit, and not beyond.
    assert_answer(&world, &format!("{head}content-length: 2147483648\r\n\r\n{}", " ".repeat(3 << 20)), "413");
    assert_answer(&world, &format!("{head}content-length: 18446744073709551616\r\n\r\n{{"), "400");
    assert_answer(&world, &act(&"[".repeat(1_000_000)), "4");
    assert_answer(&world, &act(&format!("{{\"act\":{}", "{\"a\":".repeat(100_000))), "4");
    let chunks = format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20)).repeat(4);
    assert_answer(&world, &format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}"), "413");
    assert_answer(&world, &format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000)), "4");
    let headers: String = (0..10_000).map(|n| format!("h{n}: x\r\n")).collect();
    assert_answer(&world, &format!("GET / HTTP/1.1\r\n{headers}\r\n"), "4");
    assert_answer(&world, "no HTTP at all\r\n\r\n", "400");
    assert_answer(&world, &act("{\"act\":\"start\",\"batch\":\"../../etc\",\"follow\":\"chain\"}"), "422");
    assert_answer(&world, &act("{\"act\":\"stop\",\"run\":\"report.99999999999999999999\",\"reason\":null}"), "422");
    assert_eq!(world.runs().len(), 0);
    world.batchd(&["start", "report", "--wait"]).expect(0);
}

/// What the command line would not send.
#[test]
fn i10_variables_and_arguments_that_forge() {
    let mut world = World::new();
    world.batch("report", "", "env\n");
    world.start();
    let start = |given: &str| act(&format!(r#"{{"act":"start","batch":"report","follow":"nothing","given":{given}}}"#));
    for given in [
        r#"{"env":{"BATCHD_RUN":"forged.1"}}"#,
        r#"{"env":{"BATCHD_RUN=forged.1\u0000":"x"}}"#,
        r#"{"env":{"PATH=/tmp":"x"}}"#,
        r#"{"env":{"":"x"}}"#,
        r#"{"env":{"A":"x\u0000BATCHD_RUN=forged.1"}}"#,
        r#"{"args":["a\u0000b"]}"#,
        r#"{"input":{"file":"../../etc/passwd"}}"#,
    ] {
        assert_answer(&world, &start(given), "422");
    }
    let long = "N".repeat(200);
    assert_answer(&world, &start(&format!(r#"{{"env":{{"{long}":"x"}}}}"#)), "422");
    let many: Vec<String> = (0..5000).map(|n| format!("\"N{n}\":\"\"")).collect();
    assert_answer(&world, &start(&format!(r#"{{"env":{{{}}}}}"#, many.join(","))), "422");
    assert_eq!(world.runs().len(), 0, "nothing was started");
    // A value of several lines is one value.
    let answer = sent(&world, start(r#"{"env":{"A":"x\nBATCHD_RUN=forged.1"}}"#).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    world.end("report.1");
    let printed = world.stdout("report.1");
    assert!(printed.contains("A=x\nBATCHD_RUN=forged.1\n") && printed.contains("\nBATCHD_RUN=report.1\n"), "{printed}");
    // One that no program can be given is the run's end, and not the daemon's.
    let answer = sent(&world, start(&format!(r#"{{"env":{{"A":"{}"}}}}"#, "x".repeat(1_900_000))).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let run = world.end("report.2");
    assert_eq!(run["outcome"], "failed", "{run}");
    assert!(run["reason"].as_str().unwrap().contains("too long for the system"), "{run}");
}

/// More clients than the daemon serves at once, none of which says anything: what is scheduled runs, and the next one is
/// served when some of them have gone.
#[test]
fn i10_clients_that_say_nothing() {
    let mut world = World::new();
    world.batch("tick", "cron = '* * * * * *'\n", "echo\n");
    world.start();
    let mark = world.daemon().mark();
    let idle: Vec<UnixStream> = (0..600).map(|_| UnixStream::connect(socket(&world)).unwrap()).collect();
    let half: Vec<UnixStream> = idle[..100]
        .iter()
        .map(|stream| {
            let mut stream = stream.try_clone().unwrap();
            stream.write_all(b"POST /v1/acts HTTP/1.1\r\nho").unwrap();
            stream
        })
        .collect();
    world.daemon().run_line(mark, "tick", "succeeded");
    let mark = world.daemon().mark();
    world.daemon().run_line(mark, "tick", "succeeded");
    drop((idle, half));
    world.batchd(&["disable", "tick"]).expect(0);
    world.rest();
}

#[test]
fn i12_ids_in_paths() {
    let mut world = World::new();
    world.batch("report", "", "echo\n");
    world.start();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for (path, status) in [
        ("/v1/runs/report.1/end", "404"),
        ("/v1/runs/../../etc/passwd/end", "404"),
        ("/v1/runs/%2e%2e%2fstate%2fjournal.db/end", "400"),
        ("/v1/runs/report.1%00/end", "400"),
        ("/v1/runs/report.1%0a/end", "400"),
        ("/v1/runs/report.01/end", "400"),
        ("/v1/runs/REPORT.1/end", "400"),
        ("/v1/runs/report.9223372036854775808/end", "400"),
        ("/v1/runs/%ff/end", "400"),
        ("/v1/runs//end", "400"),
        ("/v1/../v1/acts", "404"),
        ("//v1/acts", "404"),
        ("/v1/acts", "405"),
    ] {
        assert_answer(&world, &get(path), status);
    }
}

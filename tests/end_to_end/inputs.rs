//! Inputs that are sent along with a `start`: whole, private, kept as long as somebody needs them, and never in the way of
//! those that come later.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use batchd::api::client::Client;
use batchd::model::input::InputId;
use batchd::model::request::{Reply, Request};
use batchd::model::run::{Follow, Given, Input};
use rustix::process::Signal;

use crate::start::{says, typed};
use crate::world::{PATIENCE, World};

fn stored_inputs(world: &World) -> Vec<std::path::PathBuf> {
    let Ok(folder) = fs::read_dir(world.path("state/inputs")) else { return Vec::new() };
    folder.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn an_input_from_stdin_is_private_serves_reruns_and_goes_with_success() {
    let mut world = World::new();
    world.batch("load", "retries = 1\nretry_delay = '0s'", "cat; test -e $W/good || exit 3\n");
    world.batch("off", "enabled = false", "cat\n");
    world.start();
    let line = "printf 'a\\0b\\nc' | batchd start load --input - --wait";
    typed(&world, line).expect(3);
    // The retry has read it, too.
    assert_eq!((world.stdout("load.1"), world.stdout("load.2")), ("a\0b\nc".to_owned(), "a\0b\nc".to_owned()));
    let inputs = stored_inputs(&world);
    assert_eq!(inputs.len(), 1, "{inputs:?}");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&world.path("state/inputs")), mode(&inputs[0])), (0o700, 0o600));
    world.batchd(&["doctor"]).expect(0);
    says(&world.batchd(&["show", "load.1"]).expect(0).out, &["stdin of `batchd start`"]);
    // A failure may be repeated with it, by another daemon as well.
    world.end_daemon(Signal::TERM);
    world.start();
    world.write("good", "");
    world.batchd(&["rerun", "load.1", "--wait"]).expect(0);
    assert_eq!(world.stdout("load.3"), "a\0b\nc");
    assert_eq!(stored_inputs(&world).len(), 0);
    let refused = world.batchd(&["rerun", "load.1"]).expect(2);
    says(&refused.err, &["the input of load.1 is no longer kept", "`batchd start load --input - < FILE`"]);
    // A start that is refused leaves nothing.
    typed(&world, "echo x | batchd start off --input -").expect(1);
    gone(&stored_inputs(&world));
    typed(&world, "echo x | batchd start load --input - --wait").expect(0);
    assert_eq!(stored_inputs(&world).len(), 0);
    world.batchd(&["doctor"]).expect(0);
}

#[test]
fn an_input_that_is_too_large_starts_nothing_and_an_empty_one_is_pointed_out() {
    let mut world = World::new();
    world.batch("load", "", "wc -c\n");
    world.start();
    let size = 64 << 20;
    let large = typed(&world, &format!("head -c {} /dev/zero | batchd start load --input -", size + 1)).expect(2);
    says(&large.err, &["larger than 64 MiB", "--input FILE"]);
    assert_eq!((world.runs().len(), stored_inputs(&world).len()), (0, 0));
    let empty = typed(&world, "batchd start load --input - --wait < /dev/null").expect(0);
    says(&empty.err, &["stdin was empty"]);
    typed(&world, &format!("head -c {size} /dev/zero | batchd start load --input - --wait")).expect(0);
    assert_eq!(world.stdout("load.1").trim(), "0");
    assert_eq!(world.stdout("load.2").trim(), size.to_string());
}

const MIB: u64 = 1 << 20;

/// The one that was not there before. Becomes as long as this, without taking room on the disk, and as old.
#[track_caller]
fn grown(world: &World, before: &BTreeSet<PathBuf>, bytes: u64, age: Duration) -> PathBuf {
    let new: Vec<PathBuf> = stored_inputs(world).into_iter().filter(|path| !before.contains(path)).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    let file = File::options().write(true).open(&new[0]).unwrap();
    file.set_len(bytes).unwrap();
    file.set_times(FileTimes::new().set_modified(SystemTime::now() - age)).unwrap();
    new[0].clone()
}

/// Waits until none of these is there any more.
#[track_caller]
fn gone(paths: &[PathBuf]) {
    let until = Instant::now() + PATIENCE;
    while paths.iter().any(|path| path.exists()) {
        assert!(Instant::now() < until, "{paths:?} are there still");
        std::thread::yield_now();
    }
}

#[test]
fn inputs_of_runs_that_have_ended_make_room_the_oldest_first() {
    let mut world = World::new();
    world.batch("load", "", "exit 3\n");
    world.batch("sums", "", "cat\n");
    world.start();
    let mut kept = Vec::new();
    // Minutes old, and together all that may be kept.
    for age in [20, 30, 10] {
        let before = stored_inputs(&world).into_iter().collect();
        typed(&world, "echo x | batchd start load --input - --wait").expect(3);
        kept.push(grown(&world, &before, 342 * MIB, Duration::from_secs(age * 60)));
    }
    typed(&world, "echo of sums | batchd start sums --input - --wait").expect(0);
    assert_eq!(world.stdout("sums.1"), "of sums\n");
    assert_eq!(kept.iter().map(|path| path.exists()).collect::<Vec<_>>(), [true, false, true]);
    says(&world.batchd(&["rerun", "load.2"]).expect(2).err, &["the input of load.2 is no longer kept"]);
    world.batchd(&["rerun", "load.1", "--wait"]).expect(3);
    world.batchd(&["rerun", "load.3", "--wait"]).expect(3);
    world.batchd(&["doctor"]).expect(0);
}

#[test]
fn inputs_that_runs_need_stay_and_who_finds_no_room_is_told_what_helps() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("slow", "", "echo up > $W/up\nread -r word < $W/go\nhead -c 2\n");
    world.batch("load", "", "exit 3\n");
    world.batch("sums", "", "cat\n");
    world.start();
    typed(&world, "echo x | batchd start load --input - --wait").expect(3);
    let kept = stored_inputs(&world);
    typed(&world, "echo y | batchd start slow --input -").expect(0);
    up.hear();
    let needed = grown(&world, &kept.iter().cloned().collect(), 1024 * MIB, Duration::from_secs(8 * 24 * 60 * 60));
    let start = "head -c 67108864 /dev/zero | batchd start sums --input - --wait";
    let full = typed(&world, start).expect(1);
    says(&full.err, &["no room", "runs that have not ended", "1024 MiB", "`batchd list`", "--input FILE"]);
    // What can't help is not done.
    assert!(needed.exists() && kept[0].exists());
    go.tell();
    assert_eq!(world.end("slow.1")["outcome"], "succeeded");
    assert_eq!(world.stdout("slow.1"), "y\n");
    typed(&world, start).expect(0);
}

#[test]
fn an_input_without_a_start_goes_with_its_connection() {
    let mut world = World::new();
    world.batch("load", "", "exit 3\n");
    world.start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let second = runtime.block_on(async {
        let mut client = Client::connect(&world.path("state")).await.unwrap();
        let first = client.store_input(b"never started".to_vec()).await.unwrap().path(&world.path("state"));
        let second = client.store_input(b"nor this".to_vec()).await.unwrap().path(&world.path("state"));
        // A connection has one input that is not started.
        gone(&[first]);
        assert!(second.exists());
        second
    });
    drop(runtime);
    gone(&[second]);
}

/// Whoever reads the journal finds the names of inputs there, and must not get at the inputs with a batch that prints them.
#[test]
fn an_input_is_started_once() {
    let mut world = World::new();
    world.batch("load", "", "exit 3\n");
    world.batch("shows", "overlap = 'allow'", "cat\n");
    world.start();
    typed(&world, "echo secret | batchd start load --input - --wait").expect(3);
    let of_load = stored_inputs(&world)[0].file_name().unwrap().to_str().unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::connect(&world.path("state")).await.unwrap();
        let start = |input: &InputId| Request::Start {
            batch: "shows".parse().unwrap(),
            follow: Follow::Chain,
            given: Given { input: Some(Input::Stored(input.clone())), ..Given::default() },
            queue: false,
            force: false,
        };
        let refused = |reply| matches!(reply, Reply::Refused { what, .. } if what.contains("there is no stored input"));
        assert!(refused(client.act(&start(&of_load)).await.unwrap()));
        let own = client.store_input(b"own".to_vec()).await.unwrap();
        assert!(matches!(client.act(&start(&own)).await.unwrap(), Reply::Queued { .. }));
        assert!(refused(client.act(&start(&own)).await.unwrap()));
    });
    assert_eq!(world.end("shows.1")["outcome"], "succeeded");
    assert_eq!((world.stdout("shows.1"), world.runs().len()), ("own".to_owned(), 2));
}

#[test]
fn a_daemon_that_was_killed_leaves_no_part_of_an_input() {
    let mut world = World::new();
    world.batch("load", "", "exit 3\n");
    world.start();
    typed(&world, "echo x | batchd start load --input - --wait").expect(3);
    let kept = stored_inputs(&world);
    world.end_daemon(Signal::KILL);
    let part = world.path("state/inputs/0123456789abcdef0123456789abcdef.new");
    fs::write(&part, "half of").unwrap();
    world.start();
    gone(&[part]);
    assert_eq!(stored_inputs(&world), kept);
}

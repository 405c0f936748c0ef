//! docs/containers.md: what its Dockerfile builds and starts works, in name spaces of its own instead of an image.

use std::fs;

use batchd::shim::tree;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::World;

/// The lines of the last stage of the Dockerfile that begin with this instruction, without it.
fn instructions(stage: &str, name: &str) -> Vec<String> {
    stage.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned)).collect()
}

/// The words of `["a", "b"]`.
fn words(list: &str) -> Vec<String> {
    serde_json::from_str(list).unwrap()
}

#[test]
fn the_container_of_the_documents_starts_and_stops() {
    let page = fs::read_to_string(crate::root().join("docs/containers.md")).unwrap();
    let file = crate::blocks(&page, "dockerfile")[0];
    let stage = &file[file.rfind("FROM ").unwrap()..];
    let folder = &instructions(stage, "WORKDIR")[0];
    let inside = folder.strip_prefix("/srv/").expect("the test has a /srv of its own");
    let commands: Vec<String> =
        instructions(stage, "RUN").into_iter().filter(|command| !command.starts_with("apt-get")).collect();
    assert_eq!(instructions(stage, "COPY").last().unwrap(), "batches.d batches.d");
    for volume in words(&instructions(stage, "VOLUME")[0]) {
        assert!([format!("{folder}/runs"), format!("{folder}/state")].contains(&volume), "{volume}");
    }
    let start = [words(&instructions(stage, "ENTRYPOINT")[0]), words(&instructions(stage, "CMD")[0])].concat();
    assert_eq!(start, ["batchd", "daemon"]);

    let mut world = World::new();
    fs::create_dir_all(world.path("srv").join(inside)).unwrap();
    world.bash(&format!("cd srv/{inside}\n{}", commands.join("\n")));
    let batch = format!("srv/{inside}/batches.d/server");
    world.write(&format!("{batch}/batch.toml"), "");
    world.write(
        &format!("{batch}/script.sh"),
        "trap 'echo told; exit 0' TERM\necho up\nwhile :; do read -rt 1 <> <(:) || :; done\n",
    );
    let root = rustix::process::geteuid().is_root();
    let spaces = if root { "--mount" } else { "--map-root-user" };
    let begin = format!("mount --bind \"$W/srv\" /srv && cd {folder} && exec \"$0\" \"$@\"");
    let arguments = [spaces, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-ec", &begin];
    world.spawn_under("unshare", &arguments.map(str::to_owned));
    assert!(world.daemon().ready_or_ended(), "{}", world.daemon().log_text());

    let batchd = |world: &World, arguments: &[&str]| {
        let mut command = world.command(env!("CARGO_BIN_EXE_batchd"));
        command.args(arguments).current_dir(world.path("srv").join(inside));
        world.output(command)
    };
    batchd(&world, &["start", "server"]).expect(0);
    let log = world.path("srv").join(inside).join("runs/server.1/stdout.log");
    world.daemon().line("the script's line in the daemon's log", |line| line.to_string().contains("\"up\""));

    // `docker stop` tells process 1.
    let first = tree::descendants(world.daemon().pid())[0];
    kill_process(Pid::from_raw(first).unwrap(), Signal::TERM).unwrap();
    assert_eq!(world.daemon_ends(), 0);
    assert_eq!(fs::read_to_string(log).unwrap(), "up\ntold\n");
    let ended = batchd(&world, &["show", "server.1", "--json"]).expect(0).json();
    assert_eq!(ended["state"], "ended", "{ended}");
}

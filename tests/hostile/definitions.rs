//! I1 to I6: definitions that others could write, links, names, texts and archives.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Cursor, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;

use zip::write::{SimpleFileOptions, ZipWriter};

use crate::world::World;
use crate::world::root::is_root;
use crate::{assert_harmless, on_a_terminal};

#[test]
fn i1_what_others_may_write_is_refused_before_it_is_parsed() {
    let world = World::new();
    world.batch("report", "this = is [no toml", "echo\n");
    let parsed = world.batchd(&["check"]).expect(1).out;
    assert!(parsed.contains("this = is"), "{parsed}");
    for path in ["report/batch.toml", "report/script.sh", "report", "", ".."] {
        let path = format!("batches.d/{path}");
        // Only root's own group may hold others than its owner, as far as a test can know.
        let ways = [("writable by everybody", "o+w"), ("writable by its group", "g+w")];
        for (who, bits) in &ways[..if is_root() { 2 } else { 1 }] {
            world.bash(&format!("chmod {bits} {path}"));
            let check = world.batchd(&["check"]).expect(1);
            assert!(check.out.contains(who) && check.out.contains("chmod"), "{check:?}");
            assert!(check.err.contains("0 batches are valid"), "{check:?}");
            // What is in a folder that others may write is not even looked at.
            assert!(!path.contains("report") || !check.out.contains("this = is"), "{path} was read: {check:?}");
            world.bash(&format!("chmod go-w {path}"));
        }
    }
    let setuid = "chmod u+s batches.d/report/script.sh; ln batches.d/report/script.sh batches.d/report/linked.sh";
    // Neither gives anybody rights that he has not got: batchd copies the bytes, and runs the copy.
    world.bash(setuid);
    world.write("batches.d/report/batch.toml", "");
    world.batchd(&["check"]).expect(0);
}

#[test]
fn i2_permissions_broken_and_mended_while_the_daemon_runs() {
    let mut world = World::new();
    world.batch("report", "", "echo one\n");
    world.start();
    world.batch("report", "", "echo two\n");
    world.bash("chmod o+w batches.d/report/script.sh");
    let reload = world.batchd(&["reload"]).expect(1);
    assert!(reload.out.contains("chmod o-w"), "{reload:?}");
    let run = world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "one\n");
    world.bash("chmod o-w batches.d/report/script.sh");
    world.batchd(&["reload"]).expect(0);
    let run = world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "two\n");
}

#[test]
fn i3_a_link_to_a_secret_shows_nothing_of_it() {
    let world = World::new();
    world.write("secret", "password = tiger\n");
    world.batch("toml", "", "echo\n");
    world.batch("script", "", "echo\n");
    world.batch("behind", "", "echo\n");
    let to_the_secret = |name: &str| {
        let path = world.path("batches.d").join(name);
        fs::remove_file(&path).unwrap();
        symlink(world.path("secret"), path).unwrap();
    };
    to_the_secret("toml/batch.toml");
    to_the_secret("script/script.sh");
    to_the_secret("behind/script.sh");
    fs::rename(world.path("batches.d/behind/script.sh"), world.path("batches.d/behind/second")).unwrap();
    symlink("second", world.path("batches.d/behind/script.sh")).unwrap();
    symlink(world.path("batches.d/toml"), world.path("batches.d/folder")).unwrap();
    symlink("/proc/self/environ", world.path("batches.d/behind/magic")).unwrap();
    let check = world.batchd(&["check"]).expect(1);
    let said = check.out + &check.err;
    assert!(!said.contains("tiger"), "{said}");
    assert_eq!(said.matches("leads out of the folder").count(), 5, "{said}");
    assert!(said.contains("folder: this is a link to a folder"), "{said}");
    assert!(said.contains("0 batches are valid"), "{said}");
}

#[test]
fn i4_names_of_folders_and_files() {
    let world = World::new();
    world.batch("report", "", "echo\n");
    let long = "x".repeat(255);
    let names: [&[u8]; 12] = [
        b"Report",
        b"..x",
        b"a.b",
        b"line\nend",
        b"\x1b[31mred\x07",
        long.as_bytes(),
        "аpple".as_bytes(),
        "user\u{202e}gpj".as_bytes(),
        b"\xff\xfe",
        b"-rf",
        b"it's; touch hurt; '",
        b"$(touch hurt)",
    ];
    for name in names {
        let folder = world.path("batches.d").join(OsStr::from_bytes(name));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("script.sh"), "echo\n").unwrap();
    }
    // And in a good batch.
    File::create(world.path("batches.d/report").join(OsStr::from_bytes(b"\x1b]0;title\x07\xff"))).unwrap();
    let check = world.batchd(&["check"]).expect(1);
    let complaints = check.out.split("\n\n").count();
    // `..x` begins with a dot, and is left out like all others that do.
    assert_eq!(complaints, names.len() - 1 + 1, "{}", check.out);
    assert_harmless(&on_a_terminal(&world, "check"));
    assert_harmless(&on_a_terminal(&world, "list"));
}

/// What hints say can be pasted: a command does what it says to the file that it is about, and nothing else.
#[test]
fn i4_commands_in_hints_are_about_one_file() {
    let world = World::new();
    world.batch("report", "", "echo\n");
    world.write("batches.d/report/$(touch hurt)", "");
    for (n, name) in
        ["it's; touch hurt; '", "$(touch hurt)", "-rf", "line\nend", "`touch hurt`"].into_iter().enumerate()
    {
        world.batch(&format!("b{n}"), "", "echo\n");
        world.write(&format!("batches.d/b{n}/{name}"), "");
        world.bash(&format!("cd batches.d/b{n}; for name in *; do [[ $name == *.* ]] || chmod o+w -- \"$name\"; done"));
    }
    // All files of a batch, and one command.
    world.bash("chmod o+w batches.d/report/*");
    let check = world.batchd(&["check"]).expect(1);
    let commands = check.out.lines().filter_map(|line| line.trim().strip_prefix("hint: run `")?.strip_suffix('`'));
    let commands: Vec<&str> = commands.collect();
    assert_eq!(commands.len(), 6, "{}", check.out);
    for command in commands {
        world.bash(&format!("cd batches.d/report; {command}"));
    }
    world.batchd(&["check"]).expect(0);
    assert!(!world.path("batches.d/report/hurt").exists());
    assert_eq!(world.bash("find . -name hurt -not -path '*(*'"), "");
}

#[test]
fn i5_texts_that_are_made_to_hurt() {
    let mut world = World::new();
    world.batch("good", "", "echo good\n");
    world.start();
    let of = |piece: &str, count: usize| piece.repeat(count);
    let keys: String = (0..40_000).map(|n| format!("key-{n} = {n}\n")).collect();
    let texts: [(&str, Vec<u8>); 9] = [
        ("lists", (of("a = ", 1) + &of("[", 20_000)).into_bytes()),
        ("tables", (of("a = ", 1) + &of("{a=", 20_000)).into_bytes()),
        ("dots", (of("a.", 200_000) + "a = 1").into_bytes()),
        ("section", (of("[", 1) + &of("a.", 200_000) + "a]").into_bytes()),
        ("keys", keys.into_bytes()),
        (
            "upstreams",
            format!("after = [{}]", (0..50_000).map(|n| format!("'u{n}',")).collect::<String>()).into_bytes(),
        ),
        ("mark", b"\xef\xbb\xbfdescription = 'x'".to_vec()),
        ("latin", b"description = 'caf\xe9'".to_vec()),
        ("line", (of("x", 1_000_000) + " = \x1b[31m").into_bytes()),
    ];
    for (name, text) in &texts {
        world.batch(name, "", "echo\n");
        world.write(&format!("batches.d/{name}/batch.toml"), text);
    }
    world.batch("sparse", "", "echo\n");
    File::create(world.path("batches.d/sparse/batch.toml")).unwrap().set_len(1 << 40).unwrap();
    let reload = world.batchd(&["reload"]).expect(1);
    for (name, _) in texts.iter().filter(|(name, _)| *name != "mark") {
        assert!(reload.out.contains(&format!("{name}/batch.toml")), "nothing is said of {name}");
    }
    assert!(reload.out.contains("sparse"), "nothing is said of what is too large");
    assert!(reload.out.len() < 1_000_000, "{} bytes of complaints", reload.out.len());
    assert_harmless(&on_a_terminal(&world, "check"));
    world.batchd(&["start", "good", "--wait"]).expect(0);
    let status = fs::read_to_string(format!("/proc/{}/status", world.daemon().pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(peak_kib < 400 * 1024, "the daemon came to {peak_kib} KiB");
}

#[test]
fn i5_settings_that_are_made_to_hurt() {
    let mut world = World::new();
    world.batch("good", "", "echo good\n");
    world.start();
    for text in [&b"\xff\xfe"[..], &b"[".repeat(20_000), b"[defaults]\nenv = { 'A=B' = 'x' }"] {
        world.write("batchd.toml", text);
        let reload = world.batchd(&["reload"]);
        assert_ne!(reload.code, 0, "{reload:?}");
    }
    File::create(world.path("batchd.toml")).unwrap().set_len(1 << 40).unwrap();
    assert_ne!(world.batchd(&["check"]).code, 0);
    // The daemon goes on with what it had.
    world.settings("");
    world.batchd(&["reload"]).expect(0);
    world.batchd(&["start", "good", "--wait"]).expect(0);
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// An archive with a link out of itself, and a file that is written through it.
fn archive_with_link() -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.add_symlink("way", "/tmp", SimpleFileOptions::default()).unwrap();
    writer.start_file("script.sh", SimpleFileOptions::default()).unwrap();
    writer.start_file("way/hurt", SimpleFileOptions::default()).unwrap();
    writer.finish().unwrap().into_inner()
}

/// Every entry says that it unpacks to four gigabytes.
fn archive_that_lies() -> Vec<u8> {
    let mut bytes = archive(&[("script.sh", b"echo")]);
    let local = 22;
    let central = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap() + 24;
    for place in [local, central] {
        bytes[place..place + 4].copy_from_slice(&0xffff_fffe_u32.to_le_bytes());
    }
    bytes
}

/// The rules of archives are tested beside the walker and the child; here they meet the daemon.
#[test]
fn i6_archives_that_are_made_to_hurt() {
    let mut world = World::new();
    world.write("batches.d/good/good.zip", archive(&[("script.sh", b"echo good\n")]));
    world.write("batches.d/good/batch.toml", "");
    let cut = archive(&[("script.sh", b"echo"), ("lib", &[7; 1000])]);
    let bad: [(&str, Vec<u8>); 8] = [
        ("slip", archive(&[("script.sh", b""), ("../../../hurt", b"x")])),
        ("absolute", archive(&[("script.sh", b""), (world.path("hurt").to_str().unwrap(), b"x")])),
        ("backslash", archive(&[("script.sh", b""), ("..\\hurt", b"x")])),
        ("link", archive_with_link()),
        ("bomb", archive(&[("script.sh", &vec![0; 60 << 20])])),
        ("twins", archive(&[("script.sh", b""), ("lib", b""), ("LIB", b"")])),
        ("lies", archive_that_lies()),
        ("cut", cut[..cut.len() - 30].to_vec()),
    ];
    for (name, bytes) in &bad {
        world.write(&format!("batches.d/{name}/{name}.zip"), bytes);
        world.write(&format!("batches.d/{name}/batch.toml"), "");
    }
    world.start();
    let reload = world.batchd(&["reload"]).expect(1);
    for (name, _) in &bad {
        assert!(reload.out.contains(&format!("{name}/{name}.zip: ")), "nothing is said of {name}: {}", reload.out);
    }
    let hurt = world.bash("find . /tmp -maxdepth 1 -name hurt; find batches.d state runs -name hurt");
    assert_eq!(hurt, "");
    let run = world.batchd(&["start", "good", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "good\n");
}

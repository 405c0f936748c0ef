//! The desk at which a page's commands are typed: a folder with batchd on the `PATH`, and a daemon where a block needs one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::world::World;

/// The schedule that takes the place of each schedule at a desk, so that nothing starts while a screen is looked at.
const QUIET: &str = "0 3 29 2 *";
/// The schedule of the shipped batches.
const SHIPPED: &str = "* * * * *";

/// The width of the terminal of screens on the pages: the lines of the documents are not much longer.
const COLUMNS: usize = 100;
/// Where the documents keep backups; at a desk it is a folder beside it.
const BACKUP: &str = "/backup";

/// What a block's preparation may call.
const HELPERS: &str = r#"
batch() { mkdir -p "batches.d/$1" && printf '%s\n' "$2" >"batches.d/$1/batch.toml" &&
  printf '%s\n' "$3" >"batches.d/$1/script.sh"; }
"#;

/// What a command came to: its exit code, and what it wrote to stdout and stderr.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) screen: String,
}

/// A desk.
pub(crate) struct Desk {
    world: World,
    /// Where the user stands.
    folder: PathBuf,
    has_daemon: bool,
}

impl Desk {
    pub(crate) fn new(things: &[String]) -> Self {
        let world = World::new();
        // A newcomer has no settings.
        fs::remove_file(world.path("batchd.toml")).unwrap();
        fs::create_dir(world.path("bin")).unwrap();
        fs::create_dir(world.path("backup")).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_batchd"), world.path("bin/batchd")).unwrap();
        let mut desk = Self { folder: world.path("desk"), world, has_daemon: false };
        fs::create_dir_all(desk.folder.join("batches.d")).unwrap();
        let root = crate::root();
        for thing in things {
            match thing.as_str() {
                "shipped" => desk.copy(&root.join("batches.d")),
                "examples" => desk.copy(&root.join("examples")),
                "daemon" => desk.start(),
                "empty" => {}
                other => panic!("no desk has `{other}`"),
            }
        }
        desk
    }

    /// Copies the batches of a folder, with schedules at which nothing is due.
    fn copy(&mut self, from: &Path) {
        let script = "for toml in \"$0\"/*/batch.toml; do cp -r \"${toml%/*}\" batches.d; done
            ! [[ -d $0/_common ]] || cp -r \"$0\"/_common batches.d";
        let mut command = self.command("bash");
        command.args(["-ec", script]).arg(from);
        self.world.output(command).expect(0);
        self.quiet();
    }

    /// Takes the place of the user: a command where the user stands.
    fn command(&self, program: &str) -> Command {
        let mut command = self.world.command(program);
        command
            .env("PATH", self.search_path())
            .env("COLUMNS", "80")
            .env("BACKUP", self.world.path("backup"))
            .current_dir(&self.folder);
        command
    }

    fn search_path(&self) -> String {
        format!("{}:/usr/local/bin:/usr/bin:/bin", self.world.path("bin").display())
    }

    /// Gives each batch on the desk a schedule at which nothing is due while the test runs; `@reboot` stays.
    fn quiet(&self) {
        let sed = format!(r#"s|^cron = .*@reboot.*|cron = ["@reboot", "{QUIET}"]|; t; s|^cron = .*|cron = "{QUIET}"|"#);
        let script = "for toml in batches.d/*/batch.toml; do [[ ! -f $toml ]] || sed -i \"$0\" \"$toml\"; done";
        let mut command = self.command("bash");
        command.args(["-ec", script, &sed]);
        self.world.output(command).expect(0);
    }

    /// Starts a daemon, and waits until what it starts by itself has ended.
    pub(crate) fn start(&mut self) {
        self.quiet();
        let folder = self.folder.display().to_string();
        self.world.spawn_under("env", &["-C".to_owned(), folder, format!("PATH={}", self.search_path())]);
        assert!(self.world.daemon().ready_or_ended(), "{}", self.world.daemon().log_text());
        self.has_daemon = true;
        self.rest();
    }

    /// Stops the daemon as Ctrl-C does.
    pub(crate) fn end_daemon(&mut self) {
        assert_eq!(self.world.end_daemon(Signal::INT), 0);
        self.has_daemon = false;
    }

    /// Waits until no run is under way, also of those that follow meanwhile.
    fn rest(&self) {
        while let Some(run) = self.unfinished_run() {
            let mut command = self.command(env!("CARGO_BIN_EXE_batchd"));
            command.args(["logs", "--follow", &run]);
            self.world.output(command);
        }
    }

    fn unfinished_run(&self) -> Option<String> {
        let mut command = self.command(env!("CARGO_BIN_EXE_batchd"));
        command.args(["runs", "--json"]);
        let answer = self.world.output(command).expect(0).json();
        let run = answer["runs"].as_array().unwrap().iter().find(|run| run["state"] != "ended")?;
        Some(run["id"].as_str().unwrap().to_owned())
    }

    /// Prepares the desk.
    pub(crate) fn prepare(&self, line: &str) {
        let mut command = self.command("bash");
        command.args(["-ec", &format!("{HELPERS}\n{line}")]);
        self.world.output(command).expect(0);
        self.quiet();
    }

    /// Runs commands one after the other in one shell, as they are pasted. `batchd daemon` goes on in another terminal.
    pub(crate) fn paste(&mut self, commands: &[String], shows_screens: bool) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for part in commands.chunk_by(|one, other| !is_daemon(one) && !is_daemon(other)) {
            if is_daemon(&part[0]) {
                self.start();
                outcomes.push(Outcome { code: 0, screen: String::new() });
            } else {
                outcomes.extend(self.run(part, shows_screens));
            }
        }
        if self.has_daemon {
            self.rest();
        }
        outcomes
    }

    /// The command with the desk's own folder for backups: `/backup` at the beginning of a word is that of the host.
    fn with_own_backup(&self, command: &str) -> String {
        let own = self.world.path("backup").display().to_string();
        [" ", "\"", "="].iter().fold(command.to_owned(), |text, before| {
            text.replace(&format!("{before}{BACKUP}"), &format!("{before}{own}"))
        })
    }

    /// Runs commands in one shell, and stays where it ends. `shows_screens`: each at a terminal.
    fn run(&mut self, commands: &[String], shows_screens: bool) -> Vec<Outcome> {
        let results = self.world.path("results");
        fs::create_dir_all(&results).unwrap();
        let results = results.display();
        let one = |(index, command): (usize, &String)| {
            let mut command = self.with_own_backup(command);
            // A page shows what a terminal shows. Carriage returns are the terminal's.
            if shows_screens && command.starts_with("batchd ") {
                fs::write(self.world.path("results").join(format!("{index}.sh")), &command).unwrap();
                let typed = format!("stty columns {COLUMNS}; . {results}/{index}.sh");
                command =
                    format!("script -qec '{typed}' /dev/null </dev/null | tr -d '\\r'; (exit ${{PIPESTATUS[0]}})");
            }
            format!("{{\n{command}\n}} >{results}/{index}.out 2>&1\necho $? >{results}/{index}.code\n")
        };
        let script: String = commands.iter().enumerate().map(one).collect();
        let mut command = self.command("bash");
        command.args(["-c", &format!("{script}\npwd >{results}/folder")]);
        self.world.output(command).expect(0);
        let read = |name: String| fs::read_to_string(self.world.path("results").join(name)).unwrap();
        self.folder = PathBuf::from(read("folder".to_owned()).trim_end());
        let outcome = |index: usize| Outcome {
            code: read(format!("{index}.code")).trim().parse().unwrap(),
            screen: read(format!("{index}.out")).replace(QUIET, SHIPPED),
        };
        (0..commands.len()).map(outcome).collect()
    }
}

/// Whether this starts a daemon in the foreground.
fn is_daemon(command: &str) -> bool {
    command.split('#').next().is_some_and(|command| command.trim_end() == "batchd daemon")
}

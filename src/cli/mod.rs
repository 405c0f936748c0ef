//! The command line: one file per verb.
//!
//! Verbs that read take their facts from the journal and the disk and need no daemon; verbs that act go through the socket.
//! The command line reads no clock and decides nothing about a run.

mod args;
mod backup;
mod check;
mod daemon;
mod disable;
mod disk;
mod doctor;
mod enable;
pub mod escape;
mod exit;
mod facts;
mod graph;
mod interrupt;
mod list;
mod logs;
mod mistakes;
mod moment;
mod next;
mod operate;
mod path;
mod reload;
mod rerun;
mod restore;
mod runs;
mod screen;
mod show;
mod start;
mod stop;
mod table;
mod wait;
mod waits;
mod who;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;

pub use self::args::{Cli, Verb};
pub use self::daemon::{DaemonArgs, LogFormat};
pub use self::exit::{Exit, conclude};
pub use self::mistakes::parse;
use self::screen::Screen;
use crate::model::time::Instant;
use crate::paths::{Located, Paths};
use crate::zones::Zones;

/// What every command needs.
struct Context {
    /// Where everything is.
    paths: Paths,
    /// The folder above which batchd's files were searched in vain, if they were.
    searched_above: Option<PathBuf>,
    /// When the command was given.
    now: Instant,
    /// The zones of this host.
    zones: Zones,
    /// Where to write.
    screen: Screen,
}

/// Carries out a command at `now`. `daemon` starts the daemon.
///
/// The daemon gets the way to its paths: it may have to wait for the settings.
pub fn run(
    cli: Cli,
    now: Instant,
    daemon: impl FnOnce(DaemonArgs, &dyn Fn() -> Result<Paths>) -> Result<()>,
) -> Result<Exit> {
    let (verb, located) = match cli.verb {
        Verb::Daemon(args) => return daemon(args, &|| Paths::resolve(&cli.paths)).map(|()| Exit::Success),
        // The daemon that is to use what this writes does not look in the folders above.
        verb @ Verb::Restore(_) => {
            let paths = Paths::resolve(&cli.paths)?;
            (verb, Located { paths, above: None, searched_above: None })
        }
        verb => (verb, Paths::locate(&cli.paths)?),
    };
    let Located { paths, above, searched_above } = located;
    if let Some(above) = above {
        writeln!(std::io::stderr(), "using {}", above.display())?;
    }
    let zones = Zones::new(std::env::var_os("TZDIR").map(Into::into), std::env::var("TZ").ok());
    let mut context = Context { paths, searched_above, now, zones, screen: Screen::of_process() };
    let context = &mut context;
    let exit = match verb {
        Verb::Check(args) => check::run(&args, context),
        Verb::Reload(args) => reload::run(&args, context),
        Verb::List(args) => list::run(&args, context),
        Verb::Next(args) => next::run(&args, context),
        Verb::Graph(args) => graph::run(&args, context),
        Verb::Start(args) => start::run(args, context),
        Verb::Stop(args) => stop::run(&args, context),
        Verb::Rerun(args) => rerun::run(args, context),
        Verb::Runs(args) => runs::run(&args, context),
        Verb::Show(args) => show::run(&args, context),
        Verb::Logs(args) => logs::run(&args, context),
        Verb::Path(args) => path::run(&args, context),
        Verb::Enable(args) => enable::run(&args, context),
        Verb::Disable(args) => disable::run(&args, context),
        Verb::Doctor(args) => doctor::run(&args, context),
        Verb::Backup(args) => backup::run(&args, context),
        Verb::Restore(args) => restore::run(&args, context),
        Verb::ExitCodes => writeln!(context.screen, "{}", exit::HELP).map(|()| Exit::Success).map_err(Into::into),
        Verb::Options => writeln!(context.screen, "{}", args::OPTIONS).map(|()| Exit::Success).map_err(Into::into),
        Verb::Daemon(_) => unreachable!("main starts the daemon"),
    }?;
    context.screen.flush()?;
    warn_of_zone(&context.zones)?;
    Ok(exit)
}

/// Warns if times were shown in the system's zone, and something that names this zone could not be followed.
fn warn_of_zone(zones: &Zones) -> Result<()> {
    let Some(system) = zones.asked_system() else { return Ok(()) };
    for reason in &system.passed_over {
        writeln!(std::io::stderr(), "warning: {reason}; using the time zone {} of {}", system.zone.name, system.from)?;
    }
    Ok(())
}

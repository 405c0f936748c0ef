//! Where a verb writes: [`Screen`].

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use serde::Serialize;

use super::escape;
use super::moment::Form;
use super::table::{Look, Table};
use crate::model::time::Instant;
use crate::model::zone::Zone;

/// The width where a terminal does not tell its own.
const WIDTH_DEFAULT: u16 = 80;

/// Writes a message to stderr, harmless if a terminal shows it.
pub(super) fn aside(text: &str) -> io::Result<()> {
    let mut err = io::stderr();
    if err.is_terminal() { err.write_all(escape::text(text).as_bytes()) } else { err.write_all(text.as_bytes()) }
}

/// stdout, and what is known of its reader.
pub(super) struct Screen {
    out: BufWriter<StdoutLock<'static>>,
    look: Look,
}

impl Screen {
    /// The process's stdout. `NO_COLOR` (no-color.org) and a `TERM` of `dumb` are respected.
    pub(super) fn of_process() -> Self {
        let out = io::stdout().lock();
        let is_terminal = out.is_terminal();
        let width = is_terminal.then(|| {
            let columns = rustix::termios::tcgetwinsize(&out).map_or(0, |size| size.ws_col);
            usize::from(if columns == 0 { WIDTH_DEFAULT } else { columns })
        });
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { out: BufWriter::new(out), look: Look { width, colour: is_terminal && !no_colour && !dumb } }
    }

    /// How things are shown here.
    pub(super) fn look(&self) -> Look {
        self.look
    }

    /// How instants are shown here.
    pub(super) fn form<'z>(&self, now: Instant, zone: &'z Zone) -> Form<'z> {
        Form { now, zone, omits_today: self.is_terminal() }
    }

    /// Whether a terminal reads it, which must not get control characters.
    pub(super) fn is_terminal(&self) -> bool {
        self.look.width.is_some()
    }

    /// Shows a table; where it has no rows, a sentence on stderr instead.
    pub(super) fn table(&mut self, table: &Table, if_empty: &str) -> io::Result<()> {
        let text = table.show(self.look);
        if text.is_empty() {
            return writeln!(io::stderr(), "{if_empty}");
        }
        self.out.write_all(text.as_bytes())
    }

    /// Shows text of several lines, which may contain hostile characters.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        if self.is_terminal() {
            self.out.write_all(escape::text(text).as_bytes())
        } else {
            self.out.write_all(text.as_bytes())
        }
    }

    /// Shows a fact for programs: indented JSON and a line end.
    pub(super) fn json(&mut self, fact: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.out, fact)?;
        self.out.write_all(b"\n")
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

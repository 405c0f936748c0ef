//! Cron expressions: [`Expression`] and [`Cron`].

use std::ops::Range;

/// One entry of `cron`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// `@reboot`: once after each boot of the host.
    Reboot,
    /// Times in a zone.
    Times(Cron),
}

/// A parsed cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {}

/// Why a text is not a cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronError {
    /// The bytes of the text that are wrong.
    pub span: Range<usize>,
    /// What is wrong, naming the field: one sentence without a full stop.
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Expression {
    /// Reads 5 fields as crontab(5), 6 with seconds first, or an `@` form. An expression that never fires is an error.
    pub fn parse(_text: &str) -> Result<Self, CronError> {
        unimplemented!("filled with the schedule")
    }
}

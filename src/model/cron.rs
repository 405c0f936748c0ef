//! Cron expressions: [`Cron`].

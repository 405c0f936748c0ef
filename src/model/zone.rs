//! A time zone as data: [`Zone`].

use std::sync::Arc;

/// A time zone: its offsets from UTC and the instants at which they change.
///
/// Data only: where it comes from, and which release of the time-zone database it is, is [`crate::zones`]' affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its IANA name.
    pub name: String,
}

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Arc<Self> {
        Arc::new(Self { name: "UTC".to_owned() })
    }
}

//! The paths of a daemon that begins, from settings that nobody is writing: half of them could name another state folder.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::sleep;

use crate::clock;
use crate::folders::settings_writers;
use crate::paths::Paths;
use crate::store::writers;

/// How long a start waits for settings to be closed: longer than they are waited for where the kernel doesn't say who writes
/// them ([`writers::RECENT`]), and short for a person or a service manager that waits.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks: no event tells that a program has closed a file which it did not change.
const LOOK: Duration = Duration::from_millis(20);

/// Resolves the paths; again if somebody was writing the settings from which they come.
pub(super) async fn paths(resolve: impl Fn() -> Result<Paths>) -> Result<Paths> {
    let paths = resolve()?;
    if wait_for_writers(&paths.settings).await? { resolve() } else { Ok(paths) }
}

/// Waits until nobody writes the settings. Whether anybody did.
async fn wait_for_writers(settings: &Path) -> Result<bool> {
    let until = clock::monotonic() + PATIENCE;
    let mut has_waited = false;
    while settings_writers(settings).may_go_on(clock::now()) {
        if clock::monotonic() >= until {
            let (file, what) = (settings.display(), writers::still_open(settings));
            bail!("{file}: {what}; the daemon can't start with unfinished settings. Close the file and start it again");
        }
        has_waited = true;
        sleep(LOOK).await;
    }
    Ok(has_waited)
}

//! The variables of a script: what it gets, and in which order one overrides another.

use std::collections::BTreeMap;

use super::order::Order;
use super::user::User;
use crate::store::env_file::{self, EnvFile};
use crate::store::users::own_uid;

/// All variables of the script, later sources overriding earlier ones: the clean base, the user's own, the batch's `env`,
/// its `env_file`, those of `start --env`, and batchd's facts.
///
/// The error is a sentence that says what to do.
pub(super) fn variables(
    order: &Order,
    user: Option<&User>,
    inputs: Vec<(String, String)>,
) -> Result<BTreeMap<String, String>, String> {
    let mut all: BTreeMap<String, String> = order.base.iter().cloned().collect();
    if let Some(user) = user {
        all.extend(user.variables());
    }
    all.extend(order.execution.env.clone());
    if let Some(file) = &order.execution.env_file {
        let file = EnvFile {
            batches: &order.batches,
            batch: &order.token.run.batch,
            file,
            daemon_uid: own_uid(),
            user: order.execution.user.as_deref(),
            trusted_owners: order.trusted_owners.as_deref(),
        };
        all.extend(env_file::read(&file).map_err(|error| error.to_string())?);
    }
    all.extend(order.given.env.clone());
    all.extend(order.facts.iter().cloned());
    all.extend(inputs);
    Ok(all)
}

//! The variables of a script: what it gets, and in which order one overrides another.

use std::collections::BTreeMap;

use super::clock;
use super::order::Order;
use super::user::User;
use crate::store::env_file::{self, EnvFile, EnvFileError};
use crate::store::users::own_uid;

/// All variables of the script, later sources overriding earlier ones: the clean base, the user's own, the batch's `env`,
/// its `env_file`, those of `start --env`, and batchd's facts.
///
/// The error is that of the `env_file`.
pub(super) fn variables(
    order: &Order,
    user: Option<&User>,
    inputs: Vec<(String, String)>,
) -> Result<BTreeMap<String, String>, EnvFileError> {
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
            now: Some(clock::now()),
            trusted_owners: order.trusted_owners.as_deref(),
        };
        all.extend(env_file::read(&file)?);
    }
    all.extend(order.given.env.clone());
    all.extend(order.facts.iter().cloned());
    all.extend(inputs);
    Ok(all)
}

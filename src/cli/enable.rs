//! `batchd enable`.

use anyhow::Result;
use clap::Args;

use super::args::Json;
use super::exit::Exit;
use super::{Context, operate};
use crate::model::id::BatchName;
use crate::model::request::Request;

/// Enable a batch again
///
/// Starts that were skipped meanwhile are not caught up. A batch with `enabled = false` in its `batch.toml` stays disabled.
#[derive(Clone, Debug, Args)]
pub struct EnableArgs {
    /// Batch to enable
    pub batch: BatchName,
    #[command(flatten)]
    pub json: Json,
}

/// Carries it out.
pub(super) fn run(args: &EnableArgs, context: &mut Context) -> Result<Exit> {
    operate::act(context, args.json, &Request::Enable { batch: args.batch.clone() })
}

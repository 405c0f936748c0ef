//! `batchd enable`.

use anyhow::Result;
use clap::Args;

use super::args::Json;
use super::exit::Exit;
use super::{Context, operate};
use crate::model::id::BatchName;
use crate::model::request::Request;

/// Takes back a `disable`
///
/// What fell due meanwhile was skipped, and is not caught up. A batch whose own `batch.toml` says `enabled = false` stays off.
#[derive(Clone, Debug, Args)]
pub struct EnableArgs {
    /// The batch
    pub batch: BatchName,
    #[command(flatten)]
    pub json: Json,
}

/// Carries it out.
pub(super) fn run(args: &EnableArgs, context: &mut Context) -> Result<Exit> {
    operate::act(context, args.json, &Request::Enable { batch: args.batch.clone() })
}

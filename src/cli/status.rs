//! `archiver status`: what the ledger knows.

use std::time::Duration;

use clap::Args;

use super::shared::LedgerArgs;
use crate::config::settings::AnswerFormat;
use crate::config::{CommandLayer, check};

const AFTER_HELP: &str = "\
Examples:
  archiver status
  archiver status --failed
  archiver status --format json | jq '.totals.failed.files'
  archiver status --capacity --outage 72h
  archiver status --capacity --window 30d --format json

It only reads: a running `watch` is not held up, and no ledger is made, locked or upgraded.

Exit status:
  0    the answer is complete, whatever it says
  2    usage or configuration, no ledger, or one that cannot be read";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StatusArgs {
    /// Name the failed files with their reasons, the newest first
    #[arg(long, conflicts_with = "capacity")]
    pub failed: bool,
    /// Say how much comes in, and what it takes to keep up and to survive an outage
    #[arg(long)]
    pub capacity: bool,
    /// The outage to be survived
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = check::interval, requires = "capacity")]
    pub outage: Duration,
    /// How far to look back [default: as far as the ledger goes]
    #[arg(long, value_name = "DURATION", value_parser = check::interval, requires = "capacity")]
    pub window: Option<Duration>,
    /// How to write the answer
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: AnswerFormat,
    #[command(flatten)]
    pub ledger: LedgerArgs,
}

impl StatusArgs {
    /// What was typed, as a layer of the configuration.
    pub fn layer(&self) -> CommandLayer {
        self.ledger.clone().layer()
    }
}

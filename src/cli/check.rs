//! `archiver check`: is the destination fit for it?

use clap::Args;

use super::shared::SharedArgs;
use crate::config::CommandLayer;

const AFTER_HELP: &str = "\
Examples:
  archiver check --to sftp://pine@host/upload
  archiver check --config /etc/archiver/archiver.toml
  archiver check --to sftp://pine@host/upload --summary json | jq '.probes[] | select(.verdict == \"fail\")'

What is made on the server is removed again. SKIP is a probe that could not be tried.

Exit status:
  0    every probe is OK or WARN
  2    settings, a source or the ledger cannot be used
  3    destination unreachable, or it refused us, or a right is missing there
  4    interrupted before the end";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CheckArgs {
    #[command(flatten)]
    pub shared: SharedArgs,
}

impl CheckArgs {
    /// What was typed, as a layer of the configuration.
    pub fn layer(self) -> CommandLayer {
        self.shared.layer()
    }
}

//! `archiver check`: is the destination fit for it?

use clap::Args;

use super::shared::SharedArgs;
use crate::config::CommandLayer;

const AFTER_HELP: &str = "\
Examples:
  archiver check --to sftp://pine@host/upload
  archiver check --config /etc/archiver/archiver.toml";

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

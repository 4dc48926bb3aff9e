//! `archiver config`: what holds and why, and how to write it down.

use clap::{Args, Subcommand};

use super::shared::SharedArgs;
use crate::config::CommandLayer;
use crate::config::show::ShowFormat;

const AFTER_HELP: &str = "\
Examples:
  archiver config init > archiver.toml
  archiver config show --to sftp://pine@host/upload
  archiver config schema > archiver.schema.json";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the effective settings with the origin of each; of a secret only that it is set.
    Show(Box<ShowArgs>),
    /// Print a JSON Schema of the configuration file.
    Schema,
    /// Print a commented configuration file with every key and its default.
    Init,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// How to print them
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: ShowFormat,
    #[command(flatten)]
    pub shared: SharedArgs,
}

impl ShowArgs {
    /// What was typed, as a layer of the configuration.
    pub fn layer(self) -> CommandLayer {
        self.shared.layer()
    }
}

//! `archiver verify`: is the archive what the ledger says?

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::shared::{DestinationArgs, LogArgs, OutputArgs, SharedArgs, SourceArgs, SshArgs, TransferArgs};
use crate::config::CommandLayer;
use crate::config::settings::AnswerFormat;

const AFTER_HELP: &str = "\
Examples:
  archiver verify --to sftp://pine@host/upload
  archiver verify --to sftp://pine@host/upload 2026/11/21
  archiver verify --verify readback --format json 2026/11 | jq '.destinations[].findings'

Each record below PREFIX is looked for on the server, by its size or with `--verify readback` by its content, and each
file that stands there is looked for in the ledger. Nothing is changed on either side. Files that a running `watch` has
in hand are no difference.

Exit status:
  0    the archive is as recorded
  1    something is missing, changed, extra or left over
  2    usage or configuration, no ledger, or nothing of that PREFIX anywhere
  3    destination unreachable, or it refused us";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VerifyArgs {
    /// Directory or file of the archive, such as 2026/11/21 [default: all of it]
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// How to write the findings
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: AnswerFormat,
    /// Configuration file, TOML [env: ARCHIVER_CONFIG] [default: ./archiver.toml, $XDG_CONFIG_HOME/archiver/archiver.toml, /etc/archiver/archiver.toml]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub destination: DestinationArgs,
    #[command(flatten)]
    pub ssh: SshArgs,
    #[command(flatten)]
    pub transfer: TransferArgs,
    #[arg(long)]
    pub progress: Option<String>,
    #[command(flatten)]
    pub log: LogArgs,
}

impl VerifyArgs {
    /// What was typed, as a layer of the configuration.
    pub fn layer(&self) -> CommandLayer {
        let output = OutputArgs { progress: self.progress.clone(), ..OutputArgs::default() };
        SharedArgs {
            config: self.config.clone(),
            source: SourceArgs::default(),
            destination: self.destination.clone(),
            ssh: self.ssh.clone(),
            transfer: self.transfer.clone(),
            output,
            log: self.log.clone(),
        }
        .layer()
    }
}

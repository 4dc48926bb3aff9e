//! `archiver health`: how is the one that runs?

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::shared::LogArgs;
use crate::config::CommandLayer;

const AFTER_HELP: &str = "\
Examples:
  archiver health --metrics :9090            is the archiver that serves its metrics there alive?
  archiver health --metrics :9090 --ready    could it archive a file now?

Exit status:
  0    yes; or `--metrics none`, where there is nothing to ask
  1    no; standard error says why
  2    usage or configuration; nobody said where to ask";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct HealthArgs {
    /// Ask whether it could archive a file now: destination reachable, ledger working
    #[arg(long)]
    pub ready: bool,
    /// Configuration file, which may say where to ask, TOML [env: ARCHIVER_CONFIG] [default: ./archiver.toml, $XDG_CONFIG_HOME/archiver/archiver.toml, /etc/archiver/archiver.toml]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Ask the archiver that serves its metrics there; `none` says that none does [env: ARCHIVER_METRICS] [default: what the configuration file says; somebody has to say it]
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<String>,
    #[command(flatten)]
    pub log: LogArgs,
}

impl HealthArgs {
    /// What was typed, as a layer of the configuration.
    pub fn layer(self) -> CommandLayer {
        let mut layer = self.log.layer();
        layer.config = self.config;
        layer.set("metrics.listen", self.metrics);
        layer
    }
}

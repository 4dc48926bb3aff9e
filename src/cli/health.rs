//! `archiver health`: how is the one that runs?

use clap::Args;

use super::shared::LogArgs;
use crate::config::CommandLayer;

const AFTER_HELP: &str = "\
Examples:
  archiver health --metrics :9090            is the archiver that serves its metrics there alive?
  archiver health --metrics :9090 --ready    could it archive a file now?

Exit status:
  0    yes; or `--metrics none`, where there is nothing to ask
  1    no; standard error says why
  2    usage or configuration";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct HealthArgs {
    /// Ask whether it could archive a file now: destination reachable, ledger working
    #[arg(long)]
    pub ready: bool,
    #[arg(long)]
    pub metrics: Option<String>,
    #[command(flatten)]
    pub log: LogArgs,
}

impl HealthArgs {
    /// What was typed, as a layer of the configuration.
    pub fn layer(self) -> CommandLayer {
        let mut layer = self.log.layer();
        layer.set("metrics.listen", self.metrics);
        layer
    }
}

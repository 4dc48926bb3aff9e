//! `archiver retry`: failed files go back into the queue.

use clap::Args;

use super::shared::LedgerArgs;
use crate::config::CommandLayer;

const AFTER_HELP: &str = "\
Examples:
  archiver retry --all
  archiver retry '*.csv' /var/pine/reports/2026/a.pdf
  archiver retry --dry-run 'reports/**'

A PATTERN is a glob as of --include. It is matched on the absolute local path and, where the source has a name, on the path
below it: one without `/` on the file's name, and `**/sub/**` anywhere. A running `watch` takes the files up within half a minute, `push` when it is run again. A file that
was moved into quarantine has to be moved back first.

Exit status:
  0    every file that was meant is in the queue again
  1    a pattern matched no failed file, or a file could not be put back
  2    usage or configuration, no ledger, or one that cannot be used";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RetryArgs {
    /// Which failed files
    #[arg(value_name = "PATTERN", required_unless_present = "all", conflicts_with = "all")]
    pub patterns: Vec<String>,
    /// All failed files
    #[arg(long)]
    pub all: bool,
    /// Say which files are meant, and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub ledger: LedgerArgs,
}

impl RetryArgs {
    /// What was typed, as a layer of the configuration.
    pub fn layer(&self) -> CommandLayer {
        self.ledger.clone().layer()
    }
}

//! `archiver demo`: everything at once, without any set-up.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::shared::LogArgs;

const AFTER_HELP: &str = "\
Examples:
  archiver demo
  archiver demo --keep --dir /tmp/archiver-demo      and look around afterwards";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DemoArgs {
    /// Leave the files, the server's directory and the ledger where they are
    #[arg(long)]
    pub keep: bool,
    /// Work in this directory, which is made where it does not exist [default: a new temporary directory]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogArgs,
}

//! `archiver ledger`: a ledger as a file, to move it somewhere else.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::shared::LedgerArgs;
use crate::config::CommandLayer;

const AFTER_HELP: &str = "\
From SQLite to Redis, with every archiver of both stopped:
  archiver ledger export --ledger /var/lib/archiver/ledger.db -o ledger.jsonl
  archiver ledger import --ledger redis://redis.internal/0 ledger.jsonl
  archiver status --ledger redis://redis.internal/0
The other way round, and from one prefix to another (ARCHIVER_LEDGER__PREFIX=new), it is the same.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct LedgerCommandArgs {
    #[command(subcommand)]
    pub command: LedgerCommand,
}

#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Write the ledger as JSON Lines, to be imported elsewhere.
    Export(ExportArgs),
    /// Take in what `archiver ledger export` wrote.
    Import(ImportArgs),
}

const EXPORT_HELP: &str = "\
Examples:
  archiver ledger export -o ledger.jsonl
  archiver ledger export --ledger redis://old/0 | archiver ledger import --ledger redis://new/0 -
  archiver ledger export --live | zstd > ledger-backup.jsonl.zst

Stop all archivers that use the ledger first: what a live one holds, or archives later, cannot be moved. Those that there
are, are named. One that was killed on another host counts as live until its lease is over. What dead ones left is
written with the names that may stand on the server, so that the next owner finds them and cleans up.

The ledger is only read, and the file holds no password. -o makes it appear when it is complete, for this user alone.

Exit status:
  0    all of it is written
  1    the file could not be written
  2    usage or configuration, no ledger, one that cannot be read, or one that is in use";

#[derive(Debug, Args)]
#[command(after_help = EXPORT_HELP)]
pub struct ExportArgs {
    /// Where to write it [default: standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Write it although archivers are at work, as a backup: what they hold counts as waiting
    #[arg(long)]
    pub live: bool,
    #[command(flatten)]
    pub ledger: LedgerArgs,
}

const IMPORT_HELP: &str = "\
Examples:
  archiver ledger import --ledger redis://redis.internal/0 ledger.jsonl
  archiver ledger import --dry-run ledger.jsonl
  zstdcat ledger-backup.jsonl.zst | archiver ledger import -

The ledger is made where there is none. Where it has an entry of the same file already, that stays: it only gets a record
that it lacks, and names that may stand on the server. So nothing is lost on either side, and to import a file twice, or
again after it was interrupted, comes to the same. The answer counts entries as added, completed, there already, and
kept as they were although the file says otherwise.

A file is checked from its first line to its last before anything is imported. From a pipe, what comes before a mistake
is imported.

Exit status:
  0    all of it is in the ledger
  2    usage or configuration, a file that cannot be used, or a ledger that cannot";

#[derive(Debug, Args)]
#[command(after_help = IMPORT_HELP)]
pub struct ImportArgs {
    /// The file, or `-` for standard input
    #[arg(value_name = "FILE", default_value = "-", hide_default_value = true, value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Check the file, say what is in it, and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub ledger: LedgerArgs,
}

impl LedgerCommand {
    /// What was typed, as a layer of the configuration.
    pub fn layer(&self) -> CommandLayer {
        let (Self::Export(ExportArgs { ledger, .. }) | Self::Import(ImportArgs { ledger, .. })) = self;
        ledger.clone().layer()
    }
}

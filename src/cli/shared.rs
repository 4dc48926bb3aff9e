//! Options that several commands share, in the groups that `--help` shows them in. Flags without a help text here
//! have that of their key.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueHint};

use crate::config::CommandLayer;
use crate::config::settings::Execution;
use crate::domain::Repeat;

/// What push, watch, check and `config show` have in common: everything that the file can say about the work.
#[derive(Debug, Clone, Args)]
pub struct SharedArgs {
    /// Configuration file, TOML [env: ARCHIVER_CONFIG] [default: ./archiver.toml, $XDG_CONFIG_HOME/archiver/archiver.toml, /etc/archiver/archiver.toml]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub destination: DestinationArgs,
    #[command(flatten)]
    pub ssh: SshArgs,
    #[command(flatten)]
    pub transfer: TransferArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// What the commands have that only ask the ledger.
#[derive(Debug, Clone, Args)]
pub struct LedgerArgs {
    /// Configuration file, TOML [env: ARCHIVER_CONFIG] [default: ./archiver.toml, $XDG_CONFIG_HOME/archiver/archiver.toml, /etc/archiver/archiver.toml]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    #[arg(long)]
    pub ledger: Option<String>,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Destination")]
pub struct DestinationArgs {
    #[arg(short = 't', long)]
    pub to: Option<String>,
    #[arg(long)]
    pub layout: Option<String>,
    #[arg(long)]
    pub date_from: Option<String>,
    #[arg(long)]
    pub timezone: Option<String>,
    #[arg(long)]
    pub on_conflict: Option<String>,
    #[arg(long)]
    pub verify: Option<String>,
    #[arg(long)]
    pub publish: Option<String>,
    #[arg(long)]
    pub fsync: Option<String>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Authentication and host keys")]
pub struct SshArgs {
    #[arg(short, long)]
    pub identity: Vec<String>,
    #[arg(long)]
    pub passphrase_file: Option<String>,
    #[arg(long)]
    pub certificate: Vec<String>,
    #[arg(long)]
    pub password_file: Option<String>,
    #[arg(long)]
    pub known_hosts: Vec<String>,
    #[arg(long)]
    pub host_key: Option<String>,
    #[arg(short = 'F', long)]
    pub ssh_config: Option<String>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sources")]
pub struct SourceArgs {
    /// A whole source: name=reports,path=/a,path=/b,include=*.csv,marker={name}.done with the keys of `[[source]]`;
    /// `\,` is a comma in a value; repeatable [env: ARCHIVER_SOURCE]
    #[arg(long, value_name = "SPEC")]
    pub source: Vec<String>,
    #[arg(long)]
    pub include: Vec<String>,
    #[arg(long)]
    pub exclude: Vec<String>,
    #[arg(long)]
    pub settle: Option<String>,
    #[arg(long)]
    pub marker: Option<String>,
    #[arg(long)]
    pub after: Option<String>,
    #[arg(long)]
    pub after_failure: Option<String>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Transfer")]
pub struct TransferArgs {
    #[arg(long)]
    pub connections: Option<String>,
    #[arg(short, long)]
    pub jobs: Option<String>,
    #[arg(long)]
    pub limit_rate: Option<String>,
    #[arg(long)]
    pub retries: Option<String>,
    #[arg(long)]
    pub ledger: Option<String>,
    #[arg(long)]
    pub ledger_password_file: Option<String>,
    #[arg(long)]
    pub dedupe: Option<String>,
}

/// What only the commands that archive have.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Transfer")]
pub struct RunArgs {
    /// Archive again what the ledger has recorded
    #[arg(long)]
    pub force: bool,
    /// Say what would happen, touch nothing on either side
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[arg(long, help_heading = "Output")]
    pub status_file: Option<String>,
    #[arg(long, help_heading = "Output")]
    pub termination_log: Option<String>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    #[arg(long)]
    pub summary: Option<String>,
    #[arg(long)]
    pub summary_file: Option<String>,
    #[arg(long)]
    pub summary_rows: Option<String>,
    #[arg(long)]
    pub progress: Option<String>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct LogArgs {
    /// Log errors only, and draw no progress
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log more; -vv for everything that archiver does, -vvv for its libraries too [env: ARCHIVER_LOG]
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    #[arg(long)]
    pub log_format: Option<String>,
}

impl SharedArgs {
    pub(super) fn layer(self) -> CommandLayer {
        let mut layer = self.log.layer();
        layer.config = self.config;
        layer.source_specs = self.source.source;
        layer.set("destination.url", self.destination.to);
        layer.set("destination.layout", self.destination.layout);
        layer.set("destination.date-from", self.destination.date_from);
        layer.set("destination.timezone", self.destination.timezone);
        layer.set("destination.on-conflict", self.destination.on_conflict);
        layer.set("destination.verify", self.destination.verify);
        layer.set("destination.publish", self.destination.publish);
        layer.set("destination.fsync", self.destination.fsync);
        layer.set_all("destination.identity", self.ssh.identity);
        layer.set("destination.passphrase-file", self.ssh.passphrase_file);
        layer.set_all("destination.certificate", self.ssh.certificate);
        layer.set("destination.password-file", self.ssh.password_file);
        layer.set_all("destination.known-hosts", self.ssh.known_hosts);
        layer.set("destination.host-key", self.ssh.host_key);
        layer.set("destination.ssh-config", self.ssh.ssh_config);
        layer.set_all("include", self.source.include);
        layer.set_all("exclude", self.source.exclude);
        layer.set("settle", self.source.settle);
        layer.set("marker", self.source.marker);
        layer.set("after", self.source.after);
        layer.set("after-failure", self.source.after_failure);
        layer.set("pool.connections", self.transfer.connections);
        layer.set("pool.jobs", self.transfer.jobs);
        layer.set("pool.limit-rate", self.transfer.limit_rate);
        layer.set("retry.max-attempts", self.transfer.retries);
        layer.set("ledger.url", self.transfer.ledger);
        layer.set("ledger.password-file", self.transfer.ledger_password_file);
        layer.set("ledger.dedupe", self.transfer.dedupe);
        layer.set("output.summary", self.output.summary);
        layer.set("output.summary-file", self.output.summary_file);
        layer.set("output.summary-rows", self.output.summary_rows);
        layer.set("output.progress", self.output.progress);
        layer
    }
}

impl LedgerArgs {
    pub(super) fn layer(self) -> CommandLayer {
        let mut layer = self.log.layer();
        layer.config = self.config;
        layer.set("ledger.url", self.ledger);
        layer
    }
}

impl RunArgs {
    pub(super) fn apply(self, layer: &mut CommandLayer) {
        layer.repeat = if self.force { Repeat::Force } else { Repeat::Skip };
        layer.set("shutdown.termination-log", self.termination_log);
        layer.execution = if self.dry_run { Execution::DryRun } else { Execution::Real };
        layer.set("output.status-file", self.status_file);
    }
}

impl LogArgs {
    /// The flags alone, for commands without a configuration.
    pub fn layer(self) -> CommandLayer {
        let mut layer = CommandLayer { quiet: self.quiet, ..CommandLayer::default() };
        layer.set("log.format", self.log_format);
        if self.quiet {
            layer.set_from("log.level", "--quiet", "error".into());
        }
        let filter = match self.verbose {
            0 => return layer,
            1 => "warn,archiver=debug",
            2 => "warn,archiver=trace",
            _ => "debug,archiver=trace",
        };
        layer.set_from("log.level", "--verbose", filter.into());
        layer
    }
}

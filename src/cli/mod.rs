//! What can be typed on a command line. These types become a [`CommandLayer`](crate::config::CommandLayer), the
//! strongest layer of the configuration, and decide nothing themselves: values stay text until all layers are merged.
//!
//! Flags that set a key of the configuration take their help, their variable and their default from the table of keys
//! ([`crate::config::keys::KEYS`]), so that `--help` and the reference cannot differ.

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command as ClapCommand, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};

use crate::config::key::{Default, Key};
use crate::config::keys::KEYS;

pub mod check;
pub mod completions;
pub mod config;
pub mod demo;
pub mod health;
pub mod ledger;
pub mod man;
pub mod push;
pub mod retry;
pub mod run;
pub mod serve;
pub mod shared;
pub mod status;
pub mod verify;
pub mod watch;

pub use check::CheckArgs;
pub use completions::CompletionsArgs;
pub use config::{ConfigArgs, ConfigCommand, ShowArgs};
pub use demo::DemoArgs;
pub use health::HealthArgs;
pub use ledger::LedgerCommandArgs;
pub use push::PushArgs;
pub use retry::RetryArgs;
pub use run::RunCommandArgs;
pub use serve::ServeArgs;
pub use status::StatusArgs;
pub use verify::VerifyArgs;
pub use watch::WatchArgs;

const AFTER_HELP: &str = "\
Examples:
  archiver demo                                         see it work
  archiver check --to sftp://pine@host/upload           is the server fit for it?
  archiver push --to sftp://pine@host/upload reports/   upload what is finished
  archiver watch --to sftp://pine@host/upload reports/  keep going
  archiver run --to sftp://pine@host/upload out/ -- ./make-reports
  archiver status                                       what became of it

Exit status:
  0    every file archived or skipped
  1    some files failed; the summary names them
  2    usage or configuration
  3    destination unreachable, or it refused us
  4    stopped with work left
  130  second interrupt
`run` passes on what its command exits with.";

/// Move finished files to an SFTP server, into dated folders, exactly once.
#[derive(Debug, Parser)]
#[command(name = "archiver", version, after_help = AFTER_HELP, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Upload what is ready now, print the summary, exit.
    Push(Box<PushArgs>),
    /// Keep going until told to stop, drain, print the summary.
    Watch(Box<WatchArgs>),
    /// Run a command, watch while it lives, drain when it ends, exit with its code.
    Run(Box<RunCommandArgs>),
    /// Probe the destination: configuration, network, host key, authentication, rights, server features.
    Check(Box<CheckArgs>),
    /// Ask a running archiver whether it is alive, or ready.
    Health(HealthArgs),
    /// Audit the remote archive against the ledger.
    Verify(Box<VerifyArgs>),
    /// Say what the ledger knows: files by state, failures, the oldest waiting; how much comes in.
    Status(StatusArgs),
    /// Put failed files back into the queue.
    Retry(RetryArgs),
    /// Move the ledger: write it to a file, take it in from one.
    Ledger(LedgerCommandArgs),
    /// Show everything at once on an embedded SFTP server: no set-up, no network.
    Demo(DemoArgs),
    /// Run the embedded SFTP server on its own, for development and tests.
    Serve(ServeArgs),
    /// Show the effective settings, the schema of the file, or a commented file.
    Config(ConfigArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Print the manual page.
    Man,
}

impl Cli {
    /// Parses a command line, the program's name first. An error knows whether it is help, and prints itself.
    pub fn parse_from_arguments<I, T>(arguments: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let mut command = command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

/// The whole command line, flags with the help of their keys.
pub fn command() -> ClapCommand {
    described(Cli::command())
}

fn described(command: ClapCommand) -> ClapCommand {
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let command = command.mut_args(|arg| {
        let key = arg
            .get_long()
            .and_then(|long| KEYS.iter().find(|key| key.flag.and_then(|f| f.strip_prefix("--")) == Some(long)));
        // A flag of the same name that is no key's (`serve --host-key FILE`) has its own help.
        match key {
            Some(key) if arg.get_help().is_none() => with_key(arg, key),
            _ => arg,
        }
    });
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, described))
}

fn with_key(arg: Arg, key: &Key) -> Arg {
    let mut notes = Vec::new();
    if let Some(variable) = key.short_variable {
        notes.push(format!("[env: {variable}]"));
    }
    match key.default {
        Default::Value(value) => notes.push(format!("[default: {value}]")),
        Default::Unset("none") => {}
        Default::Unset(meaning) | Default::Depends(meaning) => notes.push(format!("[default: {meaning}]")),
    }
    let help = std::iter::once(key.help.to_owned()).chain(notes).collect::<Vec<_>>().join(" ");
    let arg = arg.help(help).value_name(key.value);
    let arg = match key.value {
        "FILE" => arg.value_hint(ValueHint::FilePath),
        _ => arg,
    };
    if key.choices.is_empty() { arg } else { arg.value_parser(PossibleValuesParser::new(key.choices)) }
}

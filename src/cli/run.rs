//! `archiver run`: watch while a command lives.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::shared::{RunArgs, SharedArgs};
use super::watch::WatchingArgs;
use crate::config::CommandLayer;

const AFTER_HELP: &str = "\
Examples:
  archiver run --to sftp://pine@host/upload out/ -- ./make-reports --all
  archiver run -t sftp://pine@host/upload --after delete --on-failure exit /var/reports -- pine serve

The command's own exit code is passed on where it is not 0 (128 and the signal's number where a signal ended it, 127
where there is no such command, 126 where it cannot be executed), else the exit status is archiver's.

--until and --idle-exit end the archiving, not the command: what it writes after that is left for the next run.

Signals:
  SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR2  are passed on to the command; once it has ended, what is ready or becomes
                                             ready within --grace is archived
  SIGHUP                                     is also taken as the wish to read the configuration again
  SIGINT again                               kills the command and stops at once
  SIGUSR1                                    prints how far it is to standard error";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RunCommandArgs {
    /// Directories to watch; without any, the configured sources
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    #[arg(long, help_heading = "Watching")]
    pub on_failure: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
    #[command(flatten)]
    pub shared: SharedArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub watching: WatchingArgs,
}

impl RunCommandArgs {
    /// What was typed, as a layer of the configuration.
    pub fn layer(self) -> CommandLayer {
        let mut layer = self.shared.layer();
        self.run.apply(&mut layer);
        self.watching.apply(&mut layer);
        layer.paths = self.paths;
        layer.set("run.on-failure", self.on_failure);
        layer
    }
}

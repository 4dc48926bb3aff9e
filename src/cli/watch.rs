//! `archiver watch`: keep going until told to stop.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::shared::{RunArgs, SharedArgs};
use crate::config::CommandLayer;

const AFTER_HELP: &str = "\
Examples:
  archiver watch --to sftp://pine@host/upload /var/reports
  archiver watch -t sftp://pine@host/upload --marker '{name}.done' --after delete /var/reports
  archiver watch --source name=a,path=/var/a --source 'name=b,path=/var/b,include=*.{csv,txt}'
  ARCHIVER_TO=sftp://pine@sftp/upload ARCHIVER_SOURCE='name=a,path=/var/a' archiver watch

Signals:
  SIGTERM, SIGINT  finish what is ready or becomes ready within --grace, print the summary
  SIGINT again     stop at once
  SIGHUP           read the configuration, keys and passwords again; what is wrong with it is said, and changes nothing
  SIGUSR1          print how far it is to standard error";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct WatchArgs {
    /// Directories to watch; without any, the configured sources
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub shared: SharedArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub watching: WatchingArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Watching")]
pub struct WatchingArgs {
    #[arg(long)]
    pub grace: Option<String>,
    #[arg(long)]
    pub until: Option<String>,
    #[arg(long)]
    pub idle_exit: Option<String>,
    #[arg(long)]
    pub watcher: Option<String>,
    #[arg(long)]
    pub scan_interval: Option<String>,
    #[arg(long)]
    pub metrics: Option<String>,
}

impl WatchArgs {
    /// What was typed, as a layer of the configuration.
    pub fn layer(self) -> CommandLayer {
        let mut layer = self.shared.layer();
        self.run.apply(&mut layer);
        self.watching.apply(&mut layer);
        layer.paths = self.paths;
        layer
    }
}

impl WatchingArgs {
    pub fn apply(self, layer: &mut CommandLayer) {
        layer.set("shutdown.grace", self.grace);
        layer.set("watch.until", self.until);
        layer.set("watch.idle-exit", self.idle_exit);
        layer.set("watch.watcher", self.watcher);
        layer.set("watch.scan-interval", self.scan_interval);
        layer.set("metrics.listen", self.metrics);
    }
}

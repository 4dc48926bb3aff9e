//! `archiver push`: upload what is ready now.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::shared::{RunArgs, SharedArgs};
use crate::config::CommandLayer;
use crate::config::settings::{FileList, ListOrigin, Separator};

const AFTER_HELP: &str = "\
Examples:
  archiver push --to sftp://pine@host/upload reports/
  archiver push -t sftp://pine@host/~/in --include '**/*.csv' out/
  find out -name '*.csv' -print0 | archiver push -0 --files-from - out
  archiver push --summary json > summary.json     all else from archiver.toml";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PushArgs {
    /// Directories, whose files keep their place below them, and single files, which go by their own name; without
    /// any, the configured sources
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Push the files that FILE lists, `-` for standard input; with one directory as PATH they keep their place below
    /// it, without one each goes by its own name
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Sources")]
    pub files_from: Option<PathBuf>,
    /// Names in that list end with NUL, as `find -print0` writes them, not with a newline
    #[arg(short = '0', long, requires = "files_from", help_heading = "Sources")]
    pub null: bool,
    #[command(flatten)]
    pub shared: SharedArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

impl PushArgs {
    /// What was typed, as a layer of the configuration.
    pub fn layer(self) -> CommandLayer {
        let mut layer = self.shared.layer();
        self.run.apply(&mut layer);
        layer.paths = self.paths;
        let separator = if self.null { Separator::Nul } else { Separator::Newline };
        layer.files_from = self.files_from.map(|path| {
            let from = if path.as_os_str() == "-" { ListOrigin::Stdin } else { ListOrigin::File(path) };
            FileList { from, separator }
        });
        layer
    }
}

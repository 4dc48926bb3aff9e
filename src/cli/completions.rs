//! `archiver completions`: a completion script for a shell.

use std::io::{self, Write};

use clap::Args;
use clap_complete::Shell;

const AFTER_HELP: &str = "\
Examples:
  archiver completions bash > ~/.local/share/bash-completion/completions/archiver
  archiver completions fish > ~/.config/fish/completions/archiver.fish";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Writes the script.
pub fn write(shell: Shell, out: &mut impl Write) -> io::Result<()> {
    // The generator panics where writing fails, as into a closed pipe; memory does not.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "archiver", &mut script);
    out.write_all(&script)
}
